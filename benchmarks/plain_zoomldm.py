"""ZoomLDM's condition transformer, from its description in plain torch, on the original names."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

Tensors = dict[str, torch.Tensor]


def random_tensors(
    embedding: int, width: int, hidden: int, depth: int, levels: int, seed: int = 0
) -> Tensors:
    """A condition transformer's tensors, names as in a checkpoint, without its prefix."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.empty(*shape).normal_(generator=generator)

    out: Tensors = {
        "mag_embedding.weight": normal(levels, width),
        "pad_token": normal(1, 1, width),
        "encoder.pos_embedding": normal(1, 65, width),
    }

    def linear(name: str, rows: int, columns: int) -> None:
        out[f"{name}.weight"] = normal(rows, columns) / columns**0.5
        out[f"{name}.bias"] = normal(rows) / 10

    def norm(name: str) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = 1 + normal(width) / 10, normal(width) / 10

    linear("dim_reduce", width, embedding)
    for n in range(depth):
        layer = f"encoder.layers.encoder_layer_{n}"
        norm(f"{layer}.ln_1")
        norm(f"{layer}.ln_2")
        out[f"{layer}.self_attention.in_proj_weight"] = normal(3 * width, width) / width**0.5
        out[f"{layer}.self_attention.in_proj_bias"] = normal(3 * width) / 10
        linear(f"{layer}.self_attention.out_proj", width, width)
        linear(f"{layer}.mlp.0", hidden, width)
        linear(f"{layer}.mlp.3", width, hidden)
    norm("encoder.ln")
    linear("final_proj", width, width)
    norm("layer_norm")
    return out


def forward(tensors: Tensors, grids: torch.Tensor, magnification: int, heads: int) -> torch.Tensor:
    """``(n, embedding, k, k)`` → ``(n, 65, width)``."""

    def linear(name: str, value: torch.Tensor) -> torch.Tensor:
        return value @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(name: str, value: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
        centred = value - value.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    lines = []
    for grid in grids:
        k = grid.shape[1]
        standard = (grid - grid.mean(0)) / (grid.std(0) + 1e-8)
        line = tensors["pad_token"][0].repeat(64, 1)
        first = 32 - k * k // 2
        for row in range(k):
            for column in range(k):
                line[first + row * k + column] = linear("dim_reduce", standard[:, row, column])
        lines.append(torch.cat([tensors["mag_embedding.weight"][magnification, None], line]))
    x = torch.stack(lines) + tensors["encoder.pos_embedding"]
    depth = sum(name.endswith("in_proj_weight") for name in tensors)
    for layer in (f"encoder.layers.encoder_layer_{n}" for n in range(depth)):
        attention = f"{layer}.self_attention"
        joint = norm(f"{layer}.ln_1", x) @ tensors[f"{attention}.in_proj_weight"].T
        joint = (joint + tensors[f"{attention}.in_proj_bias"]).unflatten(2, (3, heads, -1))
        q, k_, v = joint.permute(2, 0, 3, 1, 4)
        share = torch.softmax(q @ k_.transpose(2, 3) / math.sqrt(q.shape[3]), 3)
        x = x + linear(f"{attention}.out_proj", (share @ v).transpose(1, 2).flatten(2))
        inner = F.gelu(linear(f"{layer}.mlp.0", norm(f"{layer}.ln_2", x)))
        x = x + linear(f"{layer}.mlp.3", inner)
    return norm("layer_norm", linear("final_proj", norm("encoder.ln", x)), 1e-5)
