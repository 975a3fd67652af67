"""Boxes, regions and windows: integer arithmetic with expectations written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ssldiff.geometry import (
    Box,
    Region,
    as_region,
    centre_out,
    parse_box,
    plan_windows,
    window_starts,
)


def test_a_box_knows_its_far_edges_and_middle() -> None:
    box = Box(2, 3, 4, 7)
    assert (box.y1, box.x1, box.shape, box.area, box.centre) == (6, 10, (4, 7), 28, (4.0, 6.5))
    assert np.zeros((10, 12))[box.slices].shape == (4, 7)


def test_a_box_of_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="negative size"):
        Box(0, 0, -1, 5)


def test_boxes_that_do_not_meet_share_no_pixel() -> None:
    assert Box(0, 0, 4, 4).intersect(Box(4, 0, 4, 4)).area == 0
    assert Box(0, 0, 4, 4).intersect(Box(9, 9, 1, 1)).area == 0
    assert Box(0, 0, 4, 4).intersect(Box(2, 3, 9, 9)) == Box(2, 3, 2, 1)


def test_a_union_holds_both_boxes_and_no_row_more() -> None:
    assert Box(0, 5, 2, 2).union(Box(-3, 0, 1, 1)) == Box(-3, 0, 5, 7)


def test_a_box_shrunk_to_nothing_has_no_area() -> None:
    assert Box(0, 0, 5, 5).grow(-3).area == 0
    assert Box(1, 1, 2, 2).grow(2) == Box(-1, -1, 6, 6)


@pytest.mark.parametrize(
    ("box", "scale", "multiple", "expected"),
    [
        (Box(0, 0, 10, 10), (1.0, 1.0), 8, Box(0, 0, 16, 16)),
        (Box(8, 16, 8, 8), (1.0, 1.0), 8, Box(8, 16, 8, 8)),
        (Box(7, 9, 2, 2), (1.0, 1.0), 8, Box(0, 8, 16, 8)),
        (Box(-1, -9, 2, 2), (1.0, 1.0), 8, Box(-8, -16, 16, 16)),
        (Box(100, 200, 100, 50), (0.5, 2.0), 1, Box(50, 400, 50, 100)),
        (Box(1, 1, 1, 1), (0.5, 0.5), 1, Box(0, 0, 1, 1)),
        # 768 · 0.499 / 0.499 is 768 but for rounding; it must not snap a step too far.
        (Box(768, 0, 768, 768), (0.499 / 0.499, 1 / (0.7 * (1 / 0.7))), 8, Box(768, 0, 768, 768)),
    ],
)
def test_scaling_snaps_outward_to_the_lattice(
    box: Box, scale: tuple[float, float], multiple: int, expected: Box
) -> None:
    assert box.scaled_outward(scale, multiple) == expected


def test_scaling_there_and_back_never_loses_a_pixel() -> None:
    for scale in (0.3, 0.499 / 0.5, 1.0, 1.7, 4.0):
        for y in (-5, 0, 7, 1001):
            box = Box(y, y + 3, 11, 5)
            there = box.scaled_outward((scale, scale), 8)
            assert there.scaled_outward((1 / scale, 1 / scale)).contains(box)


def test_tiles_are_anchored_at_the_origin_and_cover_a_box_once() -> None:
    box = Box(-3, 250, 270, 20)
    count = np.zeros(box.shape, int)
    for tile in box.tiles(256):
        assert tile.y // 256 == (tile.y1 - 1) // 256
        assert tile.x // 256 == (tile.x1 - 1) // 256
        count[tile.shift(-box.y, -box.x).slices] += 1
    assert (count == 1).all()
    assert next(box.tiles(256)) == Box(-3, 250, 3, 6)


def test_a_box_without_area_has_no_tiles() -> None:
    assert list(Box(5, 5, 0, 9).tiles(256)) == []


@pytest.mark.parametrize(
    ("length", "window", "stride", "expected"),
    [
        (256, 256, 192, (0,)),
        (257, 256, 192, (0, 1)),
        (448, 256, 192, (0, 192)),
        (449, 256, 192, (0, 192, 193)),
        (512, 256, 64, (0, 64, 128, 192, 256)),
        (1000, 256, 256, (0, 256, 512, 744)),
        (37, 37, 1, (0,)),
        (38, 37, 37, (0, 1)),
    ],
)
def test_windows_reach_the_last_pixel(
    length: int, window: int, stride: int, expected: tuple[int, ...]
) -> None:
    assert window_starts(length, window, stride) == expected


@pytest.mark.parametrize(
    ("length", "stride", "words"), [(255, 64, "cannot hold"), (256, 0, "stride"), (256, 257, "257")]
)
def test_impossible_windows_are_refused(length: int, stride: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        window_starts(length, 256, stride)


@pytest.mark.parametrize("shape", [(64, 64), (65, 130), (1000, 64), (71, 999)])
def test_planned_windows_leave_no_hole_and_stay_inside(shape: tuple[int, int]) -> None:
    count = np.zeros(shape, int)
    for window in plan_windows(shape, 64, 48):
        assert Box(0, 0, *shape).contains(window)
        count[window.slices] += 1
    assert count.min() >= 1


def test_a_canvas_narrower_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        plan_windows((1000, 37), 64, 48)


def test_centre_out_begins_in_the_middle_and_keeps_ties_in_order() -> None:
    boxes = [Box(y, x, 10, 10) for y in (0, 10, 20) for x in (0, 10, 20)]
    ordered = centre_out(boxes, (15, 15))
    assert ordered[0] == Box(10, 10, 10, 10)
    assert ordered[1:5] == [
        Box(0, 10, 10, 10),
        Box(10, 0, 10, 10),
        Box(10, 20, 10, 10),
        Box(20, 10, 10, 10),
    ]
    assert sorted(ordered) == sorted(boxes)


def test_the_command_lines_region_is_x_before_y() -> None:
    assert parse_box("600,900,768,512") == Box(y=900, x=600, h=512, w=768)
    assert parse_box(" 1, 2,3 ,4") == Box(2, 1, 4, 3)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,2,3,4", "1;2;3;4"])
def test_a_region_that_is_not_four_whole_numbers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"X,Y,W,H.*got"):
        parse_box(text)


@pytest.mark.parametrize("text", ["0,0,0,5", "0,0,5,0", "0,0,-5,5"])
def test_a_region_without_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="above 0"):
        parse_box(text)


def test_the_mask_of_a_box_is_the_box() -> None:
    mask = Region.from_box(Box(2, 3, 4, 5)).mask(Box(0, 0, 10, 10))
    expected = np.zeros((10, 10), bool)
    expected[2:6, 3:8] = True
    assert (mask == expected).all()


def test_a_mask_asked_for_in_parts_is_the_mask_in_one() -> None:
    region = Region(((1.3, 2.7), (30.2, 9.9), (17.1, 40.4), (8.0, 20.0)))
    whole = region.mask(Box(0, 0, 40, 50))
    parts = np.block(
        [
            [region.mask(Box(0, 0, 17, 23)), region.mask(Box(0, 23, 17, 27))],
            [region.mask(Box(17, 0, 23, 23)), region.mask(Box(17, 23, 23, 27))],
        ]
    )
    assert (whole == parts).all()
    assert 0 < whole.sum() < whole.size


def test_a_ring_that_crosses_itself_has_a_hole_by_the_even_odd_rule() -> None:
    # A square walked around, with a smaller square walked around inside it.
    region = Region(
        ((0, 0), (0, 20), (20, 20), (20, 0), (0, 0), (5, 5), (5, 15), (15, 15), (15, 5), (5, 5))
    )
    mask = region.mask(Box(0, 0, 20, 20))
    assert mask[2, 2]
    assert not mask[10, 10]
    assert mask.sum() == 400 - 100


def test_several_rings_are_one_region_and_nothing_lies_between_them() -> None:
    boxes = [Box(0, 0, 3, 4), Box(1, 7, 5, 2), Box(6, 1, 2, 5)]
    corners = [Region.from_box(box).vertices for box in boxes]
    region = Region.from_rings(corners)
    assert region.bounds == Box(0, 0, 8, 9)
    expected = np.zeros((8, 9), bool)
    for box in boxes:
        expected[box.slices] = True
    for scale in ((1.0, 1.0), (0.37, 0.61), (3.0, 2.0)):
        grid = Box(0, 0, round(8 * scale[0]), round(9 * scale[1]))
        apart = sum(Region.from_box(box).mask(grid, scale).astype(int) for box in boxes)
        np.testing.assert_array_equal(region.mask(grid, scale), apart > 0)
    np.testing.assert_array_equal(region.mask(Box(0, 0, 8, 9)), expected)
    assert Region.from_rings(corners[:1]) == Region.from_box(boxes[0])


def test_a_mask_on_a_finer_grid_is_the_same_shape_larger() -> None:
    region = Region.from_box(Box(1, 2, 3, 4))
    mask = region.mask(Box(0, 0, 20, 20), (2.0, 3.0))
    expected = np.zeros((20, 20), bool)
    expected[2:8, 6:18] = True
    assert (mask == expected).all()


@pytest.mark.parametrize(
    ("vertices", "words"),
    [
        ([(0, 0), (1, 1)], "at least three"),
        ([(0, 0), (1, 1), (float("nan"), 2)], "finite"),
        ([(0, 0), (0, 5), (0, 9)], "size"),
        ([(0, 0, 0), (1, 1, 1), (2, 2, 2)], "at least three"),
    ],
)
def test_a_polygon_that_holds_nothing_is_refused(vertices: list[tuple[float]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Region.from_vertices(vertices)


def test_bounds_hold_the_polygon_and_boxes_are_recognised() -> None:
    assert Region(((1.5, 2.0), (8.2, 2.0), (3.0, 9.9))).bounds == Box(1, 2, 8, 8)
    assert as_region(Box(1, 2, 3, 4)).is_box
    assert as_region(Box(1, 2, 3, 4)).bounds == Box(1, 2, 3, 4)
    assert not Region(((0, 0), (0, 5), (5, 5), (4, 0))).is_box


def test_a_region_comes_back_from_its_list() -> None:
    region = Region(((1.25, 2.0), (8.5, 2.0), (3.0, 9.75)))
    assert as_region(region.to_list()) == region
