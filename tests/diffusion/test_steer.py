"""A canvas that keeps to a coarse picture."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from napari_ssldiff.diffusion.bands import sample_bands
from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.calls import Calls
from napari_ssldiff.diffusion.canvas import CanvasTask, sample
from napari_ssldiff.diffusion.lazy import LazyCanvas
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.diffusion.solvers import cumulative_alphas
from napari_ssldiff.diffusion.steer import Guide, coarse, steer
from napari_ssldiff.geometry import Box

Make = Callable[..., Denoiser]


def task(**changes: Any) -> CanvasTask:
    arguments: dict[str, Any] = {
        "box": Box(0, 0, 16, 24), "tokens": lambda window: torch.full((4, 3), 0.1), "steps": 10,
        "guidance": 1.0, "strength": 1.0, "seed": 3, **changes,
    }  # fmt: skip
    return CanvasTask(**arguments)


class Posterior(nn.Module):
    """The exact answer for clean latents that are normal about the mean of a window's tokens."""

    def __init__(self, schedule: dict[str, Any], deviation: float = 0.5) -> None:
        super().__init__()
        self.kept = torch.from_numpy(cumulative_alphas(schedule)).float()
        self.variance = deviation**2

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        kept = self.kept[t][:, None, None, None]
        mean = context.mean(dim=(1, 2))[:, None, None, None]
        gain = kept.sqrt() * self.variance / (kept * self.variance + 1 - kept)
        return SimpleNamespace(sample=mean + gain * (x - kept.sqrt() * mean))


@pytest.fixture
def model(make_denoiser: Make, schedule: dict[str, Any]) -> Denoiser:
    made = make_denoiser()
    made.network = Posterior(schedule)
    return made


def guide(strength: float = 1.0) -> Guide:
    """Dark on the left, light on the right, in pixels of 8 of the canvas's (4 latents)."""
    line = torch.linspace(-0.6, 0.6, 6).expand(3, 4, 6)
    return Guide(line.clone(), strength)


def pixels(model: Denoiser, latents: torch.Tensor) -> torch.Tensor:
    return model.autoencoder.decode(latents[None])[0]


def test_what_is_missing_is_put_back_and_nothing_else(make_denoiser: Make) -> None:
    model = make_denoiser()
    torch.manual_seed(0)
    x0 = 0.2 * torch.randn(12, 16, 24)
    before, wanted = pixels(model, x0), guide().pixels
    after = pixels(model, steer(Calls(model), x0, guide(), 1.0))
    gap = (coarse(before, (4, 6)) - wanted).abs().mean()
    assert float((coarse(after, (4, 6)) - wanted).abs().mean()) < 0.2 * float(gap)
    # Detail finer than the guide's pixels is not touched: inside one, pixels move together.
    change = (after - before)[:, 2:6, 2:6]
    assert float((change - change.mean((1, 2), keepdim=True)).abs().max()) < 0.15
    # A guide that is met already changes nothing.
    met = Guide(coarse(before, (4, 6)))
    torch.testing.assert_close(steer(Calls(model), x0, met, 1.0), x0, atol=1e-5, rtol=0)
    torch.testing.assert_close(steer(Calls(model), x0, guide(), 0.0), x0, atol=1e-5, rtol=0)


@pytest.mark.parametrize("preset", ["bulk", "paper"])
def test_a_guided_canvas_looks_like_its_guide_from_afar(model: Denoiser, preset: str) -> None:
    wanted = guide().pixels

    def gap(strength: float | None) -> float:
        made = sample(
            model, task(guide=None if strength is None else guide(strength)), PRESETS[preset]
        )
        return float((coarse(pixels(model, made), (4, 6)) - wanted).square().mean().sqrt())

    free, half, full = gap(None), gap(0.5), gap(1.0)
    assert full < 0.5 * free
    assert full < half < free
    assert gap(0.0) == free


def test_what_is_known_stays_beside_a_guide(make_denoiser: Make) -> None:
    model = make_denoiser()
    known, mask = torch.full((12, 16, 24), 0.25), torch.zeros(16, 24)
    mask[:, 12:] = 1
    made = sample(model, task(known=known, mask=mask, guide=guide()), PRESETS["bulk"])
    torch.testing.assert_close(made[:, :, :12], known[:, :, :12], atol=1e-4, rtol=0)


def test_ways_that_never_see_the_whole_canvas_take_no_guide(make_denoiser: Make) -> None:
    model = make_denoiser()
    with pytest.raises(ValueError, match="whole canvas"):
        next(sample_bands(model, task(guide=guide()), PRESETS["bulk"]))
    with pytest.raises(ValueError, match="whole canvas"):
        LazyCanvas(model, task(guide=guide(), batch=4), PRESETS["lazy"])
