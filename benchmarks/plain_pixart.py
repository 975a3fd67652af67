"""PixArt's transformer, written from its description in plain torch, on the original names.

After Chen et al., *PixArt-alpha* (ICLR 2024), and Peebles and Xie, *DiT* (ICCV 2023): patches with
fixed places, blocks of self-attention, cross-attention and a perceptron, one set of six modulations
that all blocks share up to a table of their own. Nothing of diffusers is in here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

Tensors = dict[str, torch.Tensor]


def random_tensors(
    width: int, depth: int, size: int, tokens: int, caption: int, channels: int = 16,
    scale: float = 1.0, seed: int = 0,
) -> Tensors:  # fmt: skip
    """A checkpoint: ``depth`` blocks of ``width``, latents ``size`` × ``size``, patches of 2."""
    generator = torch.Generator().manual_seed(seed)
    out: Tensors = {}

    def linear(name: str, rows: int, columns: int, shape: tuple[int, ...] = ()) -> None:
        weight = torch.empty(rows, columns).normal_(generator=generator).div_(columns**0.5)
        out[f"{name}.weight"] = weight.view(rows, *shape) if shape else weight
        out[f"{name}.bias"] = torch.empty(rows).normal_(generator=generator).mul_(0.1)

    def table(name: str, *shape: int) -> None:
        out[name] = torch.empty(*shape).normal_(generator=generator).div_(shape[-1] ** 0.5)

    linear("x_embedder.proj", width, channels * 4, (channels, 2, 2))
    linear("t_embedder.mlp.0", width, 256)
    linear("t_embedder.mlp.2", width, width)
    linear("t_block.1", 6 * width, width)
    linear("y_embedder.y_proj.fc1", width, caption)
    linear("y_embedder.y_proj.fc2", width, width)
    table("y_embedder.y_embedding", tokens, caption)
    for n in range(depth):
        block = f"blocks.{n}"
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width)
        linear(f"{block}.cross_attn.q_linear", width, width)
        linear(f"{block}.cross_attn.kv_linear", 2 * width, width)
        linear(f"{block}.cross_attn.proj", width, width)
        linear(f"{block}.mlp.fc1", 4 * width, width)
        linear(f"{block}.mlp.fc2", width, 4 * width)
        table(f"{block}.scale_shift_table", 6, width)
    linear("final_layer.linear", 4 * 2 * channels, width)
    table("final_layer.scale_shift_table", 2, width)
    out["pos_embed"] = places(size // 2, width, scale)[None]
    if tokens > 1:
        table("y_pos_embed", 1, tokens, caption)
    return out


def places(side: int, width: int, scale: float) -> torch.Tensor:
    """``(side², width)``: sines and cosines of the column, then those of the row."""
    line = torch.arange(side, dtype=torch.float64) / scale
    rates = 1e4 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    waves = torch.cat([torch.sin(line[:, None] * rates), torch.cos(line[:, None] * rates)], 1)
    rows, columns = waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)
    return torch.cat([columns, rows], 2).reshape(side * side, width).float()


def random_control(
    width: int, depth: int, size: int, caption: int, channels: int = 16, scale: float = 1.0,
    seed: int = 1,
) -> Tensors:  # fmt: skip
    """A ControlNet for such a transformer: its own ``depth`` blocks, the picture's patches
    (``c_embedder``) and what is answered behind every block (``outlets``).
    """
    out = random_tensors(width, depth, size, 1, caption, channels, scale, seed)
    out = {k: v for k, v in out.items() if not k.startswith(("final_layer", "y_embedder.y_emb"))}
    generator = torch.Generator().manual_seed(seed + 1)
    names = {"c_embedder.proj": (channels * 4, (channels, 2, 2))}
    names |= {f"outlets.{n}": (width, ()) for n in range(depth)}
    for name, (columns, shape) in names.items():
        weight = torch.empty(width, columns).normal_(generator=generator).div_(columns**0.5)
        out[f"{name}.weight"] = weight.view(width, *shape) if shape else weight
        out[f"{name}.bias"] = torch.empty(width).normal_(generator=generator).mul_(0.1)
    return out


def _linear(tensors: Tensors, name: str, value: torch.Tensor) -> torch.Tensor:
    return value @ tensors[f"{name}.weight"].flatten(1).T + tensors[f"{name}.bias"]


def _norm(value: torch.Tensor) -> torch.Tensor:
    centred = value - value.mean(2, keepdim=True)
    return centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt()


def _patches(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    """Tokens of ``(n, c, h, w)`` with their places."""
    patches = x.unfold(2, 2, 2).unfold(3, 2, 2)  # n, c, rows, columns, 2, 2
    flat = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    return _linear(tensors, name, flat) + tensors["pos_embed"]


def _time(tensors: Tensors, t: torch.Tensor) -> torch.Tensor:
    angles = t[:, None].float() * torch.exp(-math.log(1e4) * torch.arange(128) / 128)
    time = _linear(
        tensors, "t_embedder.mlp.0", torch.cat([torch.cos(angles), torch.sin(angles)], 1)
    )
    return _linear(tensors, "t_embedder.mlp.2", F.silu(time))


def _blocks(
    tensors: Tensors, h: torch.Tensor, time: torch.Tensor, captions: torch.Tensor, heads: int,
    added: list[torch.Tensor],
) -> list[torch.Tensor]:  # fmt: skip
    """The tokens behind every block; ``added`` to those of the first ones."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        share = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[3]), 3)
        return (share @ v).transpose(1, 2).flatten(2)

    shared = _linear(tensors, "t_block.1", F.silu(time)).unflatten(1, (6, -1))
    captions = _linear(tensors, "y_embedder.y_proj.fc1", captions)
    captions = _linear(tensors, "y_embedder.y_proj.fc2", F.gelu(captions, approximate="tanh"))
    out = []
    for n in range(sum(name.endswith(".attn.qkv.weight") for name in tensors)):
        block = f"blocks.{n}"
        own = (tensors[f"{block}.scale_shift_table"] + shared)[:, :, None]
        shift, scale, gate, shift2, scale2, gate2 = own.unbind(1)
        q, k, v = _linear(tensors, f"{block}.attn.qkv", _norm(h) * (1 + scale) + shift).chunk(3, 2)
        h = h + gate * _linear(tensors, f"{block}.attn.proj", attend(q, k, v))
        k, v = _linear(tensors, f"{block}.cross_attn.kv_linear", captions).chunk(2, 2)
        q = _linear(tensors, f"{block}.cross_attn.q_linear", h)
        h = h + _linear(tensors, f"{block}.cross_attn.proj", attend(q, k, v))
        inner = _linear(tensors, f"{block}.mlp.fc1", _norm(h) * (1 + scale2) + shift2)
        h = h + gate2 * _linear(tensors, f"{block}.mlp.fc2", F.gelu(inner, approximate="tanh"))
        if n < len(added):
            h = h + added[n]
        out.append(h)
    return out


