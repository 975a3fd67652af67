"""From a field to what the engine asks: the tokens of any window."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from napari_ssldiff.diffusion.bundle import ModelSpec
from napari_ssldiff.embeddings.endless import Places
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.geometry import Box


def window_tokens(
    places: EmbeddingField | Places, spec: ModelSpec, scale: tuple[float, float] = (1.0, 1.0)
) -> Callable[[Box], torch.Tensor]:
    """A function from a window on the latent lattice to its ``(k², d)`` unit vectors, row-major.

    Parameters
    ----------
    scale
        Pixels of the field per model pixel, ``(y, x)``.
    """
    f, centres = spec.latent_factor, (np.arange(spec.tokens) + 0.5) * spec.cell

    def tokens(window: Box) -> torch.Tensor:
        y = (window.y * f + centres)[:, None] * scale[0]
        x = (window.x * f + centres)[None, :] * scale[1]
        return torch.from_numpy(places.sample(y, x).reshape(spec.tokens**2, -1))

    return tokens
