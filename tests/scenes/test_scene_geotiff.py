"""GeoTIFF of any data type: place, ground size, bands, stretch."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.scenes import open_scene
from napari_ssldiff.scenes.geo import affine_from_keys, locate

rasterio = pytest.importorskip("rasterio")


def write_geotiff(
    path: Path, data: Any, crs: str, size: float, corner: Any, **options: Any
) -> Path:
    """``(bands, h, w)`` as a tiled GeoTIFF with two overviews."""
    names = options.pop("names", None)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=data.shape[0],
        height=data.shape[1],
        width=data.shape[2],
        dtype=data.dtype,
        crs=crs,
        transform=rasterio.Affine(size, 0, corner[0], 0, -size, corner[1]),
        tiled=True,
        blockxsize=128,
        blockysize=128,
        **options,
    ) as target:
        target.write(data)
        for i, name in enumerate(names or ()):
            target.set_band_description(i + 1, name)
        target.build_overviews([2, 4], rasterio.enums.Resampling.average)
    return path


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_many_bands_of_wide_samples_are_stretched_without_nodata(
    tmp_path: Path, dtype: str, interleave: str
) -> None:
    rng = np.random.default_rng(1)
    data = rng.uniform(1000, 3000, (6, 300, 400)).astype(dtype)
    data[:, :50] = -9999 if dtype != "uint16" else 0
    nodata = -9999 if dtype != "uint16" else 0
    if dtype == "float32":
        data[:, 50:60] = np.nan
    path = write_geotiff(
        tmp_path / "s.tif", data, "EPSG:32632", 10, (5e5, 5e6),
        nodata=nodata, interleave=interleave, compress="deflate",
    )  # fmt: skip
    with open_scene(path) as scene:
        assert [level.shape for level in scene.levels] == [
            (300, 400, 6), (150, 200, 6), (75, 100, 6),
        ]  # fmt: skip
        assert scene.dtype == np.dtype(dtype)
        assert scene.nodata == nodata
        np.testing.assert_array_equal(scene.read(scene.box), np.moveaxis(data, 0, -1))
        assert all(900 < low < 1900 for low in scene.display.low)
        assert all(2100 < high < 3100 for high in scene.display.high)
        rgb = scene.read_rgb(scene.box)
        assert rgb[80:].std() > 40
        assert rgb[:50].max() == 0
        back = scene.display.from_rgb(rgb, scene.dtype)
        inside = (data[:3] > np.array(scene.display.low)[:, None, None]) & (
            data[:3] < np.array(scene.display.high)[:, None, None]
        )
        error = np.abs(np.moveaxis(back.astype(float), -1, 0) - data[:3])[inside]
        assert error.max() <= (scene.display.high[0] - scene.display.low[0]) / 255 + 1


def test_sentinel_names_choose_red_green_and_blue(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 9000, (4, 200, 200)).astype("uint16")
    path = write_geotiff(
        tmp_path / "s2.tif", data, "EPSG:32632", 10, (5e5, 5e6), names=["B02", "B03", "B04", "B08"]
    )
    with open_scene(path) as scene:
        assert scene.band_names == ("B02", "B03", "B04", "B08")
        assert scene.display.bands == (2, 1, 0)


def test_degrees_have_a_ground_size_in_metres(tmp_path: Path) -> None:
    data = np.zeros((3, 200, 200), np.uint8)
    path = write_geotiff(tmp_path / "g.tif", data, "EPSG:4326", 1e-4, (10, 60.01))
    with open_scene(path) as scene:
        assert scene.crs == "EPSG:4326"
        assert scene.pixel_size.unit == "degree"
        ground = scene.encoder_pixel_size
        assert ground.unit == "meter"
        assert ground.y == pytest.approx(11.141, abs=0.01)  # 111.41 km per degree at 60° N
        assert ground.x == pytest.approx(5.58, abs=0.01)  # 55.80 km per degree at 60° N


def test_feet_become_metres(tmp_path: Path) -> None:
    data = np.zeros((3, 64, 64), np.uint8)
    path = write_geotiff(tmp_path / "ft.tif", data, "EPSG:2263", 2.0, (980000, 200000))
    with open_scene(path) as scene:
        assert scene.pixel_size.to_list() == [
            pytest.approx(0.6096, rel=1e-4), pytest.approx(0.6096, rel=1e-4), "meter",
        ]  # fmt: skip
        assert scene.affine is not None
        assert scene.affine[0] == 2.0


def test_a_crs_without_a_code_comes_as_wkt(tmp_path: Path) -> None:
    albers = "+proj=aea +lat_1=34 +lat_2=40.5 +lat_0=0 +lon_0=-120 +datum=NAD83 +units=m"
    data = np.zeros((1, 64, 64), np.uint8)
    path = write_geotiff(tmp_path / "aea.tif", data, albers, 30.0, (1000, 0))
    with open_scene(path) as scene:
        assert scene.crs is not None
        assert "Albers" in scene.crs
        assert scene.pixel_size.unit == "meter"


def test_web_mercator_shrinks_by_the_cosine_of_the_latitude() -> None:
    latitude = math.radians(60)
    northing = 6378137.0 * math.asinh(math.tan(latitude))
    keys = {
        "GTModelTypeGeoKey": 1,
        "ProjectedCSTypeGeoKey": 3857,
        "ModelPixelScale": [2.0, 2.0, 0.0],
        "ModelTiepoint": [0, 0, 0, 0, northing + 100, 0],
    }
    info = locate(keys, (100, 100))
    assert info is not None
    assert info.ground_pixel_size.x == pytest.approx(1.0, abs=1e-4)
    assert info.origin == (-(northing + 100), 0)


def test_a_pixel_is_point_raster_starts_half_a_pixel_earlier() -> None:
    keys = {"ModelPixelScale": [2, 4, 0], "ModelTiepoint": [0, 0, 0, 100, 200, 0]}
    assert affine_from_keys(keys) == (2, 0, 100, 0, -4, 200)
    assert affine_from_keys({**keys, "GTRasterTypeGeoKey": 2}) == (2, 0, 99, 0, -4, 202)
    matrix = [2, 0, 0, 100, 0, -4, 0, 200, 0, 0, 0, 0, 0, 0, 0, 1]
    assert affine_from_keys({"ModelTransformation": matrix}) == (2, 0, 100, 0, -4, 200)


def test_without_the_geo_extra_the_plain_cases_work_and_the_rest_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("pyproj", "rasterio"):
        monkeypatch.setitem(sys.modules, module, None)
    keys = {"ModelPixelScale": [10, 10, 0], "ModelTiepoint": [0, 0, 0, 5e5, 5e6, 0]}
    utm = locate({**keys, "ProjectedCSTypeGeoKey": 32632}, (9, 9), "a.tif")
    assert utm is not None
    assert (utm.crs, utm.pixel_size.x, utm.ground_pixel_size.x) == ("EPSG:32632", 10, 10)
    assert not utm.notes
    own = locate({**keys, "ProjectedCSTypeGeoKey": 32767}, (9, 9), "a.tif")
    assert own is not None
    assert own.crs is None
    assert "napari-ssldiff[geo]" in own.notes["crs"]
    other = locate({**keys, "ProjectedCSTypeGeoKey": 3035}, (9, 9), "a.tif")
    assert other is not None
    assert "napari-ssldiff[geo]" in other.notes["ground"]
