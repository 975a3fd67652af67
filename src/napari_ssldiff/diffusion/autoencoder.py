"""Pixels ↔ latents, on stock diffusers autoencoders."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Autoencoder(nn.Module):
    """A diffusers autoencoder behind one contract.

    Parameters
    ----------
    network
        ``AutoencoderTiny``, ``AutoencoderKL`` or ``VQModel``.
    patch
        Edge of the pixel patches that are folded into channels before the network (1 = none).
        Folding early is what makes a CPU fast enough.
    channels
        Latent channels.
    """

    def __init__(self, network: nn.Module, patch: int, channels: int) -> None:
        super().__init__()
        self.network, self.patch = network, patch
        # Latents leave this class with mean 0 and variance 1 per channel.
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        # Least-squares map latent → RGB in [-1, 1], for previews only.
        self.register_buffer("preview_weight", torch.zeros(3, channels))
        self.register_buffer("preview_bias", torch.zeros(3))

    def encode_raw(self, images: torch.Tensor) -> torch.Tensor:
        """``(n, 3, h, w)`` in [-1, 1] → the network's own latents."""
        if self.patch > 1:
            images = F.pixel_unshuffle(images, self.patch)
        out: Any = self.network.encode(images)  # type: ignore[operator]
        if hasattr(out, "latent_dist"):
            return out.latent_dist.mode()  # type: ignore[no-any-return]
        return out.latents  # type: ignore[no-any-return]

    def decode_raw(self, latents: torch.Tensor) -> torch.Tensor:
        """The network's own latents → ``(n, 3, h, w)``, not clamped."""
        images: torch.Tensor = self.network.decode(latents).sample  # type: ignore[operator]
        return F.pixel_shuffle(images, self.patch) if self.patch > 1 else images

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """``(n, 3, h, w)`` float in [-1, 1] → ``(n, c, h/f, w/f)`` standardised latents."""
        z = self.encode_raw(images)
        return (z - self.shift[:, None, None]) / self.scale[:, None, None]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Standardised latents → ``(n, 3, h, w)`` float in [-1, 1]."""
        z = latents * self.scale[:, None, None] + self.shift[:, None, None]
        return self.decode_raw(z).clamp(-1, 1)

    def preview(self, latents: torch.Tensor) -> torch.Tensor:
        """Standardised latents → ``(n, 3, h, w)`` in [-1, 1] at one pixel per latent."""
        rgb = torch.einsum("kc,nchw->nkhw", self.preview_weight, latents)
        return (rgb + self.preview_bias[:, None, None]).clamp(-1, 1)
