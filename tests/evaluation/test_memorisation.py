"""A copy is found wherever it lies and however it is turned; what is new is not taken for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.evaluation.fidelity import Piece
from napari_ssldiff.evaluation.memorisation import (
    PlaceIndex,
    excess,
    luminance,
    share_above,
    symmetry,
)
from napari_ssldiff.evaluation.regions import read_tiles
from napari_ssldiff.evaluation.repeats import own_places


def pattern(h: int, w: int, seed: int) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    x = gaussian_filter(np.random.default_rng(seed).normal(size=(h, w)), 1.5)
    return (127 + 40 * x / x.std()).astype(np.float32)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Training images of three shapes; the last is too small for a window."""
    return [pattern(96, 96, 1), pattern(96, 96, 2), pattern(64, 120, 3), pattern(16, 16, 4)]


@pytest.fixture(scope="module")
def places(images: list[np.ndarray]) -> PlaceIndex:
    return PlaceIndex(images, 32)


@pytest.mark.parametrize("which", range(8))
def test_a_turned_shifted_and_darker_copy_is_found(
    which: int, images: list[np.ndarray], places: PlaceIndex
) -> None:
    place = images[2][17:49, 71:103]
    window = symmetry(place, which) * 0.6 + 20
    found = places.best(np.ascontiguousarray(window))
    assert found is not None
    assert found.ncc > 0.999
    assert (found.image, found.y, found.x) == (2, 17, 71)
    turned = symmetry(window, found.symmetry)
    assert np.corrcoef(turned.ravel(), place.ravel())[0, 1] > 0.999


def test_the_score_is_the_correlation_at_the_best_place(
    images: list[np.ndarray], places: PlaceIndex
) -> None:
    window = images[0][30:62, 5:37] + pattern(32, 32, 9)
    found = places.best(window)
    assert found is not None
    place = images[found.image][found.y : found.y + 32, found.x : found.x + 32]
    turned = symmetry(window, found.symmetry)
    assert found.ncc == pytest.approx(np.corrcoef(turned.ravel(), place.ravel())[0, 1], abs=1e-4)


def test_what_is_new_scores_far_below_a_copy(places: PlaceIndex) -> None:
    scores = [places.best(pattern(32, 32, seed)) for seed in range(10, 16)]
    assert all(m is not None and m.ncc < 0.8 for m in scores)


def test_flat_windows_and_flat_places_do_not_match() -> None:
    flat = np.full((64, 64), 200, np.float32)
    assert PlaceIndex([pattern(64, 64, 1)], 32).best(flat[:32, :32]) is None
    found = PlaceIndex([flat], 32).best(pattern(32, 32, 5))
    assert found is not None
    assert found.ncc <= 0


def test_luminance_averages_blocks() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4, :4] = 100
    assert luminance(picture, 4) == pytest.approx(np.array([[100, 0], [0, 0]]), abs=1e-3)


def test_the_share_above_the_threshold_counts_copies_and_has_an_interval() -> None:
    random = np.random.default_rng(0)
    reference = random.normal(0.5, 0.05, 400)
    same = random.normal(0.5, 0.05, 400)
    groups = [str(i // 4) for i in range(400)]
    none = share_above(same, groups, reference, groups, random, draws=100)
    assert none["share"]["value"] < 0.04
    copied = np.where(np.arange(400) % 10 == 0, 0.99, same)
    some = share_above(copied, groups, reference, groups, random, draws=100)
    low, high = some["share"]["interval"]
    assert low < some["share"]["value"] < high
    assert low > 0.05
    assert some["reference"] == {"n": 400, "images": 100, "median": pytest.approx(0.5, abs=0.01)}


def test_what_only_seen_images_have_is_memory_and_what_both_have_is_not() -> None:
    rng = np.random.default_rng(0)
    images = [f"held {i}" for i in range(20)]
    reference = rng.uniform(0, 0.6, 400), [images[i % 20] for i in range(400)]
    told = rng.uniform(0, 0.6, 100)
    some = rng.permutation(100)
    told[some[:10]] = 0.9  # a tenth is told by embeddings, on both sides
    theirs = told, [images[i % 20] for i in range(100)]
    seen = [f"seen {i % 25}" for i in range(100)]
    alike = excess((told, seen), theirs, reference, rng)
    assert alike["training"]["value"] == alike["held_out"]["value"]
    assert alike["difference"]["value"] == 0
    low, high = alike["difference"]["interval"]
    assert low < 0 < high
    remembered = told.copy()
    remembered[some[10:40]] = 0.95
    more = excess((remembered, seen), theirs, reference, rng)
    assert more["difference"]["value"] == pytest.approx(0.3, abs=0.02)
    assert more["difference"]["interval"][0] > 0
    one = excess((told, ["seen"] * 100), theirs, reference, rng)
    assert one["difference"]["interval"] is None


def test_a_variation_is_looked_for_around_its_own_place(
    tmp_path: Path, bundle: Any, textured: Callable[..., Any]
) -> None:
    from PIL import Image

    rng, paths = np.random.default_rng(0), []
    for name in "ab":
        grain = np.kron(rng.integers(0, 255, (32, 40)), np.ones((8, 8)))
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(np.repeat(grain[..., None], 3, 2).astype(np.uint8)).save(paths[-1])
    spec = bundle.encoder.spec
    tiles = read_tiles(paths, spec, 128, count=4)
    copies = [Piece(tile, tile.pixels, tile.pixels, tile.pixels) for tile in tiles]
    values, images = own_places(copies, spec, 3, lambda: None)
    assert len(values) == 3
    assert min(values) > 0.99
    assert set(images) <= {str(path) for path in paths}
    # The other image's pixels are not near this place.
    other = {tile.image: tile.pixels for tile in tiles}
    strange = [
        Piece(t, t.pixels, next(v for k, v in other.items() if k != t.image), t.pixels)
        for t in tiles
    ]
    assert max(own_places(strange, spec, 3, lambda: None)[0]) < 0.8
