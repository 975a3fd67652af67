"""Seams and blur: what each figure sees, and what it must not see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.data import immunohistochemistry

from napari_ssldiff.diffusion.bundle import ModelSpec
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.evaluation.layouts import Layout, layout_of, regular
from napari_ssldiff.evaluation.seams import (
    controls,
    detail,
    effective_windows,
    inner_lines,
    overlap_power,
    ratio_of_means,
    seam_ratio,
    seam_score,
    zones,
)
from napari_ssldiff.evaluation.stats import Estimate

FACTOR = 8


def model(window: int, factor: int) -> ModelSpec:
    """A model of which only the geometry matters."""
    return ModelSpec(window, 1, 8, 4, factor, "epsilon", {})


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    """A real one, 512 × 512. It was a JPEG: lines of one latent factor are in one phase of it."""
    return np.asarray(immunohistochemistry())


@pytest.fixture
def layout() -> Layout:
    """Bulk on 512 px with the demo models' windows."""
    return layout_of(PRESETS["bulk"], model(128, FACTOR), 512)


def blurred_where_windows_overlap(picture: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """A Gaussian of 1.5 px, coming and going over the zones as the windows' weights do."""
    line = np.sin((np.arange(layout.window) + 0.5) / layout.window * np.pi) ** 2
    effective = effective_windows(layout.size // layout.factor, layout.starts, line)
    share = np.repeat((effective - 1) / (effective.max() - 1), layout.factor)
    share = gaussian_filter(share, 4)
    share = share / share.max()
    both = np.maximum(share[:, None], share[None, :])[..., None]
    soft = gaussian_filter(picture.astype(float), (1.5, 1.5, 0))
    return np.asarray(picture * (1 - both) + soft * both)


def independent_tiles(picture: NDArray[Any], tile: int) -> NDArray[Any]:
    """Its tiles in another order: each is real, no two fit."""
    n = picture.shape[0] // tile
    grid = picture.reshape(n, tile, n, tile, 3).transpose(0, 2, 1, 3, 4).reshape(-1, tile, tile, 3)
    order = np.random.default_rng(1).permutation(len(grid))
    return grid[order].reshape(n, n, tile, tile, 3).transpose(0, 2, 1, 3, 4).reshape(picture.shape)


def test_a_real_picture_has_no_seams(
    picture: NDArray[np.uint8], layout: Layout, rng: np.random.Generator
) -> None:
    ratio = seam_ratio([picture], (layout.lines, layout.lines), FACTOR, rng)
    assert ratio is not None
    score = seam_score(ratio)
    assert score.interval is not None
    assert score.interval[0] == 0
    assert score.value < 0.05
    assert ratio.groups == 2 * len(layout.lines)


@pytest.mark.parametrize("preset", ["bulk", "lazy", "paper"])
def test_noise_has_no_seams_whatever_the_lattice(preset: str, rng: np.random.Generator) -> None:
    noise = np.random.default_rng(3).normal(128, 40, (512, 512, 3))
    lines = layout_of(PRESETS[preset], model(256, 4), 512).lines
    ratio = seam_ratio([noise], (lines, lines), 4, rng)
    assert ratio is not None
    assert ratio.interval is not None
    assert ratio.interval[0] <= 0 <= ratio.interval[1]
    assert abs(ratio.value) < 0.05


def test_tiles_that_were_made_apart_show_their_seams(
    picture: NDArray[np.uint8], rng: np.random.Generator
) -> None:
    lines = (128, 256, 384)
    ratio = seam_ratio([independent_tiles(picture, 128)], (lines, lines), FACTOR, rng)
    assert ratio is not None
    assert ratio.interval is not None
    assert ratio.interval[0] > 0.3


def test_lines_that_were_smoothed_show_too(
    picture: NDArray[np.uint8], rng: np.random.Generator
) -> None:
    smooth = picture.astype(float)
    for p in (128, 256, 384):
        smooth[p] = smooth[p - 1]
        smooth[:, p] = smooth[:, p - 1]
    ratio = seam_ratio([smooth], ((128, 256, 384), (128, 256, 384)), FACTOR, rng)
    assert ratio is not None
    assert ratio.value < -1
    assert seam_score(ratio).value > 1


def test_a_decoders_own_grain_is_no_seam(rng: np.random.Generator) -> None:
    y, x = np.mgrid[:512, :512]
    grain = 20.0 * ((y % FACTOR == 0) | (x % FACTOR == 0))
    noise = np.random.default_rng(4).normal(128, 5, (512, 512, 3))
    lines = layout_of(PRESETS["bulk"], model(128, FACTOR), 512).lines
    ratio = seam_ratio([noise + grain[..., None]], (lines, lines), FACTOR, rng)
    assert ratio is not None
    assert abs(ratio.value) < 0.02


def test_blur_where_windows_overlap_is_seen_by_the_power_and_not_by_the_seam_score(
    picture: NDArray[np.uint8], layout: Layout, rng: np.random.Generator
) -> None:
    soft = blurred_where_windows_overlap(picture, layout)
    lines, parts = (layout.lines, layout.lines), (layout.zones, layout.zones)
    ratio = seam_ratio([soft], lines, FACTOR, rng)
    power = overlap_power([soft], parts, FACTOR, 128, rng)
    before = overlap_power([picture], parts, FACTOR, 128, rng)
    assert ratio is not None
    assert abs(ratio.value) < 0.1  # apart tiles: above 0.3
    assert before is not None
    assert before.interval is not None
    assert before.interval[0] <= 1 <= before.interval[1]
    assert power is not None
    assert power.interval is not None
    assert power.interval[1] < 1
    assert power.value < 0.75 * before.value


def test_a_seam_along_the_zones_does_not_pay_for_blur(
    picture: NDArray[np.uint8], layout: Layout, rng: np.random.Generator
) -> None:
    stepped = picture.astype(float)
    for n, p in enumerate(layout.lines):
        stepped[:, p:] += 30 * (-1) ** n
    columns = (None, layout.zones)
    plain = overlap_power([picture], columns, FACTOR, 128, rng)
    marked = overlap_power([stepped], columns, FACTOR, 128, rng)
    assert plain is not None
    assert marked is not None
    assert marked.value == pytest.approx(plain.value, rel=1e-4)


def test_detail_falls_where_everything_is_blurred(picture: NDArray[np.uint8]) -> None:
    soft = gaussian_filter(picture.astype(float), (2, 2, 0))
    assert detail(soft, FACTOR) < 0.6 * detail(picture, FACTOR)


def test_the_lines_of_the_presets_on_1024_pixels() -> None:
    spec = model(256, 4)
    bulk = layout_of(PRESETS["bulk"], spec, 1024)
    # Windows begin at multiples of 192; three decoded windows of 428 cover 1024 evenly.
    windows = {192, 256, 384, 448, 576, 640, 768, 832}
    assert bulk.lines == tuple(sorted(windows | {296, 428, 596, 724} | {256, 512, 768}))
    assert layout_of(PRESETS["paper"], spec, 1024).lines == tuple(range(64, 1024, 64))
    assert layout_of(PRESETS["lazy"], spec, 1024).lines == tuple(range(128, 1024, 128))


def test_the_last_window_of_a_layout_is_the_snapped_one() -> None:
    spec = model(256, 4)
    assert regular(spec, 512, 48, "cos2").starts == (0, 48, 64)
    assert inner_lines(128, (0, 48, 64), 64) == (48, 64, 112)


def test_controls_come_in_pairs_and_meet_no_line_of_their_own_lattice() -> None:
    own = frozenset({96, 128, 192, 224})
    assert sorted(controls(96, own, 256, 8, 4)) == [72, 80, 88, 104, 112, 120]
    # 16 from the border leaves one pair.
    assert sorted(controls(16, frozenset({16}), 256, 8, 8)) == [8, 24]


def test_lines_at_every_latent_leave_nothing_to_compare_with(rng: np.random.Generator) -> None:
    lines = tuple(range(8, 256, 8))
    assert seam_ratio([np.zeros((256, 256, 3))], (lines, lines), 8, rng) is None


def test_a_flat_picture_has_no_seam(rng: np.random.Generator) -> None:
    ratio = seam_ratio([np.full((256, 256, 3), 7, np.uint8)], ((96, 160), (96,)), 8, rng)
    assert ratio is not None
    assert ratio.value == 0


def test_an_interval_around_zero_is_folded_to_begin_at_zero() -> None:
    assert seam_score(Estimate(-0.1, (-0.3, 0.2), 4, 4)).interval == (0.0, 0.3)
    assert seam_score(Estimate(-0.3, (-0.5, -0.1), 4, 4)).interval == (0.1, 0.5)
    assert seam_score(Estimate(-0.3, (-0.5, -0.1), 4, 4)).value == 0.3


def test_effective_windows_count_equal_ones_whole_and_faint_ones_hardly() -> None:
    np.testing.assert_allclose(
        effective_windows(6, (0, 2), np.ones(4)), [1, 1, 2, 2, 1, 1], rtol=1e-12
    )
    faint = effective_windows(3, (0, 1), np.array([1.0, 0.01]))
    assert faint[1] == pytest.approx(1.01**2 / (1 + 1e-4))


def test_where_all_places_are_alike_there_are_no_centres() -> None:
    assert layout_of(PRESETS["paper"], model(256, 4), 1024).zones is None
    assert zones(np.ones(64), 1.0, 1.0, 8) is None


def test_zones_lie_in_the_middle_of_overlaps_and_of_windows() -> None:
    parts = layout_of(PRESETS["bulk"], model(256, 4), 1024).zones
    assert parts is not None
    overlap, centre = parts
    # The first overlap is latents 48…63; its middle is 56.
    assert overlap[56]
    assert not overlap[48]
    assert centre[32]
    assert centre[80]
    assert not (overlap & centre).any()
    assert not (overlap | centre)[:8].any()


def test_few_groups_give_a_wider_interval_than_plain_percentiles() -> None:
    above, names = [1.0, 2.0, 3.0, 4.0], ["a", "b", "c", "d"]
    found = ratio_of_means(above, [1.0] * 4, names, np.random.default_rng(0), 4000)
    assert found.value == pytest.approx(2.5)
    assert found.interval is not None
    drawn = np.random.default_rng(0).integers(0, 4, (4000, 4))
    low, high = np.percentile(np.array(above)[drawn].mean(1), [2.5, 97.5])
    assert found.interval[0] < low
    assert found.interval[1] > high


def test_one_group_has_no_interval() -> None:
    assert ratio_of_means([2.0], [1.0], ["a"], np.random.default_rng(0)).interval is None
