"""What ``describe`` says of real files is true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import describe, open_scene


def test_the_slide_is_2220_wide_2967_high_at_half_a_micrometre(data_dir: Path) -> None:
    with open_scene(data_dir / "samples/cmu_small_region.svs") as scene:
        facts = describe(scene)
    assert (facts["width"], facts["height"]) == (2220, 2967)
    assert facts["pixel_size"] == {"y": 0.499, "x": 0.499, "unit": "micrometer"}
    assert facts["ground_pixel_size"] is None
    assert facts["crs"] is None
    assert facts["dtype"] == "uint8"
    assert facts["bands"] == ["red", "green", "blue"]
    assert facts["facts"]["format"] == "Aperio SVS"
    assert facts["facts"]["objective"] == 20
    assert [level["stored"] for level in facts["levels"]] == [True, False, False]
    assert min(facts["background"]) > 230


def test_the_slide_reads_the_same_pixels_as_tifffile(data_dir: Path) -> None:
    path = data_dir / "samples/cmu_small_region.svs"
    with open_scene(path) as scene:
        pixels = scene.read(Box(900, 600, 300, 500))
    np.testing.assert_array_equal(pixels, tifffile.imread(path)[900:1200, 600:1100])


def test_the_cog_has_map_pixels_of_60_cm_that_are_47_cm_on_the_ground(data_dir: Path) -> None:
    with open_scene(data_dir / "samples/cogeo.tif") as scene:
        facts = describe(scene)
    assert facts["crs"] == "EPSG:3857"
    assert facts["shape"] == [1024, 1024]
    assert facts["pixel_size"]["x"] == pytest.approx(0.597, abs=5e-4)
    assert facts["ground_pixel_size"]["x"] == pytest.approx(0.473, abs=5e-4)
    assert facts["ground_pixel_size"]["unit"] == facts["unit"] == "meter"
    assert facts["affine"][2] == pytest.approx(14321853.1157)
    assert len(facts["levels"]) == 7
    assert all(level["stored"] for level in facts["levels"])


@pytest.mark.parametrize("place", ["riverside_2020_83", "santa_monica_2020_53"])
def test_naip_in_utm_keeps_its_four_bands_and_shows_the_first_three(
    data_dir: Path, place: str
) -> None:
    path = data_dir / f"samples/naip_{place}_rgbn_utm.tif"
    with open_scene(path) as scene:
        assert scene.crs == "EPSG:26911"
        assert scene.pixel_size.x == pytest.approx(0.6)
        assert scene.encoder_pixel_size.x == pytest.approx(0.6, rel=1e-3)
        assert scene.levels[0].shape == (256, 256, 4)
        whole = tifffile.imread(path)
        np.testing.assert_array_equal(scene.read(scene.box), whole)
        np.testing.assert_array_equal(scene.read_rgb(scene.box), whole[..., :3])


@pytest.mark.parametrize(("day", "height"), [("20090818", 724), ("20200831", 723)])
def test_naip_with_an_overview_lists_it(data_dir: Path, day: str, height: int) -> None:
    with open_scene(data_dir / f"samples/m_4709963_se_14_1_{day}.tif") as scene:
        assert [level.shape for level in scene.levels] == [(height, 934, 4), (362, 467, 4)]
        assert scene.pixel_size.to_list() == [5.0, 5.0, "meter"]
        assert scene.nodata == 0
        assert scene.background == (0, 0, 0)
        assert scene.crs == "EPSG:26914"


@pytest.mark.parametrize("version", ["04", "05"])
def test_foreign_ome_zarr_of_floats_opens_stretched(data_dir: Path, version: str) -> None:
    path = data_dir / f"samples/ome_zarr_fixtures/blobs_image_v{version}.ome.zarr"
    with open_scene(path) as scene:
        assert scene.levels[0].shape == (12, 12, 3)
        assert scene.dtype == np.float64
        assert scene.pixel_size.unit == "pixel"
        rgb = scene.read_rgb(scene.box)
        assert rgb.dtype == np.uint8
        assert rgb.min() == 0
        assert rgb.max() == 255


def test_every_sample_describes_itself_as_json(data_dir: Path) -> None:
    samples = data_dir / "samples"
    paths = [*samples.glob("*.tif"), *samples.glob("*.svs"), *samples.glob("*/*.zarr")]
    assert len(paths) == 8
    for path in paths:
        with open_scene(path) as scene:
            facts = describe(scene)
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts
        assert facts["problems"] == []


def test_a_section_of_92_megapixels_in_one_jpeg_opens(data_dir: Path) -> None:
    path = data_dir / "histology/her2st_breast/C3_5714_HE_BT_D1.jpg"
    with open_scene(path) as scene:
        assert scene.shape[0] * scene.shape[1] > 80e6
        assert scene.pixel_size.unit == "pixel"
        assert max(scene.levels[-1].shape) <= 1024
        assert scene.read(Box(4000, 4000, 64, 64)).std() > 0
