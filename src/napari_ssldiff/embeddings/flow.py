"""Embeddings of one stain as those of another, by a flow between them.

Yellapragada et al. (arXiv 2506.05127) train a network on pairs of cells, the same tissue in two
stains, to tell the straight way from one embedding to the other (rectified flow, Liu et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from napari_ssldiff.embeddings.field import EmbeddingField

#: Cells that go together, so that memory does not depend on the field.
ROWS = 1024
#: The network was trained on times 0 … 1 as if they were timesteps of a diffusion, 0 … 999; ways
#: begin and end a little inside.
TIMESTEPS, EDGE = 999.0, 1e-3

Progress = Callable[[float, float], None]


def _nothing(*_: float) -> None:
    """Tells nobody, stops nothing."""


class FlowNetwork(nn.Module):
    """A residual perceptron that tells where a vector moves at a time.

    Tensors have the names of PixCell's checkpoints.

    Parameters
    ----------
    width
        Length of an embedding.
    hidden
        Width of all layers inside; even.
    blocks
        Residual blocks.
    """

    def __init__(self, width: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.time_embed = nn.Sequential(
            nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )
        self.input_proj = nn.Linear(width, hidden)
        self.res_blocks = nn.ModuleList(_Block(hidden) for _ in range(blocks))
        self.out = nn.Sequential(
            nn.LayerNorm(hidden, eps=1e-6), nn.SiLU(), nn.Linear(hidden, width)
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """``(n, width)`` at timesteps ``(n,)`` float in 0 … 999 → velocities ``(n, width)``."""
        half = self.hidden // 2
        rates = torch.exp(torch.arange(half, device=x.device) * (-math.log(1e4) / half))
        angles = t[:, None].float() * rates
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], 1))
        h = self.input_proj(x)
        for block in self.res_blocks:
            h = block(h, time)
        velocity: torch.Tensor = self.out(h)
        return velocity


class _Block(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden))
        # The third is dropout while the network is trained.
        self.out_layers = nn.Sequential(
            nn.LayerNorm(hidden), nn.SiLU(), nn.Identity(), nn.Linear(hidden, hidden)
        )

    def forward(self, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        change: torch.Tensor = self.out_layers(self.in_layers(h) + self.emb_layers(time))
        return h + change


@torch.inference_mode()
def along_flow(
    network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    steps: int,
    step_done: Callable[[int], None] = _nothing,
) -> torch.Tensor:
    """Follow a flow from time 0 to time 1 by Euler's method.

    Parameters
    ----------
    network
        ``(x, t)`` to velocities, as :class:`FlowNetwork`.
    x
        ``(n, width)`` float32, where the ways begin.
    steps
        At least 1.
    step_done
        Called after every step with their number so far; what it raises ends the work.

    Returns
    -------
    ``(n, width)`` float32, where they end.
    """
    for done, time in enumerate(torch.linspace(EDGE, 1 - EDGE, steps).tolist(), 1):
        t = torch.full((len(x),), TIMESTEPS * time, device=x.device)
        x = x + network(x, t) / steps
        step_done(done)
    return x


@dataclass(frozen=True, eq=False)
class Translation:
    """What makes fields of one stain fields of another.

    Parameters
    ----------
    source, target
        The stains, in words.
    network
        With its weights, on its device.
    device
        Where it runs.
    steps
        Of Euler's method.
    scale
        Length that the network's training vectors had. Fields hold unit vectors: they get this
        length before the flow, and length 1 behind it.
    """

    source: str
    target: str
    network: nn.Module
    device: torch.device
    steps: int
    scale: float

    def __call__(
        self,
        field: EmbeddingField,
        progress: Progress = _nothing,
        check: Callable[[], None] = _nothing,
    ) -> EmbeddingField:
        """The field of the other stain, in the same frame; the encoder's space is one for both.

        Parameters
        ----------
        progress
            Told ``(cells done, cells)``, parts of cells where some steps are done.
        check
            Called after every step; raises to cancel.
        """
        flat, moved, total = field.vectors.reshape(-1, field.width), [], field.vectors[..., 0].size
        for first in range(0, total, ROWS):
            part = torch.from_numpy(flat[first : first + ROWS] * self.scale).to(self.device)

            def step_done(done: int, first: int = first, count: int = len(part)) -> None:
                progress(first + count * done / self.steps, total)
                check()

            moved.append(along_flow(self.network, part, self.steps, step_done).cpu().numpy())
        return replace(field, vectors=np.concatenate(moved).reshape(field.vectors.shape))
