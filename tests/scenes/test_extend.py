from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import PixelSize, Scene, open_scene, read_at
from napari_ssldiff.scenes.extend import extend
from napari_ssldiff.scenes.scene import Display


@pytest.fixture
def pixels() -> np.ndarray:
    y, x = np.mgrid[:600, :700]
    return np.stack([y % 251, x % 241, (x + y) % 239], -1).astype(np.uint8)


def halves(pixels: np.ndarray, count: int) -> list[np.ndarray]:
    return [pixels[:: 2**n, :: 2**n] for n in range(count)]


def test_the_source_lies_in_the_middle_of_every_level_at_its_place_in_the_world(
    pixels: np.ndarray,
) -> None:
    size = PixelSize(0.5, 0.25, "micrometer")
    scene = Scene(
        "a.tif", "a", halves(pixels, 3), size, origin=(10.0, 20.0), background=(9, 8, 7),
        affine=(0.25, 0.0, 20.0, 0.0, -0.5, 99.0),
    )  # fmt: skip
    wide = extend(scene, 300)
    assert wide.shape == (600 + 1024, 700 + 1024)
    assert wide.inside == Box(512, 512, 600, 700)
    assert wide.origin == (10 - 512 * 0.5, 20 - 512 * 0.25)
    assert wide.affine == (0.25, 0.0, 20 - 128.0, 0.0, -0.5, 99 + 256.0)
    assert not Path(wide.path).exists()
    for level, array in enumerate(halves(pixels, 3)):
        margin = 512 >> level
        h, w = array.shape[:2]
        whole = wide.levels[level][:]
        assert np.array_equal(whole[margin : margin + h, margin : margin + w], array)
        assert (whole[:margin] == (9, 8, 7)).all()
        assert (whole[:, margin + w :] == (9, 8, 7)).all()
        assert wide.downsample(level) == (2.0**level, 2.0**level)


def test_a_model_reads_the_mirror_image_there(pixels: np.ndarray) -> None:
    size = PixelSize(0.5, 0.5, "micrometer")
    scene = Scene("a.tif", "a", halves(pixels, 2), size)
    wide = extend(scene, 256)
    for resolution, factor in ((0.5, 1), (1.0, 2)):
        box = Box(0, -90, 200, 300)
        place = box.shift(256 // factor, 256 // factor)
        assert np.array_equal(read_at(wide, place, resolution), read_at(scene, box, resolution))
    again = extend(wide, 256)
    assert again.inside == Box(512, 512, 600, 700)
    box = Box(500, 400, 64, 64)
    assert np.array_equal(read_at(again, box, 0.5), read_at(wide, box.shift(-256, -256), 0.5))


def test_bands_that_are_not_shown_and_pixels_without_data_have_their_own_value() -> None:
    deep = np.full((300, 300, 4), 77, np.uint16)
    display = Display((3, 1, 0), (0.0,) * 3, (510.0,) * 3)
    wide = extend(Scene("a", "a", [deep], PixelSize(1, 1), display=display), 256)
    assert wide.levels[0][0, 0].tolist() == [510, 510, 0, 510]
    assert (wide.read_rgb(Box(0, 0, 5, 5)) == 255).all()
    empty = extend(Scene("a", "a", [deep], PixelSize(1, 1), display=display, nodata=5), 256)
    assert empty.levels[0][0, 0].tolist() == [5, 5, 5, 5]


def test_it_needs_a_margin_and_an_image_as_wide(
    pixels: np.ndarray, write_scene: Callable[..., Path]
) -> None:
    with open_scene(write_scene(pixels)) as scene:
        for margin in (0, -5, 601):
            with pytest.raises(InputError, match="extended by 1 to 600 px"):
                extend(scene, margin)
        wide = extend(scene, 600)
        wide.close()  # closes nothing: the source goes on
        assert scene.read(Box(0, 0, 5, 5)).shape == (5, 5, 3)


def test_a_level_may_be_copied_as_napari_copies_a_layers_data(
    pixels: np.ndarray, write_scene: Callable[..., Path]
) -> None:
    with open_scene(write_scene(pixels)) as scene:
        assert copy.deepcopy(list(scene.levels))[0] is scene.levels[0]
