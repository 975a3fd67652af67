"""Names of the U-Net of latent diffusion (Rombach et al. 2022): diffusers' ← the original's.

Both build the same graph from the same numbers, and number its blocks in another way: the original
counts all blocks of a half of the U, diffusers counts levels and, inside them, layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Names = dict[str, str]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
}
# Inside a transformer's layers both use the same names; the flag says whether there is a bias.
_LAYER = {
    "norm1": True,
    "norm2": True,
    "norm3": True,
    **{f"attn{n}.to_{part}": part == "out.0" for n in (1, 2) for part in ("q", "k", "v", "out.0")},
    "ff.net.0.proj": True,
    "ff.net.2": True,
}


def unet_names(config: Mapping[str, Any], prefix: str = "model.diffusion_model.") -> Names:
    """Where each tensor of a ``UNet2DConditionModel`` stands in a checkpoint of the original.

    Parameters
    ----------
    config
        Of the card's denoiser: ``block_out_channels``, ``layers_per_block``, ``down_block_types``,
        ``up_block_types`` and, optionally, ``transformer_layers_per_block``.
    prefix
        What the original's names begin with.

    Returns
    -------
    Every name of the module's state dict, with its name in the checkpoint.
    """
    widths, layers = list(config["block_out_channels"]), int(config["layers_per_block"])
    depth = int(config.get("transformer_layers_per_block", 1))
    names: Names = {}

    def add(target: str, source: str, bias: bool = True) -> None:
        for leaf in ("weight", "bias") if bias else ("weight",):
            names[f"{target}.{leaf}"] = f"{prefix}{source}.{leaf}"

    def resnet(target: str, source: str, shortcut: bool) -> None:
        for ours, theirs in _RESNET.items():
            add(f"{target}.{ours}", f"{source}.{theirs}")
        if shortcut:
            add(f"{target}.conv_shortcut", f"{source}.skip_connection")

    def transformer(target: str, source: str) -> None:
        for name in ("norm", "proj_in", "proj_out"):
            add(f"{target}.{name}", f"{source}.{name}")
        for n in range(depth):
            for name, bias in _LAYER.items():
                layer = f"transformer_blocks.{n}.{name}"
                add(f"{target}.{layer}", f"{source}.{layer}", bias)

    add("time_embedding.linear_1", "time_embed.0")
    add("time_embedding.linear_2", "time_embed.2")
    add("conv_in", "input_blocks.0.0")
    width, skips, block = widths[0], [widths[0]], 1
    for level, out in enumerate(widths):
        attends = "CrossAttn" in config["down_block_types"][level]
        for layer in range(layers):
            source = f"input_blocks.{block}"
            resnet(f"down_blocks.{level}.resnets.{layer}", f"{source}.0", width != out)
            if attends:
                transformer(f"down_blocks.{level}.attentions.{layer}", f"{source}.1")
            width, block = out, block + 1
            skips.append(width)
        if level + 1 < len(widths):
            add(f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{block}.0.op")
            block += 1
            skips.append(width)
    resnet("mid_block.resnets.0", "middle_block.0", False)
    transformer("mid_block.attentions.0", "middle_block.1")
    resnet("mid_block.resnets.1", "middle_block.2", False)
    block = 0
    for up, out in enumerate(reversed(widths)):
        attends = "CrossAttn" in config["up_block_types"][up]
        for layer in range(layers + 1):
            source = f"output_blocks.{block}"
            resnet(f"up_blocks.{up}.resnets.{layer}", f"{source}.0", width + skips.pop() != out)
            if attends:
                transformer(f"up_blocks.{up}.attentions.{layer}", f"{source}.1")
            width, block = out, block + 1
        if up + 1 < len(widths):
            after = 2 if attends else 1
            add(f"up_blocks.{up}.upsamplers.0.conv", f"output_blocks.{block - 1}.{after}.conv")
    add("conv_norm_out", "out.0")
    add("conv_out", "out.2")
    return names
