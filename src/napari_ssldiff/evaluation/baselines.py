"""Two published ways to sample large images, on our models: what the engine is compared with.

*Panorama* is MultiDiffusion (Bar-Tal et al. 2023) as diffusers' ``StableDiffusionPanoramaPipeline``
runs it: each view takes its own solver step with its own solver state, and what is averaged is the
noisy result. *Paper* is the published sampler of Graikos et al. (2024), all windows in one batch.
Both begin from the engine's own noise, see the conditions it sees, and decode as they were
published.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch

from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec
from napari_ssldiff.diffusion.canvas import CanvasTask, guided
from napari_ssldiff.diffusion.noise import place_noise
from napari_ssldiff.diffusion.presets import PRESETS, Preset, window_weights
from napari_ssldiff.evaluation.layouts import Layout, decode_cuts, regular
from napari_ssldiff.geometry import Box, plan_windows

Told = Callable[[int], None]

#: Latents between views, fixed in diffusers' pipeline.
PANORAMA_STRIDE = 8


def _tokens(task: CanvasTask, windows: list[Box]) -> torch.Tensor:
    return torch.stack([task.tokens(w.shift(task.box.y, task.box.x)) for w in windows])


def _cut(x: torch.Tensor, windows: list[Box]) -> torch.Tensor:
    return torch.stack([x[(slice(None), *w.slices)] for w in windows])


def _noise(task: CanvasTask, spec: ModelSpec, step: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(place_noise(task.seed, task.box, spec.latent_channels, step)).to(device)


@torch.inference_mode()
def panorama(
    model: Denoiser,
    task: CanvasTask,
    preset: Preset,
    stride: int,
    batch: int = 1,
    told: Told = lambda evaluations: None,
) -> torch.Tensor:
    """MultiDiffusion with a condition per view.

    diffusers gives one prompt to all views and leaves a strip of zeros where views do not fill
    the canvas; here every view has its own tokens and the last ones are snapped to the border.
    Solver states are copied once instead of at every step, which favours this baseline.

    Parameters
    ----------
    preset
        Its solver; steps and guidance are the task's.
    stride
        In latents.
    batch
        Views per network call; they share a solver state, as in diffusers.
    told
        Given the evaluations so far after every network call.

    Returns
    -------
    ``(c, h, w)`` float32 clean latents.
    """
    spec, done = model.spec, 0
    windows = list(plan_windows(task.box.shape, spec.window_latents, stride))
    views = [windows[i : i + batch] for i in range(0, len(windows), batch)]
    conditions = [model.condition(_tokens(task, view)) for view in views]
    null = model.null_condition(1)
    solver = preset.make_solver(spec, task.steps, 1.0)
    solvers = [copy.deepcopy(solver) for _ in views]
    x = _noise(task, spec, 0, model.device)
    for i in range(task.steps):
        value, count = torch.zeros_like(x), torch.zeros(task.box.shape, device=model.device)
        fresh = _noise(task, spec, i + 1, model.device)
        for view, condition, own in zip(views, conditions, solvers, strict=True):
            part, t, level = _cut(x, view), own.timesteps[i], own.level(i)
            guidance = task.guidance_at(level)
            x0 = guided(model, part, t, level, condition, null, guidance)
            moved = own.step(i, x0, part, lambda _, view=view, n=fresh: _cut(n, view))  # type: ignore[misc]
            for w, latents in zip(view, moved, strict=True):
                value[(slice(None), *w.slices)] += latents
                count[w.slices] += 1
            done += len(view) * (1 if guidance == 1 else 2)
            told(done)
        x = value / count
    return x


@torch.inference_mode()
def paper_as_published(
    model: Denoiser, task: CanvasTask, told: Told = lambda evaluations: None
) -> torch.Tensor:
    """Stride W/4, x0 averaged alike, one step of the paper's sampler, all windows in one batch.

    The same equations as preset ``paper``, whose windows come in batches that fit.

    Returns
    -------
    ``(c, h, w)`` float32 clean latents.
    """
    spec, preset, done = model.spec, PRESETS["paper"], 0
    windows = list(plan_windows(task.box.shape, spec.window_latents, preset.stride_of(spec)))
    condition = model.condition(_tokens(task, windows))
    null = model.null_condition(1)
    solver = preset.make_solver(spec, task.steps, 1.0)
    x = _noise(task, spec, 0, model.device)
    for i in range(task.steps):
        parts, t = _cut(x, windows), solver.timesteps[i]
        made = guided(model, parts, t, solver.level(i), condition, null, task.guidance)
        total, count = torch.zeros_like(x), torch.zeros(task.box.shape, device=model.device)
        for w, prediction in zip(windows, made, strict=True):
            total[(slice(None), *w.slices)] += prediction
            count[w.slices] += 1
        x = solver.step(i, total / count, x, lambda n: _noise(task, spec, n + 1, model.device))
        done += len(windows) * (1 if task.guidance == 1 else 2)
        told(done)
    return x


@torch.inference_mode()
def decode_whole(model: Denoiser, latents: torch.Tensor) -> torch.Tensor:
    """The canvas in one call of the decoder: ``(c, h, w)`` → ``(3, H, W)`` in [-1, 1]."""
    return model.at_work(model.autoencoder).decode(latents[None])[0]


@torch.inference_mode()
def decode_in_one_batch(model: Denoiser, latents: torch.Tensor) -> torch.Tensor:
    """All windows at stride W/4 in one call, blended with exp(-r²/0.8²): → ``(3, H, W)``."""
    spec, f = model.spec, model.spec.latent_factor
    shape = latents.shape[1], latents.shape[2]
    stride = PRESETS["paper"].stride_of(spec)
    windows = list(plan_windows(shape, spec.window_latents, stride))
    decode = model.at_work(model.autoencoder).decode
    made = decode(_cut(latents, windows), clamp=False)
    weight = window_weights("gaussian", spec.window).to(made)
    out = torch.zeros(3, shape[0] * f, shape[1] * f, device=made.device)
    total = torch.zeros(out.shape[1:], device=made.device)
    for w, picture in zip(windows, made, strict=True):
        place = Box(w.y * f, w.x * f, w.h * f, w.w * f).slices
        out[(slice(None), *place)] += weight * picture
        total[place] += weight
    return (out / total).clamp(-1, 1)


@dataclass(frozen=True)
class Baseline:
    """A way to compare with.

    Parameters
    ----------
    name
        As ``--against`` and rows know it.
    follows
        The preset whose solver, steps and guidance it takes.
    stride
        Latents between windows, of a model.
    matched
        Whether it takes the batch of the preset that it follows.
    """

    name: str
    follows: str
    stride: Callable[[ModelSpec], int]
    matched: bool = False

    def sample(self, model: Denoiser, task: CanvasTask, batch: int, told: Told) -> torch.Tensor:
        """``(c, h, w)`` latents; ``batch`` is what the engine used, for a matched baseline."""
        if self.follows == "paper":
            return paper_as_published(model, task, told)
        views = batch if self.matched else 1
        preset = PRESETS[self.follows]
        return panorama(model, task, preset, self.stride(model.spec), views, told)

    def decode(self, model: Denoiser, latents: torch.Tensor) -> torch.Tensor:
        """``(3, H, W)`` in [-1, 1]."""
        paper = self.follows == "paper"
        return decode_in_one_batch(model, latents) if paper else decode_whole(model, latents)

    def layout(self, spec: ModelSpec, size: int) -> Layout:
        """Where its windows lie on a canvas of ``size`` pixels."""
        stride = self.stride(spec)
        paper = self.follows == "paper"
        cuts = decode_cuts(PRESETS["paper"], spec, size) if paper else ()
        return regular(spec, size, stride, "uniform", cuts)


BASELINES = {
    baseline.name: baseline
    for baseline in (
        Baseline(
            "diffusers-panorama", "bulk", lambda spec: min(PANORAMA_STRIDE, spec.window_latents)
        ),
        Baseline(
            "panorama-at-equal-evals", "bulk", lambda spec: PRESETS["bulk"].stride_of(spec), True
        ),
        Baseline("panorama-view-by-view", "bulk", lambda spec: PRESETS["bulk"].stride_of(spec)),
        Baseline("paper-as-published", "paper", lambda spec: PRESETS["paper"].stride_of(spec)),
    )
}
