"""What napari gets from the reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_ssldiff.scenes import open_scene
from napari_ssldiff.viewer.reader import get_reader, layer_data


def test_the_reader_answers_for_images_only(tmp_path: Path) -> None:
    for name in ("a.svs", "b.TIF", "c.ome.zarr", "d.png", "https://host/e.zarr", "f.zarr/"):
        assert get_reader(name) is not None
        assert get_reader([name, "other.txt"]) is not None
    for name in ("a.txt", "b.csv", str(tmp_path)):
        assert get_reader(name) is None


def test_the_layer_lies_where_the_image_does(data_dir: Path) -> None:
    path = data_dir / "samples/cmu_small_region.svs"
    reader = get_reader([str(path)])
    assert reader is not None
    ((levels, attributes, kind),) = reader([str(path)])
    assert kind == "image"
    assert attributes["multiscale"]
    assert attributes["rgb"]
    assert attributes["scale"] == (0.499, 0.499)
    # The outer corner of pixel 0 is at 0, so its centre is half a pixel in.
    assert attributes["translate"] == (0.2495, 0.2495)
    assert attributes["units"] == ("micrometer", "micrometer")
    assert [level.shape[2] for level in levels] == [3, 3, 3]
    assert type(levels[-1]) is np.ndarray
    assert type(levels[0]) is not np.ndarray
    inside = attributes["metadata"]["napari_ssldiff"]
    assert inside["path"] == str(path)
    assert inside["scene"].shape == (2967, 2220)
    inside["scene"].close()


def test_wide_samples_and_many_bands_arrive_as_rgb(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 4000, (1200, 1100, 5)).astype(np.uint16)
    path = tmp_path / "five.tif"
    tifffile.imwrite(path, data, tile=(256, 256), planarconfig="contig", photometric="minisblack")
    with open_scene(path) as scene:
        levels, attributes, _ = layer_data(scene)
        assert levels[0].dtype == np.uint8
        assert levels[0].shape == (1200, 1100, 3)
        np.testing.assert_array_equal(levels[0][5:9, 7:20], scene.read_rgb(scene.box)[5:9, 7:20])
        assert attributes["units"] == ("pixel", "pixel")


def test_a_scene_becomes_a_napari_layer(tmp_path: Path, smooth: Any) -> None:
    layers = pytest.importorskip("napari.layers")
    image = smooth(1500, 1200)
    tifffile.imwrite(
        tmp_path / "a.tif", image, photometric="rgb", tile=(256, 256),
        resolution=(20000, 20000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    with open_scene(tmp_path / "a.tif") as scene:
        levels, attributes, _ = layer_data(scene)
        layer = layers.Image(levels, **attributes)
        assert layer.multiscale
        assert layer.rgb
        assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
        np.testing.assert_allclose(layer.data_to_world((0, 0)), (0.25, 0.25))
        np.testing.assert_allclose(layer.world_to_data((0.75, 1.25)), (1, 2))


def test_a_scene_of_one_small_level_is_a_layer_too(tmp_path: Path, smooth: Any) -> None:
    layers = pytest.importorskip("napari.layers")
    tifffile.imwrite(tmp_path / "a.tif", smooth(100, 90), photometric="rgb")
    with open_scene(tmp_path / "a.tif") as scene:
        levels, attributes, _ = layer_data(scene)
        assert layers.Image(levels, **attributes).data[0].shape == (100, 90, 3)


def test_the_reader_imports_no_qt_and_no_torch() -> None:
    code = (
        "import sys, napari_ssldiff.viewer.reader;"
        "print([m for m in ('qtpy', 'PyQt5', 'PyQt6', 'torch', 'napari') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
