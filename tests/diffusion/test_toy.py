"""Seams, proved: the engine on a world where the right answer is known exactly.

The world is a stationary Gaussian field along x; the network is the optimal denoiser of such a
field as far as a window of 64 latents sees it, which is a matrix. Then everything that the engine
does is linear in its noise, so unit noises in, one per row, give its exact covariance out: no
sampling error and no weights. Rows do not touch each other and stand for independent runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_ssldiff.diffusion import lazy, sampling
from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec
from napari_ssldiff.diffusion.canvas import CanvasTask, sample
from napari_ssldiff.diffusion.conditioning import Condition
from napari_ssldiff.diffusion.lazy import LazyCanvas
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.geometry import Box

#: Width of a window, of what is looked at, and of the noise that can reach it from either side.
WINDOW, LOOKED_AT, REACH = 64, 192, 128
WIDTH = LOOKED_AT + 2 * REACH
#: Standard deviation of the field's Gaussian covariance, in latents.
FIELDS = {"mid": 8.0, "fine": 2.0}


def covariance(n: int, sd: float) -> NDArray[np.float64]:
    lag = np.subtract.outer(np.arange(n), np.arange(n))
    return np.asarray(np.exp(-0.5 * (lag / sd) ** 2) + 1e-6 * (lag == 0))


class Optimal(Denoiser):
    """E[x0 | x] of a window: a K / (a² K + s² I) x, along the last axis."""

    def __init__(self, like: Denoiser, window: int, channels: int, sd: float) -> None:
        spec = ModelSpec(window * 2, 2, 3, channels, 2, "sample", like.spec.schedule)
        super().__init__(spec, like.autoencoder, like.network, like.projection, like.device)
        self.values, self.vectors = np.linalg.eigh(covariance(window, sd))

    def predict_x0(
        self,
        x: torch.Tensor,
        t: int,
        level: tuple[float, float],
        condition: Condition,
        precision: str | None = None,
    ) -> torch.Tensor:
        alpha, sigma = level
        gain = alpha * self.values / (alpha**2 * self.values + sigma**2)
        matrix = (self.vectors * gain) @ self.vectors.T
        return x @ torch.from_numpy(matrix).to(x)


@dataclass(frozen=True)
class Figures:
    """``seam``: largest variance of neighbours' differences over the true one; ``variance``;
    ``error``: root mean square error of the covariance up to 48 latents, as share of variance."""

    seam: float
    variance: float
    error: float


def figures(made: NDArray[np.float64], sd: float) -> Figures:
    """Of the ``(n, n)`` covariance of a sample."""
    true = covariance(len(made), sd)
    steps, wanted = (m[1:, 1:] + m[:-1, :-1] - m[1:, :-1] - m[:-1, 1:] for m in (made, true))
    near = np.abs(np.subtract.outer(np.arange(len(made)), np.arange(len(made)))) <= 48
    return Figures(
        float((np.diag(steps) / np.diag(wanted)).max()),
        float(np.diag(made).mean()),
        float(np.sqrt(np.square(made - true)[near].mean())),
    )


@pytest.fixture
def measure(
    make_denoiser: Callable[..., Denoiser], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Figures]:
    def run(name: str, sd: float, window: int = WINDOW) -> Figures:
        preset = PRESETS[name]
        # Runs that need other noise than the first one get a set of rows per source of it.
        sources = 1 + preset.steps if name == "paper" else 1
        per_source = -(-WIDTH // window)

        def unit_noise(seed: int, box: Box, channels: int, step: int = 0) -> Any:
            out = np.zeros((channels, *box.shape), np.float32)
            for c in range(per_source * (step < sources)):
                for row in range(max(box.y, 0), min(box.y1, window)):
                    x = c * window + row - box.x
                    if 0 <= x < box.w:
                        out[step * per_source + c, row - box.y, x] = 1
            return out

        for module in (lazy, sampling):
            monkeypatch.setattr(module, "place_noise", unit_noise)
        model = Optimal(make_denoiser(), window, sources * per_source, sd)
        work = CanvasTask(
            box=Box(0, 0, window, WIDTH),
            tokens=lambda _: torch.zeros(4, 3),
            steps=preset.steps,
            guidance=1.0,
            strength=1.0,
            seed=0,
        )
        inner = slice(REACH, REACH + LOOKED_AT)
        if preset.phases is None:
            out = sample(model, work, preset)[..., inner]
        else:
            out = LazyCanvas(model, work, preset).latents(Box(0, REACH, window, LOOKED_AT))
        response = out.double().numpy().reshape(-1, LOOKED_AT)
        found = figures(response.T @ response, sd)
        print(f"{name}, window {window}, sd {sd:g}: {found}")  # docs/engine.md: pytest -s
        return found

    return run


@pytest.fixture
def untiled(measure: Callable[..., Figures]) -> Callable[[float], Figures]:
    """The sampler of ``bulk`` on one window as large as the canvas."""
    return lambda sd: measure("bulk", sd, window=WIDTH)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(("name", "tolerance"), [("bulk", 0.03), ("lazy", 0.05)])
def test_a_tiled_sample_is_the_untiled_one_to_a_few_percent(
    name: str, tolerance: float, field: str, measure: Any, untiled: Any
) -> None:
    sd = FIELDS[field]
    whole, tiled = untiled(sd), measure(name, sd)
    assert tiled.seam == pytest.approx(whole.seam, rel=tolerance)
    assert tiled.variance > 0.98 * whole.variance
    assert tiled.error < whole.error + 0.02


@pytest.mark.parametrize("field", FIELDS)
def test_the_published_sampler_shows_its_windows_where_ours_do_not(
    field: str, measure: Any, untiled: Any
) -> None:
    sd = FIELDS[field]
    paper, bulk, lazily, whole = (measure("paper", sd), measure("bulk", sd), measure("lazy", sd),
                                  untiled(sd))  # fmt: skip
    for ours in (bulk, lazily):
        assert paper.seam - whole.seam > 5 * abs(ours.seam - whole.seam)
        assert paper.error > ours.error
        assert paper.variance < ours.variance


def test_the_measure_sees_a_seam() -> None:
    apart = np.kron(np.eye(2), covariance(60, 8.0))  # two halves that know nothing of each other
    assert figures(apart, 8.0).seam > 50
    assert figures(covariance(120, 8.0), 8.0).seam == pytest.approx(1)
    assert figures(0.9 * covariance(120, 8.0), 8.0).variance == pytest.approx(0.9, abs=1e-5)
