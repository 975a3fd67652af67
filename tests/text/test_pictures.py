"""Reference regions as small pictures, as a prior's training has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes import PixelSize, open_scene
from napari_ssldiff.text.conditions import Reference
from napari_ssldiff.text.pictures import MOST, THUMB, read_squares, small_picture

SIZE = PixelSize(0.5, 0.5, "micrometer")


@pytest.fixture
def scene(tmp_path: Path) -> Any:
    """500 × 300 px, no pixel size; the left half dark, the right half bright."""
    pixels = np.full((300, 500, 3), 40, np.uint8)
    pixels[:, 250:] = 220
    Image.fromarray(pixels).save(tmp_path / "halves.png")
    with open_scene(tmp_path / "halves.png") as opened:
        yield opened


def box(x: int, y: int, w: int, h: int) -> Region:
    return Region.from_box(Box(y, x, h, w))


def test_a_cell_becomes_so_many_pixels_that_keep_its_mean() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 100, 3)).astype(np.uint8)
    small = small_picture(pixels, 32)
    assert small.shape == (2 * THUMB, 3 * THUMB, 3)
    assert abs(small[:THUMB, :THUMB].mean() - pixels[:32, :32].mean()) < 1


def test_a_region_is_covered_by_squares_of_the_window(scene: Any) -> None:
    squares = read_squares(Reference(scene, box(0, 0, 500, 300)), SIZE, 10, 20)

    assert len(squares) == 2 * 3
    assert {s.shape for s in squares} == {(20 * THUMB, 20 * THUMB, 3)}
    assert len(read_squares(Reference(scene, box(0, 0, 500, 300)), SIZE, 10, 1)) == MOST**2


def test_squares_show_the_region_and_not_what_is_beside_it(scene: Any) -> None:
    (dark,) = read_squares(Reference(scene, box(200, 17, 50, 50)), SIZE, 10, 20)
    assert dark.shape == (5 * THUMB, 5 * THUMB, 3)
    assert (dark == 40).all()
    triangle = Region.from_vertices([(0, 0), (0, 500), (300, 500)])
    some = read_squares(Reference(scene, triangle), SIZE, 10, 10)
    every = read_squares(Reference(scene, box(0, 0, 500, 300)), SIZE, 10, 10)
    assert 0.3 < len(some) / len(every) < 0.8
    assert np.mean(some) > np.mean(every)


@pytest.mark.parametrize(
    ("region", "said"),
    [
        (box(0, 0, 9, 300), "smaller than a cell of the model, which is 10 × 10 px"),
        (box(450, 0, 100, 100), "leaves halves"),
    ],
)
def test_regions_of_no_use_are_refused(scene: Any, region: Region, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_squares(Reference(scene, region), SIZE, 10, 4)
