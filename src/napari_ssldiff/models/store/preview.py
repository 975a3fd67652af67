"""The map from latents to colours that previews take, for autoencoders that came without one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from napari_ssldiff.diffusion.autoencoder import Autoencoder

_PICTURES, _EDGE = 6, 192


def pictures(count: int = _PICTURES, edge: int = _EDGE, seed: int = 0) -> torch.Tensor:
    """``(count, 3, edge, edge)`` float in [-1, 1]: coloured noise with the spectrum of photographs.

    Amplitudes fall with frequency, colours vary about a mean of their own, as tissue and ground
    do. No picture has to come with the package, and the map is linear.
    """
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(edge)
    radius = (frequency[:, None] ** 2 + frequency[None] ** 2).sqrt().clamp_min(1 / edge)
    noise = torch.randn(count, 3, edge, edge, generator=generator)
    waves = torch.fft.ifft2(torch.fft.fft2(noise) / radius**1.2).real
    waves = waves / waves.std((2, 3), keepdim=True)
    mixing = torch.eye(3) * 0.4 + torch.randn(count, 3, 3, generator=generator) * 0.3
    mean = torch.rand(count, 3, 1, 1, generator=generator) * 1.2 - 0.6
    coloured: torch.Tensor = torch.einsum("nij,njhw->nihw", mixing, waves) * 0.35 + mean
    return coloured.clamp(-1, 1)


@torch.inference_mode()
def fit_preview(
    autoencoder: Autoencoder, factor: int, edge: int = _EDGE
) -> Mapping[str, torch.Tensor]:
    """Least squares from scaled latents to mean colours.

    Parameters
    ----------
    autoencoder
        With its weights.
    factor
        Pixels per latent.
    edge
        Of the pictures that are encoded, in pixels: a multiple of ``factor``.

    Returns
    -------
    ``preview_weight`` ``(3, c)`` and ``preview_bias`` ``(3,)``.
    """
    images = pictures(edge=edge)
    latents = torch.cat([autoencoder.encode(one[None]) for one in images])
    colours = F.avg_pool2d(images, factor)
    x = latents.permute(0, 2, 3, 1).flatten(0, 2).double()
    y = colours.permute(0, 2, 3, 1).flatten(0, 2).double()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    # A little of ridge: latents of untrained or odd networks may hang together.
    gram = x.T @ x / len(x)
    gram += 1e-6 * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(gram), dtype=x.dtype)
    solved = torch.linalg.solve(gram, x.T @ y / len(x)).float()
    return {"preview_weight": solved[:-1].T.contiguous(), "preview_bias": solved[-1].contiguous()}
