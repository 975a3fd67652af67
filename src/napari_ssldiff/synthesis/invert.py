"""Embeddings without an encoder: the field with which a model explains an image best.

After the condition inversion of ZoomLDM (Yellapragada et al., CVPR 2025): the vectors are what is
optimised, through the frozen denoiser, from high noise to low. With alpha² + sigma² = 1 the loss of
a step is alpha·sigma²·|x0 - predicted x0|², which is the published weight √ā·(1 - ā), ā = alpha².
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.decode import encode_parts
from napari_ssldiff.diffusion.solvers import cumulative_alphas
from napari_ssldiff.embeddings.extract import grid_scale, read_grid
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.synthesis.cancel import CancelToken
from napari_ssldiff.synthesis.prepare import Report, frame_of
from napari_ssldiff.synthesis.request import Grid
from napari_ssldiff.synthesis.tiles import from_uint8

#: Optimiser steps and share of the schedule, as published.
STEPS, SPAN = 200, (0.95, 0.05)
#: Of the optimiser; it goes with :data:`FIRST`. The published 0.1 is for numbers of deviation 1.
RATE = 0.03
#: Share of a vector that is forgotten per step, over the rate. What does not matter to the model
#: would keep its first, random value, and turn the vector away from any that an encoder makes.
DECAY = 0.5
#: Deviation of the first vectors' numbers.
FIRST = 0.1
#: Windows per step.
BATCH = 4


@contextmanager
def _frozen(*modules: nn.Module) -> Iterator[None]:
    """Without gradients of weights, which would take as much memory as the weights."""
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        # Whoever calls may have switched gradients off.
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def explain(
    model: Denoiser,
    latents: torch.Tensor,
    *,
    steps: int = STEPS,
    batch: int = BATCH,
    seed: int = 0,
    start: torch.Tensor | None = None,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> torch.Tensor:
    """Unit vectors that make a model predict these latents.

    Parameters
    ----------
    model
        Whose denoiser and conditioning; their weights stay.
    latents
        ``(c, h, w)`` clean, of whole cells, at least a window.
    steps
        Of Adam; each asks the network for ``batch`` windows, forward and backward.
    seed
        Of the first vectors, the windows and the noise.
    start
        ``(rows, columns, width)`` to begin with; by default directions at random.
    check, progress
        Called before every step, and told ``(steps done, steps)``.

    Returns
    -------
    ``(rows, columns, width)`` float32 unit vectors on the CPU, row-major.

    Raises
    ------
    InputError
        If the latents are smaller than a window.
    """
    spec = model.spec
    cell, k = spec.window_latents // spec.tokens, spec.tokens
    rows, columns = latents.shape[1] // cell, latents.shape[2] // cell
    if min(rows, columns) < k:
        raise InputError(
            f"an image of {rows} × {columns} cells is smaller than a window of {k} × {k}"
        )
    chance = torch.Generator().manual_seed(seed)
    # Cells of one image have much in common. One vector is shared, so that it learns from all of
    # them, and each cell has its difference from that.
    shared = FIRST * torch.randn(spec.token_width, generator=chance)
    own = torch.zeros(rows, columns, spec.token_width)
    if start is not None:
        scaled = FIRST * spec.token_width**0.5 * F.normalize(start.float(), dim=2)
        shared = scaled.mean((0, 1))
        own = scaled - shared
    kept = cumulative_alphas(spec.schedule)
    times = torch.linspace(*SPAN, steps) * (len(kept) - 1)
    with _frozen(model.network, model.projection):
        clean = latents.clone().to(model.device)
        common, apart = (nn.Parameter(part.clone().to(model.device)) for part in (shared, own))
        optimiser = torch.optim.AdamW([common, apart], RATE, weight_decay=DECAY)
        for n, t in enumerate(times.round().int().tolist()):
            check()
            grid = F.normalize(common + apart, dim=2)
            places = list(
                zip(
                    _starts(rows, k, batch, chance), _starts(columns, k, batch, chance), strict=True
                )
            )
            tokens = torch.stack([grid[y : y + k, x : x + k].flatten(0, 1) for y, x in places])
            size = spec.window_latents
            x0 = torch.stack(
                [
                    clean[:, y * cell : y * cell + size, x * cell : x * cell + size]
                    for y, x in places
                ]
            )
            noise = torch.randn(x0.shape, generator=chance).to(x0)
            alpha, sigma = float(kept[t]) ** 0.5, (1 - float(kept[t])) ** 0.5
            made = model.predict_x0(
                alpha * x0 + sigma * noise, t, (alpha, sigma), model.condition(tokens)
            )
            loss = alpha * sigma**2 * (made - x0).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            progress(n + 1, steps)
        return F.normalize((common + apart).detach(), dim=2).cpu()


def _starts(cells: int, k: int, count: int, chance: torch.Generator) -> list[int]:
    """First cells of windows of ``k`` along a side; each cell is in as many as any other."""
    free = torch.randint(1 - k, cells, (count,), generator=chance)
    return free.clamp(0, cells - k).tolist()


def invert_region(
    scene: Scene,
    region: Region,
    bundle: ModelBundle,
    *,
    grid: Grid = "source",
    around: int = 0,
    grow: int = 0,
    steps: int = STEPS,
    batch: int = BATCH,
    seed: int = 0,
    progress: Report | None = None,
    cancel: CancelToken | None = None,
) -> EmbeddingField:
    """The field of a region, from its pixels and the model alone: no encoder is asked.

    It says how the model can paint such an image, which need not be how the encoder would describe
    it: a field for this model, and none for classifying.

    Parameters
    ----------
    grid, around, grow
        As in :class:`SynthesisRequest`.
    steps, batch, seed
        As for :func:`explain`.
    progress
        Told ``("inverting", steps done, steps)``.

    Raises
    ------
    Cancelled
        After a cancel.
    InputError
        If the region leaves the image, or the scene does not suit the model.
    """
    if not 1 <= steps <= 10000:
        raise InputError(f"an inversion takes 1 to 10000 steps, got {steps}")
    check: Callable[[], None] = cancel.hold if cancel else lambda: None
    encoder, cell = bundle.encoder.spec, bundle.spec.cell
    canvas = frame_of(scene, region, bundle, grid, around, grow).canvas
    rows, columns = -(-canvas.h // cell), -(-canvas.w // cell)
    whole = Box(canvas.y, canvas.x, rows * cell, columns * cell)

    def read(box: Box) -> torch.Tensor:
        check()
        return from_uint8(read_grid(scene, box.shift(whole.y, whole.x), encoder))

    latents = encode_parts(bundle.denoiser, read, whole.shape, check=check)
    vectors = explain(
        bundle.denoiser,
        latents,
        steps=steps,
        batch=batch,
        seed=seed,
        check=check,
        progress=lambda done, total: progress("inverting", done, total) if progress else None,
    )
    sy, sx = grid_scale(scene, encoder)
    return EmbeddingField(
        vectors=vectors.numpy(),
        origin=(whole.y * sy, whole.x * sx),
        cell=(cell * sy, cell * sx),
        encoder=encoder.id,
        resolution=encoder.resolution,
        unit=encoder.unit,
    )


def inversion_record(bundle: ModelBundle, steps: int, seed: int) -> str:
    """What a field's history says of its inversion, as JSON."""
    return json.dumps(
        {"op": "invert", "model": bundle.card.id, "model_hash": bundle.hash, "steps": steps,
         "seed": seed},
        sort_keys=True,
    )  # fmt: skip
