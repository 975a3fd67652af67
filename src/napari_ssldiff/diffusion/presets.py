"""How a canvas is sampled: small readable definitions over one engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from napari_ssldiff.diffusion.bundle import ModelSpec
from napari_ssldiff.diffusion.solvers import (
    DPMSolver2M,
    FewSteps2M,
    PaperDDIM,
    Solver,
    StudentPhases,
)


@dataclass(frozen=True)
class Preset:
    """One way to sample.

    Parameters
    ----------
    stride
        Distance between windows as a share of the window.
    weights
        How overlapping x0 predictions are averaged: ``"uniform"`` or ``"cos2"``.
    solver
        Makes the solver from (schedule, steps, strength).
    steps
        Solver steps at full strength.
    decode
        ``"blend"``: large windows, cos² in their overlaps. ``"gaussian"``: the paper's, the
        model's own window at ``stride`` with weight exp(-r²/0.8²), clamped when blended.
        ``"tiles"``: a lattice fixed for ever, each tile with a halo of its own.
    guidance
        The scale that belongs to the preset; ``None`` leaves it to the model.
    guidance_interval
        Steps that are guided, as for :class:`~napari_ssldiff.diffusion.canvas.CanvasTask`.
    student
        Solver for the model's few-step student, where it has one; the student then takes the
        network's place, and steps and guidance are those it was distilled for.
    phases
        Windows are fused after every phase of so many, which lets any tile be computed alone
        (:mod:`napari_ssldiff.diffusion.lazy`); ``None``: after every step.
    """

    name: str
    stride: float
    weights: str
    solver: type[DPMSolver2M] | type[FewSteps2M] | type[PaperDDIM]
    steps: int
    decode: str
    guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    student: type[StudentPhases] | None = None
    phases: int | None = None

    def stride_of(self, spec: ModelSpec) -> int:
        """Latents between windows of a model."""
        return max(1, round(self.stride * spec.window_latents))

    def uses_student(self, spec: ModelSpec) -> bool:
        """Whether a model's student does the work."""
        return self.student is not None and spec.student is not None

    def strength_at(self, spec: ModelSpec, t: int) -> float:
        """The strength at which a run begins at a training timestep, to the nearest step.

        Raises
        ------
        ValueError
            If the model's schedule has no such timestep.
        """
        count = int(spec.schedule["num_train_timesteps"])
        if not 0 <= t < count:
            raise ValueError(f"timesteps are 0 to {count - 1}, got {t}")
        return self.solver.strength_at(spec.schedule, t)

    def make_solver(self, spec: ModelSpec, steps: int, strength: float) -> Solver:
        """A fresh solver for one run; ``strength`` in (0, 1]."""
        if self.student is not None and spec.student is not None:
            return self.student(spec.schedule, steps, strength)
        if issubclass(self.solver, PaperDDIM):
            return self.solver(spec.schedule, steps, strength, spec.time_offset)
        return self.solver(spec.schedule, steps, strength)


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("bulk", 0.75, "cos2", DPMSolver2M, 20, "blend", guidance_interval=(-2.9, 1.3)),
        Preset("draft", 0.75, "cos2", FewSteps2M, 4, "blend", guidance=1.0, student=StudentPhases),
        Preset("lazy", 0.5, "cos2", DPMSolver2M, 20, "tiles", phases=3),
        Preset("paper", 0.25, "uniform", PaperDDIM, 50, "gaussian", guidance=4.0),
    )
}


def window_weights(kind: str, size: int) -> torch.Tensor:
    """``(size, size)`` float32 positive weights of a window's positions.

    ``cos2`` is cos² of the distance from the middle, floored at 1e-3 so that border latents
    that only one window covers keep a weight; ``gaussian`` is exp(-r²/0.8²) on [-1, 1]², whose
    ends are the middles of the outermost pixels, as published.
    """
    place = torch.from_numpy((np.arange(size) + 0.5) / size * 2 - 1).float()
    if kind == "uniform":
        return torch.ones(size, size)
    if kind == "cos2":
        line = torch.cos(place * torch.pi / 2).square().clamp_min(1e-3)
        return line[:, None] * line[None, :]
    if kind == "gaussian":
        place = torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1)
        return torch.exp(-(place[:, None].square() + place[None, :].square()) / 0.64)
    raise ValueError(f"unknown window weights {kind!r}")
