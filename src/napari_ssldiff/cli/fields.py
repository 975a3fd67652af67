"""``napari-ssldiff edit`` and ``render``: from field to field, and from field to picture."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ssldiff.cli.deliver import Meter, render, say, write_result
from napari_ssldiff.cli.memory import options_of
from napari_ssldiff.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_ssldiff.embeddings.field import EmbeddingField
    from napari_ssldiff.models import ModelBundle, ModelCard

#: What an operation needs beside the field and its mask.
NEEDS = {
    "mix": ("with",),
    "transfer": ("with",),
    "paint": ("with",),
    "move": ("towards", "away", "angle"),
    "replace": ("like", "with", "threshold"),
    "smooth": ("radius",),
    "jitter": ("concentration",),
    "harmonise": ("cells", "radius"),
}


def add_parsers(commands: Any, add_sampler: Callable[[argparse.ArgumentParser], None]) -> None:
    """The grammar of both."""
    edit = commands.add_parser("edit", help="a field, changed: mixed, moved, painted, smoothed…")
    add = edit.add_argument
    add("field", type=Path, metavar="FIELD", help="what embed wrote")
    add("--op", required=True, choices=sorted(NEEDS), help="what is done")
    add("--with", dest="with_", type=Path, metavar="FIELD", help="another field; for paint and "
        "replace its mean counts")  # fmt: skip
    add("--amount", type=float, default=1.0, help="0…1 (1)")
    add("--towards", type=Path, metavar="FIELD", help="move: from the mean of --away to its mean")
    add("--away", type=Path, metavar="FIELD")
    add("--angle", type=float, help="move: radians on the sphere")
    add("--like", type=Path, metavar="FIELD", help="replace: cells that resemble its mean")
    add("--threshold", type=float, help="replace: cosine from which a cell is alike")
    add("--softness", type=float, default=0.1, help="replace: cosine over which it sets in (0.1)")
    add("--radius", type=float, help="smooth and harmonise: cells")
    add("--concentration", type=float, help="jitter: kappa of von Mises and Fisher")
    add("--seed", type=int, default=0)
    add("--cells", metavar="X,Y,W,H", help="only these cells of the grid, from its corner")
    add("-o", "--output", type=Path, required=True, metavar="FIELD2")

    draw = commands.add_parser("render", help="a picture of a field, as OME-Zarr")
    draw.add_argument("field", type=Path, metavar="FIELD")
    draw.add_argument("--model", metavar="ID", help="default: the one whose encoder made it")
    draw.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    add_sampler(draw)
    draw.add_argument("--format", default="0.5", help="OME-Zarr 0.5 or 0.4")
    draw.add_argument("--png", type=Path, metavar="FILE", help="the picture alone")
    draw.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.ome.zarr")


def _mask(field: EmbeddingField, text: str | None) -> NDArray[np.float32] | None:
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


def edited(arguments: argparse.Namespace) -> EmbeddingField:
    """The field that ``edit`` asks for."""
    from napari_ssldiff.embeddings import EmbeddingField
    from napari_ssldiff.embeddings import edit as e

    op = arguments.op
    given = {name: getattr(arguments, "with_" if name == "with" else name) for name in NEEDS[op]}
    for name, value in given.items():
        if value is None:
            raise InputError(f"--op {op} needs --{name}")
    field = EmbeddingField.load(arguments.field)
    mask = _mask(field, arguments.cells)

    def other(name: str) -> EmbeddingField:
        found = EmbeddingField.load(given[name])
        if (found.encoder, found.width) != (field.encoder, field.width):
            raise InputError(
                f"{given[name]} was made by {found.encoder}, {arguments.field} by {field.encoder}: "
                "embed both with one model"
            )
        return found

    if op == "mix":
        return e.mix(field, other("with"), arguments.amount, mask)
    if op == "transfer":
        return e.transfer(field, other("with"), arguments.amount, mask, arguments.seed)
    if op == "paint":
        weights = np.ones(field.shape, np.float32) if mask is None else mask
        if not 0 <= arguments.amount <= 1:
            raise InputError(f"the amount lies between 0 and 1, got {arguments.amount}")
        return e.paint(field, e.average(other("with")), arguments.amount * weights)
    if op == "move":
        along = e.direction(other("towards").vectors, other("away").vectors)
        return e.move(field, along, arguments.angle, mask)
    if op == "replace":
        like, by = e.average(other("like")), e.average(other("with"))
        return e.replace_similar(field, like, by, arguments.threshold, arguments.softness, mask)
    if op == "smooth":
        return e.smooth(field, arguments.radius, mask)
    if op == "jitter":
        return e.jitter(field, arguments.concentration, arguments.seed, mask)
    assert mask is not None
    return e.harmonise(field, mask > 0, arguments.radius)


def run_edit(arguments: argparse.Namespace) -> None:
    """Change a field."""
    from napari_ssldiff.embeddings import EmbeddingField
    from napari_ssldiff.embeddings.edited import EditedField, changed_cells
    from napari_ssldiff.embeddings.field import history_of
    from napari_ssldiff.export import check_output

    check_output(arguments.output, suffix=arguments.output.suffix.lower())
    before, made = EmbeddingField.load(arguments.field), edited(arguments)
    facts = {name: value for name, value in _said(arguments).items() if value is not None}
    story = EditedField(before).then(made, arguments.op, **facts)
    made.save(arguments.output, (*history_of(arguments.field), *story.history))
    changed = changed_cells(before, made)
    print(f"{arguments.output}: {int(changed.sum())} of {changed.size} cells changed")


def _said(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a field's history tells of an edit: other fields by their digest, not by their path."""
    from napari_ssldiff.embeddings import EmbeddingField

    names = {*NEEDS[arguments.op], "cells"}
    if arguments.op in ("mix", "transfer", "paint"):
        names.add("amount")
    if arguments.op in ("transfer", "jitter"):
        names.add("seed")
    if arguments.op == "replace":
        names.add("softness")
    said = {n: getattr(arguments, "with_" if n == "with" else n) for n in sorted(names)}
    return {n: EmbeddingField.load(v).digest if isinstance(v, Path) else v for n, v in said.items()}