def control(
    tensors: Tensors,
    x: torch.Tensor,
    picture: torch.Tensor,
    t: torch.Tensor,
    captions: torch.Tensor,
    heads: int,
) -> list[torch.Tensor]:
    """What a ControlNet answers behind every block, to be ``added`` in :func:`forward`."""
    tokens = _patches(tensors, "x_embedder.proj", x) + _patches(tensors, "c_embedder.proj", picture)
    behind = _blocks(tensors, tokens, _time(tensors, t), captions, heads, [])
    return [_linear(tensors, f"outlets.{n}", h) for n, h in enumerate(behind)]


def forward(
    tensors: Tensors,
    x: torch.Tensor,
    t: torch.Tensor,
    captions: torch.Tensor,
    heads: int,
    added: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """``(n, c, h, w)``, timesteps ``(n,)``, ``(n, tokens, caption)`` → ``(n, 2c, h, w)``."""
    n, _, height, width = x.shape
    time = _time(tensors, t)
    if "y_pos_embed" in tensors:
        captions = captions + tensors["y_pos_embed"]
    h = _patches(tensors, "x_embedder.proj", x)
    h = _blocks(tensors, h, time, captions, heads, added or [])[-1]
    shift, scale = (tensors["final_layer.scale_shift_table"] + time[:, None]).chunk(2, 1)
    out = _linear(tensors, "final_layer.linear", _norm(h) * (1 + scale) + shift)
    out = out.view(n, height // 2, width // 2, 2, 2, -1).permute(0, 5, 1, 3, 2, 4)
    return out.reshape(n, -1, height, width)
