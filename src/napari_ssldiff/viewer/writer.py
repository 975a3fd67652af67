"""napari's *Save* for one image layer: OME-Zarr 0.5, in place, to scale, and marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.export.composite import flatten
from napari_ssldiff.export.lazy import LazyImage
from napari_ssldiff.export.ome_zarr import write_ome_zarr
from napari_ssldiff.export.provenance import NAMESPACE
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.scene import PixelSize
from napari_ssldiff.viewer.endless import ENDLESS_KEY

# What napari calls a unit → what we write, and how many of ours it is.
_UNITS = {
    "pixel": ("pixel", 1.0),
    "nanometer": ("micrometer", 1e-3),
    "micrometer": ("micrometer", 1.0),
    "micron": ("micrometer", 1.0),
    "millimeter": ("micrometer", 1e3),
    "centimeter": ("micrometer", 1e4),
    "meter": ("meter", 1.0),
    "kilometer": ("meter", 1e3),
    "degree": ("degree", 1.0),
    "nm": ("micrometer", 1e-3),
    "um": ("micrometer", 1.0),
    "µm": ("micrometer", 1.0),
    "mm": ("micrometer", 1e3),
    "cm": ("micrometer", 1e4),
    "m": ("meter", 1.0),
    "km": ("meter", 1e3),
}


def write_image(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write one image layer (npe2 single-layer writer).

    A layer is ours if its ``metadata["napari_ssldiff"]`` is a mapping; that mapping becomes the
    export's provenance. The transparent pixels of our RGBA overlays become its ``background``
    (``[r, g, b]``, white by default), the others are marked in the label image ``synthetic``.
    Other layers keep an alpha channel as a fourth channel.

    Parameters
    ----------
    path
        Ends in ``.zarr``.
    data
        ``(h, w)``, ``(h, w, 3)`` or ``(h, w, 4)`` array-like, or a pyramid of them, finest
        first; only the finest level is read, lazily.
    meta
        The layer's attributes as ``layer.as_layer_data_tuple()`` gives them.

    Returns
    -------
    ``[path]`` of what was written.

    Raises
    ------
    InputError
        If the layer is not a 2-D image, or is rotated, sheared or mirrored.
    OutputError
        If the place cannot be written or exists.
    """
    multiscale = meta.get("multiscale") or isinstance(data, (list, tuple))
    finest = data[0] if multiscale else data
    name = str(meta.get("name") or "image")
    if ENDLESS_KEY in dict(meta.get("metadata") or {}):
        raise InputError(
            f"the layer {name!r} is an endless slide: draw a region on it and export that in the "
            "dock widget SSL Diffusion"
        )
    shape = tuple(int(n) for n in finest.shape)
    rgb = bool(meta.get("rgb", len(shape) == 3 and shape[-1] in (3, 4)))
    if len(shape) != (3 if rgb else 2):
        raise InputError(
            f"the layer {name!r} has the shape {shape}: only two-dimensional images can be saved"
        )
    pixel_size, corner = _place(name, meta)
    ours = dict(meta.get("metadata") or {}).get(NAMESPACE)
    provenance = dict(ours) if isinstance(ours, Mapping) else None
    overlay = rgb and shape[2] == 4 and provenance is not None

    if overlay:
        assert provenance is not None
        colour = provenance.get("background", (255, 255, 255))
        background = (int(colour[0]), int(colour[1]), int(colour[2]))
        provenance["synthetic"] = True  # whatever was painted into our overlay
        image = LazyImage(
            (*shape[:2], 3), np.uint8, lambda box: flatten(_read(finest, box), background)
        )
        mask = LazyImage(
            shape[:2], np.uint8, lambda box: (_read(finest, box)[..., 3] > 0).astype(np.uint8)
        )
        names, colors, windows = None, None, None
    else:
        channels = shape[2] if rgb else 1
        image = LazyImage(
            (*shape[:2], channels),
            finest.dtype,
            lambda box: _read(finest, box).reshape(*box.shape, channels),
        )
        mask = None
        names = ["red", "green", "blue", "alpha"] if channels == 4 else None
        colors = ["FF0000", "00FF00", "0000FF", "FFFFFF"] if channels == 4 else None
        windows = _windows(channels, rgb, np.dtype(finest.dtype), meta)
    written = write_ome_zarr(
        path,
        image,
        pixel_size=pixel_size,
        translation=corner,
        synthetic=mask,
        provenance=provenance,
        name=name,
        channel_names=names,
        channel_colors=colors,
        windows=windows,
    )
    return [str(written)]


def _read(array: Any, box: Box) -> NDArray[Any]:
    return np.asarray(array[box.slices])


def _place(name: str, meta: Mapping[str, Any]) -> tuple[PixelSize, tuple[float, float]]:
    """Pixel size and outer corner of pixel (0, 0); napari's translate is that pixel's centre."""
    scale = np.asarray(meta.get("scale", (1.0, 1.0)), float)
    centre = np.asarray(meta.get("translate", (0.0, 0.0)), float)
    rotate = np.asarray(meta.get("rotate", np.eye(2)), float)
    affine = np.asarray(meta.get("affine", np.eye(3)), float)
    skewed = (
        np.any(np.asarray(meta.get("shear", 0.0), float) != 0)
        or not (np.allclose(rotate, np.eye(2)) if rotate.ndim == 2 else np.allclose(rotate, 0))
        or not np.allclose(affine, np.eye(len(affine)))
    )
    if skewed or scale.shape != (2,) or np.any(scale <= 0):
        raise InputError(
            f"the layer {name!r} is rotated, sheared, mirrored or has an affine: OME-Zarr holds "
            "scale and translation only, so reset the others first"
        )
    units = meta.get("units") or ("pixel", "pixel")
    texts = [units, units] if isinstance(units, str) else [str(unit) for unit in units]
    known = [_UNITS.get(text) for text in texts]
    if None in known or len(known) != 2 or known[0] is None or known[1] is None:
        raise InputError(
            f"the layer {name!r} has the units {' and '.join(texts)}: use pixel, degree or a "
            "metric length"
        )
    if known[0][0] != known[1][0]:
        raise InputError(f"the layer {name!r} mixes the units {' and '.join(texts)}: use one")
    factor = np.array([known[0][1], known[1][1]])
    step, corner = scale * factor, (centre - scale / 2) * factor
    size = PixelSize(float(step[0]), float(step[1]), known[0][0])
    return size, (float(corner[0]), float(corner[1]))


def _windows(
    channels: int, rgb: bool, dtype: np.dtype[Any], meta: Mapping[str, Any]
) -> list[tuple[float, float]] | None:
    """The values shown, where the layer says so; napari shows float RGB as 0…1."""
    if rgb:
        return [(0.0, 1.0)] * channels if dtype.kind == "f" else None
    limits = meta.get("contrast_limits")
    return None if limits is None else [(float(limits[0]), float(limits[1]))]
