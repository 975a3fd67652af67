from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from napari.components import ViewerModel
from napari.layers import Image

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.scene import PixelSize, Scene
from napari_ssldiff.viewer.layer_scene import is_source, scene_of
from napari_ssldiff.viewer.reader import layer_data


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


def test_a_layer_of_our_reader_gives_its_own_scene(slide_pixels: np.ndarray) -> None:
    scene = Scene("a.tif", "a.tif", [zarr.array(slide_pixels)], PixelSize(0.5, 0.5, "micrometer"))
    data, attributes, _ = layer_data(scene)
    assert scene_of(Image(data, **attributes)) is scene


def test_a_plain_rgb_layer_becomes_a_scene_in_its_place(
    viewer: ViewerModel, add_slide: Callable[..., Any], slide_pixels: np.ndarray
) -> None:
    layer = add_slide(viewer)
    scene = scene_of(layer)
    assert scene.pixel_size == PixelSize(0.5, 0.5, "micrometer")
    assert scene.origin == (100.0, 50.0)
    assert scene.shape == (700, 900)
    box = Box(10, 20, 30, 40)
    assert np.array_equal(scene.read_rgb(box), slide_pixels[box.slices])
    assert scene_of(layer) is scene


def test_new_data_in_the_layer_is_a_new_scene(
    viewer: ViewerModel, add_slide: Callable[..., Any], slide_pixels: np.ndarray
) -> None:
    layer = add_slide(viewer)
    before = scene_of(layer)
    layer.data = slide_pixels[:100]
    assert scene_of(layer) is not before
    assert scene_of(layer).shape == (100, 900)


def test_a_lazy_pyramid_is_read_where_it_is_looked_at(slide_pixels: np.ndarray) -> None:
    levels = [da.from_array(slide_pixels[::k, ::k], chunks=256) for k in (1, 2)]
    scene = scene_of(Image(levels, multiscale=True, rgb=True))
    assert len(scene.levels) == 2
    assert np.array_equal(scene.read(Box(0, 0, 9, 9), 1), slide_pixels[::2, ::2][:9, :9])


def test_grey_is_shown_as_the_layer_shows_it() -> None:
    values = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)
    layer = Image(values, contrast_limits=(1000, 2000))
    rgb = scene_of(layer).read_rgb(Box(0, 0, 64, 64))
    assert rgb[0, 0].tolist() == [0, 0, 0]
    assert rgb.reshape(-1, 3)[1500].tolist() == [128, 128, 128]
    assert rgb[-1, -1].tolist() == [255, 255, 255]


def test_kilometres_become_metres_and_nanometres_micrometres() -> None:
    pixels = np.zeros((8, 8), np.uint8)
    ground = scene_of(Image(pixels, scale=(0.001, 0.001), units=("km", "km")))
    assert ground.pixel_size == PixelSize(1.0, 1.0, "meter")
    tissue = scene_of(Image(pixels, scale=(250, 250), units=("nm", "nm")))
    assert tissue.pixel_size == PixelSize(0.25, 0.25, "micrometer")


@pytest.mark.parametrize("change", [{"rotate": 30}, {"shear": (0.2,)}, {"scale": (-1, 1)}])
def test_a_turned_or_mirrored_layer_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="rotated, sheared, mirrored"):
        scene_of(Image(np.zeros((8, 8), np.uint8), **change))


def test_volumes_and_our_own_overlays_are_no_sources() -> None:
    assert not is_source(Image(np.zeros((4, 8, 8), np.uint8)))
    ours = {"napari_ssldiff": {"overlay_of": "a.tif"}}
    assert not is_source(Image(np.zeros((8, 8), np.uint8), metadata=ours))
    assert is_source(Image(np.zeros((8, 8), np.uint8)))
