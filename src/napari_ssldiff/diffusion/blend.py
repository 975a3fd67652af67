"""Windows that cover a canvas and blend where they overlap."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from napari_ssldiff.diffusion.memory import twice
from napari_ssldiff.diffusion.presets import window_weights
from napari_ssldiff.geometry import Box, window_starts


def cover(shape: tuple[int, int], window: int, stride: int) -> list[Box]:
    """Windows of ``window``, cut to the canvas where it is smaller, row by row."""
    h, w = min(window, shape[0]), min(window, shape[1])
    return [
        Box(y, x, h, w)
        for y in window_starts(shape[0], h, min(stride, h))
        for x in window_starts(shape[1], w, min(stride, w))
    ]


def blend_weight(kind: str, shape: tuple[int, int]) -> torch.Tensor:
    """``shape`` float32: the weights of :func:`window_weights` for a window of any shape."""
    h, w = shape
    full = window_weights(kind, max(h, w))
    if h == w:
        return full
    # Separable kinds only differ by their lines; take them from squares of either size.
    return (
        window_weights(kind, h).sum(1, keepdim=True) * window_weights(kind, w).sum(0, keepdim=True)
    ) / full.sum()


def blend(
    parts: Iterable[tuple[Box, torch.Tensor]], shape: tuple[int, int], scale: int, kind: str
) -> torch.Tensor:
    """The weighted mean of windows.

    Parameters
    ----------
    parts
        Windows that cover a canvas of ``shape``, each with its ``(c, h·scale, w·scale)`` values.
    scale
        Values per unit of the boxes, along a side.
    kind
        Weights as in :func:`window_weights`.

    Returns
    -------
    ``(c, H·scale, W·scale)`` float32 on the CPU.
    """
    out: torch.Tensor | None = None
    size = shape[0] * scale, shape[1] * scale
    total = twice(lambda: torch.zeros(size))
    for box, values in parts:
        place = scaled(box, scale)
        if out is None:
            channels = len(values)
            out = twice(lambda n=channels: torch.zeros(n, *size))  # type: ignore[misc]
        weight, share = twice(lambda at=place, made=values: _share(kind, at, made))  # type: ignore[misc]
        # Neither takes memory.
        out[(slice(None), *place.slices)] += share
        total[place.slices] += weight
    assert out is not None
    return out.div_(total)


def _share(kind: str, place: Box, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weight = blend_weight(kind, place.shape)
    return weight, weight * values


def scaled(box: Box, factor: int) -> Box:
    """A box of latents in pixels."""
    return Box(box.y * factor, box.x * factor, box.h * factor, box.w * factor)
