"""Sharpness in dB per ring, and distances of colour."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ssldiff.evaluation.colour import (
    compare_colour,
    intensity_distance,
    intensity_histograms,
    tone_difference,
)
from napari_ssldiff.evaluation.spectrum import (
    RINGS,
    compare_power,
    pooled_psnr,
    power_ratio,
    psnr,
    ring_centres,
    ring_power,
    worst,
)


def noise(n: int = 6, size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 20, (n, size, size))


def test_noise_of_twice_the_amplitude_has_6_02_db_more_in_every_ring() -> None:
    ratio = power_ratio(ring_power(2 * noise()), ring_power(noise()))
    assert ratio == pytest.approx(np.full(RINGS, 20 * np.log10(2)), abs=1e-3)


def test_white_noise_is_flat_and_brightness_is_in_no_ring() -> None:
    power = ring_power(noise(40)).mean(0)
    assert 10 * np.log10(power.max() / power.min()) < 1.5
    assert ring_power(noise() + 100) == pytest.approx(ring_power(noise()), rel=1e-2)


def test_a_wave_is_in_the_ring_of_its_frequency() -> None:
    x = np.arange(128)
    for cycles in (0.05, 0.2, 0.4):
        wave = np.broadcast_to(np.sin(2 * np.pi * cycles * x), (1, 128, 128))
        ring = int(ring_power(wave)[0].argmax())
        assert abs(ring_centres()[ring] - cycles) <= 0.5 / RINGS


def test_the_worst_ring_is_looked_for_up_to_half_nyquist_only() -> None:
    ratio = np.zeros(16)
    ratio[7], ratio[8] = -2, 9  # ring 7 ends at 0.25 cycles per pixel, ring 8 begins there
    assert worst(ratio) == 2
    assert worst(ratio, 0.5) == 9


def test_blur_shows_as_lost_power_with_an_interval() -> None:
    from scipy.ndimage import gaussian_filter

    sharp = noise(8)
    soft = np.stack([gaussian_filter(x, 1.0) for x in sharp])
    found = compare_power(soft, sharp, list("aabbccdd"), np.random.default_rng(0), 50)
    assert found["ratio_db"][0] == pytest.approx(0, abs=0.6)
    assert found["ratio_db"][-1] < -20
    low, high = found["worst_db"]["interval"]
    assert low <= found["worst_db"]["value"] <= high
    assert (found["worst_db"]["n"], found["worst_db"]["images"]) == (8, 4)


def test_psnr_is_that_of_the_mean_squared_error() -> None:
    real = np.full((2, 8, 8, 3), 100, np.uint8)
    made = real.copy()
    made[0] += 10
    each = psnr(made, real)
    assert each[0] == pytest.approx(10 * np.log10(255**2 / 100))
    assert each[1] == 99
    assert pooled_psnr(each) == pytest.approx(10 * np.log10(255**2 / 50), abs=1e-3)


def test_colours_moved_by_ten_levels_are_ten_levels_away() -> None:
    real = np.random.default_rng(0).integers(50, 150, (4, 16, 16, 3)).astype(np.uint8)
    made = real.copy()
    made[..., 0] += 10
    a, b = intensity_histograms(made), intensity_histograms(real)
    assert intensity_distance(a, b) == pytest.approx([10, 0, 0])
    assert (tone_difference(made, real) > 1).all()
    assert tone_difference(real, real) == pytest.approx(np.zeros(4))
    found = compare_colour(made, real, list("abcd"), np.random.default_rng(0), 20)
    assert found["wasserstein"]["value"] == pytest.approx(10 / 3)
    assert found["delta_e_2000"]["images"] == 4
