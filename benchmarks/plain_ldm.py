"""Latent diffusion's networks in plain torch, on the original's own names.

Written from the description of the architecture (Rombach et al. 2022, *High-resolution image
synthesis with latent diffusion models*, and its published configurations), as functions of a state
dict. No diffusers, no modules: what conversions are compared with. Every function takes tensors of
any float type and answers in it; nothing here is fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F

Tensors = Mapping[str, torch.Tensor]

#: Of every group norm.
GROUPS = 32


def condition(tensors: Tensors, embeddings: torch.Tensor) -> torch.Tensor:
    """``(n, width)`` → ``(n, tokens, context)``: one linear map, and a token of the zero vector."""
    net = _Net(tensors)
    norm = embeddings.square().sum(-1, keepdim=True).sqrt()
    tokens = [net.linear("cond_stage_model.patch_fc", embeddings / norm.clamp_min(1e-12))]
    if net.has("cond_stage_model.region_fc"):
        width = tensors["cond_stage_model.region_fc.weight"].shape[1]
        zeros = embeddings.new_zeros(len(embeddings), width)
        tokens.append(net.linear("cond_stage_model.region_fc", zeros))
    return torch.stack(tokens, 1)


class _Net:
    """Layers by name."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.tensors

    def _of(self, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias")

    def conv(
        self, name: str, x: torch.Tensor, stride: int = 1, pad: int | None = None
    ) -> torch.Tensor:
        weight, bias = self._of(name)
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2 if pad is None else pad)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self._of(name)
        out = x @ weight.T
        return out if bias is None else out + bias

    def group_norm(self, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
        weight, bias = self._of(name)
        groups = x.reshape(len(x), GROUPS, -1)
        variance = groups.var(2, correction=0, keepdim=True)
        groups = (groups - groups.mean(2, keepdim=True)) / (variance + eps).sqrt()
        return groups.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]

    def layer_norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self._of(name)
        variance = x.var(-1, correction=0, keepdim=True)
        return (x - x.mean(-1, keepdim=True)) / (variance + 1e-5).sqrt() * weight + bias


