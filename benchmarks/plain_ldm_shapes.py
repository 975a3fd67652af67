"""The tensors of latent diffusion's checkpoints, by the original's names.

Counted out from the published configurations (Rombach et al. 2022; Graikos et al. 2024), to make
checkpoints of random weights that have the shape of real ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class UnetConfig:
    """``unet_config`` of the published files; defaults are those of the paper's four models."""

    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 5)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (8, 4, 2)
    num_heads: int = 1
    transformer_depth: int = 1
    context_dim: int = 512
    in_channels: int = 3
    out_channels: int = 3


@dataclass(frozen=True)
class VqConfig:
    """``first_stage_config`` of the published files; defaults are VQ-f4."""

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 3
    embed_dim: int = 3
    n_embed: int = 8192


def _conv(shapes: Shapes, name: str, i: int, o: int, k: int) -> None:
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (o, i, k, k), (o,)


def _linear(shapes: Shapes, name: str, i: int, o: int, bias: bool = True) -> None:
    shapes[f"{name}.weight"] = (o, i)
    if bias:
        shapes[f"{name}.bias"] = (o,)


def _norm(shapes: Shapes, name: str, c: int) -> None:
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (c,), (c,)


def unet_shapes(config: UnetConfig, prefix: str = "model.diffusion_model.") -> Shapes:
    """Every tensor of the U-Net, under the original's name."""
    shapes: Shapes = {}
    time = 4 * config.model_channels

    def res(name: str, i: int, o: int) -> None:
        _norm(shapes, f"{name}.in_layers.0", i)
        _conv(shapes, f"{name}.in_layers.2", i, o, 3)
        _linear(shapes, f"{name}.emb_layers.1", time, o)
        _norm(shapes, f"{name}.out_layers.0", o)
        _conv(shapes, f"{name}.out_layers.3", o, o, 3)
        if i != o:
            _conv(shapes, f"{name}.skip_connection", i, o, 1)

    def spatial(name: str, c: int) -> None:
        _norm(shapes, f"{name}.norm", c)
        _conv(shapes, f"{name}.proj_in", c, c, 1)
        for n in range(config.transformer_depth):
            block = f"{name}.transformer_blocks.{n}"
            for attention, width in (("attn1", c), ("attn2", config.context_dim)):
                _linear(shapes, f"{block}.{attention}.to_q", c, c, False)
                _linear(shapes, f"{block}.{attention}.to_k", width, c, False)
                _linear(shapes, f"{block}.{attention}.to_v", width, c, False)
                _linear(shapes, f"{block}.{attention}.to_out.0", c, c)
            _linear(shapes, f"{block}.ff.net.0.proj", c, 8 * c)
            _linear(shapes, f"{block}.ff.net.2", 4 * c, c)
            for norm in ("norm1", "norm2", "norm3"):
                _norm(shapes, f"{block}.{norm}", c)
        _conv(shapes, f"{name}.proj_out", c, c, 1)

    p, widths = prefix, [config.model_channels * m for m in config.channel_mult]
    _linear(shapes, f"{p}time_embed.0", config.model_channels, time)
    _linear(shapes, f"{p}time_embed.2", time, time)
    _conv(shapes, f"{p}input_blocks.0.0", config.in_channels, widths[0], 3)
    stack, c, n = [widths[0]], widths[0], 1
    for level, width in enumerate(widths):
        for _ in range(config.num_res_blocks):
            res(f"{p}input_blocks.{n}.0", c, width)
            if 2**level in config.attention_resolutions:
                spatial(f"{p}input_blocks.{n}.1", width)
            c, n = width, n + 1
            stack.append(c)
        if level < len(widths) - 1:
            _conv(shapes, f"{p}input_blocks.{n}.0.op", c, c, 3)
            n += 1
            stack.append(c)
    res(f"{p}middle_block.0", c, c)
    spatial(f"{p}middle_block.1", c)
    res(f"{p}middle_block.2", c, c)
    n = 0
    for level in range(len(widths) - 1, -1, -1):
        for layer in range(config.num_res_blocks + 1):
            res(f"{p}output_blocks.{n}.0", c + stack.pop(), widths[level])
            c, at = widths[level], 1
            if 2**level in config.attention_resolutions:
                spatial(f"{p}output_blocks.{n}.1", c)
                at = 2
            if level > 0 and layer == config.num_res_blocks:
                _conv(shapes, f"{p}output_blocks.{n}.{at}.conv", c, c, 3)
            n += 1
    _norm(shapes, f"{p}out.0", c)
    _conv(shapes, f"{p}out.2", c, config.out_channels, 3)
    return shapes


