"""Weights kept in half precision: half the memory, and for autocast the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.hooks import LayerwiseCastingHook, add_hook_to_module
from torch import nn

#: Layers whose weights autocast rounds for every call anyhow; all others stay in fp32.
LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def half_names(network: nn.Module) -> set[str]:
    """Names of the tensors that :func:`keep` rounds."""
    return {
        f"{name}.{own}" if name else own
        for name, layer in network.named_modules()
        if isinstance(layer, LAYERS)
        for own, _ in layer.named_parameters(recurse=False)
    }


def keep(network: nn.Module, kept: str) -> None:
    """Round the weights of :data:`LAYERS` in place.

    A network that computes by autocast in the same format answers as before, to the bit: it
    rounded these weights itself, in every call.

    Parameters
    ----------
    kept
        ``"bf16"`` or ``"fp16"``.
    """
    for layer in network.modules():
        if isinstance(layer, LAYERS):
            layer.to(HALVES[kept])


def keep_and_widen(network: nn.Module, kept: str) -> None:
    """Round as :func:`keep` does, and have each layer widened to fp32 while it works.

    For CPUs: many emulate arithmetic in half precision, six times as slow as fp32.
    """
    hook = LayerwiseCastingHook(HALVES[kept], torch.float32, non_blocking=False)
    for layer in network.modules():
        if isinstance(layer, LAYERS):
            add_hook_to_module(layer, hook)  # rounds it too


@contextmanager
def widened(network: nn.Module) -> Iterator[None]:
    """The network in fp32 inside, its rounded weights as they are."""
    layers = [m for m in network.modules() if isinstance(m, LAYERS)]
    before = [layer.weight.dtype for layer in layers]
    for layer in layers:
        layer.float()
    try:
        yield
    finally:
        for layer, dtype in zip(layers, before, strict=True):
            layer.to(dtype)