def _silu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """``(…, n, d)``, ``(…, m, d)``, ``(…, m, d)`` → ``(…, n, d)``."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return torch.softmax(scores, -1) @ v


def time_features(t: torch.Tensor, width: int) -> torch.Tensor:
    """``(n,)`` → ``(n, width)``: cosines, then sines, of falling frequencies from 1 to 1/10000."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half).to(t) / half)
    angles = t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def _res(net: _Net, name: str, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    h = net.conv(f"{name}.in_layers.2", _silu(net.group_norm(f"{name}.in_layers.0", x, 1e-5)))
    h = h + net.linear(f"{name}.emb_layers.1", _silu(time))[:, :, None, None]
    h = net.conv(f"{name}.out_layers.3", _silu(net.group_norm(f"{name}.out_layers.0", h, 1e-5)))
    if net.has(f"{name}.skip_connection"):
        x = net.conv(f"{name}.skip_connection", x)
    return x + h


def _cross(
    net: _Net, name: str, x: torch.Tensor, context: torch.Tensor, heads: int
) -> torch.Tensor:
    q, k, v = (
        net.linear(f"{name}.{to}", of).unflatten(-1, (heads, -1)).transpose(1, 2)
        for to, of in (("to_q", x), ("to_k", context), ("to_v", context))
    )
    return net.linear(f"{name}.to_out.0", _attend(q, k, v).transpose(1, 2).flatten(2))


def _spatial(
    net: _Net, name: str, x: torch.Tensor, context: torch.Tensor, heads: int
) -> torch.Tensor:
    h = net.conv(f"{name}.proj_in", net.group_norm(f"{name}.norm", x, 1e-6))
    h = h.flatten(2).transpose(1, 2)
    n = 0
    while net.has(f"{name}.transformer_blocks.{n}.norm1"):
        block = f"{name}.transformer_blocks.{n}"
        own = net.layer_norm(f"{block}.norm1", h)
        h = h + _cross(net, f"{block}.attn1", own, own, heads)
        h = h + _cross(net, f"{block}.attn2", net.layer_norm(f"{block}.norm2", h), context, heads)
        values, gate = net.linear(
            f"{block}.ff.net.0.proj", net.layer_norm(f"{block}.norm3", h)
        ).chunk(2, -1)
        gate = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
        h = h + net.linear(f"{block}.ff.net.2", values * gate)
        n += 1
    return x + net.conv(f"{name}.proj_out", h.transpose(1, 2).reshape(x.shape))


def unet(
    tensors: Tensors,
    x: torch.Tensor,
    t: torch.Tensor,
    context: torch.Tensor,
    heads: int = 1,
    prefix: str = "model.diffusion_model.",
) -> torch.Tensor:
    """The U-Net's answer; the order of its blocks is read off the names.

    Parameters
    ----------
    x
        ``(n, c, h, w)`` noisy latents.
    t
        ``(n,)`` timesteps, of the type of ``x``.
    context
        ``(n, tokens, width)``.
    """
    net = _Net({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    width = net.tensors["time_embed.0.weight"].shape[1]
    time = net.linear("time_embed.0", time_features(t, width))
    time = net.linear("time_embed.2", _silu(time))

    def block(name: str, h: torch.Tensor) -> torch.Tensor:
        for n in range(3):
            part = f"{name}.{n}"
            if net.has(f"{part}.in_layers.0"):
                h = _res(net, part, h, time)
            elif net.has(f"{part}.proj_in"):
                h = _spatial(net, part, h, context, heads)
            elif net.has(f"{part}.op"):
                h = net.conv(f"{part}.op", h, stride=2)
            elif net.has(f"{part}.conv"):
                h = net.conv(f"{part}.conv", h.repeat_interleave(2, 2).repeat_interleave(2, 3))
        return h

    def blocks(half: str) -> list[str]:
        count = 1 + max(int(k.split(".")[1]) for k in net.tensors if k.startswith(half))
        return [f"{half}.{n}" for n in range(count)]

    h = net.conv("input_blocks.0.0", x)
    stack = [h]
    for name in blocks("input_blocks")[1:]:
        h = block(name, h)
        stack.append(h)
    h = block("middle_block", h)
    for name in blocks("output_blocks"):
        h = block(name, torch.cat([h, stack.pop()], 1))
    return net.conv("out.2", _silu(net.group_norm("out.0", h, 1e-5)))


def _vq_res(net: _Net, name: str, x: torch.Tensor) -> torch.Tensor:
    h = net.conv(f"{name}.conv1", _silu(net.group_norm(f"{name}.norm1", x, 1e-6)))
    h = net.conv(f"{name}.conv2", _silu(net.group_norm(f"{name}.norm2", h, 1e-6)))
    return h + (net.conv(f"{name}.nin_shortcut", x) if net.has(f"{name}.nin_shortcut") else x)


def _vq_mid(net: _Net, name: str, x: torch.Tensor) -> torch.Tensor:
    x = _vq_res(net, f"{name}.block_1", x)
    h = net.group_norm(f"{name}.attn_1.norm", x, 1e-6)
    q, k, v = (
        net.conv(f"{name}.attn_1.{n}", h).flatten(2).transpose(1, 2) for n in ("q", "k", "v")
    )
    h = _attend(q, k, v).transpose(1, 2).reshape(x.shape)
    return _vq_res(net, f"{name}.block_2", x + net.conv(f"{name}.attn_1.proj_out", h))


def _vq_net(tensors: Tensors, prefix: str) -> _Net:
    return _Net({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})


def _levels(net: _Net, half: str) -> int:
    return 1 + max(int(k.split(".")[2]) for k in net.tensors if k.startswith(half))


def _layers(net: _Net, level: str) -> list[str]:
    names = []
    while net.has(f"{level}.block.{len(names)}.norm1"):
        names.append(f"{level}.block.{len(names)}")
    return names


def vq_encode(
    tensors: Tensors, images: torch.Tensor, prefix: str = "first_stage_model."
) -> torch.Tensor:
    """``(n, 3, h, w)`` in [-1, 1] → ``(n, c, h/f, w/f)``, not quantised."""
    net = _vq_net(tensors, prefix)
    h = net.conv("encoder.conv_in", images)
    for level in range(_levels(net, "encoder.down.")):
        for name in _layers(net, f"encoder.down.{level}"):
            h = _vq_res(net, name, h)
        down = f"encoder.down.{level}.downsample.conv"
        if net.has(down):  # one row and column of zeros at the far ends only
            h = net.conv(down, F.pad(h, (0, 1, 0, 1)), stride=2, pad=0)
    h = _silu(net.group_norm("encoder.norm_out", _vq_mid(net, "encoder.mid", h), 1e-6))
    return net.conv("quant_conv", net.conv("encoder.conv_out", h))


def quantise(
    tensors: Tensors, latents: torch.Tensor, prefix: str = "first_stage_model."
) -> torch.Tensor:
    """``(n, h, w)`` int: the nearest vector of the codebook for every latent."""
    codes = tensors[f"{prefix}quantize.embedding.weight"]
    flat = latents.permute(0, 2, 3, 1)
    rows = [(row[:, None, :] - codes).square().sum(-1).argmin(-1) for row in flat.flatten(0, 1)]
    return torch.stack(rows).reshape(flat.shape[:3])


def vq_decode(
    tensors: Tensors, latents: torch.Tensor, prefix: str = "first_stage_model."
) -> torch.Tensor:
    """``(n, c, h, w)`` → ``(n, 3, h·f, w·f)``, quantised first, not clamped."""
    net = _vq_net(tensors, prefix)
    codes = net.tensors["quantize.embedding.weight"]
    h = codes[quantise(tensors, latents, prefix)].permute(0, 3, 1, 2)
    h = net.conv("decoder.conv_in", net.conv("post_quant_conv", h))
    h = _vq_mid(net, "decoder.mid", h)
    for level in reversed(range(_levels(net, "decoder.up."))):
        for name in _layers(net, f"decoder.up.{level}"):
            h = _vq_res(net, name, h)
        up = f"decoder.up.{level}.upsample.conv"
        if net.has(up):
            h = net.conv(up, h.repeat_interleave(2, 2).repeat_interleave(2, 3))
    return net.conv("decoder.conv_out", _silu(net.group_norm("decoder.norm_out", h, 1e-6)))
