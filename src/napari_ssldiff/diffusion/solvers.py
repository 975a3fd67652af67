"""Solvers whose state lives on the canvas.

Windows only predict x0; a solver sees the fused x0 of the whole canvas, once per step, and
keeps its multistep history there. Histories per window would be wrong as soon as windows blend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler

Noise = Callable[[int], torch.Tensor]


class Solver(Protocol):
    """One run of a sampler over a canvas."""

    timesteps: list[int]

    def level(self, i: int) -> tuple[float, float]:
        """``(alpha, sigma)`` of the canvas before step ``i``: x = alpha·x0 + sigma·noise."""
        ...

    def step(self, i: int, x0: torch.Tensor, x: torch.Tensor, noise: Noise) -> torch.Tensor:
        """The canvas after step ``i``, from the fused prediction ``x0``."""
        ...


class DPMSolver2M:
    """DPM-Solver++ 2M (Lu et al. 2022) by diffusers, steps uniform in log-SNR.

    Parameters
    ----------
    schedule
        ``beta_schedule``, ``beta_start``, ``beta_end``, ``num_train_timesteps``.
    steps
        Of a run at full strength.
    begin
        First step to take; > 0 for a strength below 1.
    """

    def __init__(self, schedule: Mapping[str, Any], steps: int, begin: int = 0) -> None:
        kind: Any = DPMSolverMultistepScheduler  # its methods are added by a decorator
        self._scheduler = kind(
            prediction_type="sample",
            algorithm_type="dpmsolver++",
            solver_order=2,
            use_lu_lambdas=True,
            final_sigmas_type="zero",
            **schedule,
        )
        self._scheduler.set_timesteps(steps)
        self._scheduler.set_begin_index(begin)
        self.timesteps = [int(t) for t in self._scheduler.timesteps]

    def level(self, i: int) -> tuple[float, float]:
        sigma = float(self._scheduler.sigmas[i])
        alpha = (1 + sigma * sigma) ** -0.5
        return alpha, sigma * alpha

    def step(self, i: int, x0: torch.Tensor, x: torch.Tensor, noise: Noise) -> torch.Tensor:
        out: torch.Tensor = self._scheduler.step(x0, self.timesteps[i], x).prev_sample
        return out


class PaperDDIM:
    """The update of the paper's published sampler, with its noise.

    From the fused x0 and eps = (x - sqrt(a)·x0) / sqrt(1-a):
    x' = sqrt(a')·x0 + sqrt(1 - a' - s²)·eps + s·noise, s² = beta_t·(1-a')/(1-a), 0 at the end.
    beta_t is the single-step beta although steps are strided, so the noise is far below DDIM's
    eta = 1.
    """

    def __init__(self, schedule: Mapping[str, Any], steps: int, begin: int = 0) -> None:
        count = int(schedule["num_train_timesteps"])
        start, end = float(schedule["beta_start"]), float(schedule["beta_end"])
        if schedule["beta_schedule"] == "scaled_linear":
            self._beta = np.linspace(start**0.5, end**0.5, count) ** 2
        else:
            self._beta = np.linspace(start, end, count)
        self._alpha_bar = np.cumprod(1 - self._beta)
        self.timesteps = [round(count * (1 - i / steps)) - 1 for i in range(steps)]

    def level(self, i: int) -> tuple[float, float]:
        a = float(self._alpha_bar[self.timesteps[i]])
        return a**0.5, (1 - a) ** 0.5

    def step(self, i: int, x0: torch.Tensor, x: torch.Tensor, noise: Noise) -> torch.Tensor:
        t = self.timesteps[i]
        a = float(self._alpha_bar[t])
        if i + 1 == len(self.timesteps):
            return x0
        after = float(self._alpha_bar[self.timesteps[i + 1]])
        eps = (x - a**0.5 * x0) / (1 - a) ** 0.5
        variance = float(self._beta[t]) * (1 - after) / (1 - a)
        out: torch.Tensor = (
            after**0.5 * x0 + (1 - after - variance) ** 0.5 * eps + variance**0.5 * noise(i)
        )
        return out
