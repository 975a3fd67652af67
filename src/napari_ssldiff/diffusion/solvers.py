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
from diffusers.schedulers.scheduling_dpmsolver_multistep import betas_for_alpha_bar
from numpy.typing import NDArray

Noise = Callable[[int], torch.Tensor]


class Solver(Protocol):
    """One run of a sampler over a canvas.

    Made from the noise schedule as diffusers names it (``beta_schedule``, ``beta_start``,
    ``beta_end``, ``num_train_timesteps``), the steps of a run at full strength, and a strength
    in (0, 1].
    """

    #: What the network is told, step by step.
    timesteps: list[int]
    #: First step to take; > 0 for a strength below 1.
    begin: int

    def level(self, i: int) -> tuple[float, float]:
        """``(alpha, sigma)`` of the canvas before step ``i``: x = alpha·x0 + sigma·noise."""
        ...

    def step(self, i: int, x0: torch.Tensor, x: torch.Tensor, noise: Noise) -> torch.Tensor:
        """The canvas after step ``i``, from the fused prediction ``x0``."""
        ...

    def resume(self, i: int, x0: torch.Tensor | None) -> None:
        """Go on at step ``i`` as if the steps before it had been taken here, and no others.

        ``x0`` is what the step before was given; ``None`` where ``i`` is the first.
        """
        ...


def cumulative_alphas(schedule: Mapping[str, Any]) -> NDArray[np.float64]:
    """``(num_train_timesteps,)``: the signal's share of the variance at each timestep."""
    kept: NDArray[np.float64] = np.cumprod(1 - _betas(schedule), dtype=np.float64)
    return kept


def half_log_snr(schedule: Mapping[str, Any]) -> NDArray[np.float64]:
    """``(num_train_timesteps,)``: log(alpha / sigma) at each timestep, falling."""
    a = cumulative_alphas(schedule)
    return 0.5 * np.log(a / (1 - a))


def phase_starts(count: int, steps: int) -> list[int]:
    """First timesteps of ``steps`` phases of equal length in ``count`` timesteps, falling.

    Phase ``i`` ends where phase ``i + 1`` starts, the last one at the clean image.
    """
    return [round(count * (1 - i / steps)) - 1 for i in range(steps)]


def _betas(schedule: Mapping[str, Any]) -> NDArray[np.float64]:
    count = int(schedule["num_train_timesteps"])
    kind = schedule["beta_schedule"]
    if kind == "squaredcos_cap_v2":  # the cosine of Nichol & Dhariwal 2021, as diffusers names it
        return np.asarray(betas_for_alpha_bar(count), np.float64)
    start, end = float(schedule["beta_start"]), float(schedule["beta_end"])
    if kind == "scaled_linear":  # what LDM's own configurations call linear
        return np.linspace(start**0.5, end**0.5, count) ** 2
    if kind == "linear":
        return np.linspace(start, end, count)
    known = "scaled_linear, linear and squaredcos_cap_v2"
    raise ValueError(f"unknown noise schedule {kind!r}: {known} are known")


def _first_of(steps: int, strength: float) -> int:
    return steps - round(steps * strength)


class _DPMSolver:
    """DPM-Solver++ (Lu et al. 2022) by diffusers. A strength is a share of the log-SNR's range."""

    @staticmethod
    def strength_at(schedule: Mapping[str, Any], t: int) -> float:
        """The strength at which a run begins at timestep ``t``."""
        levels = half_log_snr(schedule)
        return float((levels[0] - levels[t]) / (levels[0] - levels[-1]))

    timesteps: list[int]
    begin: int
    _scheduler: Any

    def _prepare(
        self, schedule: Mapping[str, Any], begin: int, order: int, lu: bool, **steps: Any
    ) -> None:
        kind: Any = DPMSolverMultistepScheduler  # its methods are added by a decorator
        self._scheduler = kind(
            prediction_type="sample",
            algorithm_type="dpmsolver++",
            solver_order=order,
            use_lu_lambdas=lu,
            final_sigmas_type="zero",
            **schedule,
        )
        self._scheduler.set_timesteps(**steps)
        self._scheduler.set_begin_index(begin)
        self.begin = begin
        self.timesteps = [int(t) for t in self._scheduler.timesteps]

    def level(self, i: int) -> tuple[float, float]:
        sigma = float(self._scheduler.sigmas[i])
        alpha = (1 + sigma * sigma) ** -0.5
        return alpha, sigma * alpha

    def step(self, i: int, x0: torch.Tensor, x: torch.Tensor, noise: Noise) -> torch.Tensor:
        out: torch.Tensor = self._scheduler.step(x0, self.timesteps[i], x).prev_sample
        return out

    def resume(self, i: int, x0: torch.Tensor | None) -> None:
        order = self._scheduler.config.solver_order
        self._scheduler.set_begin_index(i)
        self._scheduler._step_index = None  # it would go on counting from where it was
        self._scheduler.model_outputs = [None] * (order - 1) + [x0]
        self._scheduler.lower_order_nums = min(i - self.begin, order)


