"""Fidelity: 1 is as good as the autoencoder allows, 0 is chance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_ssldiff.embeddings import normalise
from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation import embedding_fidelity
from napari_ssldiff.evaluation.fidelity import Measured, score, synthesise_tiles
from napari_ssldiff.evaluation.regions import read_tiles
from napari_ssldiff.synthesis import Sampler

Vectors = NDArray[np.float32]


def orthogonal(regions: int, cells: int = 3) -> list[Vectors]:
    """Per region its own axis, so that unrelated regions have cosine 0."""
    eye = np.eye(regions, dtype=np.float32)
    return [np.repeat(eye[i : i + 1], cells, 0) for i in range(regions)]


def measured(*parts: Any) -> list[Measured]:
    """Regions of one image each."""
    return [Measured(*part, image=str(i)) for i, part in enumerate(parts)]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_perfect_synthesis_scores_one() -> None:
    report = score(measured(*((v, v, v) for v in orthogonal(6))), rng())
    assert report["fidelity"] == 1
    assert report["interval"] == [1, 1]
    assert (report["c"], report["c_shuffled"], report["c_vae"]) == (1, 0, 1)
    assert (report["cells"], report["regions"]) == (18, 6)


def test_a_synthesis_that_ignores_the_request_scores_zero() -> None:
    v = orthogonal(4)
    same = normalise(np.ones((3, 4)))
    report = score(measured(*((x, same, x) for x in v)), rng())
    assert report["c"] == report["c_shuffled"] == 0.5
    assert report["fidelity"] == 0


def test_the_figure_is_the_share_of_the_way_from_chance_to_the_autoencoder() -> None:
    v = orthogonal(4)
    parts = []
    for i, x in enumerate(v):
        other = v[(i + 1) % 4]
        made = normalise(0.6 * x + 0.8 * other)
        trip = normalise(0.8 * x + 0.6 * other)
        parts.append((x, made, trip))
    report = score(measured(*parts), rng())
    chance = 0.8 / 3  # one of three other regions answers with 0.8, two with 0
    assert report["c_shuffled"] == pytest.approx(chance, abs=1e-4)
    assert report["fidelity"] == pytest.approx((0.6 - chance) / (0.8 - chance), abs=1e-4)
    low, high = report["interval"]
    assert low <= report["fidelity"] <= high


def test_images_swapped_between_regions_score_below_chance() -> None:
    v = orthogonal(3)
    report = score(measured(*((v[i], v[(i + 1) % 3], v[i]) for i in range(3))), rng())
    assert report["fidelity"] < 0


def test_where_the_encoder_cannot_tell_cells_apart_the_figure_is_refused() -> None:
    v = [normalise(np.array([[1, 0.1 * i, 0]])) for i in range(3)]
    with pytest.raises(InputError, match=r"less than 0\.1 above chance"):
        score(measured(*((x, x, x) for x in v)), rng())


def test_one_image_is_not_enough_however_many_regions_it_has() -> None:
    with pytest.raises(InputError, match="two images"):
        score([Measured(v, v, v, image="same") for v in orthogonal(3)], rng())


def test_regions_of_one_image_are_not_shuffled_with_each_other() -> None:
    a, b, c = orthogonal(3)
    alike = [Measured(a, a, a, "one"), Measured(a, a, a, "one"), Measured(b, b, b, "two")]
    assert score(alike, rng())["c_shuffled"] == 0
    near = normalise(a + b)
    apart = [Measured(a, a, a, "1"), Measured(near, near, near, "2"), Measured(c, c, c, "3")]
    assert score(apart, rng())["c_shuffled"] > 0


def test_two_regions_give_a_finite_interval() -> None:
    with np.errstate(all="raise"):
        report = score(measured(*((v, v, v) for v in orthogonal(2))), rng())
    assert np.isfinite(report["interval"]).all()
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_measurement_runs_end_to_end_with_both_encoders(
    bundle: Any, write_scene: Callable[..., Path], textured: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # Random encoders hardly tell cells apart; the figure itself is tested above.
    from napari_ssldiff.evaluation import fidelity

    seen: list[list[Measured]] = []

    def record(parts: list[Measured], _: Any) -> dict[str, Any]:
        seen.append(parts)
        return {"regions": len(parts)}

    monkeypatch.setattr(fidelity, "score", record)
    paths = [write_scene(textured(128, 192), name=f"{n}.tif") for n in "ab"]
    sampler = Sampler(preset="paper", steps=1, seed=3)
    report = embedding_fidelity(bundle, paths, sampler, cells=12, window=64)
    assert report["sampler"] == {
        "preset": "paper", "guidance": 4.0, "steps": 1, "strength": 1.0, "seed": 3,
    }  # fmt: skip
    assert report["conditioning"] == report["encoder-eval"]
    assert report["model_hash"] == bundle.hash
    assert sum(len(m.made) for m in seen[0]) >= 12
    for part in seen[0]:
        assert part.requested.shape == part.made.shape == part.round_trip.shape == (4, 12)
        assert not np.allclose(part.requested, part.made)


def test_a_measurement_with_source_pixels_or_too_few_cells_is_refused(
    bundle: Any, write_scene: Callable[..., Path], textured: Callable[..., Any]
) -> None:
    path = write_scene(textured(64, 64))
    with pytest.raises(InputError, match=r"strength 1, got 0\.5"):
        embedding_fidelity(bundle, [path], Sampler(strength=0.5))
    with pytest.raises(InputError, match="only 4 cells"):
        embedding_fidelity(bundle, [path], Sampler(steps=1), cells=50, window=64)


def test_the_same_place_of_two_images_is_not_drawn_from_the_same_noise(
    bundle: Any, textured: Callable[..., Any], tmp_path: Path
) -> None:
    from PIL import Image

    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(textured(128, 128)).save(path)
    tiles = read_tiles(paths, bundle.encoder.spec, 128, count=2)
    assert np.array_equal(tiles[0].pixels, tiles[1].pixels)
    first, second = synthesise_tiles(bundle, tiles, Sampler(steps=2))
    assert float(np.abs(first.made.astype(int) - second.made).mean()) > 1
    again = synthesise_tiles(bundle, tiles[:1], Sampler(steps=2, seed=1))[0]
    assert not np.array_equal(first.made, again.made)
    assert not np.array_equal(second.made, again.made)
