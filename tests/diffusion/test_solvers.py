"""Solvers and presets: levels, ends, windows and weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from napari_ssldiff.diffusion.canvas import CanvasTask, plan
from napari_ssldiff.diffusion.presets import PRESETS, window_weights
from napari_ssldiff.geometry import Box
from napari_ssldiff.synthesis.request import PRESETS as NAMES

BOTH = pytest.mark.parametrize("name", ["bulk", "paper"])


def task(side: int, **changes: Any) -> CanvasTask:
    arguments: dict[str, Any] = {
        "box": Box(0, 0, side, side),
        "tokens": lambda window: torch.zeros(4, 3),
        "steps": 50,
        "guidance": 4.0,
        "strength": 1.0,
        "seed": 0,
        **changes,
    }
    return CanvasTask(**arguments)


def test_requests_and_engine_know_the_same_presets() -> None:
    assert set(NAMES) == set(PRESETS)


@BOTH
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50])
def test_levels_keep_the_variance_and_fall(name: str, steps: int, schedule: Any) -> None:
    solver = PRESETS[name].make_solver(schedule, steps, 0)
    assert len(solver.timesteps) == steps
    levels = [solver.level(i) for i in range(steps)]
    for alpha, sigma in levels:
        assert alpha**2 + sigma**2 == pytest.approx(1, abs=1e-6)
    sigmas = [sigma for _, sigma in levels]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[0] > 0.99
    assert solver.timesteps[0] == 999


@BOTH
@pytest.mark.parametrize(("steps", "begin"), [(1, 0), (2, 0), (20, 0), (20, 13), (50, 49)])
def test_with_a_perfect_prediction_a_run_ends_at_it(
    name: str, steps: int, begin: int, schedule: Any
) -> None:
    solver = PRESETS[name].make_solver(schedule, steps, begin)
    torch.manual_seed(0)
    x0, x = torch.randn(4, 9, 9), torch.randn(4, 9, 9)
    for i in range(begin, steps):
        x = solver.step(i, x0, x, lambda _: torch.randn(4, 9, 9))
    torch.testing.assert_close(x, x0, atol=1e-4, rtol=1e-4)


@BOTH
def test_a_step_keeps_the_noise_at_its_level(name: str, schedule: Any) -> None:
    torch.manual_seed(0)
    solver = PRESETS[name].make_solver(schedule, 20, 0)
    x0, noise = torch.full((1, 300, 300), 0.7), torch.randn(1, 300, 300)
    alpha, sigma = solver.level(0)
    x = alpha * x0 + sigma * noise
    for i in range(12):
        x = solver.step(i, x0, x, lambda _: torch.randn(1, 300, 300))
        alpha, sigma = solver.level(i + 1)
        assert float(x.mean()) == pytest.approx(alpha * 0.7, abs=0.02)
        assert float(x.std()) == pytest.approx(sigma, abs=0.02)


def test_the_bulk_solver_adds_no_noise_of_its_own(schedule: Any) -> None:
    def forbidden(step: int) -> torch.Tensor:
        raise AssertionError("bulk is deterministic after the start")

    solver = PRESETS["bulk"].make_solver(schedule, 4, 0)
    x = torch.randn(1, 4, 4)
    for i in range(4):
        x = solver.step(i, torch.zeros(1, 4, 4), x, forbidden)


def test_the_papers_timesteps_are_strided() -> None:
    solver = PRESETS["paper"].make_solver(
        {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02,
         "num_train_timesteps": 1000}, 50, 0,
    )  # fmt: skip
    assert solver.timesteps == list(range(999, 0, -20))


def test_the_paper_visits_169_windows_on_256_latents() -> None:
    assert len(plan(task(256), PRESETS["paper"], 64).windows) == 13 * 13


def test_evaluations_of_a_1024_px_image() -> None:
    # 256-px windows of 64 latents on a 1024 × 1024 px canvas of 256 latents.
    assert plan(task(256, steps=50), PRESETS["paper"], 64).evaluations == 169 * 50 * 2 == 16_900
    assert plan(task(256, steps=20), PRESETS["bulk"], 64).evaluations == 25 * 20 * 2 == 1_000
    assert plan(task(256, steps=20, guidance=1), PRESETS["bulk"], 64).evaluations == 500
    half = plan(task(256, steps=20, strength=0.5), PRESETS["bulk"], 64)
    assert (half.begin, half.evaluations) == (10, 500)


@pytest.mark.parametrize("size", [8, 16, 64])
@pytest.mark.parametrize("kind", ["uniform", "cos2", "gaussian"])
def test_weights_are_positive_symmetric_and_largest_in_the_middle(kind: str, size: int) -> None:
    weight = window_weights(kind, size)
    assert weight.shape == (size, size)
    assert float(weight.min()) > 0
    torch.testing.assert_close(weight, weight.T)
    torch.testing.assert_close(weight, weight.flip(0))
    assert float(weight[size // 2, size // 2]) == float(weight.max())


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown window weights 'hann'"):
        window_weights("hann", 8)
