"""From embedding tokens to what the denoiser reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from napari_ssldiff.diffusion.transfer import to_device


@dataclass(frozen=True)
class Condition:
    """A batch of projected conditions.

    Parameters
    ----------
    context
        ``(n, tokens, width)`` for cross-attention.
    spatial
        ``(n, channels, h, w)`` concatenated to the latents, or ``None``.
    """

    context: torch.Tensor
    spatial: torch.Tensor | None = None

    def __getitem__(self, index: slice | torch.Tensor) -> Condition:
        spatial = None if self.spatial is None else self.spatial[index]
        return Condition(self.context[index], spatial)

    def __len__(self) -> int:
        return len(self.context)

    def beside(self, control: torch.Tensor) -> Condition:
        """The batch with ``(n, channels, h, w)`` of what is to be shown to the network as well."""
        whole = control if self.spatial is None else torch.cat([self.spatial, control], 1)
        return Condition(self.context, whole)

    def to(self, device: torch.device) -> Condition:
        """The batch on a device."""
        spatial = None if self.spatial is None else to_device(self.spatial, device)
        return Condition(to_device(self.context, device), spatial)


def concatenate(parts: list[Condition]) -> Condition:
    """One batch from several."""
    spatial = [p.spatial for p in parts if p.spatial is not None]
    return Condition(torch.cat([p.context for p in parts]), torch.cat(spatial) if spatial else None)


class Projects(Protocol):
    """The contract of a model's conditioning: an ``nn.Module`` that is called like this."""

    def __call__(self, embeddings: torch.Tensor) -> Condition:
        """``(n, tokens², width)`` unit vectors, row-major → what the network reads.

        A window whose vectors are all zero stands for no condition; what the network reads then is
        the model's own rule.
        """
        ...


class TokenProjection(nn.Module):
    """Projects a window's ``k × k`` embeddings.

    The paper's rule (method of Graikos et al. 2024, one ``Linear`` per unit vector, the null
    condition being the zero vector and hence the bias) with two additions: a learned position
    per token, and a map of projected tokens laid over the latents, which a small network
    follows far sooner than cross-attention.

    Parameters
    ----------
    tokens
        Tokens per side of a window.
    width
        Embedding length.
    context
        Cross-attention width.
    spatial
        Channels of the map; 0 for none.
    latents
        Edge of a window in latents.
    """

    def __init__(self, tokens: int, width: int, context: int, spatial: int, latents: int) -> None:
        super().__init__()
        self.tokens, self.latents = tokens, latents
        self.project = nn.Linear(width, context)
        self.position = nn.Parameter(torch.zeros(tokens * tokens, context))
        self.spatial = nn.Linear(width, spatial) if spatial else None
        nn.init.normal_(self.position, std=0.02)

    def forward(self, embeddings: torch.Tensor) -> Condition:
        """``(n, tokens², width)`` unit vectors, row-major; zeros for the null condition."""
        # Unit vectors have entries of about 1/sqrt(width); bring them to unit variance.
        scaled = embeddings * embeddings.shape[-1] ** 0.5
        context = self.project(scaled) + self.position
        if self.spatial is None:
            return Condition(context)
        k = self.tokens
        grid = self.spatial(scaled).transpose(1, 2).unflatten(2, (k, k))
        size = (self.latents, self.latents)
        return Condition(context, F.interpolate(grid, size, mode="bilinear", align_corners=False))
