"""``napari-ssldiff edit``: from a field to another field."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ssldiff.cli.deliver import Meter, say
from napari_ssldiff.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_ssldiff.embeddings.field import EmbeddingField, Vectors

#: What an operation needs beside the field and its mask; of a tuple, exactly one.
NEEDS: dict[str, tuple[str | tuple[str, str], ...]] = {
    "mix": ("with",),
    "transfer": ("with",),
    "paint": ("with",),
    "move": (("towards", "towards_words"), ("away", "away_words"), "angle"),
    "interpolate": ("from", "to", ("axis", "path")),
    "replace": ("like", "with", "threshold"),
    "smooth": ("radius",),
    "jitter": ("concentration",),
    "harmonise": ("cells", "radius"),
}
#: What has a default, and belongs into the history of these.
TOLD = {
    "mix": ("amount",),
    "transfer": ("amount", "seed"),
    "paint": ("amount",),
    "interpolate": ("width", "soft"),
    "jitter": ("seed",),
    "replace": ("softness",),
}
#: Cells a side of what words are made into, before their mean is taken.
SIDE = 8


def add_parser(commands: Any) -> None:
    """The grammar."""
    edit = commands.add_parser("edit", help="a field, changed: mixed, moved, painted, smoothed…")
    add = edit.add_argument
    add("field", type=Path, metavar="FIELD", help="what embed wrote")
    add("--op", required=True, choices=sorted(NEEDS), help="what is done")
    add("--with", dest="with_", type=Path, metavar="FIELD", help="another field; for paint and "
        "replace its mean counts")  # fmt: skip
    add("--amount", type=float, default=1.0, help="0…1 (1)")
    add("--towards", type=Path, metavar="FIELD", help="move: from the mean of --away to its mean")
    add("--away", type=Path, metavar="FIELD")
    add("--towards-words", metavar="TEXT", help="move: the same of a prompt, by the prior of the "
        "field's encoder")  # fmt: skip
    add("--away-words", metavar="TEXT")
    add("--angle", type=float, help="move: radians on the sphere")
    add("--from", dest="from_", type=Path, metavar="FIELD", help="interpolate: its mean is where "
        "the way begins")  # fmt: skip
    add("--to", type=Path, metavar="FIELD", help="interpolate: its mean is where the way ends")
    add("--axis", choices=("x", "y"), help="interpolate: all cells, from left to right or downward")
    add("--path", metavar="X,Y,X,Y,…", help="interpolate: along a line through these cells")
    add("--width", type=float, default=1.0, help="interpolate: of the line, in cells (1)")
    add("--soft", type=float, default=0.0, help="interpolate: cells over which its edge fades (0)")
    add("--like", type=Path, metavar="FIELD", help="replace: cells that resemble its mean")
    add("--threshold", type=float, help="replace: cosine from which a cell is alike")
    add("--softness", type=float, default=0.1, help="replace: cosine over which it sets in (0.1)")
    add("--radius", type=float, help="smooth and harmonise: cells")
    add("--concentration", type=float, help="jitter: kappa of von Mises and Fisher")
    add("--seed", type=int, default=0, help="of transfer, jitter and words")
    add("--cells", metavar="X,Y,W,H", help="only these cells of the grid, from its corner")
    add("--device", default="auto", help="where words are read: auto, cpu, cuda or mps")
    add("-o", "--output", type=Path, required=True, metavar="FIELD2")


def mask_of(field: EmbeddingField, text: str | None) -> NDArray[np.float32] | None:
    """``--cells`` as a mask; ``None`` where all cells count.

    Raises
    ------
    InputError
        If it is no box of cells of the field.
    """
    if text is None:
        return None
    from napari_ssldiff.geometry import Box, parse_box

    try:
        box = parse_box(text)
    except ValueError as error:
        raise InputError(str(error).replace("level-0 pixels", "cells")) from None
    if not Box(0, 0, *field.shape).contains(box):
        raise InputError(
            f"the cells {text} leave the field, which has {field.shape[1]} × {field.shape[0]}"
        )
    mask = np.zeros(field.shape, np.float32)
    mask[box.slices] = 1
    return mask


def _path(text: str, shape: tuple[int, int]) -> list[tuple[float, float]]:
    """``"X,Y,X,Y"`` → ``(row, column)`` points."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) < 4 or len(numbers) % 2:
        raise InputError(f"a path is two points X,Y or more, such as 0,2,5,2, got {text!r}")
    points = list(zip(numbers[1::2], numbers[::2], strict=True))
    for y, x in points:
        if not (-0.5 <= y <= shape[0] - 0.5 and -0.5 <= x <= shape[1] - 0.5):
            raise InputError(
                f"the path's point {x:g},{y:g} leaves the field, whose cells are numbered from 0,0 "
                f"to {shape[1] - 1},{shape[0] - 1}"
            )
    return points


