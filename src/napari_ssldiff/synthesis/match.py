"""Brightness and stain of a variation, made to agree with the source around it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from napari_ssldiff.errors import InputError

#: The least and the most contrast that a correction gives.
CONTRAST = 0.8, 1.25
#: Latents that a comparison takes at least.
ENOUGH = 32


@dataclass(frozen=True)
class Correction:
    """One line per channel: ``(3, 1, 1)`` ``scale`` and ``shift`` of pixels in [-1, 1]."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """``(3, h, w)`` corrected."""
        return pixels * self.scale + self.shift


def enough(ring: torch.Tensor) -> None:
    """Refuse a ring that is too small to compare.

    Parameters
    ----------
    ring
        ``(h, w)`` bool.

    Raises
    ------
    InputError
        If fewer than :data:`ENOUGH` latents are in it.
    """
    count = int(ring.sum())
    if count < ENOUGH:
        raise InputError(
            f"only {count} latents of the image lie around the region, too few to match colours: "
            "give a wider match, or a region away from the edge"
        )


def correction(made: torch.Tensor, real: torch.Tensor, ring: torch.Tensor) -> Correction:
    """What gives the synthetic ring the mean and, within bounds, the contrast of the real one.

    Both come from the same embeddings, so they show the same kind of matter: a difference is the
    model's. Per channel in RGB, the moments that Reinhard et al. 2001 match.

    Parameters
    ----------
    made, real
        ``(3, h, w)``: the same place, synthetic and real, both as the autoencoder shows them.
    ring
        ``(h, w)`` bool: where they are compared.

    Raises
    ------
    InputError
        As by :func:`enough`.
    """
    enough(ring)
    a, b = made[:, ring].double(), real[:, ring].double()
    scale = (b.std(1) / a.std(1).clamp_min(1e-6)).clamp(*CONTRAST)
    shift = b.mean(1) - scale * a.mean(1)
    return Correction(scale.float()[:, None, None], shift.float()[:, None, None])
