"""From a meaning to a field: a diffusion model over grids of unit embeddings.

A grid of embeddings is treated as the pixel model treats a grid of latents: one cell is one latent,
windows of cells advance together on one canvas (:mod:`napari_ssldiff.diffusion.canvas`), and every
cell has a condition of its own, so that a border between two meanings is a border in the field.
x0-prediction; samples return to the unit sphere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec
from napari_ssldiff.diffusion.canvas import CanvasTask, sample
from napari_ssldiff.diffusion.conditioning import TokenProjection
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.embeddings.field import Vectors, normalise
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box

#: As pixels in bulk, but for two things. Windows lie a quarter apart: they are a few cells wide,
#: and what less overlap tells of the neighbour leaves seams. The prior says which steps are guided.
FIELDS = replace(PRESETS["bulk"], name="fields", stride=0.25, guidance_interval=None)


#: Guidance, at least, where something is to be kept away from: at 1 that is not heard.
AWAY = 1.5


class Axes(nn.Module):
    """Unit vectors ↔ what the network denoises: principal axes, the small ones drawn out.

    ``z = ((v - mean) @ axes) / deviation ** sharpness``: at sharpness 1 every axis has unit
    variance, at 0 they keep their sizes. In between a network meets the large ones first.

    Parameters
    ----------
    width, channels
        Of vectors and of z.
    """

    mean: torch.Tensor
    axes: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("axes", torch.eye(width)[:, :channels].clone())
        self.register_buffer("scale", torch.ones(channels))

    @torch.no_grad()
    def fit(self, vectors: torch.Tensor, sharpness: float) -> None:
        """Take mean, axes and scale from ``(n, width)`` vectors; the largest gets variance 1."""
        self.mean.copy_(vectors.mean(0))
        _, s, axes = torch.linalg.svd(vectors - self.mean, full_matrices=False)
        deviation = s[: len(self.scale)] / max(1, len(vectors) - 1) ** 0.5
        self.axes.copy_(axes[: len(self.scale)].T)
        relative = (deviation / deviation[0]).clamp_min(1e-3)
        self.scale.copy_(deviation[0] * relative**sharpness)

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """``(…, width)`` → ``(…, channels)``."""
        return ((vectors - self.mean) @ self.axes) / self.scale

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """``(…, channels)`` → ``(…, width)``, not yet on the sphere."""
        return (z * self.scale) @ self.axes.T + self.mean


class PriorNetwork(nn.Module):
    """The trained parts: network, projection of conditions, axes.

    Parameters
    ----------
    config
        ``window`` (cells), ``width``, ``channels``, ``condition`` (length of condition vectors),
        ``context``, ``spatial``, ``network`` (of diffusers' ``UNet2DConditionModel``).
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        window, channels = int(config["window"]), int(config["channels"])
        kind: Any = UNet2DConditionModel
        self.unet = kind(
            sample_size=window,
            in_channels=channels + int(config["spatial"]),
            out_channels=channels,
            cross_attention_dim=int(config["context"]),
            **config["network"],
        )
        self.projection = TokenProjection(
            window, int(config["condition"]), int(config["context"]), int(config["spatial"]), window
        )
        self.axes = Axes(int(config["width"]), channels)


@dataclass(frozen=True)
class PriorFacts:
    """Whose fields a prior makes.

    Parameters
    ----------
    id
        Of the prior.
    encoder
        Identifier of the encoder of the fields, its weights included.
    resolution, unit, cell
        Of the encoder's pixels, and the edge of a cell in them.
    guidance
        Default scale.
    guidance_interval
        The steps that are guided without a negative, as in
        :class:`~napari_ssldiff.diffusion.task.CanvasTask`.
    """

    id: str
    encoder: str
    resolution: float
    unit: str
    cell: int
    guidance: float
    guidance_interval: tuple[float, float] | None = None

    def scale(self, guidance: float | None, away: bool) -> float:
        """The guidance scale of a field: ``guidance`` if given, or else the prior's own.

        Parameters
        ----------
        away
            There is a negative. Only guidance can lead away from it, so without a scale given it
            is at least :data:`AWAY`.
        """
        if guidance is not None:
            return guidance
        return max(self.guidance, AWAY) if away else self.guidance

    def interval(self, away: bool) -> tuple[float, float] | None:
        """The steps that are guided. Noisy ones decide the layout; to keep away takes all."""
        return None if away else self.guidance_interval


class Prior:
    """Samples fields.

    Parameters
    ----------
    facts
        Whose.
    config
        As for :class:`PriorNetwork`, and ``scheduler``.
    network
        With its weights.
    device
        Where it runs.
    """

    def __init__(
        self,
        facts: PriorFacts,
        config: Mapping[str, Any],
        network: PriorNetwork,
        device: torch.device,
    ) -> None:
        self.facts, self.width = facts, int(config["width"])
        self.condition_width = int(config["condition"])
        spec = ModelSpec(
            window=int(config["window"]),
            tokens=int(config["window"]),
            token_width=self.condition_width,
            latent_channels=int(config["channels"]),
            latent_factor=1,
            prediction=config["prediction"],
            schedule=dict(config["scheduler"]),
        )
        self.axes = network.axes.eval()
        self._model = Denoiser(
            spec, self.axes, network.unet, network.projection, device, precision="fp32"  # type: ignore[arg-type]
        )  # fmt: skip

    @property
    def denoiser(self) -> Denoiser:
        """What the engine samples: a cell is a latent of factor 1, the axes decode it."""
        return self._model

    @property
    def window(self) -> int:
        """Cells along a side of what its network sees at once."""
        return self._model.spec.window

    def sample(
        self,
        condition: ArrayLike,
        shape: tuple[int, int],
        seed: int,
        guidance: float | None = None,
        *,
        negative: ArrayLike | None = None,
        guidance_interval: tuple[float, float] | None = None,
        steps: int = 20,
        check: Callable[[], None] = lambda: None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Vectors:
        """A grid of embeddings.

        Parameters
        ----------
        condition
            ``(d,)`` unit vector of a text or an image in the prior's space, or
            ``(rows, columns, d)``: one for every cell.
        shape
            ``(rows, columns)``.
        seed
            The same seed gives the same field.
        guidance
            Classifier-free guidance scale; ``None``: as :meth:`PriorFacts.scale` has it.
        negative
            ``(d,)``: what to keep away from, in place of no condition at all. Not heard at
            guidance 1.
        guidance_interval
            The steps that are guided; ``None``: as :meth:`PriorFacts.interval` has it.
        steps
            Of DPM-Solver++ 2M.
        check
            Called before every network call; raises to cancel.
        progress
            Told the steps done and all of them.

        Returns
        -------
        ``(rows, columns, width)`` float32 unit vectors.

        Raises
        ------
        InputError
            If the condition is of another space, or the shape has nothing in it.
        """
        if min(shape) < 1:
            raise InputError(f"a field has at least one cell, not {shape[1]} × {shape[0]}")
        window = self.window
        canvas = Box(0, 0, max(shape[0], window), max(shape[1], window))
        grid = self._grid(condition, canvas.shape)

        def tokens(place: Box) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(grid[place.slices])).flatten(0, 1)

        against = None
        if negative is not None:
            vector = self._grid(negative, (window, window))
            against = torch.from_numpy(vector).flatten(0, 1)
        task = CanvasTask(
            box=canvas,
            tokens=tokens,
            steps=steps,
            guidance=self.facts.scale(guidance, negative is not None),
            strength=1.0,
            seed=seed,
            negative=against,
            guidance_interval=guidance_interval or self.facts.interval(negative is not None),
        )
        made = sample(
            self._model,
            task,
            FIELDS,
            check=check,
            on_step=lambda i, _: progress(i + 1, steps),
        )
        cells = made[:, : shape[0], : shape[1]].permute(1, 2, 0)
        with torch.inference_mode():
            return normalise(self.axes.decode(cells).cpu().numpy())

    def _grid(self, condition: ArrayLike, shape: tuple[int, int]) -> Vectors:
        """A condition for every cell of a canvas; beyond those given the last ones hold."""
        c = np.asarray(condition, np.float32)
        if c.ndim not in (1, 3) or c.shape[-1] != self.condition_width:
            raise InputError(
                f"{self.facts.id} takes conditions of {self.condition_width} numbers, got an array "
                f"of shape {c.shape}: use the text encoder that it was trained with"
            )
        if c.ndim == 1:
            return np.broadcast_to(c, (*shape, len(c))).copy()
        pad = [(0, max(0, n - m)) for n, m in zip(shape, c.shape[:2], strict=True)]
        return np.pad(c, (*pad, (0, 0)), mode="edge")[: shape[0], : shape[1]]
