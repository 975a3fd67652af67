"""TIFF of every kind through tifffile: slides, OME-TIFF, GeoTIFF, COG, plain images."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes.build import Found, build_scene
from napari_ssldiff.scenes.levels import ArrayLevel, Level, Problems, one_line
from napari_ssldiff.scenes.scene import PixelSize, Scene
from napari_ssldiff.scenes.spool import Spool
from napari_ssldiff.scenes.tiff_facts import band_names, facts, geo_info, nodata, physical_size

_BIG_CHUNK = 64 * 2**20  # bytes: a strip or tile this large is not decoded anew for each read
_YCBCR_JP2 = 33003
_BAND_AXES = "SCQI"


def open_tiff(path: Path, bands: tuple[int, int, int] | None = None) -> Scene:
    """Open a TIFF file as a scene. It stays open until the scene is closed.

    Raises
    ------
    InputError
        If it is no TIFF, is truncated, or holds no image.
    """
    problems = Problems()
    closers: list[Callable[[], None]] = []
    with _quiet():
        try:
            tif = tifffile.TiffFile(path)
        except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError) as error:
            raise InputError(f"{path} is no readable TIFF: {one_line(error)}") from error
        closers.append(tif.close)
        try:
            main, series = _stored_levels(tif)
            for level in series:
                _check_extent(level, path, tif.filehandle.size)
            levels = [_level(lv, tif, path, i, problems, closers) for i, lv in enumerate(series)]
            info = geo_info(tif, main, levels[0].shape[:2], str(path))
            found = Found(
                path=str(path),
                name=path.name,
                levels=levels,
                problems=problems,
                pixel_size=info.pixel_size if info else physical_size(tif, main) or PixelSize(1, 1),
                ground_pixel_size=info.ground_pixel_size if info else None,
                origin=info.origin if info else (0.0, 0.0),
                crs=info.crs if info else None,
                affine=info.affine if info else None,
                band_names=band_names(tif, main, levels[0].shape[2]),
                scales=_scales([level.shape for level in levels], exact=info is None),
                nodata=nodata(main),
                inverted=_is_white_zero(main),
                facts=facts(tif, main, path, info),
                closers=closers,
            )
            return build_scene(found, bands)
        except BaseException:
            for close in closers:
                close()
            raise


def _stored_levels(tif: tifffile.TiffFile) -> tuple[Any, list[Any]]:
    """The main image as a series, and its levels, finest first."""
    images = [s for s in tif.series if {"Y", "X"} <= set(s.axes) and s.keyframe.dtype is not None]
    if not images:
        raise InputError(f"{tif.filename} holds no image")
    # The first of the largest: labels, macros, masks and thumbnails are smaller or come later.
    main = max(images, key=_area)
    levels = list(main.levels)
    if len(levels) == 1 and main.kind in ("generic", "uniform", "shaped"):
        levels += _loose_levels(main, images)
    return main, levels


def _loose_levels(main: Any, images: list[Any]) -> list[Any]:
    """Smaller copies that a writer stored as pages of their own without marking them so."""
    found = [main]
    for image in sorted(images, key=_area, reverse=True):
        (h, w), (h0, w0) = _size(image), _size(found[-1])
        same = image.dtype == main.dtype and image.axes == main.axes
        ratio = h0 / h
        power = same and round(ratio) in (2, 4, 8) and abs(ratio / round(ratio) - 1) < 0.05
        if power and abs(h / w * w0 / h0 - 1) < 0.05:
            found.append(image)
    return found[1:]


def _size(series: Any) -> tuple[int, int]:
    return series.shape[series.axes.index("Y")], series.shape[series.axes.index("X")]


def _area(series: Any) -> int:
    return math.prod(_size(series))


def _check_extent(series: Any, path: Path, size: int) -> None:
    """Refuse a file that ends before its own pixels do: half of it would be holes."""
    page = series.keyframe
    ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False) if n]
    if ends and max(ends) > size:
        raise InputError(
            f"{path} is truncated: it has {size} bytes and its pixels end at {max(ends)}; "
            "copy or download it again"
        )


def open_series(series: Any) -> zarr.Array[Any]:
    """One level of a file as a read-only Zarr array whose chunks are its tiles or strips.

    The one place that touches tifffile's bridge to Zarr. Before 2026.5 the store speaks Zarr
    format 2, later format 3; both open a single-level store as an array, and a group in case a
    version wraps it.
    """
    opened = zarr.open(store=series.aszarr(level=0), mode="r")
    if isinstance(opened, zarr.Group):
        opened = opened["0"]
    if not isinstance(opened, zarr.Array):
        raise InputError("tifffile gave no array for the image: update tifffile and zarr")
    return opened


def _level(
    series: Any,
    tif: tifffile.TiffFile,
    path: Path,
    index: int,
    problems: Problems,
    closers: list[Callable[[], None]],
) -> Level:
    page = series.keyframe
    source: Any = open_series(series)
    axes = series.axes
    if len(axes) != source.ndim:
        axes = axes[-source.ndim :]
    chunk = (source.chunks[axes.index("Y")], source.chunks[axes.index("X")])
    if math.prod(source.chunks) * np.dtype(source.dtype).itemsize > _BIG_CHUNK:
        if page.is_memmappable and len(series.pages) == 1:
            source = np.memmap(
                path,
                dtype=np.dtype(tif.byteorder + page.dtype.char),
                mode="r",
                offset=page.dataoffsets[0],
                shape=source.shape,
            )
        else:
            spool = Spool(source.shape, source.dtype, series.asarray, axes)
            closers.append(spool.close)
            source = spool
        chunk = (512, 512)
    transform, bands, dtype = _colour(page)
    return ArrayLevel(
        source,
        axes,
        _band_axis(axes, source.shape),
        chunk,
        problems,
        path.name if index == 0 else f"{path.name} (level {index})",
        transform=transform,
        bands=bands,
        dtype=dtype,
    )


def _band_axis(axes: str, shape: tuple[int, ...]) -> str | None:
    """Samples, else channels, else an unnamed axis short enough to be one of bands."""
    sizes = dict(zip(axes, shape, strict=True))
    present = [a for a in _BAND_AXES if sizes.get(a, 1) > 1]
    if present and (present[0] in "SC" or sizes[present[0]] <= 12):
        return present[0]
    return next((a for a in "SC" if a in sizes), None)


_Colour = tuple[Callable[[NDArray[Any]], NDArray[Any]] | None, int | None, np.dtype[Any] | None]


def _colour(page: Any) -> _Colour:
    """Conversion to RGB that tifffile leaves to its caller: palettes and Aperio's YCbCr."""
    byte = np.dtype(np.uint8)
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        table = (np.asarray(page.colormap).T >> 8).astype(np.uint8)
        return (lambda pixels: table[pixels[..., 0].clip(0, len(table) - 1)]), 3, byte
    if int(page.compression) == _YCBCR_JP2 and page.samplesperpixel == 3:
        return ycbcr_to_rgb, None, None
    return None, None, None


def ycbcr_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Full-range BT.601 (JFIF), ``(…, 3)`` uint8 → the same in RGB."""
    y, cb, cr = (pixels[..., i].astype(np.float32) for i in range(3))
    cb, cr = cb - 128, cr - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.clip(np.round(rgb), 0, 255).astype(np.uint8)


def _is_white_zero(series: Any) -> bool:
    return bool(series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE)


def _scales(shapes: list[tuple[int, int, int]], exact: bool) -> list[tuple[float, float]]:
    """Level-0 pixels per pixel of each level.

    Slide scanners cut levels to whole pixels at an exact power, so there the nearest integer is
    meant (``exact``). GDAL resamples the full extent into each overview: the ratio of shapes.
    """
    h0, w0 = shapes[0][:2]
    scales = []
    for h, w, _ in shapes:
        sy, sx = h0 / h, w0 / w
        whole = round((sy + sx) / 2)
        if exact and abs(h0 / whole - h) <= 1 and abs(w0 / whole - w) <= 1:
            sy = sx = float(whole)
        scales.append((sy, sx))
    return scales


@contextmanager
def _quiet() -> Iterator[None]:
    """tifffile logs what it also raises, in many lines; our one line is enough."""
    log = logging.getLogger("tifffile")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)
