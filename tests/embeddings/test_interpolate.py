"""From one meaning to another along an axis or a line, and a field stretched over another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.embeddings import edit as e
from napari_ssldiff.embeddings.line import along
from napari_ssldiff.errors import InputError


def field_of(seed: int = 0, shape: tuple[int, int] = (6, 8), d: int = 16) -> EmbeddingField:
    vectors = np.random.default_rng(seed).normal(size=(*shape, d)).astype(np.float32)
    return EmbeddingField(vectors, (10, 20), (32, 32), "enc@1", 0.5, "micrometer")


A = field_of()
START, END = A.vectors[0, 0], A.vectors[5, 7]


def angles(made: EmbeddingField, vector: np.ndarray) -> np.ndarray:
    return np.arccos(np.clip(made.vectors @ vector, -1, 1))


@pytest.mark.parametrize("axis", ["x", "y"])
def test_an_axis_leads_in_equal_steps_from_exactly_one_meaning_to_the_other(axis: str) -> None:
    made = e.interpolate(A, START, END, axis)
    first, last = (made.vectors[:, 0], made.vectors[:, -1]) if axis == "x" else made.vectors[[0, 5]]
    assert (first == START).all()
    assert (last == END).all()
    share = angles(made, START) / np.arccos(START @ END)
    np.testing.assert_allclose(share, e.ramp(A.shape, axis), atol=2e-3)


def test_an_axis_spans_what_takes_part_and_leaves_the_rest_alone() -> None:
    mask = np.zeros(A.shape)
    mask[1:3, 2:6] = 1
    made = e.interpolate(A, START, END, "x", mask=mask)
    assert (made.vectors[1:3, 2] == START).all()
    assert (made.vectors[1:3, 5] == END).all()
    assert np.array_equal(made.vectors[mask == 0], A.vectors[mask == 0])
    assert e.interpolate(A, START, END, "x", mask=np.zeros(A.shape)) == A


def test_a_line_goes_over_its_own_length_around_corners() -> None:
    # Three cells to the right, then two down: the corner is at three fifths.
    made = e.interpolate(A, START, END, [(1, 1), (1, 4), (3, 4)])
    assert np.array_equal(made.vectors[1, 1], START)
    assert np.array_equal(made.vectors[3, 4], END)
    way = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 4), (3, 4)]
    share = [angles(made, START)[cell] / np.arccos(START @ END) for cell in way]
    np.testing.assert_allclose(share, np.arange(6) / 5, atol=2e-3)
    untouched = np.ones(A.shape, bool)
    untouched[tuple(np.transpose(way))] = False
    assert np.array_equal(made.vectors[untouched], A.vectors[untouched])


def test_a_line_has_a_width_and_a_soft_edge() -> None:
    _, hard = along(A.shape, [(2, 0), (2, 7)], width=3)
    assert hard[:, 3].tolist() == [0, 1, 1, 1, 0, 0]
    _, soft = along(A.shape, [(2, 0), (2, 7)], width=1, soft=2)
    assert soft[2, 3] == 1
    assert 0 < soft[4, 3] < soft[3, 3] < 1
    assert soft[5, 3] == 0
    made = e.interpolate(A, START, START, [(2, 0), (2, 7)], width=1, soft=2)
    np.testing.assert_allclose(made.vectors[2], np.broadcast_to(START, (8, 16)), atol=1e-6)
    assert np.array_equal(made.vectors[5], A.vectors[5])
    closer = made.vectors[3] @ START - A.vectors[3] @ START
    assert (closer[1:] > 0).all()
    assert (made.vectors[3] @ START < 0.999)[1:].all()


def test_meanings_are_mean_directions_and_a_mask_counts_along_a_line_too() -> None:
    some = A.vectors[:2, :3]
    mean = some.reshape(-1, A.width).mean(0)
    mask = np.zeros(A.shape)
    mask[:, 4:] = 1
    made = e.interpolate(A, END, some, [(0, 0), (0, 7)], width=0, mask=mask)
    np.testing.assert_allclose(made.vectors[0, 7], mean / np.linalg.norm(mean), atol=1e-6)
    assert np.array_equal(made.vectors[:, :4], A.vectors[:, :4])
    assert np.array_equal(made.vectors[1:], A.vectors[1:])


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ([(1, 1), (1, 1)], {}, "two points that differ"),
        ([(1, 1)], {}, "two points that differ"),
        ([1, 2, 3], {}, "a list of points"),
        ([(0, 0), (1, 1)], {"width": -1}, "at least 0 cells"),
        ("z", {}, "an axis is x or y"),
    ],
)
def test_a_way_that_leads_nowhere_is_refused(path: object, options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        e.interpolate(A, START, END, path, **options)
    with pytest.raises(InputError, match="the end is a zero vector"):
        e.interpolate(A, START, np.zeros(16), "x")


def test_a_field_is_stretched_over_another_and_stays_itself_in_one_of_its_shape() -> None:
    same = e.stretched(field_of(3), A)
    assert np.array_equal(same.vectors, field_of(3).vectors)
    small = replace(field_of(4, (3, 4)), origin=(7, 7))
    large = e.stretched(small, A)
    assert (large.shape, large.origin) == (A.shape, A.origin)
    # The corners of a field twice as fine are the small one's, and its middle lies between.
    for cell, of in (((0, 0), (0, 0)), ((5, 7), (2, 3)), ((0, 7), (0, 3))):
        np.testing.assert_allclose(large.vectors[cell], small.vectors[of], atol=1e-6)
    pair = small.vectors[1, 1], small.vectors[1, 2]
    assert large.vectors[2, 3] @ pair[0] > large.vectors[2, 4] @ pair[0]
    with pytest.raises(InputError, match="different encoders"):
        e.stretched(replace(small, encoder="other"), A)