class DPMSolver2M(_DPMSolver):
    """DPM-Solver++ 2M, steps uniform in log-SNR."""

    def __init__(self, schedule: Mapping[str, Any], steps: int, strength: float) -> None:
        begin = _first_of(steps, strength)
        self._prepare(schedule, begin, order=2, lu=True, num_inference_steps=steps)


class FewSteps2M(_DPMSolver):
    """DPM-Solver++ 2M over a few phases of equal length in t.

    Steps uniform in log-SNR would spend half of so few on noise that nobody sees. A strength
    below 1 begins inside a phase, at the noise level at which :class:`DPMSolver2M` of many steps
    begins, so that a draft at some strength foretells the final picture at that strength.
    """

    _order = 2

    def __init__(self, schedule: Mapping[str, Any], steps: int, strength: float) -> None:
        levels = half_log_snr(schedule)
        wanted = levels[-1] + (1 - strength) * (levels[0] - levels[-1])
        start = int(np.abs(levels - wanted).argmin())
        timesteps = phase_starts(len(levels), steps)
        begin = max(i for i, t in enumerate(timesteps) if t >= start)
        timesteps[begin] = start
        self._prepare(schedule, begin, order=self._order, lu=False, timesteps=timesteps)


class StudentPhases(FewSteps2M):
    """One network call per phase, for a student distilled phase by phase.

    The student's x0 is the one that carries a canvas from where it stands in a phase to the
    phase's end by x' = (sigma'/sigma)·x + (alpha' - alpha·sigma'/sigma)·x0 (DDIM without noise,
    which is DPM-Solver++ of order 1). No noise is added: each phase was learned as one map
    along the teacher's trajectory, and re-noising would leave it.
    """

    _order = 1


class PaperDDIM:
    """The update of the paper's published sampler, with its noise.

    From the fused x0 and eps = (x - sqrt(a)·x0) / sqrt(1-a):
    x' = sqrt(a')·x0 + sqrt(1 - a' - s²)·eps + s·noise, s² = beta_t·(1-a')/(1-a), 0 at the end.
    beta_t is the single-step beta although steps are strided, so the noise is far below DDIM's
    eta = 1. A strength is a share of the timesteps.

    Parameters
    ----------
    offset
        What the network is told is this much more than the place in the schedule: 1 for the
        published sampler, which counts timesteps from 1 while training counted from 0.
    """

    def __init__(
        self, schedule: Mapping[str, Any], steps: int, strength: float, offset: int = 0
    ) -> None:
        self._beta, self._alpha_bar = _betas(schedule), cumulative_alphas(schedule)
        self.begin = _first_of(steps, strength)
        self._places = phase_starts(len(self._beta), steps)
        self.timesteps = [place + offset for place in self._places]

    @staticmethod
    def strength_at(schedule: Mapping[str, Any], t: int) -> float:
        """The strength at which a run begins at timestep ``t``."""
        return (t + 1) / int(schedule["num_train_timesteps"])

    def level(self, i: int) -> tuple[float, float]:
        a = float(self._alpha_bar[self._places[i]])
        return a**0.5, (1 - a) ** 0.5

    def resume(self, i: int, x0: torch.Tensor | None) -> None:
        """A step depends on nothing that came before it."""

    def step(self, i: int, x0: torch.Tensor, x: torch.Tensor, noise: Noise) -> torch.Tensor:
        t = self._places[i]
        a = float(self._alpha_bar[t])
        if i + 1 == len(self._places):
            return x0
        after = float(self._alpha_bar[self._places[i + 1]])
        eps = (x - a**0.5 * x0) / (1 - a) ** 0.5
        variance = float(self._beta[t]) * (1 - after) / (1 - a)
        out: torch.Tensor = (
            after**0.5 * x0 + (1 - after - variance) ** 0.5 * eps + variance**0.5 * noise(i)
        )
        return out
