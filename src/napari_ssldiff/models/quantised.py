"""Weights in eight bits: half the size of fp16, for networks that bear it.

A matrix or kernel ``W`` is kept as int8 with one scale per output row, ``W ≈ q · scale``, the
largest entry of a row being ±127 (symmetric, per channel). What is small stays fp16.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

#: What the name of a tensor's scales ends with.
SCALE = ".int8_scale"
#: Tensors of fewer numbers are not worth it.
LEAST = 4096


def quantised(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights → int8 with scales where it is worth it; :func:`restored` takes them back."""
    out: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if value.ndim < 2 or value.numel() < LEAST or not value.is_floating_point():
            out[name] = value
            continue
        rows = value.float().flatten(1)
        scale = (rows.abs().amax(1) / 127).clamp_min(1e-12)
        out[name] = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8).view_as(value)
        out[name + SCALE] = scale
    return out


def restored(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Float32 weights of what :func:`quantised` gave, or of any others."""
    out: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = tensors.get(name + SCALE)
        wide = value.float()
        if scale is not None:
            wide = wide * scale.float().reshape(-1, *[1] * (value.ndim - 1))
        out[name] = wide
    return out
