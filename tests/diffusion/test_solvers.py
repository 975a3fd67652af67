"""Solvers and presets: levels, ends, windows and weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec
from napari_ssldiff.diffusion.canvas import CanvasTask, plan
from napari_ssldiff.diffusion.presets import PRESETS, window_weights
from napari_ssldiff.diffusion.solvers import StudentPhases
from napari_ssldiff.geometry import Box
from napari_ssldiff.synthesis.request import PRESETS as NAMES

Make = Callable[..., Denoiser]
ALL = pytest.mark.parametrize("name", list(PRESETS))


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


@ALL
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50])
def test_levels_keep_the_variance_and_fall(name: str, steps: int, spec: ModelSpec) -> None:
    solver = PRESETS[name].make_solver(spec, steps, 1.0)
    assert solver.begin == 0
    assert len(solver.timesteps) == steps
    levels = [solver.level(i) for i in range(steps)]
    for alpha, sigma in levels:
        assert alpha**2 + sigma**2 == pytest.approx(1, abs=1e-6)
    sigmas = [sigma for _, sigma in levels]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[0] > 0.99
    assert solver.timesteps[0] == 999


@ALL
@pytest.mark.parametrize(
    ("steps", "strength"), [(1, 1.0), (2, 1.0), (4, 1.0), (4, 0.3), (20, 0.35), (50, 0.02)]
)
def test_with_a_perfect_prediction_a_run_ends_at_it(
    name: str, steps: int, strength: float, spec: ModelSpec
) -> None:
    solver = PRESETS[name].make_solver(spec, steps, strength)
    torch.manual_seed(0)
    x0, x = torch.randn(4, 9, 9), torch.randn(4, 9, 9)
    assert solver.begin < steps
    for i in range(solver.begin, steps):
        x = solver.step(i, x0, x, lambda _: torch.randn(4, 9, 9))
    torch.testing.assert_close(x, x0, atol=1e-4, rtol=1e-4)


@ALL
def test_a_step_keeps_the_noise_at_its_level(name: str, spec: ModelSpec) -> None:
    torch.manual_seed(0)
    solver = PRESETS[name].make_solver(spec, 20, 1.0)
    x0, noise = torch.full((1, 300, 300), 0.7), torch.randn(1, 300, 300)
    alpha, sigma = solver.level(0)
    x = alpha * x0 + sigma * noise
    for i in range(12):
        x = solver.step(i, x0, x, lambda _: torch.randn(1, 300, 300))
        alpha, sigma = solver.level(i + 1)
        assert float(x.mean()) == pytest.approx(alpha * 0.7, abs=0.02)
        assert float(x.std()) == pytest.approx(sigma, abs=0.02)


@pytest.mark.parametrize("name", ["bulk", "draft"])
def test_bulk_and_draft_add_no_noise_of_their_own(name: str, spec: ModelSpec) -> None:
    def forbidden(step: int) -> torch.Tensor:
        raise AssertionError(f"{name} is deterministic after the start")

    solver = PRESETS[name].make_solver(spec, 4, 1.0)
    x = torch.randn(1, 4, 4)
    for i in range(4):
        x = solver.step(i, torch.zeros(1, 4, 4), x, forbidden)


def test_the_papers_timesteps_are_strided(spec: ModelSpec) -> None:
    schedule = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02,
                "num_train_timesteps": 1000}  # fmt: skip
    solver = PRESETS["paper"].make_solver(replace(spec, schedule=schedule), 50, 1.0)
    assert solver.timesteps == list(range(999, 0, -20))


def test_a_model_may_count_the_papers_timesteps_from_one(spec: ModelSpec) -> None:
    published = replace(spec, time_offset=1)
    told = PRESETS["paper"].make_solver(published, 50, 1.0)
    assert told.timesteps == list(range(1000, 0, -20))
    plain = PRESETS["paper"].make_solver(spec, 50, 1.0)
    assert [told.level(i) for i in range(50)] == [plain.level(i) for i in range(50)]
    x0, x = torch.randn(2, 1, 3, 3).unbind(0)
    for i in (0, 7, 49):
        steps = [solver.step(i, x0, x, lambda _: torch.ones(1, 3, 3)) for solver in (told, plain)]
        assert torch.equal(*steps)
    for name in ("bulk", "lazy", "draft"):
        assert PRESETS[name].make_solver(published, 4, 1.0).timesteps[0] == 999


def test_the_papers_blend_falls_from_the_middle_to_the_middle_of_the_last_pixel() -> None:
    weight = window_weights("gaussian", 5)
    assert float(weight[2, 2]) == 1
    assert float(weight[0, 2]) == pytest.approx(math.exp(-1 / 0.64))
    assert float(weight[4, 0]) == pytest.approx(math.exp(-2 / 0.64))
    assert window_weights("gaussian", 1).tolist() == [[1]]


def test_the_paper_visits_169_windows_on_256_latents(make_denoiser: Make) -> None:
    assert len(plan(task(256), PRESETS["paper"], make_denoiser(64).spec).windows) == 13 * 13


def test_evaluations_of_a_1024_px_image(make_denoiser: Make) -> None:
    spec = make_denoiser(64).spec
    # 256-px windows of 64 latents on a 1024 × 1024 px canvas of 256 latents.
    assert plan(task(256, steps=50), PRESETS["paper"], spec).evaluations == 169 * 50 * 2 == 16_900
    assert plan(task(256, steps=20), PRESETS["bulk"], spec).evaluations == 25 * 20 * 2 == 1_000
    assert plan(task(256, steps=20, guidance=1), PRESETS["bulk"], spec).evaluations == 500
    assert plan(task(256, steps=4, guidance=1), PRESETS["draft"], spec).evaluations == 100
    half = plan(task(256, steps=20, strength=0.5), PRESETS["bulk"], spec)
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


@pytest.mark.parametrize("strength", [0.02, 0.1, 0.35, 0.5, 0.75, 0.9, 1.0])
def test_a_draft_begins_where_bulk_begins(strength: float, spec: ModelSpec) -> None:
    def half_log_snr(name: str, steps: int) -> float:
        solver = PRESETS[name].make_solver(spec, steps, strength)
        alpha, sigma = solver.level(solver.begin)
        return math.log(alpha / sigma)

    assert half_log_snr("draft", 4) == pytest.approx(half_log_snr("bulk", 400), abs=0.25)


@pytest.mark.parametrize(
    ("strength", "steps_taken"), [(1.0, 4), (0.8, 4), (0.6, 3), (0.5, 2), (0.3, 1), (0.01, 1)]
)
def test_a_weaker_draft_takes_fewer_steps_and_never_none(
    strength: float, steps_taken: int, taught: ModelSpec
) -> None:
    solver = PRESETS["draft"].make_solver(taught, 4, strength)
    assert 4 - solver.begin == steps_taken
    later = solver.timesteps[solver.begin + 1 :]
    assert later == [999, 749, 499, 249][solver.begin + 1 :]
    assert solver.timesteps == sorted(solver.timesteps, reverse=True)


def test_the_student_moves_along_the_straight_line_of_its_own_answer(taught: ModelSpec) -> None:
    solver = PRESETS["draft"].make_solver(taught, 4, 1.0)
    assert isinstance(solver, StudentPhases)
    torch.manual_seed(0)
    x = torch.randn(2, 5, 5)
    for i in range(3):
        x0 = torch.randn(2, 5, 5)
        (alpha, sigma), (after, less) = solver.level(i), solver.level(i + 1)
        expected = after * x0 + less * (x - alpha * x0) / sigma
        x = solver.step(i, x0, x, lambda _: torch.zeros(1))
        torch.testing.assert_close(x, expected, atol=1e-4, rtol=1e-4)


def test_only_a_preset_that_wants_the_student_uses_it(taught: ModelSpec, spec: ModelSpec) -> None:
    assert [name for name, preset in PRESETS.items() if preset.uses_student(taught)] == ["draft"]
    assert not any(preset.uses_student(spec) for preset in PRESETS.values())
    assert not isinstance(PRESETS["draft"].make_solver(spec, 4, 1.0), StudentPhases)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_run_begins_at_the_timestep_that_its_strength_was_made_for(
    name: str, spec: ModelSpec
) -> None:
    preset, count = PRESETS[name], int(spec.schedule["num_train_timesteps"])
    for t in (count // 5, count // 3, count // 2, count - 1):
        solver = preset.make_solver(spec, 100, preset.strength_at(spec, t))
        # A hundred steps lie closer together than that, whichever way they are laid.
        assert abs(solver.timesteps[solver.begin] - t) <= count / 20
    with pytest.raises(ValueError, match=f"0 to {count - 1}"):
        preset.strength_at(spec, count)
