"""The canvas engine: all windows of a canvas advance together.

Per step every window predicts x0; predictions are averaged on the canvas with the preset's
weights; one solver step is taken there. (MultiDiffusion averages the *updates* instead, which
needs solver state per window and loses variance with stochastic samplers.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec
from napari_ssldiff.diffusion.conditioning import Condition, concatenate
from napari_ssldiff.diffusion.noise import place_noise
from napari_ssldiff.diffusion.presets import Preset, window_weights
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
    """

    box: Box
    tokens: Callable[[Box], torch.Tensor]
    steps: int
    guidance: float
    strength: float
    seed: int
    known: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    batch: int = 16


@dataclass
class Counters:
    """What a run cost: window evaluations of the network, and seconds inside it."""

    evaluations: int = 0
    network_seconds: float = 0.0


@dataclass(frozen=True)
class CanvasPlan:
    """The windows and steps of a task."""

    windows: tuple[Box, ...]
    begin: int
    steps: int
    passes: int = field(default=2)

    @property
    def evaluations(self) -> int:
        """Window evaluations of the network: windows × steps × (2 with guidance, else 1)."""
        return len(self.windows) * (self.steps - self.begin) * self.passes


def plan(task: CanvasTask, preset: Preset, spec: ModelSpec) -> CanvasPlan:
    """Windows (canvas-relative latents) that touch the mask, and the steps to take.

    ``n`` windows of size W at stride S along a side of L latents are
    ``ceil((L - W) / S) + 1``; the last one is snapped to the border.
    """
    window = spec.window_latents
    stride = max(1, round(preset.stride * window))
    windows = plan_windows(task.box.shape, window, stride)
    if task.mask is not None:
        windows = tuple(w for w in windows if bool(task.mask[w.slices].any()))
    begin = task.steps
    if task.strength > 0:
        begin = preset.make_solver(spec, task.steps, task.strength).begin
    return CanvasPlan(windows, begin, task.steps, 1 if task.guidance == 1 else 2)


def _noise(task: CanvasTask, channels: int, step: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(place_noise(task.seed, task.box, channels, step)).to(device)


@torch.inference_mode()
def sample(
    model: Denoiser,
    task: CanvasTask,
    preset: Preset,
    *,
    check: Callable[[], None] = lambda: None,
    on_step: Callable[[int, torch.Tensor], None] = lambda i, x0: None,
    on_batch: Callable[[int], None] = lambda evaluations: None,
    counters: Counters | None = None,
) -> torch.Tensor:
    """Sample a canvas.

    Parameters
    ----------
    check
        Called before every network call; raises to cancel.
    on_step
        Told the step's index and the fused ``(c, h, w)`` x0 after every solver step.
    on_batch
        Told the evaluations so far after every network call.

    Returns
    -------
    ``(c, h, w)`` float32 clean latents.

    Raises
    ------
    ValueError
        If ``known`` is missing where strength or mask needs it, or steps or guidance are not
        those that the model's student was distilled for.
    """
    spec, device = model.spec, model.device
    counters = counters if counters is not None else Counters()
    needs_known = task.strength < 1 or task.mask is not None
    if needs_known and task.known is None:
        raise ValueError("a strength below 1 or a mask needs the known latents")
    if preset.uses_student(spec):
        assert spec.student is not None
        if task.steps != spec.student.steps or task.guidance != 1:
            raise ValueError(f"the student takes {spec.student.steps} steps at guidance 1")
    known = None if task.known is None else task.known.to(device)
    mask = None if task.mask is None else task.mask.to(device)
    todo = plan(task, preset, spec)
    if todo.begin == task.steps or not todo.windows:
        assert known is not None
        return known
    solver = preset.make_solver(spec, task.steps, task.strength)
    if preset.uses_student(spec):
        model = model.student

    x = _noise(task, spec.latent_channels, 0, device)
    if needs_known:
        assert known is not None
        alpha, sigma = solver.level(todo.begin)
        # At strength 1 no pixel of the source may shine through where latents are made.
        start = known if task.strength < 1 or mask is None else (1 - mask) * known
        x = alpha * start + sigma * x
    conditions = _conditions(model, task, todo)
    null = model.null_condition(1)
    weight = window_weights(preset.weights, spec.window_latents).to(device)
    total = torch.zeros(task.box.shape, device=device)
    for w in todo.windows:
        total[w.slices] += weight

    for i in range(todo.begin, task.steps):
        fused = torch.zeros_like(x)
        for first in range(0, len(todo.windows), task.batch):
            check()
            batch = todo.windows[first : first + task.batch]
            started = time.perf_counter()
            stacked = torch.stack([x[(slice(None), *w.slices)] for w in batch])
            made = _guided(
                model,
                stacked,
                solver.timesteps[i],
                solver.level(i),
                conditions[first : first + task.batch],
                null,
                task.guidance,
            )
            counters.network_seconds += time.perf_counter() - started
            counters.evaluations += len(batch) * todo.passes
            on_batch(counters.evaluations)
            for w, prediction in zip(batch, made, strict=True):
                fused[(slice(None), *w.slices)] += weight * prediction
        x0 = fused / total.clamp_min(1e-8)
        if mask is not None:
            # With x0 known, every solver step keeps x = alpha·known + sigma·noise out there.
            assert known is not None
            x0 = mask * x0 + (1 - mask) * known
        x = solver.step(i, x0, x, lambda n: _noise(task, spec.latent_channels, n + 1, device))
        on_step(i, x0)
    return x


def _conditions(model: Denoiser, task: CanvasTask, todo: CanvasPlan) -> Condition:
    parts = []
    for first in range(0, len(todo.windows), 256):
        tokens = [
            task.tokens(w.shift(task.box.y, task.box.x)) for w in todo.windows[first : first + 256]
        ]
        parts.append(model.condition(torch.stack(tokens)))
    return concatenate(parts)


def _guided(
    model: Denoiser,
    x: torch.Tensor,
    t: int,
    level: tuple[float, float],
    condition: Condition,
    null: Condition,
    guidance: float,
) -> torch.Tensor:
    """Classifier-free guidance on x0: uncond + guidance · (cond - uncond).

    For a fixed x, x0 is affine in eps and in v, so this equals guidance on either.
    """
    n = len(x)
    if guidance == 1:
        return model.predict_x0(x, t, level, condition)
    spatial = None if null.spatial is None else null.spatial.expand(n, -1, -1, -1)
    empty = Condition(null.context.expand(n, -1, -1), spatial)
    both = concatenate([condition, empty])
    with_, without = model.predict_x0(torch.cat([x, x]), t, level, both).chunk(2)
    return without + guidance * (with_ - without)
