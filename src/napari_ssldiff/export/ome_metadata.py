"""OME-Zarr metadata, 0.4 and 0.5, as plain dictionaries (https://ngff.openmicroscopy.org)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_ssldiff.errors import InputError
from napari_ssldiff.export.provenance import NAMESPACE
from napari_ssldiff.scenes.scene import PixelSize

LABEL = "synthetic"
_LABEL_RGBA = [255, 0, 255, 128]
_COLOURS = ("FF0000", "00FF00", "0000FF", "FFFFFF", "00FFFF", "FF00FF", "FFFF00")


@dataclass(frozen=True)
class Channel:
    """One channel: its name, its colour as six hex digits, whether it shows at first."""

    name: str
    color: str
    active: bool = True


def default_channels(
    count: int, names: Sequence[str] | None = None, colors: Sequence[str] | None = None
) -> list[Channel]:
    """Red, green and blue for three channels, white for one; of more, the first three show.

    Raises
    ------
    InputError
        If there are fewer or more names or colours than channels.
    """
    if names is None:
        few = {1: ["intensity"], 3: ["red", "green", "blue"]}
        names = few.get(count, [f"band {i + 1}" for i in range(count)])
    if colors is None:
        colors = ["FFFFFF"] if count == 1 else [_COLOURS[i % 7] for i in range(count)]
    if len(names) != count or len(colors) != count:
        raise InputError(
            f"{count} channels need as many names and colours, got {len(names)} and {len(colors)}"
        )
    return [Channel(names[i], colors[i].lstrip("#").upper(), i < 3) for i in range(count)]


def multiscales(
    name: str,
    axes: str,
    levels: int,
    pixel_size: PixelSize,
    corner: tuple[float, float],
    version: str,
    method: str,
) -> dict[str, Any]:
    """One multiscales entry with datasets ``"0"``, ``"1"``, …, each twice as coarse.

    A translation in OME-Zarr places the *centre* of pixel 0. All levels share the outer corner
    of the image, so level k starts half a level-k pixel further in.
    """
    space: dict[str, str] = {"type": "space"}
    if pixel_size.unit != "pixel":  # no unit of the specification means "unknown"
        space["unit"] = pixel_size.unit
    datasets = []
    for k in range(levels):
        steps = (pixel_size.y * 2**k, pixel_size.x * 2**k)
        starts = (corner[0] + steps[0] / 2, corner[1] + steps[1] / 2)
        lead = len(axes) - 2
        datasets.append(
            {
                "path": str(k),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0] * lead + list(map(float, steps))},
                    {"type": "translation", "translation": [0.0] * lead + list(map(float, starts))},
                ],
            }
        )
    entry: dict[str, Any] = {
        "name": name,
        "axes": [
            {"name": axis, "type": "channel"} if axis == "c" else {"name": axis, **space}
            for axis in axes
        ],
        "datasets": datasets,
        "type": method,
    }
    if version == "0.4":
        entry["version"] = version
    return entry


def omero(
    channels: Sequence[Channel], windows: Sequence[tuple[float, float]], dtype: np.dtype[Any]
) -> dict[str, Any]:
    """Display hints: colour, and the window of values shown, per channel."""
    entries = []
    for channel, (start, end) in zip(channels, windows, strict=True):
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            low, high = float(info.min), float(info.max)
        else:
            low, high = float(start), float(end)
        entries.append(
            {
                "label": channel.name,
                "color": channel.color,
                "active": channel.active,
                "coefficient": 1,
                "family": "linear",
                "inverted": False,
                "window": {"min": low, "max": high, "start": float(start), "end": float(end)},
            }
        )
    model = "greyscale" if len(channels) == 1 else "color"
    return {"channels": entries, "rdefs": {"defaultT": 0, "defaultZ": 0, "model": model}}


def root_attributes(
    entry: Mapping[str, Any], display: Mapping[str, Any], stamp: Mapping[str, Any], version: str
) -> dict[str, Any]:
    """Attributes of the image group: OME's own, and beside them the provenance."""
    own = {"multiscales": [entry], "omero": display}
    return {**_wrapped(own, version), NAMESPACE: stamp}


def label_attributes(entry: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Attributes of ``labels/synthetic``: 0 = from the source, 1 = synthetic."""
    image_label: dict[str, Any] = {
        "colors": [{"label-value": 1, "rgba": _LABEL_RGBA}],
        "properties": [{"label-value": 1, "class": LABEL}],
        "source": {"image": "../../"},
    }
    if version == "0.4":
        image_label["version"] = version
    return _wrapped({"multiscales": [entry], "image-label": image_label}, version)


def labels_attributes(version: str) -> dict[str, Any]:
    """Attributes of the ``labels`` group."""
    return _wrapped({"labels": [LABEL]}, version)


def _wrapped(own: dict[str, Any], version: str) -> dict[str, Any]:
    return own if version == "0.4" else {"ome": {"version": version, **own}}
