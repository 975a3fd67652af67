"""Counts and intervals: images are drawn, not cells; no figure is ever NaN."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_ssldiff.evaluation.stats import bootstrap, mean_estimate, members, plain


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_members_are_found_whatever_their_order() -> None:
    parts = members(["b", "a", "b", "c"])
    assert [p.tolist() for p in parts] == [[1], [0, 2], [3]]
    assert members([]) == []


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    random = rng()
    held = 0
    for _ in range(200):
        # Cells of an image share its offset: 20 images of 10 cells are 20 facts, not 200.
        values = (random.normal(0, 1, (20, 1)) + random.normal(0, 0.1, (20, 10))).ravel()
        found = mean_estimate(values, np.repeat(np.arange(20), 10), random, 200)
        assert found.interval is not None
        held += found.interval[0] <= 0 <= found.interval[1]
    assert 0.85 < held / 200 < 0.99


def test_cells_of_one_image_do_not_narrow_the_interval() -> None:
    values = rng().normal(0, 1, 12)
    few = mean_estimate(values, np.arange(12), rng())
    many = mean_estimate(np.repeat(values, 50), np.repeat(np.arange(12), 50), rng())
    assert few.interval == pytest.approx(many.interval)
    assert (few.count, many.count, many.groups) == (12, 600, 12)


def test_one_image_has_a_figure_and_no_interval() -> None:
    assert mean_estimate([1.0, 2.0], ["a", "a"], rng()).interval is None
    found = bootstrap(lambda i: float(i.mean()), ["a", "a"], rng())
    assert (found.value, found.interval) == (0.5, None)


def test_a_centred_interval_holds_a_figure_that_repeats_only_raise() -> None:
    def raised(index: np.ndarray) -> float:
        return float(len(index) - len(np.unique(index)))

    plain_one = bootstrap(raised, np.arange(50), rng(), 200)
    centred = bootstrap(raised, np.arange(50), rng(), 200, centred=True)
    assert plain_one.interval is not None
    assert centred.interval is not None
    assert plain_one.interval[0] > 0
    assert centred.interval[0] <= 0 <= centred.interval[1]


def test_a_figure_that_is_no_number_is_missing_from_the_json() -> None:
    value = {"a": np.float32(1.5), "b": [np.nan, np.inf, 2], 3: np.int64(4), "c": np.bool_(True)}
    made = plain(value)
    assert made == {"a": 1.5, "b": [None, None, 2], "3": 4, "c": True}
    assert json.loads(json.dumps(made, allow_nan=False)) == made
