"""napari's *File ▸ Open sample*: each sample through the plugin's own reader."""

from __future__ import annotations

from typing import Any

from napari_ssldiff.errors import InputError
from napari_ssldiff.samples import sample_path

# What napari calls LayerData: the data, the layer's keyword arguments, the layer's type.
LayerData = tuple[Any, dict[str, Any], str]


def cmu_small_region() -> list[LayerData]:
    """OpenSlide's CMU-1-Small-Region.svs; downloaded the first time."""
    return _layers("cmu-small-region")


def immunohistochemistry() -> list[LayerData]:
    """Colonic glands, haematoxylin and DAB, from scikit-image."""
    return _layers("immunohistochemistry")


def synthetic_slide() -> list[LayerData]:
    """The bundled slide that our own model made; no real tissue."""
    return _layers("synthetic-slide")


def _layers(name: str) -> list[LayerData]:
    from napari_ssldiff.viewer.reader import get_reader

    path = str(sample_path(name))
    reader = get_reader(path)
    if reader is None:
        raise InputError(f"{path} cannot be read: delete it, and it is made again")
    return list(reader(path))