def _value(arguments: argparse.Namespace, name: str) -> Any:
    return getattr(arguments, f"{name}_" if name in ("with", "from") else name)


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the operation needs, by name.

    Raises
    ------
    InputError
        If something is missing, or two are given of which one counts.
    """
    given: dict[str, Any] = {}
    for need in NEEDS[arguments.op]:
        names = (need,) if isinstance(need, str) else need
        found = {n: v for n in names if (v := _value(arguments, n)) is not None}
        if len(found) != 1:
            options = " or ".join(f"--{n.replace('_', '-')}" for n in names)
            only = ", and not both" if found else ""
            raise InputError(f"--op {arguments.op} needs {options}{only}")
        given |= found
    return given


def edited(arguments: argparse.Namespace) -> tuple[EmbeddingField, dict[str, Any]]:
    """The field that ``edit`` asks for, and what its history tells of the edit: other fields by
    their digest, not by their path; words with their seed and prior.
    """
    from napari_ssldiff.embeddings import EmbeddingField
    from napari_ssldiff.embeddings import edit as e

    op, given = arguments.op, _given(arguments)
    field = EmbeddingField.load(arguments.field)
    mask = mask_of(field, arguments.cells)
    facts = {n: getattr(arguments, n) for n in ("cells", *TOLD.get(op, ()))} | given
    facts = {name: value for name, value in facts.items() if value is not None}

    def other(name: str) -> EmbeddingField:
        found = EmbeddingField.load(given[name])
        if (found.encoder, found.width) != (field.encoder, field.width):
            raise InputError(
                f"{given[name]} was made by {found.encoder}, {arguments.field} by {field.encoder}: "
                "embed both with one model"
            )
        facts[name] = found.digest
        return found

    if op == "mix":
        made = e.mix(field, other("with"), arguments.amount, mask)
    elif op == "transfer":
        made = e.transfer(field, other("with"), arguments.amount, mask, arguments.seed)
    elif op == "paint":
        weights = np.ones(field.shape, np.float32) if mask is None else mask
        if not 0 <= arguments.amount <= 1:
            raise InputError(f"the amount lies between 0 and 1, got {arguments.amount}")
        made = e.paint(field, e.average(other("with")), arguments.amount * weights)
    elif op == "move":
        sets: dict[str, Vectors] = {n: other(n).vectors for n in ("towards", "away") if n in given}
        for name, (vectors, record) in _worded(field, given, arguments).items():
            sets[name.removesuffix("_words")], facts[name] = vectors, record
        made = e.move(field, e.direction(sets["towards"], sets["away"]), arguments.angle, mask)
    elif op == "interpolate":
        way = arguments.axis or _path(arguments.path, field.shape)
        if arguments.axis:
            del facts["width"], facts["soft"]
        made = e.interpolate(
            field, e.average(other("from")), e.average(other("to")), way,
            width=arguments.width, soft=arguments.soft, mask=mask,
        )  # fmt: skip
    elif op == "replace":
        like, by = e.average(other("like")), e.average(other("with"))
        made = e.replace_similar(field, like, by, arguments.threshold, arguments.softness, mask)
    elif op == "smooth":
        made = e.smooth(field, arguments.radius, mask)
    elif op == "jitter":
        made = e.jitter(field, arguments.concentration, arguments.seed, mask)
    else:
        assert mask is not None
        made = e.harmonise(field, mask > 0, arguments.radius)
    return made, facts


def _worded(
    field: EmbeddingField, given: dict[str, Any], arguments: argparse.Namespace
) -> dict[str, tuple[Vectors, dict[str, Any]]]:
    """The prompts among what is given as vectors, with the record of each. All are made from one
    seed, so that what differs is the words'."""
    names = [name for name in ("towards_words", "away_words") if name in given]
    if not names:
        return {}
    from napari_ssldiff.models.priors import load_words, prior_for
    from napari_ssldiff.synthesis.imagine import Prompt, imagine

    prompts = {name: Prompt(given[name], seed=arguments.seed) for name in names}
    words, meter = load_words(prior_for(field.encoder), arguments.device), Meter()
    out: dict[str, tuple[Vectors, dict[str, Any]]] = {}
    for name, prompt in prompts.items():
        made = imagine(
            words, prompt, (SIDE, SIDE),
            progress=lambda done, total: meter("imagining", done, total),
        )  # fmt: skip
        for note in made.notes:
            say(note)
        out[name] = made.field.vectors, json.loads(made.record)
    return out


def run(arguments: argparse.Namespace) -> None:
    """Change a field."""
    from napari_ssldiff.embeddings import EmbeddingField
    from napari_ssldiff.embeddings.edited import EditedField, changed_cells
    from napari_ssldiff.embeddings.field import history_of
    from napari_ssldiff.export import check_output

    check_output(arguments.output, suffix=arguments.output.suffix.lower())
    before = EmbeddingField.load(arguments.field)
    made, facts = edited(arguments)
    story = EditedField(before).then(made, arguments.op, **facts)
    made.save(arguments.output, (*history_of(arguments.field), *story.history))
    changed = changed_cells(before, made)
    print(f"{arguments.output}: {int(changed.sum())} of {changed.size} cells changed")
