"""Augmentations on whole batches: geometry, stain, light.

Numbers are drawn on the CPU, the work is done where the images are.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from skimage.color import hed_from_rgb, rgb_from_hed

# skimage's stain vectors are Ruifrok and Johnston's (2001).
_RGB_FROM_HED = torch.tensor(np.asarray(rgb_from_hed), dtype=torch.float32)
_HED_FROM_RGB = torch.tensor(np.asarray(hed_from_rgb), dtype=torch.float32)


def uniform(rng: np.random.Generator, n: int, low: float, high: float) -> torch.Tensor:
    """``(n,)`` float32 in [low, high)."""
    return torch.from_numpy(rng.uniform(low, high, n).astype(np.float32))


def jitter_stain(images: torch.Tensor, amount: float, rng: np.random.Generator) -> torch.Tensor:
    """Scale haematoxylin, eosin and residual densities by up to ±``amount`` (HED jitter,
    Tellez et al. 2018).

    Parameters
    ----------
    images
        ``(n, 3, h, w)`` float32 in [0, 1].
    """
    n = len(images)
    density = -torch.log(images.clamp(1 / 255, 1))
    factors = torch.stack([1 + uniform(rng, n, -amount, amount) for _ in range(3)], dim=1)
    # rgb-density → stains, scaled → rgb-density, as one 3×3 matrix per image.
    mix = torch.einsum("ij,nj,jk->nik", _HED_FROM_RGB, factors, _RGB_FROM_HED)
    mix = mix.to(images.device)
    return torch.exp(-torch.einsum("nchw,nck->nkhw", density, mix).clamp_min(0))


def jitter_density(images: torch.Tensor, amount: float, rng: np.random.Generator) -> torch.Tensor:
    """All optical densities of ``(n, 3, h, w)`` in [0, 1] times one factor per image, between
    ``exp(-amount)`` and ``exp(amount)``: sections are cut to another thickness, and stained for
    longer, from one laboratory to the next.
    """
    factor = torch.exp(uniform(rng, len(images), -amount, amount))[:, None, None, None]
    return images.clamp(1 / 255, 1) ** factor.to(images.device)


def jitter_light(images: torch.Tensor, amount: float, rng: np.random.Generator) -> torch.Tensor:
    """Brightness, contrast, gamma and white balance of ``(n, 3, h, w)`` in [0, 1]."""
    n = len(images)

    def factor(scale: float, channels: int = 1) -> torch.Tensor:
        values = [1 + uniform(rng, n, -amount * scale, amount * scale) for _ in range(channels)]
        return torch.stack(values, dim=1)[:, :, None, None].to(images.device)

    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    out = ((images - mean) * factor(1) + mean * factor(1)) * factor(0.25, 3)
    return out.clamp(1e-3, 1) ** factor(0.75)


def jitter_season(images: torch.Tensor, amount: float, rng: np.random.Generator) -> torch.Tensor:
    """Dry or freshen the vegetation of ``(n, 3, h, w)`` in [0, 1].

    Pixels are moved along green → straw by up to ±``amount`` of their own brightness, in
    proportion to their excess green index 2g - r - b of chromatic coordinates (Woebbecke et al.
    1995); what is not green stays.
    """
    total = images.sum(1, keepdim=True).clamp_min(1e-3)
    chroma = images / total
    excess = 2 * chroma[:, 1:2] - chroma[:, 0:1] - chroma[:, 2:3]
    amounts = uniform(rng, len(images), -amount, amount)[:, None, None, None]
    share = (excess / 0.1).clamp(0, 1) * amounts.to(images.device)
    straw = torch.tensor([1.0, -0.25, -0.1], device=images.device)[:, None, None]
    return (images + share * straw * total / 3).clamp(0, 1)


def symmetry(images: torch.Tensor, k: int) -> torch.Tensor:
    """The ``k``-th (0…7) symmetry of the square: ``k % 4`` quarter turns, flipped from 4 up."""
    turned = torch.rot90(images, k % 4, dims=(-2, -1))
    return turned.flip(-1) if k >= 4 else turned


def turn(images: torch.Tensor, degrees: float) -> torch.Tensor:
    """Rotate ``(n, c, h, w)`` float images; what is left is the largest square inside.

    Bicubic, so that little of the finest detail goes. For content that has no up and no north.
    """
    angle = np.deg2rad(degrees)
    height, width = images.shape[-2:]
    # A square of edge s, turned by the angle, needs s·(|cos| + |sin|) either way.
    edge = int(min(height, width) / (abs(np.cos(angle)) + abs(np.sin(angle))))
    x = (torch.arange(edge, device=images.device) - (edge - 1) / 2).float()
    y, x = torch.meshgrid(x, x, indexing="ij")
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    grid = torch.stack([(cos * x - sin * y) * 2 / width, (sin * x + cos * y) * 2 / height], -1)
    grid = grid.expand(len(images), -1, -1, -1)
    return F.grid_sample(images, grid, "bicubic", "border", align_corners=False)


def shrink(images: torch.Tensor, factor: float) -> torch.Tensor:
    """``(n, c, h, w)`` at ``factor`` ≤ 1 of their size, without aliasing: finer structure."""
    size = [max(1, round(edge * factor)) for edge in images.shape[-2:]]
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)


def view(
    crops: torch.Tensor,
    size: int,
    rng: np.random.Generator,
    *,
    shift: float = 0.25,
    zoom: float = 0.2,
    light: float = 0.1,
    stain: float = 0.0,
    season: float = 0.0,
) -> torch.Tensor:
    """One augmented view of each crop for self-supervised learning.

    Parameters
    ----------
    crops
        ``(n, 3, s, s)`` uint8, ``s`` > ``size``: the surplus is room to move in.
    size
        Edge of the view in pixels.
    shift
        Largest displacement, as a share of ``size``.
    zoom
        The scale is drawn between ``1 - zoom`` and ``1 + zoom``.

    Returns
    -------
    ``(n, 3, size, size)`` float32 in [0, 1].
    """
    n, s = len(crops), crops.shape[-1]
    angle = torch.from_numpy(rng.integers(0, 4, n).astype(np.float32)) * (np.pi / 2)
    angle = angle + uniform(rng, n, -0.2, 0.2)
    flip = torch.from_numpy(rng.integers(0, 2, n).astype(np.float32)) * 2 - 1
    scale = uniform(rng, n, 1 - zoom, 1 + zoom) * size / s
    room = shift * size / s * 2
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack(
        [
            torch.stack([cos * flip, -sin, uniform(rng, n, -room, room)], 1),
            torch.stack([sin * flip, cos, uniform(rng, n, -room, room)], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta.to(crops.device), [n, 3, size, size], align_corners=False)
    images = F.grid_sample(
        crops.float() / 255, grid, padding_mode="reflection", align_corners=False
    )
    if stain:
        images = jitter_stain(images, stain, rng)
    if season:
        images = jitter_season(images, season, rng)
    return jitter_light(images, light, rng) if light else images.clamp(0, 1)