def vq_shapes(config: VqConfig, prefix: str = "first_stage_model.") -> Shapes:
    """Every tensor of the autoencoder, under the original's name."""
    shapes: Shapes = {}

    def res(name: str, i: int, o: int) -> None:
        _norm(shapes, f"{name}.norm1", i)
        _conv(shapes, f"{name}.conv1", i, o, 3)
        _norm(shapes, f"{name}.norm2", o)
        _conv(shapes, f"{name}.conv2", o, o, 3)
        if i != o:
            _conv(shapes, f"{name}.nin_shortcut", i, o, 1)

    def mid(name: str, c: int) -> None:
        res(f"{name}.block_1", c, c)
        _norm(shapes, f"{name}.attn_1.norm", c)
        for part in ("q", "k", "v", "proj_out"):
            _conv(shapes, f"{name}.attn_1.{part}", c, c, 1)
        res(f"{name}.block_2", c, c)

    widths = [config.ch * m for m in config.ch_mult]
    top = widths[-1]
    e, d = f"{prefix}encoder", f"{prefix}decoder"
    _conv(shapes, f"{e}.conv_in", 3, config.ch, 3)
    c = config.ch
    for level, width in enumerate(widths):
        for layer in range(config.num_res_blocks):
            res(f"{e}.down.{level}.block.{layer}", c, width)
            c = width
        if level < len(widths) - 1:
            _conv(shapes, f"{e}.down.{level}.downsample.conv", c, c, 3)
    mid(f"{e}.mid", top)
    _norm(shapes, f"{e}.norm_out", top)
    _conv(shapes, f"{e}.conv_out", top, config.z_channels, 3)
    _conv(shapes, f"{d}.conv_in", config.z_channels, top, 3)
    mid(f"{d}.mid", top)
    c = top
    for level in range(len(widths) - 1, -1, -1):
        for layer in range(config.num_res_blocks + 1):
            res(f"{d}.up.{level}.block.{layer}", c, widths[level])
            c = widths[level]
        if level > 0:
            _conv(shapes, f"{d}.up.{level}.upsample.conv", c, c, 3)
    _norm(shapes, f"{d}.norm_out", c)
    _conv(shapes, f"{d}.conv_out", c, 3, 3)
    _conv(shapes, f"{prefix}quant_conv", config.z_channels, config.embed_dim, 1)
    _conv(shapes, f"{prefix}post_quant_conv", config.embed_dim, config.z_channels, 1)
    shapes[f"{prefix}quantize.embedding.weight"] = (config.n_embed, config.embed_dim)
    return shapes


def condition_shapes(width: int, context: int, region: int = 0) -> Shapes:
    """The paper's conditioning: vectors of ``width``, and of ``region`` where it has two tokens."""
    shapes: Shapes = {}
    _linear(shapes, "cond_stage_model.patch_fc", width, context)
    if region:
        _linear(shapes, "cond_stage_model.region_fc", region, context)
    return shapes


def schedule_buffers(steps: int = 1000) -> dict[str, torch.Tensor]:
    """Some of what latent diffusion saves of its noise schedule, for 0.0015 … 0.0195."""
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, steps, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    return {
        "betas": betas.float(),
        "alphas_cumprod": kept.float(),
        "sqrt_alphas_cumprod": kept.sqrt().float(),
    }


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Numbers for every tensor such that each of them matters and outputs stay of order 1."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if len(shape) > 1 and "embedding" not in name:
            value *= math.prod(shape[1:]) ** -0.5
        elif len(shape) == 1:
            value *= 0.1
            if name.endswith("weight"):
                value += 1
        made[name] = value
    return made


def parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many numbers there are in all."""
    return sum(math.prod(shape) for shape in shapes.values())
