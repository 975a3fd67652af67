"""napari's reader: a scene as one multiscale RGB layer at its place in the world.

No Qt is imported here, so the reader also works in scripts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_ssldiff.scenes import Scene, describe, open_scene
from napari_ssldiff.scenes.levels import DisplayLevel, Problems

LayerData = tuple[Any, dict[str, Any], str]
PathLike = str | os.PathLike[str]

SUFFIXES = (
    ".svs", ".tif", ".tiff", ".btf", ".tf8", ".ndpi", ".mrxs", ".scn", ".bif", ".dcm", ".vms",
    ".vmu", ".svslide", ".zvi", ".zarr", ".zarr.zip", ".png", ".jpg", ".jpeg",
)  # fmt: skip


def get_reader(path: PathLike | Sequence[PathLike]) -> Callable[[Any], list[LayerData]] | None:
    """The function that reads ``path``, or ``None`` where this plugin should not be asked.

    Only names are looked at. Of a list of paths the first one counts.
    """
    name = _first(path).rstrip("/\\").split("?")[0].lower()
    if name.endswith(SUFFIXES):
        return read_scene
    folder = Path(name) if "://" not in name else None
    if folder is not None and folder.is_dir() and any(folder.glob("*.dcm")):
        return read_scene
    return None


def read_scene(path: PathLike | Sequence[PathLike]) -> list[LayerData]:
    """Open the (first) path and hand it to napari.

    Returns
    -------
    One ``(levels, attributes, "image")``: levels are ``(y, x, 3)`` uint8, lazily read, the
    coarsest a plain array. A tile that cannot be read shows as a magenta hole and is logged.

    Raises
    ------
    InputError
        If it cannot be opened.
    """
    return [layer_data(open_scene(_first(path)))]


def layer_data(scene: Scene) -> LayerData:
    """A scene as napari layer data.

    The scene itself is in ``metadata["napari_ssldiff"]["scene"]``, beside its facts.
    """
    pixel, origin = scene.pixel_size, scene.origin
    attributes = {
        "name": scene.name,
        "multiscale": True,
        "rgb": True,
        "scale": (pixel.y, pixel.x),
        # napari places the centre of a pixel, the scene its outer corner.
        "translate": (origin[0] + pixel.y / 2, origin[1] + pixel.x / 2),
        "units": (pixel.unit, pixel.unit),
        "metadata": {"napari_ssldiff": {**describe(scene), "scene": scene}},
    }
    return rgb_levels(scene), attributes, "image"


def rgb_levels(scene: Scene) -> list[Any]:
    """Levels as ``(y, x, 3)`` uint8 through the scene's display, the coarsest in memory.

    napari keeps the coarsest level anyway; given as an array it is read once.
    """
    levels: list[Any] = list(scene.levels)
    plain = scene.display.is_identity and scene.display.bands == (0, 1, 2)
    if not (plain and scene.dtype == np.uint8 and levels[0].shape[2] == 3):
        problems = scene.problems if isinstance(scene.problems, Problems) else Problems()
        levels = [
            DisplayLevel(level, scene.display, problems, f"{scene.name} (shown, level {i})")
            for i, level in enumerate(levels)
        ]
    levels[-1] = np.asarray(levels[-1])
    return levels


def _first(path: PathLike | Sequence[PathLike]) -> str:
    if isinstance(path, str | os.PathLike):
        return os.fspath(path)
    return os.fspath(path[0])
