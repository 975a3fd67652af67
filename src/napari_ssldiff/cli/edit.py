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
    "average": (),
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
    "average": ("amount",),
    "mix": ("amount",),
    "transfer": ("amount", "seed"),
    "paint": ("amount",),
    "interpolate": ("width", "soft"),
    "jitter": ("seed",),
    "replace": ("softness",),
}
#: What options are where nobody gives them; the grammar leaves them open, so that it is known which
#: were given.
DEFAULTS: dict[str, Any] = {
    "amount": 1.0, "width": 1.0, "soft": 0.0, "softness": 0.1, "seed": 0, "device": "auto",
    "stretch": False,
}  # fmt: skip
#: What is taken besides.
MORE = {"mix": ("stretch",), "move": ("seed", "device")}
#: What is taken in one way of an operation only: which, and by what option it is told.
WAYS = {
    ("move", "seed"): ("by words", ("towards_words", "away_words")),
    ("move", "device"): ("by words", ("towards_words", "away_words")),
    ("interpolate", "width"): ("along --path", ("path",)),
    ("interpolate", "soft"): ("along --path", ("path",)),
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
    add("--stretch", action="store_true", default=None, help="mix: stretch --with over the field, "
        "where it has another shape")  # fmt: skip
    add("--amount", type=float, help=f"{', '.join(_amounts())}: 0…1 (1)")
    add("--towards", type=Path, action="append", metavar="FIELD", help="move: from the mean of "
        "--away to its mean; several: of all their cells")  # fmt: skip
    add("--away", type=Path, action="append", metavar="FIELD")
    add("--towards-words", metavar="TEXT", help="move: the same of a prompt, by the prior of the "
        "field's encoder")  # fmt: skip
    add("--away-words", metavar="TEXT")
    add("--angle", type=float, help="move: radians on the sphere")
    add("--from", dest="from_", type=Path, metavar="FIELD", help="interpolate: its mean is where "
        "the way begins")  # fmt: skip
    add("--to", type=Path, metavar="FIELD", help="interpolate: its mean is where the way ends")
    add("--axis", choices=("x", "y"), help="interpolate: all cells, from left to right or downward")
    add("--path", metavar="X,Y,X,Y,…", help="interpolate: along a line through these cells")
    add("--width", type=float, help="interpolate: of the line, in cells (1)")
    add("--soft", type=float, help="interpolate: cells over which its edge fades (0)")
    add("--like", type=Path, metavar="FIELD", help="replace: cells that resemble its mean")
    add("--threshold", type=float, help="replace: cosine from which a cell is alike")
    add("--softness", type=float, help="replace: cosine over which it sets in (0.1)")
    add("--radius", type=float, help="smooth and harmonise: cells")
    add("--concentration", type=float, help="jitter: kappa of von Mises and Fisher")
    add("--seed", type=int, help="of transfer, jitter and words (0)")
    add("--cells", metavar="X,Y,W,H", help="only these cells of the grid, from its corner")
    add("--device", help="where words are read: auto, cpu, cuda or mps (auto)")
    add("-o", "--output", type=Path, required=True, metavar="FIELD2")


def _amounts() -> list[str]:
    """The operations that take ``--amount``."""
    return [op for op, names in TOLD.items() if "amount" in names]


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


def _takes(op: str) -> dict[str, str]:
    """What an operation takes, and where it is in one of its ways only, in which."""
    needs = [n for need in NEEDS[op] for n in ((need,) if isinstance(need, str) else need)]
    names = (*needs, *TOLD.get(op, ()), *MORE.get(op, ()))
    return {name: WAYS[op, name][0] if (op, name) in WAYS else "" for name in names}


def _refuse_unused(arguments: argparse.Namespace) -> None:
    """Raise where something is given that the operation does not use.

    Raises
    ------
    InputError
        Which names the option, and the operations that take it.
    """
    op, takes = arguments.op, _takes(arguments.op)
    for name in dict.fromkeys(n for one in sorted(NEEDS) for n in _takes(one)):
        if name == "cells" or _value(arguments, name) is None:
            continue  # any operation can be kept to some cells
        way, by = WAYS.get((op, name), ("", ()))
        if name in takes and (not by or any(_value(arguments, n) is not None for n in by)):
            continue
        takers = [f"{one} {how}".strip() for one in sorted(NEEDS)
                  for n, how in _takes(one).items() if n == name]  # fmt: skip
        option, hint = f"--{name.replace('_', '-')}", ""
        if name == "amount":
            hint = ", or mix what it makes with the field by --op mix"
        only = f" except {way}" if way else ""
        raise InputError(
            f"--op {op} takes no {option}{only}: leave it out{hint}. Taken by: {', '.join(takers)}"
        )


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the operation needs, by name.

    Raises
    ------
    InputError
        If something is missing, or two are given of which one counts, or what is given does
        nothing.
    """
    _refuse_unused(arguments)
    for name, value in DEFAULTS.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
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

    def read(path: Path) -> EmbeddingField:
        found = EmbeddingField.load(path)
        if (found.encoder, found.width) != (field.encoder, field.width):
            raise InputError(
                f"{path} was made by {found.encoder}, {arguments.field} by {field.encoder}: "
                "embed both with one model"
            )
        return found

    def other(name: str) -> EmbeddingField:
        found = read(given[name])
        facts[name] = found.digest
        return found

    def cells(name: str) -> Vectors:
        found = [read(path) for path in given[name]]
        digests = [one.digest for one in found]
        facts[name] = digests[0] if len(digests) == 1 else digests
        return np.concatenate([e.content(one) for one in found])

    if op == "mix":
        by = other("with")
        if arguments.stretch:
            by, facts["stretch"] = e.stretched(by, field), True
        elif by.shape != field.shape:
            raise InputError(
                f"{given['with']} has {by.shape[1]} × {by.shape[0]} cells, {arguments.field} "
                f"{field.shape[1]} × {field.shape[0]}: add --stretch to stretch it over the field"
            )
        made = e.mix(field, by, arguments.amount, mask)
    elif op == "transfer":
        made = e.transfer(field, other("with"), arguments.amount, mask, arguments.seed)
    elif op in ("paint", "average"):
        weights = np.ones(field.shape, np.float32) if mask is None else mask
        if not 0 <= arguments.amount <= 1:
            raise InputError(f"the amount lies between 0 and 1, got {arguments.amount}")
        goal = e.typical(other("with")) if op == "paint" else _mean(field, weights)
        made = e.paint(field, goal, arguments.amount * weights)
    elif op == "move":
        sets: dict[str, Vectors] = {n: cells(n) for n in ("towards", "away") if n in given}
        for name, (vectors, record) in _worded(field, given, arguments).items():
            sets[name.removesuffix("_words")], facts[name] = vectors, record
        made = e.move(field, e.direction(sets["towards"], sets["away"]), arguments.angle, mask)
    elif op == "interpolate":
        way = arguments.axis or _path(arguments.path, field.shape)
        if arguments.axis:
            del facts["width"], facts["soft"]
        made = e.interpolate(
            field, e.typical(other("from")), e.typical(other("to")), way,
            width=arguments.width, soft=arguments.soft, mask=mask,
        )  # fmt: skip
    elif op == "replace":
        like, goal = e.typical(other("like")), e.typical(other("with"))
        made = e.replace_similar(field, like, goal, arguments.threshold, arguments.softness, mask)
    elif op == "smooth":
        made = e.smooth(field, arguments.radius, mask)
    elif op == "jitter":
        made = e.jitter(field, arguments.concentration, arguments.seed, mask)
    else:
        assert mask is not None
        made = e.harmonise(field, mask > 0, arguments.radius)
    return made, facts


def _mean(field: EmbeddingField, weights: NDArray[np.float32]) -> Vectors:
    """The mean direction of the cells that take part, those with tissue or ground if any has."""
    from napari_ssldiff.embeddings.edit import average

    held = weights if field.valid is None else weights * field.valid
    return average(field, held if held.any() else weights)


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
