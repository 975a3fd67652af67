"""What a TIFF says of itself: pixel size, band names, place, format."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import tifffile

from napari_ssldiff.scenes.geo import GeoInfo, locate
from napari_ssldiff.scenes.scene import PixelSize

# Outside this range a resolution tag means paper or a screen (300 dpi is 85 µm).
_PLAUSIBLE = (0.01, 20.0)
MICROMETRES = {
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "\\u00b5m": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "å": 1e-4,
    "inch": 25400.0,
}


def physical_size(tif: tifffile.TiffFile, series: Any) -> PixelSize | None:
    """Size of a pixel in µm, from the vendor, OME-XML, ImageJ or the resolution tags."""
    page = series.keyframe
    sizes = _aperio(page) or _ome(tif, series) or _imagej(tif, page) or _resolution(page)
    if sizes is None or not all(math.isfinite(s) and s > 0 for s in sizes):
        return None
    return PixelSize(*sizes, "micrometer")


def _aperio(page: Any) -> tuple[float, float] | None:
    match = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", page.description or "")
    return (float(match[1]), float(match[1])) if match else None


def _ome(tif: tifffile.TiffFile, series: Any) -> tuple[float, float] | None:
    pixels = _ome_pixels(tif, series)
    if pixels is None:
        return None
    sizes = []
    for axis in "YX":
        value = pixels.get(f"PhysicalSize{axis}")
        unit = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").lower())
        if value is None or unit is None:
            return None
        sizes.append(float(value) * unit)
    return sizes[0], sizes[1]


def _ome_pixels(tif: tifffile.TiffFile, series: Any) -> ElementTree.Element | None:
    """The Pixels element of a series: the one of its size, the first where several fit."""
    if not tif.is_ome or not tif.ome_metadata:
        return None
    try:
        root = ElementTree.fromstring(tif.ome_metadata)
    except ElementTree.ParseError:
        return None
    found = root.findall(".//{*}Image/{*}Pixels")
    size = str(series.shape[series.axes.index("X")]), str(series.shape[series.axes.index("Y")])
    same = [p for p in found if (p.get("SizeX"), p.get("SizeY")) == size]
    return next(iter(same or found), None)


def _imagej(tif: tifffile.TiffFile, page: Any) -> tuple[float, float] | None:
    if not tif.is_imagej or not tif.imagej_metadata:
        return None
    unit = MICROMETRES.get(str(tif.imagej_metadata.get("unit", "")).lower())
    per_unit = _per_unit(page)
    if unit is None or per_unit is None:
        return None
    return unit / per_unit[0], unit / per_unit[1]


def _resolution(page: Any) -> tuple[float, float] | None:
    unit = page.tags.get(296)
    length = {2: 25400.0, 3: 10000.0}.get(int(unit.value) if unit else 0)
    per_unit = _per_unit(page)
    if length is None or per_unit is None:
        return None
    sizes = length / per_unit[0], length / per_unit[1]
    return sizes if all(_PLAUSIBLE[0] <= s <= _PLAUSIBLE[1] for s in sizes) else None


def _per_unit(page: Any) -> tuple[float, float] | None:
    """Pixels per resolution unit, ``(y, x)``."""
    values = []
    for code in (283, 282):
        tag = page.tags.get(code)
        if tag is None or not isinstance(tag.value, tuple) or 0 in tag.value[:2]:
            return None
        values.append(tag.value[0] / tag.value[1])
    return values[0], values[1]


def geo_info(
    tif: tifffile.TiffFile, series: Any, shape: tuple[int, int], path: str
) -> GeoInfo | None:
    """Place on the Earth, for GeoTIFF."""
    keys = series.keyframe.geotiff_tags if series.keyframe.is_geotiff else None
    return locate(keys, shape, path) if keys else None


def nodata(series: Any) -> float | None:
    """GDAL's value of empty pixels."""
    tag = series.keyframe.tags.get(42113)
    if tag is None:
        return None
    try:
        return float(str(tag.value).strip().strip("\0"))
    except ValueError:
        return None


def band_names(tif: tifffile.TiffFile, series: Any, count: int) -> tuple[str, ...] | None:
    """Names from GDAL's metadata or OME channels; else by the photometric interpretation."""
    names = _gdal_names(series.keyframe, count) or _ome_names(tif, series, count)
    if names is not None:
        return names
    photometric = series.keyframe.photometric
    colour = photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
    if colour and count > 3:
        return ("red", "green", "blue", *(f"band {i + 1}" for i in range(3, count)))
    return None


def _gdal_names(page: Any, count: int) -> tuple[str, ...] | None:
    tag = page.tags.get(42112)
    if tag is None:
        return None
    try:
        root = ElementTree.fromstring(str(tag.value).strip("\0 \n"))
    except ElementTree.ParseError:
        return None
    names = [f"band {i + 1}" for i in range(count)]
    for role in ("colorinterp", "description"):  # a description says more than a colour
        for item in root.findall("Item"):
            band, text = item.get("sample", ""), (item.text or "").strip()
            if item.get("role") != role or not band.isdigit() or int(band) >= count:
                continue
            if text and (role == "description" or text.lower() in ("red", "green", "blue", "nir")):
                names[int(band)] = text if role == "description" else text.lower()
    return None if names == [f"band {i + 1}" for i in range(count)] else tuple(names)


def _ome_names(tif: tifffile.TiffFile, series: Any, count: int) -> tuple[str, ...] | None:
    pixels = _ome_pixels(tif, series)
    if pixels is None:
        return None
    channels = [c.get("Name") for c in pixels.findall("{*}Channel")]
    if len(channels) != count or not all(channels):
        return None
    return tuple(str(name) for name in channels)


def facts(tif: tifffile.TiffFile, series: Any, path: Path, info: GeoInfo | None) -> dict[str, Any]:
    """What else is worth telling, JSON-ready."""
    page = series.keyframe
    result: dict[str, Any] = {
        "format": _format(tif, info),
        "compression": page.compression.name,
        "photometric": page.photometric.name,
        "layout": "tiles" if page.is_tiled else "strips",
        "file_bytes": path.stat().st_size,
    }
    magnification = re.search(r"\|\s*AppMag\s*=\s*([0-9.]+)", page.description or "")
    if magnification:
        result["objective"] = float(magnification[1])
    if tif.is_svs:
        result["vendor"] = "Aperio"
        result["associated_images"] = [s.name for s in tif.series if s is not series]
    unread = {a: n for a, n in zip(series.axes, series.shape, strict=True) if a in "TZ" and n > 1}
    if unread:
        result["first_of"] = unread
    if info is not None:
        result.update({f"{key}_note": text for key, text in info.notes.items()})
    return result


def _format(tif: tifffile.TiffFile, info: GeoInfo | None) -> str:
    for flag, name in (
        (tif.is_svs, "Aperio SVS"),
        (tif.is_ome, "OME-TIFF"),
        (info is not None, "GeoTIFF"),
        (tif.is_ndpi, "Hamamatsu NDPI"),
        (tif.is_imagej, "ImageJ TIFF"),
    ):
        if flag:
            return name
    return "TIFF"
