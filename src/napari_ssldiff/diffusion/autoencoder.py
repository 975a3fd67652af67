"""Pixels ↔ latents, on stock diffusers autoencoders."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

#: Latents that are put around an image before it is decoded, unless a model says otherwise.
BORDER = 4


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
    linear
        Pixels per latent of a linear path beside the network, or 0 for none: a strided
        convolution adds to the latents, its transpose to the pixels. Started at the principal
        components of image patches it gives a small network all its latent channels at once.
    border
        Latents of its own mirror image that are put around what is decoded. 0 is what published
        pipelines do, and shows lines along the border of images.
    """

    shift: torch.Tensor
    scale: torch.Tensor
    preview_weight: torch.Tensor
    preview_bias: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        patch: int,
        channels: int,
        linear: int = 0,
        border: int = BORDER,
    ) -> None:
        super().__init__()
        self.network, self.patch, self.border = network, patch, border
        self.analysis = nn.Conv2d(3, channels, linear, linear) if linear else None
        self.synthesis = nn.ConvTranspose2d(channels, 3, linear, linear) if linear else None
        # Latents leave this class with mean 0 and a standard deviation of about 1 per channel.
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        # Least-squares map latent → RGB in [-1, 1], for previews only.
        self.register_buffer("preview_weight", torch.zeros(3, channels))
        self.register_buffer("preview_bias", torch.zeros(3))

    def encode_raw(self, images: torch.Tensor) -> torch.Tensor:
        """``(n, 3, h, w)`` in [-1, 1] → the network's own latents."""
        folded = F.pixel_unshuffle(images, self.patch) if self.patch > 1 else images
        out: Any = self.network.encode(folded)  # type: ignore[operator]
        z: torch.Tensor
        if hasattr(out, "latent_dist"):
            z = out.latent_dist.mode()
        else:  # VQModel and AutoencoderTiny say "latents", AutoencoderDC says "latent".
            z = out.latent if hasattr(out, "latent") else out.latents
        return z if self.analysis is None else z + self.analysis(images)

    def decode_raw(self, latents: torch.Tensor) -> torch.Tensor:
        """The network's own latents → ``(n, 3, h, w)``, not clamped."""
        images: torch.Tensor = self.network.decode(latents).sample  # type: ignore[operator]
        if self.patch > 1:
            images = F.pixel_shuffle(images, self.patch)
        return images if self.synthesis is None else images + self.synthesis(latents)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """``(n, 3, h, w)`` float in [-1, 1] → ``(n, c, h/f, w/f)`` scaled latents."""
        z = self.encode_raw(images)
        return (z - self.shift[:, None, None]) / self.scale[:, None, None]

    def decode(self, latents: torch.Tensor, clamp: bool = True) -> torch.Tensor:
        """Scaled latents → ``(n, 3, h, w)`` float in [-1, 1], or beyond it without ``clamp``.

        The border is decoded with its mirror image around it: a network that pads with zeros draws
        lines along it.
        """
        (h, w), b = latents.shape[2:], self.border
        mode = "reflect" if min(h, w) > b else "replicate"
        z = F.pad(latents, (b,) * 4, mode=mode) if b else latents
        z = z * self.scale[:, None, None] + self.shift[:, None, None]
        images = self.decode_raw(z)
        f = images.shape[2] // z.shape[2]
        inner = images[:, :, b * f : (b + h) * f, b * f : (b + w) * f]
        return inner.clamp(-1, 1) if clamp else inner

    def preview(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents → ``(n, 3, h, w)`` in [-1, 1] at one pixel per latent."""
        rgb = torch.einsum("kc,nchw->nkhw", self.preview_weight, latents)
        return (rgb + self.preview_bias[:, None, None]).clamp(-1, 1)
