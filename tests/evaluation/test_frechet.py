"""Distances with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ssldiff.evaluation.frechet import (
    fit_projection,
    frechet_distance,
    halves_by_cell,
    halves_by_image,
    kernel_distance,
    ratio_to_floor,
    real_floor,
    variance_ratio,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def exact(n: int, mean: list[float], std: list[float]) -> np.ndarray:
    """A sample whose mean and covariance are exactly those asked for."""
    x = rng().normal(size=(n, len(mean)))
    x = x - x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return x * np.array(std) + np.array(mean)


def test_two_gaussians_are_as_far_apart_as_the_formula_says() -> None:
    a, b = exact(500, [0, 0, 0], [1, 1, 1]), exact(500, [3, 0, 4], [2, 1, 0.5])
    # |mean|² + Σ (s1 - s2)², the covariances being diagonal.
    assert frechet_distance(a, b) == pytest.approx(25 + 1 + 0 + 0.25, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))


def test_the_distance_of_one_distribution_falls_with_n() -> None:
    draw = rng().normal(size=(4000, 16))
    few, many = (frechet_distance(draw[:n], draw[2000 : 2000 + n]) for n in (100, 2000))
    assert few > 5 * many > 0


def test_the_kernel_distance_of_one_distribution_is_about_zero() -> None:
    a, b = rng(1).normal(size=(800, 8)), rng(2).normal(size=(800, 8))
    value, std = kernel_distance(a, b)
    assert abs(value) < 0.02
    assert std > 0
    far, _ = kernel_distance(a, b + 1)
    assert far > 10 * abs(value)


def test_a_projection_keeps_the_widest_axes() -> None:
    x = rng().normal(size=(400, 5)) * [10, 5, 1, 0.1, 0.1]
    fitted = fit_projection(x.astype(np.float32), 2)
    made = fitted(x)
    assert made.shape == (400, 2)
    assert made.std(0) == pytest.approx([10, 5], rel=0.15)
    assert abs(made.mean(0)).max() < 1e-4
    assert fitted.explained > 0.98
    assert fit_projection(x[:3], 32)(x).shape == (400, 2)  # n - 1 axes at most


def test_variance_ratios_name_the_dimension_that_collapsed() -> None:
    real = exact(300, [0] * 4, [1, 2, 3, 4])
    made = real * [1, 1, 1, 0.5]
    found = variance_ratio(made, real)
    assert (found["min"], found["max"]) == pytest.approx((0.25, 1))
    assert found["within_0.7_1.4"] == 0.75
    assert found["mean"] == pytest.approx(3.25 / 4)


def test_halves_are_disjoint_and_by_image_share_no_image() -> None:
    a, b = halves_by_cell(100, 40, rng())
    assert len(a) == len(b) == 40
    assert not set(a) & set(b)
    groups = [f"image {i // 10}" for i in range(100)]
    pair = halves_by_image(groups, 40, rng())
    assert pair is not None
    assert not {groups[i] for i in pair[0]} & {groups[i] for i in pair[1]}
    assert all(len(side) == 40 for side in pair)
    assert halves_by_image(["one"] * 100, 40, rng()) is None


def test_real_samples_in_place_of_synthetic_ones_have_a_ratio_of_about_one() -> None:
    draw = rng().normal(size=(6000, 8))
    groups = [f"{i // 50}" for i in range(6000)]
    floor = real_floor(draw, groups, 1000, rng())
    assert floor is not None
    distance, ratio = ratio_to_floor(draw[:1000], draw[1000:2000], groups[:1000], floor, rng(), 60)
    assert ratio.value == pytest.approx(1, abs=0.5)
    assert ratio.value == pytest.approx(distance.value / floor.values.mean())
    assert ratio.interval is not None
    assert ratio.interval[0] < ratio.value < ratio.interval[1]
    worse = ratio_to_floor(draw[:1000] * 1.3, draw[1000:2000], groups[:1000], floor, rng(), 60)[1]
    assert worse.interval is not None
    assert worse.interval[0] > ratio.value


def test_images_that_differ_make_the_floor_by_image_the_higher_one() -> None:
    offsets = np.repeat(rng().normal(size=(20, 4)) * 3, 50, 0)
    draw = rng(1).normal(size=(1000, 4)) + offsets
    groups = [f"{i // 50}" for i in range(1000)]
    by_cell = real_floor(draw, groups, 400, rng())
    by_image = real_floor(draw, groups, 400, rng(), by_image=True)
    assert by_cell is not None
    assert by_image is not None
    assert by_image.values.mean() > 3 * by_cell.values.mean()
