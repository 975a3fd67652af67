"""PixCell's flow between stains, written from its description in plain torch, on its own names.

A perceptron with residual blocks, each of which adds what it is told of the time; the way from one
stain to the other is followed by Euler's method. Nothing of the package is in here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

Tensors = dict[str, torch.Tensor]


def random_tensors(width: int, hidden: int, blocks: int, seed: int = 0) -> Tensors:
    """A checkpoint of the flow."""
    generator = torch.Generator().manual_seed(seed)
    out: Tensors = {}

    def linear(name: str, rows: int, columns: int) -> None:
        weight = torch.empty(rows, columns).normal_(generator=generator)
        out[f"{name}.weight"] = weight / columns**0.5
        out[f"{name}.bias"] = 0.1 * torch.empty(rows).normal_(generator=generator)

    def norm(name: str) -> None:
        out[f"{name}.weight"] = 1 + 0.1 * torch.empty(hidden).normal_(generator=generator)
        out[f"{name}.bias"] = 0.1 * torch.empty(hidden).normal_(generator=generator)

    linear("time_embed.0", hidden, hidden)
    linear("time_embed.2", hidden, hidden)
    linear("input_proj", hidden, width)
    for block in (f"res_blocks.{n}" for n in range(blocks)):
        norm(f"{block}.in_layers.0")
        linear(f"{block}.in_layers.2", hidden, hidden)
        linear(f"{block}.emb_layers.1", hidden, hidden)
        norm(f"{block}.out_layers.0")
        linear(f"{block}.out_layers.3", hidden, hidden)
    norm("out.0")
    linear("out.2", width, hidden)
    return out


def velocity(tensors: Tensors, x: torch.Tensor, time: float) -> torch.Tensor:
    """``(n, width)`` at a time from 0 to 1 → where the vectors move, ``(n, width)``."""

    def linear(name: str, value: torch.Tensor) -> torch.Tensor:
        return value @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(name: str, value: torch.Tensor, eps: float) -> torch.Tensor:
        centred = value - value.mean(1, keepdim=True)
        even = centred / (centred.square().mean(1, keepdim=True) + eps).sqrt()
        return even * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    half = len(tensors["time_embed.0.bias"]) // 2
    angles = [999 * time * math.exp(-math.log(1e4) * i / half) for i in range(half)]
    waves = torch.tensor([[*map(math.cos, angles), *map(math.sin, angles)]], dtype=x.dtype)
    told = F.silu(linear("time_embed.2", F.silu(linear("time_embed.0", waves))))
    h = linear("input_proj", x)
    depth = sum(name.endswith(".emb_layers.1.bias") for name in tensors)
    for block in (f"res_blocks.{n}" for n in range(depth)):
        inner = linear(f"{block}.in_layers.2", F.silu(norm(f"{block}.in_layers.0", h, 1e-5)))
        inner = inner + linear(f"{block}.emb_layers.1", told)
        h = h + linear(f"{block}.out_layers.3", F.silu(norm(f"{block}.out_layers.0", inner, 1e-5)))
    return linear("out.2", F.silu(norm("out.0", h, 1e-6)))


def translated(tensors: Tensors, x: torch.Tensor, steps: int) -> torch.Tensor:
    """Where vectors of one stain end in the other."""
    for k in range(steps):
        time = 1e-3 + (1 - 2e-3) * k / max(steps - 1, 1)
        x = x + velocity(tensors, x, time) / steps
    return x