def _card(field: EmbeddingField) -> ModelCard:
    from napari_ssldiff.models import list_models

    for card in list_models():
        if field.encoder.split("@")[0] == card.parts["encoder"]["id"]:
            return card
    raise InputError(
        f"no model here has the encoder {field.encoder} that made the field: name one by --model"
    )


def run_render(arguments: argparse.Namespace, sampler: Any) -> None:
    """Draw a field."""
    from napari_ssldiff.embeddings import EmbeddingField
    from napari_ssldiff.embeddings.field import history_of
    from napari_ssldiff.export import check_output
    from napari_ssldiff.models import get_card, load_bundle

    check_output(arguments.output)
    check_drawing(sampler, arguments)
    if arguments.png:
        check_output(arguments.png, suffix=".png")
    field = EmbeddingField.load(arguments.field)
    card = get_card(arguments.model) if arguments.model else _card(field)
    bundle = load_bundle(card, arguments.device, options_of(arguments), say)
    draw_field(
        field, bundle, sampler, arguments, name=arguments.field.stem,
        history=history_of(arguments.field),
    )  # fmt: skip


def check_drawing(sampler: Any, arguments: argparse.Namespace) -> None:
    """Refuse what :func:`draw_field` cannot do, before anything is loaded.

    Raises
    ------
    InputError
        If the format is unknown, or the strength below 1.
    """
    if arguments.format not in ("0.5", "0.4"):
        raise InputError(f"the format is OME-Zarr 0.5 or 0.4, got {arguments.format!r}")
    if sampler.strength < 1:
        raise InputError("a field alone has no pixels to start from: leave the strength at 1")


def draw_field(
    field: EmbeddingField,
    bundle: ModelBundle,
    sampler: Any,
    arguments: argparse.Namespace,
    *,
    name: str,
    shape: tuple[int, int] | None = None,
    history: tuple[str, ...] = (),
) -> None:
    """A field as a picture of its own, written to the arguments' ``output`` and ``png``.

    Parameters
    ----------
    shape
        ``(h, w)`` in model pixels; by default all of the field.
    history
        How the field came about.
    """
    from napari_ssldiff.export import synthetic_png
    from napari_ssldiff.geometry import Region
    from napari_ssldiff.scenes import PixelSize
    from napari_ssldiff.scenes.blank import blank_scene
    from napari_ssldiff.synthesis import make_request

    spec = bundle.encoder.spec
    # The picture's own frame: a cell is a cell of the model, from the corner on.
    own = replace(field, origin=(0.0, 0.0), cell=(float(spec.cell), float(spec.cell)))
    shape = shape or (field.shape[0] * spec.cell, field.shape[1] * spec.cell)
    size = PixelSize(spec.resolution, spec.resolution, spec.unit)
    with blank_scene(shape, size, name) as scene:
        region = Region.from_box(scene.box)
        request = make_request(
            scene, region, bundle, sampler, field=own, grid="model", history=history
        )
        store, end = render(request, bundle, scene, Meter())
        try:
            write_result(arguments.output, request, scene, store, arguments.format, bundle.computed)
            if arguments.png:
                synthetic_png(arguments.png, store.read(store.box)[..., :3])
        finally:
            store.close()
    say(f"{end.evaluations} network evaluations in {end.seconds:.1f} s")
    print(arguments.output)
    if arguments.png:
        print(arguments.png)
