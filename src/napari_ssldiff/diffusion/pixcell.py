"""PixCell: a PixArt transformer that reads a grid of UNI2-h embeddings.

After Yellapragada et al., *PixCell: A generative foundation model for digital histopathology
images*, arXiv 2506.05127, on stock diffusers networks.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn

from napari_ssldiff.diffusion.conditioning import Condition


class PixCellProjection(nn.Module):
    """The embeddings of a window as the transformer's captions.

    The transformer holds the network that projects them, so that here they only get back their
    length and learn their places. The published model reads UNI2-h's vectors as they come, of some
    length each; a field holds unit vectors, so every token has the same length, ``scale``.

    Parameters
    ----------
    tokens
        Embeddings per side of a window.
    width
        Embedding length.
    scale
        Length that a unit vector is given.

    Attributes
    ----------
    null
        ``(tokens², width)``: what stands for no condition; it comes with the checkpoint.
    position
        ``(tokens², width)``, added to all tokens, those of the null condition too; zeros where a
        window has one token.
    """

    null: torch.Tensor
    position: torch.Tensor

    def __init__(self, tokens: int, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("null", torch.zeros(tokens * tokens, width))
        self.register_buffer("position", torch.zeros(tokens * tokens, width))

    def forward(self, embeddings: torch.Tensor) -> Condition:
        """``(n, tokens², width)`` unit vectors, row-major; zeros for the null condition."""
        absent = (embeddings == 0).all(2, keepdim=True).all(1, keepdim=True)
        tokens = torch.where(absent, self.null, embeddings * self.scale)
        return Condition(tokens + self.position)


class PixCellNetwork(nn.Module):
    """diffusers' PixArt transformer as the engine calls a network.

    The transformer also predicts variances, as improved DDPM does; no sampler here uses them, and
    the answer is cut to the channels of its input.

    Parameters
    ----------
    transformer
        Without conditions on size and aspect ratio.
    """

    def __init__(self, transformer: PixArtTransformer2DModel) -> None:
        super().__init__()
        self.transformer: Any = transformer  # the library's classes are not typed

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor
    ) -> Transformer2DModelOutput:
        """``(n, c, h, w)``, ``(n,)`` timesteps and ``(n, tokens², width)`` → ``.sample`` like x."""
        transformer: Any = self.transformer  # callable, which its types do not say
        answer = transformer(
            x,
            encoder_hidden_states=context,
            timestep=t,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        return Transformer2DModelOutput(sample=answer[:, : x.shape[1]])
