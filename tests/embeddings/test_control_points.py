"""Vectors at a few points: theirs exactly, and one goes over into another in between."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from napari_ssldiff.embeddings.control_points import ControlPoints
from napari_ssldiff.embeddings.endless import places_from_dict
from napari_ssldiff.errors import InputError

POINTS = np.array([[0.0, 0.0], [0.0, 1000.0], [700.0, -300.0]])


@pytest.fixture
def places() -> ControlPoints:
    vectors = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    return ControlPoints(POINTS, vectors, "e@1")


def test_a_point_has_its_own_vector_and_a_near_place_nearly_that(places: ControlPoints) -> None:
    assert np.array_equal(places.sample(*POINTS.T), places.vectors)
    near = places.sample(POINTS[:, 0] + 0.5, POINTS[:, 1] - 0.5)
    assert ((near * places.vectors).sum(-1) > 0.9999).all()


def test_it_is_the_mean_weighted_by_inverse_distance_on_the_unit_sphere(
    places: ControlPoints,
) -> None:
    y, x = 210.0, 333.0
    weights = np.hypot(POINTS[:, 0] - y, POINTS[:, 1] - x) ** -2
    mean = weights @ places.vectors / weights.sum()
    np.testing.assert_allclose(places.sample(y, x), mean / np.linalg.norm(mean), atol=1e-6)
    grid = places.sample(np.arange(-500, 500, 50)[:, None], np.arange(-900, 900, 30)[None])
    assert grid.shape == (20, 60, 6)
    assert grid.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(grid, axis=-1), 1, atol=1e-5)
    # Far from all of them each counts alike.
    everywhere = places.vectors.mean(0)
    far = places.sample(1e9, -1e9)
    np.testing.assert_allclose(far, everywhere / np.linalg.norm(everywhere), atol=1e-4)


def test_a_high_power_cuts_the_plane_into_the_points_own_parts(places: ControlPoints) -> None:
    sharp = replace(places, power=64.0)
    assert float(sharp.sample(0, 400) @ places.vectors[0]) > 0.9999
    assert float(sharp.sample(0, 600) @ places.vectors[1]) > 0.9999
    assert float(places.sample(0, 400) @ places.vectors[0]) < 0.999


def test_where_vectors_cancel_out_the_nearest_holds() -> None:
    places = ControlPoints([[0, 0], [0, 10]], np.array([[1, 0], [-1, 0]], np.float32), "e")  # type: ignore[arg-type]
    assert places.sample(0, 5).tolist() == [1, 0]
    assert np.isfinite(places.sample(0, np.linspace(4.999, 5.001, 9))).all()


def test_they_are_restored_from_json(places: ControlPoints) -> None:
    again = places_from_dict(json.loads(json.dumps(places.to_dict())))
    assert again.digest == places.digest
    assert again.encoder == "e@1"
    assert np.array_equal(again.sample(12.5, 80.25), places.sample(12.5, 80.25))
    for other in (
        replace(places, power=3.0),
        replace(places, points=POINTS + 1),
        replace(places, vectors=places.vectors[::-1]),
        replace(places, encoder="f"),
    ):
        assert other.digest != places.digest


def test_what_has_no_meaning_is_refused(places: ControlPoints) -> None:
    with pytest.raises(InputError, match="two control points lie at the same place"):
        replace(places, points=np.zeros((3, 2)))
    with pytest.raises(InputError, match=r"3 control points need vectors of shape \(3, d\)"):
        replace(places, vectors=places.vectors[:2])
    with pytest.raises(InputError, match=r"need a shape of \(k, 2\)"):
        replace(places, points=np.zeros((0, 2)), vectors=places.vectors[:0])
    with pytest.raises(InputError, match="finite"):
        replace(places, points=POINTS * np.nan)
    with pytest.raises(InputError, match="power must be above 0"):
        replace(places, power=0.0)
