"""The canvas engine: all windows advance together, over one solver state."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.canvas import CanvasTask, Counters, plan, sample
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.errors import Cancelled
from napari_ssldiff.geometry import Box

Make = Callable[..., Denoiser]
BOTH = pytest.mark.parametrize("preset", [n for n, p in PRESETS.items() if p.phases is None])


def task(box: Box, **changes: Any) -> CanvasTask:
    arguments: dict[str, Any] = {
        "box": box,
        "tokens": lambda window: torch.full((4, 3), 0.5),
        "steps": 5,
        "guidance": 1.0,
        "strength": 1.0,
        "seed": 4,
        **changes,
    }
    return CanvasTask(**arguments)


def known(box: Box) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(12, *box.shape))).float()


@BOTH
@pytest.mark.parametrize("box", [Box(0, 0, 8, 8), Box(-3, 7, 9, 21), Box(5, -5, 17, 8)])
def test_every_latent_of_any_canvas_is_made(preset: str, box: Box, make_denoiser: Make) -> None:
    out = sample(make_denoiser(), task(box), PRESETS[preset])
    assert out.shape == (12, *box.shape)
    # The network answers 0.5 wherever it looks, so a latent that is not 0.5 was not covered.
    torch.testing.assert_close(out, torch.full_like(out, 0.5), atol=1e-4, rtol=0)


def test_windows_are_told_their_place_on_the_global_lattice(make_denoiser: Make) -> None:
    seen: list[Box] = []

    def tokens(window: Box) -> torch.Tensor:
        seen.append(window)
        return torch.zeros(4, 3)

    box = Box(-16, 40, 14, 8)
    sample(make_denoiser(), task(box, tokens=tokens, steps=1), PRESETS["bulk"])
    assert seen == [Box(-16, 40, 8, 8), Box(-10, 40, 8, 8)]


def test_the_condition_acts_where_its_window_lies(make_denoiser: Make) -> None:
    def tokens(window: Box) -> torch.Tensor:
        return torch.full((4, 3), 1.0 if window.x >= 16 else -1.0)

    out = sample(make_denoiser(), task(Box(0, 0, 8, 40), tokens=tokens), PRESETS["bulk"])
    assert float(out[..., :10].mean()) == pytest.approx(-1, abs=1e-3)
    assert float(out[..., 32:].mean()) == pytest.approx(1, abs=1e-3)


@BOTH
def test_strength_zero_returns_the_known_latents_and_asks_nothing(
    preset: str, make_denoiser: Make
) -> None:
    box, counters = Box(0, 0, 11, 13), Counters()
    model = make_denoiser()
    out = sample(
        model, task(box, strength=0.0, known=known(box)), PRESETS[preset], counters=counters
    )
    assert torch.equal(out, known(box))
    assert counters.evaluations == 0
    assert model.network.batches == []


def test_a_low_strength_begins_near_the_known_latents(make_denoiser: Make) -> None:
    box, seen = Box(0, 0, 8, 8), []
    model = make_denoiser(share=1.0)

    def tokens(window: Box) -> torch.Tensor:
        return torch.zeros(4, 3)

    for strength in (0.2, 1.0):
        first = task(box, strength=strength, known=known(box), steps=10, tokens=tokens)
        steps: list[torch.Tensor] = []
        sample(model, first, PRESETS["bulk"], on_step=lambda i, x0, to=steps: to.append(x0))
        # With share 1 the network hands back the x it was given.
        seen.append(
            float(torch.corrcoef(torch.stack([steps[0].ravel(), known(box).ravel()]))[0, 1])
        )
    assert seen[0] > 0.9
    assert abs(seen[1]) < 0.15


@BOTH
def test_outside_the_mask_the_known_latents_stay(preset: str, make_denoiser: Make) -> None:
    box = Box(0, 0, 20, 20)
    mask = torch.zeros(20, 20)
    mask[4:9, 6:12] = 1
    out = sample(make_denoiser(), task(box, mask=mask, known=known(box)), PRESETS[preset])
    outside = mask == 0
    torch.testing.assert_close(out[:, outside], known(box)[:, outside], atol=1e-4, rtol=0)
    torch.testing.assert_close(out[:, mask == 1], torch.full((12, 30), 0.5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("preset", ["bulk", "draft"])
def test_outside_the_mask_the_network_sees_known_latents_at_the_right_level(
    preset: str, make_denoiser: Make
) -> None:
    box = Box(0, 0, 8, 8)
    model = make_denoiser()
    inputs: list[torch.Tensor] = []
    model.network.register_forward_pre_hook(lambda m, args: inputs.append(args[0].clone()))
    mask = torch.zeros(8, 8)
    mask[:, :4] = 1
    sample(model, task(box, mask=mask, known=known(box), steps=6), PRESETS[preset])
    solver = PRESETS[preset].make_solver(model.spec, 6, 1.0)
    alpha, sigma = solver.level(0)
    noise = (inputs[0][0] - alpha * known(box))[..., 4:] / sigma
    for i, x in enumerate(inputs):
        alpha, sigma = solver.level(i)
        expected = alpha * known(box)[..., 4:] + sigma * noise
        torch.testing.assert_close(x[0][..., 4:], expected, atol=1e-3, rtol=0)


def test_at_full_strength_no_source_shines_through_the_mask(make_denoiser: Make) -> None:
    box = Box(0, 0, 8, 8)
    mask = torch.ones(8, 8)
    mask[0] = 0
    results = [
        sample(make_denoiser(share=0.5), task(box, mask=mask, known=k, steps=1), PRESETS["bulk"])[
            :, 1:
        ]
        for k in (known(box), -50 * known(box))
    ]
    assert torch.equal(*results)


def test_windows_that_the_mask_leaves_out_are_never_evaluated(make_denoiser: Make) -> None:
    box, counters = Box(0, 0, 8, 80), Counters()
    mask = torch.zeros(8, 80)
    mask[2:5, 70:75] = 1
    todo = task(box, mask=mask, known=known(box))
    model = make_denoiser()
    windows = plan(todo, PRESETS["bulk"], model.spec).windows
    assert 0 < len(windows) <= 2
    assert all(w.x1 > 70 and w.x < 75 for w in windows)
    sample(model, todo, PRESETS["bulk"], counters=counters)
    assert counters.evaluations == len(windows) * 5


def test_an_empty_mask_changes_nothing(make_denoiser: Make) -> None:
    box = Box(0, 0, 9, 9)
    out = sample(
        make_denoiser(), task(box, mask=torch.zeros(9, 9), known=known(box)), PRESETS["bulk"]
    )
    assert torch.equal(out, known(box))


@pytest.mark.parametrize("changes", [{"strength": 0.5}, {"mask": torch.ones(8, 8)}])
def test_known_latents_must_be_given_where_they_are_needed(
    changes: dict[str, Any], make_denoiser: Make
) -> None:
    with pytest.raises(ValueError, match="known latents"):
        sample(make_denoiser(), task(Box(0, 0, 8, 8), **changes), PRESETS["bulk"])


def test_cancelling_stops_before_the_next_network_call(make_denoiser: Make) -> None:
    model = make_denoiser()

    def check() -> None:
        if len(model.network.batches) == 3:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        sample(model, task(Box(0, 0, 20, 20), batch=2), PRESETS["bulk"], check=check)
    assert len(model.network.batches) == 3


def test_guidance_one_asks_once_and_any_other_twice(make_denoiser: Make) -> None:
    for guidance, passes in ((1.0, 1), (0.0, 2), (2.5, 2)):
        model, counters = make_denoiser(), Counters()
        told: list[int] = []
        todo = task(Box(0, 0, 8, 20), guidance=guidance)
        sample(model, todo, PRESETS["bulk"], counters=counters, on_batch=told.append)
        planned = plan(todo, PRESETS["bulk"], model.spec).evaluations
        assert sum(model.network.batches) == counters.evaluations == told[-1] == planned
        assert counters.evaluations == 3 * 5 * passes
        assert counters.network_seconds > 0


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_guidance_extrapolates_from_the_unconditional_answer(
    prediction: str, make_denoiser: Make
) -> None:
    model = make_denoiser(prediction=prediction)
    box, x0 = Box(0, 0, 8, 8), {}
    for g in (0.0, 1.0, 3.0):
        sample(
            model, task(box, guidance=g, steps=1), PRESETS["bulk"],
            on_step=lambda i, z, g=g: x0.__setitem__(g, z),
        )  # fmt: skip
    expected = x0[0.0] + 3 * (x0[1.0] - x0[0.0])
    torch.testing.assert_close(x0[3.0], expected, atol=1e-2, rtol=1e-3)
    assert not torch.allclose(x0[3.0], x0[1.0], atol=1e-2)


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_every_prediction_type_means_the_same_x0(prediction: str, make_denoiser: Make) -> None:
    model = make_denoiser(prediction=prediction)
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 12, 8, 8), torch.randn(2, 12, 8, 8)
    alpha, sigma = 0.6, 0.8
    answers = {"sample": x0, "epsilon": noise, "v_prediction": alpha * noise - sigma * x0}
    model.network.forward = lambda *_: SimpleNamespace(sample=answers[prediction])
    condition = model.condition(torch.zeros(2, 4, 3))
    made = model.predict_x0(alpha * x0 + sigma * noise, 500, (alpha, sigma), condition)
    torch.testing.assert_close(made, x0, atol=1e-5, rtol=1e-5)


@BOTH
def test_the_batch_size_does_not_change_the_result(preset: str, make_denoiser: Make) -> None:
    results = [
        sample(make_denoiser(share=0.3), task(Box(0, 0, 13, 22), batch=n), PRESETS[preset])
        for n in (1, 3, 64)
    ]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-5, rtol=0)


@BOTH
def test_the_same_task_twice_is_identical_and_another_seed_is_not(
    preset: str, make_denoiser: Make
) -> None:
    a, b, c = (
        sample(make_denoiser(share=0.5), task(Box(0, 0, 12, 12), seed=s, steps=3), PRESETS[preset])
        for s in (7, 7, 8)
    )
    assert torch.equal(a, b)
    assert not torch.allclose(a, c, atol=1e-3)


def test_x0_is_reported_once_per_step_in_order(make_denoiser: Make) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []
    sample(
        make_denoiser(), task(Box(0, 0, 8, 12)), PRESETS["bulk"],
        on_step=lambda i, x0: seen.append((i, tuple(x0.shape))),
    )  # fmt: skip
    assert seen == [(i, (12, 8, 12)) for i in range(5)]


class Recorder(nn.Module):
    """A student that answers x0 = 0.25 and notes when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        self.asked += [int(t[0])] * len(x)
        return SimpleNamespace(sample=torch.full_like(x, 0.25))


