"""What a command works on: the scene, the region, the model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from napari_ssldiff.cli.deliver import say
from napari_ssldiff.cli.memory import options_of
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Region, parse_box

if TYPE_CHECKING:
    from napari_ssldiff.models import ModelBundle
    from napari_ssldiff.scenes import Scene


def open_source(arguments: argparse.Namespace) -> Scene:
    """The scene of a command with ``--bands``."""
    from napari_ssldiff.scenes import open_scene

    bands = None
    if arguments.bands:
        try:
            r, g, b = (int(part) for part in arguments.bands.split(","))
        except ValueError:
            raise InputError(
                f"bands are three indices R,G,B from 0, got {arguments.bands!r}"
            ) from None
        bands = (r, g, b)
    return open_scene(arguments.path, bands=bands)


def region_of(arguments: argparse.Namespace, scene: Scene) -> Region:
    """``--region`` checked against the scene, before anything slow.

    It counts from the source's own corner, also in a scene that was extended.
    """
    try:
        box = parse_box(arguments.region).shift(scene.held.y, scene.held.x)
    except ValueError as error:
        raise InputError(str(error)) from None
    if not scene.box.contains(box):
        raise InputError(
            f"the region {arguments.region} leaves the image, which is "
            f"{scene.shape[1]} × {scene.shape[0]} pixels"
        )
    return Region.from_box(box)


def load_model(arguments: argparse.Namespace, scene: Scene) -> ModelBundle:
    """``--model``, or the nearest one, which is named; of a model's variants the nearest."""
    from napari_ssldiff.models import choose_model, get_card, load_bundle

    own = scene.encoder_pixel_size
    wanted = _resolution(arguments, scene)
    if arguments.model:
        looked_at = wanted or (None if own.unit == "pixel" else own.y)
        card = get_card(arguments.model, looked_at)
        if ":" in card.id and ":" not in arguments.model:
            say(f"model: {card.id} ({card.resolution:g} {card.unit} per pixel), the nearest")
    else:
        card = choose_model(scene, wanted)
        say(f"model: {card.id} ({card.name}), the nearest to {scene.name}")
    if scene.encoder_pixel_size.unit == "pixel":
        say(f"{scene.name} has no pixel size; taking {card.resolution} {card.unit} per pixel")
    return load_bundle(card, arguments.device, options_of(arguments), say)


def _resolution(arguments: argparse.Namespace, scene: Scene) -> float | None:
    """``--resolution``, checked against the scene's unit."""
    from napari_ssldiff.scenes.lengths import parse_length

    if not getattr(arguments, "resolution", None):
        return None
    length, own = parse_length(arguments.resolution, "--resolution"), scene.encoder_pixel_size
    if length.unit == "pixel" or length.value <= 0:
        raise InputError(
            f"--resolution is the size of a pixel, such as 8um or 4m; got {arguments.resolution!r}"
        )
    if own.unit not in (length.unit, "pixel"):
        raise InputError(f"--resolution is in {length.unit}s, {scene.name} in {own.unit}s")
    return length.value
