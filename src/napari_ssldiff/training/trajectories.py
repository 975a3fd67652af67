"""Trajectories of the teacher's ODE, phase by phase, for distillation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_ssldiff.diffusion.solvers import half_log_snr, phase_starts

#: Trajectories begin at least so many timesteps before the end of their phase.
SHORTEST = 10
#: ``(x, t, alpha, sigma)`` → x0; t is ``(b,)``, the levels ``(b, 1, 1, 1)``.
Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Course:
    """Noise levels of teacher trajectories, ``n`` steps each, one per row.

    Parameters
    ----------
    t, alpha, sigma
        ``(b, n + 1)`` float64; the last column is a phase's end. Timesteps are no whole numbers.
    """

    t: NDArray[np.float64]
    alpha: NDArray[np.float64]
    sigma: NDArray[np.float64]


def courses(
    schedule: Mapping[str, Any], phases: int, n: int, count: int, rng: np.random.Generator
) -> Course:
    """``count`` courses: phases in turn, half of them whole, half from a random point.

    Steps are uniform in log-SNR. A course in the last phase ends at the clean image, which it
    reaches from timestep 0 by its last step.
    """
    levels = half_log_snr(schedule)
    all_t = np.arange(len(levels), dtype=np.float64)
    starts = phase_starts(len(levels), phases)
    phase = rng.permutation(np.arange(count) + rng.integers(phases)) % phases
    first = np.array(starts, np.float64)[phase]
    end = np.array([*starts[1:], 0], np.float64)[phase]
    somewhere = end + SHORTEST + (first - end - SHORTEST) * rng.random(count)
    first = np.where(rng.random(count) < 0.5, first, somewhere)
    last = (phase == phases - 1)[:, None]
    share = np.where(last, np.minimum(np.arange(n + 1) / max(1, n - 1), 1), np.arange(n + 1) / n)
    a, b = (np.interp(t, all_t, levels)[:, None] for t in (first, end))
    lam = a + (b - a) * share
    alpha, sigma = (1 + np.exp(-2 * lam)) ** -0.5, (1 + np.exp(2 * lam)) ** -0.5
    alpha[last[:, 0], -1], sigma[last[:, 0], -1] = 1, 0
    return Course(np.interp(-lam, -levels, all_t), alpha, sigma)


def columns(part: NDArray[np.float64], device: torch.device) -> torch.Tensor:
    """``(b, n)`` → ``(n, b, 1, 1, 1)`` float32."""
    return torch.from_numpy(part.T.copy()).float().to(device)[..., None, None, None]


def follow(predict: Predict, course: Course, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Follow the ODE along a course by DPM-Solver++ 2M (Lu et al. 2022, algorithm 2).

    Unlike diffusers' scheduler it has levels of its own for every row of the batch.

    Parameters
    ----------
    x
        ``(b, c, w, w)`` at the course's first levels.

    Returns
    -------
    ``(n, b, c, w, w)`` twice: where the course leads through, and the x0 that takes each of
    these points to the course's end in one step of order 1.
    """
    t, alpha, sigma = (columns(p, x.device) for p in (course.t, course.alpha, course.sigma))
    lam = (alpha / sigma.clamp_min(1e-12)).log()
    points, before = [], x
    for i in range(len(t) - 1):
        points.append(x)
        x0 = predict(x, t[i].flatten(), alpha[i], sigma[i])
        best = x0
        if i:
            # 1 / (2 r), r the ratio of the last two steps; none of it where noise ends.
            ratio = (lam[i + 1] - lam[i]) / (lam[i] - lam[i - 1]) / 2
            best = x0 + torch.where(sigma[i + 1] > 0, ratio, 0) * (x0 - before)
        before = x0
        shrink = sigma[i + 1] / sigma[i]
        x = shrink * x + (alpha[i + 1] - alpha[i] * shrink) * best
    stacked = torch.stack(points)
    shrink = sigma[-1] / sigma[:-1]
    return stacked, (x - shrink * stacked) / (alpha[-1] - alpha[:-1] * shrink)