def test_a_draft_asks_the_student_four_times_per_window_and_the_network_never(
    make_denoiser: Make,
) -> None:
    student, counters = Recorder(), Counters()
    model = make_denoiser(student=lambda: student)
    todo = task(Box(0, 0, 8, 20), steps=4, batch=2)
    out = sample(model, todo, PRESETS["draft"], counters=counters)
    assert student.asked == [t for t in (999, 749, 499, 249) for _ in range(3)]
    assert model.network.batches == []
    assert counters.evaluations == plan(todo, PRESETS["draft"], model.spec).evaluations == 12
    torch.testing.assert_close(out, torch.full_like(out, 0.25), atol=1e-4, rtol=0)


def test_the_student_is_made_once_and_for_drafts_only(make_denoiser: Make) -> None:
    made: list[Recorder] = []

    def make() -> nn.Module:
        made.append(Recorder())
        return made[-1]

    model = make_denoiser(student=make)
    sample(model, task(Box(0, 0, 8, 8), steps=4), PRESETS["bulk"])
    assert made == []
    for seed in (1, 2):
        sample(model, task(Box(0, 0, 8, 8), steps=4, seed=seed), PRESETS["draft"])
    assert len(made) == 1


def test_a_draft_at_low_strength_asks_once_near_the_known_latents(make_denoiser: Make) -> None:
    student, box = Recorder(), Box(0, 0, 8, 8)
    model = make_denoiser(student=lambda: student)
    sample(model, task(box, steps=4, strength=0.3, known=known(box)), PRESETS["draft"])
    assert len(student.asked) == 1
    assert 0 < student.asked[0] < 249


@pytest.mark.parametrize("changes", [{"steps": 5}, {"steps": 4, "guidance": 1.5}])
def test_a_student_is_not_run_in_a_way_it_was_not_taught(
    changes: dict[str, Any], make_denoiser: Make
) -> None:
    model = make_denoiser(student=Recorder)
    with pytest.raises(ValueError, match="takes 4 steps at guidance 1"):
        sample(model, task(Box(0, 0, 8, 8), **changes), PRESETS["draft"])


@BOTH
def test_far_from_a_change_of_the_canvas_latents_stay(preset: str, make_denoiser: Make) -> None:
    """A window's noise and answer depend on its place, not on how far the canvas reaches."""
    wide = sample(make_denoiser(share=0.4), task(Box(0, 0, 8, 44), steps=4), PRESETS[preset])
    more = sample(make_denoiser(share=0.4), task(Box(0, 0, 8, 62), steps=4), PRESETS[preset])
    torch.testing.assert_close(more[..., :24], wide[..., :24], atol=1e-5, rtol=0)


def test_a_model_without_a_student_says_so(make_denoiser: Make) -> None:
    with pytest.raises(ValueError, match="no student"):
        _ = make_denoiser().student
