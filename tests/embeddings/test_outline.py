"""Polygons around cells."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ssldiff.embeddings.outline import gathered, outlines
from napari_ssldiff.geometry import Box, Region


def test_a_cell_has_four_corners_and_straight_runs_are_one_edge() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    ((cells, ring),) = outlines(mask)
    assert ring == [(1, 2), (1, 3), (2, 3), (2, 2)]
    np.testing.assert_array_equal(cells, mask)
    mask[1, 1:4] = True
    mask[2, 1] = True
    assert outlines(mask)[0][1] == [(1, 1), (1, 4), (2, 4), (2, 2), (3, 2), (3, 1)]
    assert outlines(np.zeros((3, 3), bool)) == []


def test_cells_that_touch_at_a_corner_are_apart() -> None:
    mask = np.eye(3, dtype=bool)
    assert len(outlines(mask)) == 3


@pytest.mark.parametrize("seed", range(30))
def test_polygons_cover_the_cells_once_and_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 11)) < rng.choice([0.3, 0.6, 0.9])
    mask[3:6, 4:7] = True
    mask[4, 5] = seed % 2 == 0
    covered = np.zeros(mask.shape, int)
    for cells, ring in outlines(mask):
        region = Region.from_vertices(np.array(ring) * 4)
        fine = region.mask(Box(0, 0, 36, 44))
        assert not (fine.reshape(9, 4, 11, 4).std((1, 3)) > 0).any()
        np.testing.assert_array_equal(fine[::4, ::4], cells)
        covered += cells
    np.testing.assert_array_equal(covered, mask)


def test_what_lies_near_is_one_patch_and_a_group_grows_until_nothing_is_near() -> None:
    mask = np.zeros((12, 12), bool)
    for cell in ((0, 0), (0, 3), (3, 6), (11, 11)):
        mask[cell] = True
    two, alone = gathered(mask, 2)
    assert np.argwhere(two[0]).tolist() == [[0, 0], [0, 3], [3, 6]]
    assert np.argwhere(alone[0]).tolist() == [[11, 11]]
    assert [len(rings) for _, rings in (two, alone)] == [3, 1]
    assert len(gathered(mask, 1)) == 4
    assert len(gathered(mask, 7)) == 1
    assert gathered(np.zeros((3, 3), bool), 2) == []
