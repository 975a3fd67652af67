"""Latents ↔ pixels of any canvas, by windows that fit in memory and blend where they overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.presets import Preset, window_weights
from napari_ssldiff.geometry import Box, centre_out, window_starts

#: Edge of a decoding window in latents. GroupNorm makes an autoencoder's tone depend on what it
#: sees at once, so windows are large and overlap by a quarter.
WINDOW = 128
OVERLAP = 32


def _windows(shape: tuple[int, int], window: int, stride: int) -> list[Box]:
    h, w = min(window, shape[0]), min(window, shape[1])
    return [
        Box(y, x, h, w)
        for y in window_starts(shape[0], h, min(stride, h))
        for x in window_starts(shape[1], w, min(stride, w))
    ]


def _weight(kind: str, box: Box) -> torch.Tensor:
    full = window_weights(kind, max(box.shape))
    if box.h == box.w:
        return full
    # Separable kinds only differ by their lines; take them from squares of either size.
    return (
        window_weights(kind, box.h).sum(1, keepdim=True)
        * window_weights(kind, box.w).sum(0, keepdim=True)
    ) / full.sum()


@torch.inference_mode()
def encode(
    model: Denoiser, image: torch.Tensor, *, check: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """``(3, h, w)`` float in [-1, 1], sides multiples of the factor → ``(c, h/f, w/f)``.

    ``check`` is called before every window and raises to cancel.
    """
    f = model.spec.latent_factor
    shape = image.shape[1] // f, image.shape[2] // f
    latents = torch.zeros(model.spec.latent_channels, *shape)
    total = torch.zeros(shape)
    for box in _windows(shape, WINDOW, WINDOW - OVERLAP):
        check()
        part = image[:, box.y * f : box.y1 * f, box.x * f : box.x1 * f][None].to(model.device)
        weight = _weight("cos2", box)
        latents[(slice(None), *box.slices)] += weight * model.autoencoder.encode(part)[0].cpu()
        total[box.slices] += weight
    return latents / total


@torch.inference_mode()
def decode(
    model: Denoiser,
    latents: torch.Tensor,
    preset: Preset,
    *,
    centre: tuple[float, float],
    check: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Box, torch.Tensor, list[Box]]]:
    """Decode a canvas centre out.

    Parameters
    ----------
    latents
        ``(c, h, w)``.
    centre
        ``(y, x)`` in latents; windows nearest to it come first.

    Yields
    ------
    After each window: its box in canvas pixels, the ``(3, H, W)`` canvas in [-1, 1] so far
    (one buffer, final wherever no pending window reaches), and the pending boxes in pixels.
    """
    f = model.spec.latent_factor
    shape = latents.shape[1], latents.shape[2]
    if preset.decode == "gaussian":
        size = model.spec.window_latents
        boxes, kind = _windows(shape, size, max(1, round(size * preset.stride))), "gaussian"
    else:
        boxes, kind = _windows(shape, WINDOW, WINDOW - OVERLAP), "cos2"
    sums = torch.zeros(3, shape[0] * f, shape[1] * f)
    total = torch.zeros(shape[0] * f, shape[1] * f)
    out = torch.zeros_like(sums)
    ordered = centre_out(boxes, centre)
    pixels = [Box(b.y * f, b.x * f, b.h * f, b.w * f) for b in ordered]
    weights: dict[tuple[int, int], torch.Tensor] = {}
    for n, (box, place) in enumerate(zip(ordered, pixels, strict=True)):
        check()
        made = model.autoencoder.decode(latents[(slice(None), *box.slices)][None])[0].cpu()
        weight = weights.setdefault(place.shape, _weight(kind, place))
        at = (slice(None), *place.slices)
        sums[at] += weight * made
        total[place.slices] += weight
        out[at] = sums[at] / total[place.slices]
        yield place, out, pixels[n + 1 :]
