"""A coarse picture that a canvas keeps to.

At every step the fused x0 of the whole canvas is decoded, made as coarse as the guide, and what is
missing there is put back:

    x0' = x0 + E(p + w·U(g - D(p))) - E(p),   p = decoder(x0),   w = strength · sigma

with the guide g, the encoder E, D the mean over a guide's pixel and U bilinear interpolation.
That is the low-pass correction of ILVR (Choi et al., *ILVR: Conditioning method for denoising
diffusion probabilistic models*, ICCV 2021), taken on the prediction and in pixels, since a guide's
pixel may be no larger than a latent; the weight falls with the noise level sigma (1 at pure noise,
0 at the end), so that what is coarse is settled early and detail stays the model's. ZoomLDM (CVPR
2025) goes from a picture of low magnification to one of high in the same spirit, with Newton steps
of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from napari_ssldiff.diffusion.blend import blend, cover, scaled
from napari_ssldiff.diffusion.calls import Calls
from napari_ssldiff.geometry import Box

#: Edge in latents, and overlap, of the windows that are decoded and encoded at once.
WINDOW, OVERLAP = 128, 32


@dataclass(frozen=True)
class Guide:
    """What a canvas is to look like from afar.

    Parameters
    ----------
    pixels
        ``(3, h, w)`` float in [-1, 1]: the whole canvas, coarser.
    strength
        Share of what is missing that is put back, at pure noise; 0 guides nothing.
    """

    pixels: torch.Tensor
    strength: float = 1.0


def coarse(pixels: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """``(3, H, W)`` → ``(3, h, w)``: the mean over each of ``h × w`` equal parts."""
    return F.adaptive_avg_pool2d(pixels[None], shape)[0]


def steer(calls: Calls, x0: torch.Tensor, guide: Guide, weight: float) -> torch.Tensor:
    """A canvas's prediction ``(c, h, w)``, nearer to its guide.

    Parameters
    ----------
    weight
        w of the formula above, in [0, 1].
    """
    factor, shape = calls.model.spec.latent_factor, (x0.shape[1], x0.shape[2])
    boxes = cover(shape, WINDOW, WINDOW - OVERLAP)
    pictures = [calls.decode(x0[(slice(None), *box.slices)]) for box in boxes]
    whole = blend(zip(boxes, pictures, strict=True), shape, factor, "cos2")
    wanted = guide.pixels.to(whole)
    size = (wanted.shape[1], wanted.shape[2])
    missing = weight * (wanted - coarse(whole, size))
    change = F.interpolate(missing[None], whole.shape[1:], mode="bilinear", align_corners=False)[0]

    def moved() -> Iterator[tuple[Box, torch.Tensor]]:
        for box in boxes:
            place = (slice(None), *scaled(box, factor).slices)
            before = whole[place]
            after = (before + change[place]).clamp(-1, 1)
            yield box, calls.encode(after) - calls.encode(before)

    return x0 + blend(moved(), shape, 1, "cos2").to(x0)
