"""ZoomLDM: one network for all magnifications, told which one by its conditioning.

After Yellapragada et al., *ZoomLDM: Latent Diffusion Model for Multi-scale Image Generation*,
CVPR 2025, and its published configuration.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from napari_ssldiff.diffusion.conditioning import Condition

#: Embeddings that the condition transformer has room for.
LENGTH = 64


class ZoomProjection(nn.Module):
    """A grid of embeddings and a magnification, summarised by a transformer.

    Every embedding is brought to mean 0 and deviation 1 over its channels, so that its length does
    not matter, and projected. The grid, row-major, stands in the middle of 64 tokens, a learned pad
    token before and after it (a single one stands at index 32), and the magnification's token in
    front. The null condition is zeros *after* the transformer.

    Parameters
    ----------
    tokens
        Embeddings per side of a window, 8 at most.
    width
        Embedding length.
    context
        Width of the transformer and of what the denoiser reads.
    magnification
        Index of the magnification, below ``levels``.
    levels
        Magnifications that the model knows.
    layers, heads, hidden
        Of the transformer (pre-norm, GELU), ``hidden`` being the width of its perceptrons.

    Raises
    ------
    ValueError
        If the grid is too large or there is no such magnification.
    """

    def __init__(
        self,
        tokens: int,
        width: int,
        context: int,
        magnification: int,
        levels: int,
        layers: int = 12,
        heads: int = 8,
        hidden: int = 2048,
    ) -> None:
        super().__init__()
        if not 1 <= tokens**2 <= LENGTH:
            raise ValueError(f"{tokens} × {tokens} embeddings are more than the {LENGTH} it reads")
        if not 0 <= magnification < levels:
            raise ValueError(f"magnification {magnification} is not one of {levels}")
        self.magnification = magnification
        self.reduce = nn.Linear(width, context)
        self.magnifications = nn.Embedding(levels, context)
        self.pad = nn.Parameter(torch.zeros(context))
        self.position = nn.Parameter(torch.zeros(1 + LENGTH, context))
        layer = nn.TransformerEncoderLayer(
            context, heads, hidden, 0.0, F.gelu, 1e-6, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(context, eps=1e-6), enable_nested_tensor=False
        )
        self.final = nn.Linear(context, context)
        self.norm = nn.LayerNorm(context)
        nn.init.normal_(self.pad)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, embeddings: torch.Tensor) -> Condition:
        """``(n, tokens², width)`` unit vectors, row-major; zeros for the null condition."""
        n, count, _ = embeddings.shape
        absent = (embeddings == 0).all(2, keepdim=True).all(1, keepdim=True)
        mean, std = embeddings.mean(2, keepdim=True), embeddings.std(2, keepdim=True)
        tokens = self.reduce((embeddings - mean) / (std + 1e-8))
        before = LENGTH // 2 - count // 2
        pad = self.pad.expand(n, LENGTH - count, -1)
        level = self.magnifications.weight[self.magnification].expand(n, 1, -1)
        line = torch.cat([level, pad[:, :before], tokens, pad[:, before:]], 1)
        context = self.norm(self.final(self.encoder(line + self.position)))
        return Condition(torch.where(absent, torch.zeros_like(context), context))
