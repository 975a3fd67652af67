"""What is sampled: a canvas, its windows and its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from napari_ssldiff.diffusion.bundle import ModelSpec
from napari_ssldiff.diffusion.presets import Preset
from napari_ssldiff.diffusion.steer import Guide
from napari_ssldiff.geometry import Box, plan_windows


@dataclass(frozen=True)
class CanvasTask:
    """What to sample.

    Parameters
    ----------
    box
        The canvas on the global latent lattice, at least a window in size.
    tokens
        Gives a window (in latents of that lattice) its ``(k², d)`` unit vectors, row-major.
    steps, guidance, strength, seed
        As in :class:`napari_ssldiff.synthesis.request.Sampler`, resolved to numbers.
    known
        ``(c, h, w)`` clean latents of the canvas; needed where ``strength`` < 1 or ``mask``.
    mask
        ``(h, w)`` float in [0, 1]: 1 where latents are made, 0 where ``known`` stays.
    batch
        Windows per network call; part of what the pixels depend on, in the last digits.
        ``None``: what suits model and device (:mod:`napari_ssldiff.diffusion.batches`).
    guidance_interval
        ``(low, high)`` in log(alpha / sigma): steps that begin outside are not guided and cost
        half (Kynkäänniemi et al., *Applying guidance in a limited interval improves sample and
        distribution quality in diffusion models*, NeurIPS 2024). ``None``: all are.
    negative
        ``(k², d)``: what guidance leads away from, in place of the null condition.
    guide
        What the canvas is to look like from afar (:mod:`napari_ssldiff.diffusion.steer`); only
        where it is sampled as a whole.
    control
        ``(c, h, w)`` latents of a picture of the canvas that is shown to a network with
        ``spec.control``, such as a mask of cells. What guidance leads away from sees none.
    """

    box: Box
    tokens: Callable[[Box], torch.Tensor]
    steps: int
    guidance: float
    strength: float
    seed: int
    known: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    batch: int | None = 16
    guidance_interval: tuple[float, float] | None = None
    negative: torch.Tensor | None = None
    guide: Guide | None = None
    control: torch.Tensor | None = None

    @property
    def needs_known(self) -> bool:
        """Whether there is no sampling without ``known``."""
        return self.strength < 1 or self.mask is not None

    def unwanted(self, spec: ModelSpec) -> torch.Tensor:
        """``(1, k², d)``: the tokens that guidance leads away from; zeros are none."""
        if self.negative is not None:
            return self.negative[None]
        return torch.zeros(1, spec.tokens**2, spec.token_width)

    def guidance_at(self, level: tuple[float, float]) -> float:
        """The guidance scale of a step that begins at ``(alpha, sigma)``."""
        if self.guidance_interval is None:
            return self.guidance
        alpha, sigma = level
        low, high = self.guidance_interval
        inside = low <= math.log(max(alpha, 1e-30) / max(sigma, 1e-30)) <= high
        return self.guidance if inside else 1.0


@dataclass(frozen=True)
class CanvasPlan:
    """The windows and steps of a task.

    Parameters
    ----------
    windows
        In latents of the canvas, row by row.
    begin, steps
        Steps ``begin`` … ``steps - 1`` are taken.
    passes
        Of each of these steps: evaluations per window, 2 with guidance and 1 without.
    """

    windows: tuple[Box, ...]
    begin: int
    steps: int
    passes: tuple[int, ...]

    @property
    def evaluations(self) -> int:
        """Window evaluations of the network: windows × the passes of all steps."""
        return len(self.windows) * sum(self.passes)


def plan(task: CanvasTask, preset: Preset, spec: ModelSpec) -> CanvasPlan:
    """Windows (canvas-relative latents) that touch the mask, and the steps to take.

    ``n`` windows of size W at stride S along a side of L latents are
    ``ceil((L - W) / S) + 1``; the last one is snapped to the border.
    """
    windows = plan_windows(task.box.shape, spec.window_latents, preset.stride_of(spec))
    if task.mask is not None:
        windows = tuple(w for w in windows if bool(task.mask[w.slices].any()))
    if task.strength == 0:
        return CanvasPlan(windows, task.steps, task.steps, ())
    solver = preset.make_solver(spec, task.steps, task.strength)
    scales = (task.guidance_at(solver.level(i)) for i in range(solver.begin, task.steps))
    return CanvasPlan(windows, solver.begin, task.steps, tuple(1 if g == 1 else 2 for g in scales))
