"""Where an image lies on the Earth, and how large its pixels are on the ground."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from napari_ssldiff.scenes.scene import PixelSize

Affine = tuple[float, float, float, float, float, float]

_WGS84_A = 6378137.0
_WGS84_E2 = 6.69437999014e-3
_WEB_MERCATOR = {3857, 3785, 900913, 102100, 102113}
_METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937, 9036: 1000.0}
_USER_DEFINED = 32767
_EXTRA = "install napari-ssldiff[geo] to read it"


@dataclass(frozen=True)
class GeoInfo:
    """The place of an image: as :class:`~napari_ssldiff.scenes.scene.Scene` holds it.

    ``notes`` say in words what could not be found out.
    """

    crs: str | None
    affine: Affine
    pixel_size: PixelSize
    ground_pixel_size: PixelSize
    origin: tuple[float, float]
    notes: Mapping[str, str] = field(default_factory=dict)


def affine_from_keys(keys: Mapping[str, Any]) -> Affine | None:
    """Pixel corner → map, from the GeoTIFF model tags; ``None`` where there are none.

    OGC GeoTIFF 1.1, annex B.6: the tie point is the centre of its pixel where the raster type
    is "pixel is point", and its upper left corner otherwise.
    """
    matrix = keys.get("ModelTransformation")
    scale, tie = keys.get("ModelPixelScale"), keys.get("ModelTiepoint")
    if matrix is not None:
        flat = [float(v) for row in matrix for v in (row if hasattr(row, "__len__") else [row])]
        a, b, c, d, e, f = flat[0], flat[1], flat[3], flat[4], flat[5], flat[7]
    elif scale is not None and tie is not None and len(tie) >= 6:
        first = [float(v) for v in (tie[0] if hasattr(tie[0], "__len__") else tie[:6])]
        a, b, d, e = float(scale[0]), 0.0, 0.0, -float(scale[1])
        c, f = first[3] - first[0] * a, first[4] - first[1] * e
    else:
        return None
    if int(keys.get("GTRasterTypeGeoKey", 1)) == 2:
        c, f = c - (a + b) / 2, f - (d + e) / 2
    if not a * e - b * d:
        return None
    return a, b, c, d, e, f


def locate(
    keys: Mapping[str, Any], shape: tuple[int, int], path: str | None = None
) -> GeoInfo | None:
    """Read the GeoTIFF keys that tifffile parsed.

    Parameters
    ----------
    keys
        ``TiffPage.geotiff_tags`` or ``TiffFile.geotiff_metadata``.
    shape
        ``(h, w)`` of the image.
    path
        File to ask rasterio about a CRS without an EPSG code.

    Returns
    -------
    ``None`` where the file has no affine placement.
    """
    affine = affine_from_keys(keys)
    if affine is None:
        return None
    notes: dict[str, str] = {}
    geographic = int(keys.get("GTModelTypeGeoKey", 1)) == 2
    code = keys.get("GeographicTypeGeoKey" if geographic else "ProjectedCSTypeGeoKey")
    epsg = int(code) if code is not None and int(code) not in (0, _USER_DEFINED) else None
    crs = f"EPSG:{epsg}" if epsg else _wkt(path, notes)
    if crs is None and "ProjectedCSTypeGeoKey" not in keys and "GTModelTypeGeoKey" not in keys:
        notes["crs"] = "the file names no coordinate reference system: map units taken as metres"
    unit = keys.get("ProjLinearUnitsGeoKey")
    metres = _METRES.get(int(unit)) if unit is not None else None
    return place(affine, shape, crs, geographic, metres, notes)


def place(
    affine: Affine,
    shape: tuple[int, int],
    crs: str | None,
    geographic: bool,
    metres: float | None,
    notes: dict[str, str],
) -> GeoInfo:
    """Sizes and origin of an image of ``shape`` under ``affine``.

    ``metres`` per map unit, or ``None`` to look it up (pyproj) or take 1.
    """
    a, b, c, d, e, f = affine
    size_y, size_x = math.hypot(b, e), math.hypot(a, d)
    if b or d:
        notes["rotation"] = f"rows run {math.degrees(math.atan2(d, a)):.3f}° off the map's x axis"
    if e > 0:
        notes["orientation"] = "the first row is the southernmost one"
    row, col = shape[0] / 2, shape[1] / 2
    centre = (a * col + b * row + c, d * col + e * row + f)
    if geographic:
        dy, dx = _degree(centre[1])
        return GeoInfo(
            crs,
            affine,
            PixelSize(size_y, size_x, "degree"),
            PixelSize(size_y * dy, size_x * dx, "meter"),
            (-f, c),
            notes,
        )
    k = metres if metres is not None else _unit_of(crs, notes)
    map_size = PixelSize(size_y * k, size_x * k, "meter")
    sy, sx = _stretch(crs, centre, k, notes)
    ground = PixelSize(map_size.y / sy, map_size.x / sx, "meter")
    return GeoInfo(crs, affine, map_size, ground, (-f * k, c * k), notes)


def _degree(latitude: float) -> tuple[float, float]:
    """Metres per degree of latitude and of longitude on the WGS 84 ellipsoid."""
    phi = math.radians(latitude)
    w = 1 - _WGS84_E2 * math.sin(phi) ** 2
    meridian = _WGS84_A * (1 - _WGS84_E2) / w**1.5
    parallel = _WGS84_A / math.sqrt(w) * max(math.cos(phi), 1e-6)
    return math.radians(meridian), math.radians(parallel)


def _stretch(
    crs: str | None, centre: tuple[float, float], metres: float, notes: dict[str, str]
) -> tuple[float, float]:
    """Map metres per ground metre along y and x at the image's middle."""
    if crs is None:
        return 1.0, 1.0
    if crs.startswith("EPSG:") and int(crs[5:]) in _WEB_MERCATOR:
        # Spherical Mercator: the scale is 1 / cos(latitude), and cos(gd(n)) is 1 / cosh(n).
        factor = math.cosh(centre[1] / _WGS84_A)
        return factor, factor
    try:
        import pyproj
    except ImportError:
        if not _conformal_near_one(crs):
            notes["ground"] = (
                "ground pixels taken as large as map pixels; install napari-ssldiff[geo] to "
                "have the projection's distortion computed"
            )
        return 1.0, 1.0
    try:
        system = pyproj.CRS(crs)
        geodetic = system.geodetic_crs
        if geodetic is None:
            return 1.0, 1.0
        to_degrees = pyproj.Transformer.from_crs(system, geodetic, always_xy=True)
        longitude, latitude = to_degrees.transform(*centre)
        factors = pyproj.Proj(system).get_factors(longitude, latitude)
    except pyproj.exceptions.ProjError as error:
        notes["ground"] = f"ground pixels taken as large as map pixels ({error})"
        return 1.0, 1.0
    sy, sx = factors.meridional_scale, factors.parallel_scale
    # Up to half a percent (UTM has 0.04 %) the map's own metre is the honest figure.
    if not (math.isfinite(sy) and math.isfinite(sx)) or max(abs(sy - 1), abs(sx - 1)) < 0.005:
        return 1.0, 1.0
    return sy, sx


