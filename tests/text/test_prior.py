"""A prior's fields: of any shape, on the sphere, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from napari_ssldiff.errors import Cancelled, InputError
from napari_ssldiff.text.prior import Axes, Prior

C = np.eye(16, dtype=np.float32)


@pytest.mark.parametrize("shape", [(1, 1), (3, 9), (4, 4), (11, 6)])
def test_a_field_has_the_shape_that_was_asked_for(prior: Prior, shape: tuple[int, int]) -> None:
    field = prior.sample(C[0], shape, seed=1, steps=3)
    assert field.shape == (*shape, 12)
    assert field.dtype == np.float32
    assert np.allclose(np.linalg.norm(field, axis=-1), 1, atol=1e-5)


def test_the_same_seed_gives_the_same_field_and_another_another(prior: Prior) -> None:
    a, b, c = (prior.sample(C[0], (5, 5), seed=s, steps=3) for s in (7, 7, 8))
    assert np.array_equal(a, b)
    assert not np.allclose(a, c, atol=1e-2)


def test_one_condition_is_the_same_as_that_condition_in_every_cell(prior: Prior) -> None:
    one = prior.sample(C[2], (6, 7), seed=1, steps=3)
    grid = prior.sample(np.broadcast_to(C[2], (6, 7, 16)), (6, 7), seed=1, steps=3)
    assert np.array_equal(one, grid)


def test_conditions_guidance_and_negatives_matter(prior: Prior) -> None:
    plain = prior.sample(C[0], (4, 4), seed=1, steps=3)
    for other in (
        prior.sample(C[1], (4, 4), seed=1, steps=3),
        prior.sample(C[0], (4, 4), seed=1, guidance=6, steps=3),
        prior.sample(C[0], (4, 4), seed=1, negative=C[5], steps=3),
    ):
        assert np.abs(plain - other).max() > 1e-4


def test_a_prior_says_which_steps_are_guided(prior: Prior, monkeypatch: Any) -> None:
    asked: list[int] = []
    ask = prior.denoiser.predict_x0
    monkeypatch.setattr(
        prior.denoiser, "predict_x0", lambda x, *a: asked.append(len(x)) or ask(x, *a)
    )  # type: ignore[func-returns-value]

    def made(interval: tuple[float, float] | None, **how: Any) -> tuple[Any, int]:
        monkeypatch.setattr(prior, "facts", replace(prior.facts, guidance_interval=interval))
        asked.clear()
        field = prior.sample(C[0], (4, 4), seed=1, steps=8, **how)
        return field, sum(asked)

    every, twice = made(None)
    noisy, some = made((-10.0, -0.5))
    none, once = made((-10.0, -9.0))
    assert (once, twice) == (8, 16)
    assert once < some < twice
    assert np.array_equal(none, made(None, guidance=1)[0])
    assert np.abs(noisy - every).max() > 1e-4
    assert np.abs(noisy - none).max() > 1e-4
    # Away from something, every step is led.
    away = made((-10.0, -9.0), negative=C[5])
    assert away[1] == 16
    assert np.array_equal(away[0], made(None, negative=C[5])[0])


def test_a_cell_far_from_a_change_of_meaning_stays(prior: Prior) -> None:
    grid = np.broadcast_to(C[0], (4, 30, 16)).copy()
    plain = prior.sample(grid, (4, 30), seed=1, steps=3)
    grid[:, 20:] = C[1]
    changed = prior.sample(grid, (4, 30), seed=1, steps=3)
    # Windows of four cells, three steps: a change travels no further than three windows.
    assert np.array_equal(plain[:, :8], changed[:, :8])
    assert np.abs(plain[:, 22:] - changed[:, 22:]).max() > 1e-4


def test_a_condition_of_another_space_is_refused(prior: Prior) -> None:
    with pytest.raises(InputError, match="takes conditions of 16 numbers"):
        prior.sample(np.ones(8, np.float32), (2, 2), seed=0)
    with pytest.raises(InputError, match="at least one cell"):
        prior.sample(C[0], (0, 4), seed=0)


def test_sampling_is_cancelled_before_the_next_call(prior: Prior) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        prior.sample(C[0], (4, 4), seed=0, check=check)
    assert len(calls) == 5


def test_progress_is_told_in_steps(prior: Prior) -> None:
    told: list[tuple[int, int]] = []
    prior.sample(C[0], (2, 2), 0, steps=3, progress=lambda d, t: told.append((d, t)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("sharpness", [0.0, 0.5, 1.0])
def test_axes_come_back_where_none_was_left_out(sharpness: float) -> None:
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(300, 6) * torch.arange(1, 7.0), dim=1)
    axes = Axes(6, 6)
    axes.fit(vectors, sharpness)
    z = axes.encode(vectors)
    assert torch.allclose(axes.decode(z), vectors, atol=1e-5)
    deviation = z.std(0)
    assert float(deviation[0]) == pytest.approx(1, rel=0.02)
    if sharpness == 1:
        assert torch.allclose(deviation, torch.ones(6), rtol=0.02)
    else:
        assert float(deviation[-1]) < 0.9
