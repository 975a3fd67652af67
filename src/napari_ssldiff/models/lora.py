"""Low-rank changes of a network's weights, merged for use."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


@torch.no_grad()
def merge(network: nn.Module, lora: Mapping[str, torch.Tensor], scale: float) -> nn.Module:
    """Put ``weight + scale·B·A`` in the place of a network's weights (Hu et al. 2022, LoRA).

    Merged weights cost nothing per call, and need no library that knows of LoRA.

    Parameters
    ----------
    lora
        Per changed layer ``NAME.lora_A.weight``, ``(rank, in)`` or ``(rank, in, k, k)``, and
        ``NAME.lora_B.weight``, ``(out, rank)`` or ``(out, rank, 1, 1)``, as peft names them.
    scale
        alpha / rank.

    Returns
    -------
    The network.

    Raises
    ------
    ValueError
        If a tensor fits no layer of the network, or half of a pair is missing.
    """
    names = {key.removesuffix(_DOWN).removesuffix(_UP) for key in lora}
    if len(lora) != 2 * len(names) or not all(k.endswith((_DOWN, _UP)) for k in lora):
        raise ValueError("its tensors are not pairs of lora_A and lora_B")
    layers = dict(network.named_modules())
    for name in sorted(names):
        weight = getattr(layers.get(name), "weight", None)
        if not isinstance(weight, torch.Tensor):
            raise ValueError(f"the network has no layer {name}")
        down, up = lora[name + _DOWN].to(weight), lora[name + _UP].to(weight)
        change = (up.flatten(1) @ down.flatten(1)) if up.shape[1] == len(down) else weight[:0]
        if change.numel() != weight.numel() or len(change) != len(weight):
            raise ValueError(f"{tuple(up.shape)} × {tuple(down.shape)} do not fit {name}")
        weight += scale * change.view(weight.shape)
    return network