def _conformal_near_one(crs: str) -> bool:
    """Whether the code is one of the UTM grids, whose scale is 1 within 0.1 %."""
    if not crs.startswith("EPSG:"):
        return False
    code = int(crs[5:])
    ranges = ((32601, 32660), (32701, 32760), (26901, 26923), (25828, 25838), (6328, 6348))
    return any(low <= code <= high for low, high in ranges)


def _unit_of(crs: str | None, notes: dict[str, str]) -> float:
    """Metres per map unit by the CRS's own definition."""
    if crs is None or (crs.startswith("EPSG:") and int(crs[5:]) in _WEB_MERCATOR):
        return 1.0
    try:
        import pyproj
    except ImportError:
        if not _conformal_near_one(crs):
            notes["unit"] = f"map unit of {crs} taken as the metre: {_EXTRA}"
        return 1.0
    try:
        axes = pyproj.CRS(crs).axis_info
    except pyproj.exceptions.ProjError:
        return 1.0
    return float(axes[0].unit_conversion_factor) if axes else 1.0


def _wkt(path: str | None, notes: dict[str, str]) -> str | None:
    """The CRS as rasterio understands it, for files that define their own."""
    if path is None:
        return None
    try:
        import rasterio
    except ImportError:
        notes["crs"] = f"the file defines its own coordinate reference system: {_EXTRA}"
        return None
    try:
        with rasterio.open(path) as source:
            if source.crs is None:
                return None
            code = source.crs.to_epsg()
            return f"EPSG:{code}" if code else str(source.crs.to_wkt())
    except rasterio.errors.RasterioError as error:
        notes["crs"] = f"the coordinate reference system cannot be read ({error})"
        return None
