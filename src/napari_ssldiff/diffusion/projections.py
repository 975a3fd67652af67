"""Conditioning of published models, each as its authors trained it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from napari_ssldiff.diffusion.conditioning import Condition


class VectorProjection(nn.Module):
    """The conditioning of Graikos et al. (CVPR 2024): one vector of unit length, one ``Linear``.

    No condition is the zero vector, which has no direction: what is read then is the biases.

    Parameters
    ----------
    width
        Embedding length.
    context
        Cross-attention width.
    region
        Whether a second token follows: the model was begun with embeddings of regions, which were
        then always the zero vector, so of their ``Linear`` only the bias is left.
    """

    def __init__(self, width: int, context: int, region: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(width, context)
        self.region = nn.Parameter(torch.zeros(context)) if region else None

    def forward(self, embeddings: torch.Tensor) -> Condition:
        """``(n, 1, width)`` → ``(n, 1, context)``, with ``region`` ``(n, 2, context)``."""
        context = self.project(F.normalize(embeddings, dim=-1))
        if self.region is not None:
            second = self.region.to(context.dtype).expand(len(context), 1, -1)
            context = torch.cat([context, second], 1)
        return Condition(context)
