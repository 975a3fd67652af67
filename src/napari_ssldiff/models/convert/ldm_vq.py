"""Names of latent diffusion's VQ autoencoder (Rombach et al. 2022): diffusers' ← the original's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Names = dict[str, str]

_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def vq_names(config: Mapping[str, Any], prefix: str = "first_stage_model.") -> Names:
    """Where each tensor of a ``VQModel`` stands in a checkpoint of the original.

    Parameters
    ----------
    config
        Of the card's autoencoder: ``block_out_channels``, ``layers_per_block`` and, optionally,
        ``mid_block_add_attention``.
    prefix
        What the original's names begin with.

    Returns
    -------
    Every name of the module's state dict, the codebook's too, with its name in the checkpoint.
    """
    widths, layers = list(config["block_out_channels"]), int(config["layers_per_block"])
    names: Names = {}

    def add(target: str, source: str) -> None:
        for leaf in ("weight", "bias"):
            names[f"{target}.{leaf}"] = f"{prefix}{source}.{leaf}"

    def resnet(target: str, source: str, shortcut: bool = False) -> None:
        for name in ("norm1", "conv1", "norm2", "conv2"):
            add(f"{target}.{name}", f"{source}.{name}")
        if shortcut:
            add(f"{target}.conv_shortcut", f"{source}.nin_shortcut")

    def ends(half: str) -> None:
        add(f"{half}.conv_in", f"{half}.conv_in")
        for n in (0, 1):
            resnet(f"{half}.mid_block.resnets.{n}", f"{half}.mid.block_{n + 1}")
        if config.get("mid_block_add_attention", True):
            for ours, theirs in _ATTENTION.items():
                add(f"{half}.mid_block.attentions.0.{ours}", f"{half}.mid.attn_1.{theirs}")
        add(f"{half}.conv_norm_out", f"{half}.norm_out")
        add(f"{half}.conv_out", f"{half}.conv_out")

    ends("encoder")
    width = widths[0]
    for level, out in enumerate(widths):
        ours, theirs = f"encoder.down_blocks.{level}", f"encoder.down.{level}"
        for layer in range(layers):
            resnet(f"{ours}.resnets.{layer}", f"{theirs}.block.{layer}", width != out)
            width = out
        if level + 1 < len(widths):
            add(f"{ours}.downsamplers.0.conv", f"{theirs}.downsample.conv")
    ends("decoder")
    for up, out in enumerate(reversed(widths)):
        # The original numbers both halves from the image, diffusers each in its own order.
        ours, theirs = f"decoder.up_blocks.{up}", f"decoder.up.{len(widths) - 1 - up}"
        for layer in range(layers + 1):
            resnet(f"{ours}.resnets.{layer}", f"{theirs}.block.{layer}", width != out)
            width = out
        if up + 1 < len(widths):
            add(f"{ours}.upsamplers.0.conv", f"{theirs}.upsample.conv")
    add("quant_conv", "quant_conv")
    add("post_quant_conv", "post_quant_conv")
    names["quantize.embedding.weight"] = f"{prefix}quantize.embedding.weight"
    return names
