"""``napari-ssldiff render``: from a field to a picture."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ssldiff.cli.deliver import Meter, render, say, write_result
from napari_ssldiff.cli.memory import options_of
from napari_ssldiff.errors import InputError

if TYPE_CHECKING:
    from napari_ssldiff.embeddings.field import EmbeddingField
    from napari_ssldiff.models import ModelBundle, ModelCard


def add_parser(commands: Any, add_sampler: Callable[[argparse.ArgumentParser], None]) -> None:
    """The grammar of ``render``."""
    draw = commands.add_parser("render", help="a picture of a field, as OME-Zarr")
    draw.add_argument("field", type=Path, metavar="FIELD")
    draw.add_argument("--model", metavar="ID", help="default: the one whose encoder made it")
    draw.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    add_sampler(draw)
    draw.add_argument("--format", default="0.5", help="OME-Zarr 0.5 or 0.4")
    draw.add_argument("--png", type=Path, metavar="FILE", help="the picture alone")
    draw.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.ome.zarr")


def card_for(field: EmbeddingField) -> ModelCard:
    """The model whose encoder made a field, its weights included: of several (magnifications) the
    one whose pixels are nearest to the field's.

    Raises
    ------
    InputError
        If there is none, or several are as near.
    """
    from napari_ssldiff.models import list_models

    cards = list_models()
    own = [card for card in cards if card.encoder_id() == field.encoder]
    if not own:
        name = field.encoder.partition("@")[0]
        alike = [card.id for card in cards if card.encoder_id().partition("@")[0] == name]
        other = f" ({', '.join(alike)}: of that name, but of other weights)" if alike else ""
        raise InputError(
            f"no model here has the encoder {field.encoder} that made the field{other}: name one "
            "by --model"
        )
    far = [round(abs(math.log(card.resolution / field.resolution)), 9) for card in own]
    nearest = [card for card, away in zip(own, far, strict=True) if away == min(far)]
    if len(nearest) > 1:
        ids = ", ".join(card.id for card in nearest)
        raise InputError(
            f"several models have the encoder {field.encoder} that made the field ({ids}): name "
            "one by --model"
        )
    return nearest[0]


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
    card = get_card(arguments.model) if arguments.model else card_for(field)
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
        drawn = render(request, bundle, scene, Meter())
        store, computed = drawn.store, {**bundle.computed, **drawn.computed}
        try:
            write_result(arguments.output, request, scene, store, arguments.format, computed)
            if arguments.png:
                synthetic_png(arguments.png, store.read(store.box)[..., :3])
        finally:
            store.close()
    drawn.report(arguments.output)
    print(arguments.output)
    if arguments.png:
        print(arguments.png)
