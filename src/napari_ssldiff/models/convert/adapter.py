"""LoRA adapters in checkpoints, as peft names them, merged into the weights that they change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.convert.layout import Tensors

# LAYER.lora_A.weight, or with the adapter's name between; what others put in front of a layer.
_HALF = re.compile(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
_FRONT = re.compile(r"^(?:base_model\.model\.)?(?:transformer\.)?(?=transformer_blocks\.)")
_BASE = ".base_layer."


def has_adapter(names: Mapping[str, Any]) -> bool:
    """Whether tensors of these names hold an adapter, with or without what it changes."""
    return any(".lora_A." in name for name in names)


def is_alone(names: Mapping[str, Any]) -> bool:
    """Whether they hold halves of adapters and no weight of a network."""
    return has_adapter(names) and all(_HALF.fullmatch(name) for name in names)


def plain_name(name: str) -> str:
    """A tensor's name in the network itself, whatever wrapper it was saved from."""
    return _FRONT.sub("", name)


def merge_adapter(tensors: Tensors, adapter: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A network's own tensors, ``weight + alpha / rank · B · A`` where an adapter changes one.

    Parameters
    ----------
    tensors
        Of the network, and per changed layer ``NAME.lora_A.weight`` ``(rank, in)`` and
        ``NAME.lora_B.weight`` ``(out, rank)``, with the name of the one adapter before
        ``weight`` or without; the layer's own are ``NAME.weight``, or ``NAME.base_layer.weight``
        as peft has them.
    adapter
        The card's: ``rank`` and ``alpha``.

    Returns
    -------
    Tensors by their names in the network without adapter; those that it does not change are the
    same objects.

    Raises
    ------
    ModelError
        If half of a pair or the layer is missing, a shape or the rank is another, or something is
        left that is no part of a plain LoRA.
    """
    halves: dict[tuple[str, str], str] = {}
    out: dict[str, torch.Tensor] = {}
    for name in tensors:
        plain = plain_name(name)
        if half := _HALF.fullmatch(plain):
            key = half[1], half[2]
            if key in halves:
                raise ModelError(f"{half[1]} has several adapters: save the network with one")
            halves[key] = name
        elif "lora_" in plain or "modules_to_save" in plain:
            raise ModelError(f"{name} is no part of a plain LoRA, which is all that can be merged")
        else:
            out[plain.replace(_BASE, ".")] = tensors[name]
    layers = sorted({layer for layer, _ in halves})
    wrapped = {plain_name(n).partition(_BASE)[0] for n in tensors if _BASE in n}
    if bare := sorted(wrapped - set(layers)):
        raise ModelError(f"{bare[0]} is made for an adapter and has none: the file is not whole")
    rank, scale = int(adapter["rank"]), float(adapter["alpha"]) / int(adapter["rank"])
    for layer in layers:
        if missing := [half for half in "AB" if (layer, half) not in halves]:
            raise ModelError(f"{layer}.lora_{missing[0]}.weight is missing")
        down, up = (tensors[halves[layer, half]].float() for half in "AB")
        weight = out.get(f"{layer}.weight")
        if weight is None:
            raise ModelError(f"the adapter changes {layer}, which the network lacks")
        if len(down) != rank:
            raise ModelError(
                f"the adapter of {layer} has the rank {len(down)}, the card says {rank}: write a "
                "card of its own with this rank and its alpha"
            )
        if weight.shape != (len(up), down.shape[-1]) or up.shape[-1] != rank:
            raise ModelError(
                f"the adapter of {layer} is {tuple(up.shape)} × {tuple(down.shape)}, its weight "
                f"{tuple(weight.shape)}"
            )
        out[f"{layer}.weight"] = (weight.float() + scale * (up @ down)).to(weight.dtype)
    return out
