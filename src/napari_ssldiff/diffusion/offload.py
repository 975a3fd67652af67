"""How much of a model its device holds at once, and what waits elsewhere meanwhile."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from accelerate import cpu_offload
from torch import nn

from napari_ssldiff.diffusion.memory import release

#: What leaves the device: nothing, the parts that are not at work, or all but one layer.
Offload = Literal["none", "parts", "blocks"]
#: Bytes that a canvas may take where nobody says.
CANVAS = 2 * 2**30

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Limits:
    """What memory leaves room for; the defaults limit nothing.

    Parameters
    ----------
    rows
        Of a network call: windows × passes.
    decode
        Edge in latents of what the autoencoder sees at once, if smaller than the engine's own.
        Part of what pixels depend on.
    canvas
        Bytes of canvas and unfinished tiles.
    offload
        ``"parts"``: network, autoencoder and encoder are on the device only while they work.
        ``"blocks"``: the network besides comes there layer by layer. On the CPU either means that
        weights stay in their file, and the system reads them as they are used.
    """

    rows: int | None = None
    decode: int | None = None
    canvas: int = CANVAS
    offload: Offload = "none"


class Turns:
    """Modules that take turns on one device: one is there, the others wait on the CPU.

    Parameters
    ----------
    device
        Where they work.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._there: nn.Module | None = None

    def __call__(self, module: M) -> M:
        """The module, on the device; whichever was there before has left it."""
        if module is not self._there:
            self.clear()
            self._there = module.to(self.device)
        return module

    def clear(self) -> None:
        """Leave the device to what takes no turns."""
        if self._there is not None:
            self._there.to("cpu")
            self._there = None
            release(self.device)


def streamed(network: M, device: torch.device) -> M:
    """A module that runs on ``device`` and holds one layer's weights there at a time.

    It shares its weights with ``network``, which stays as it is, on the CPU.
    """
    memo: dict[int, Any] = {id(t): t for t in (*network.parameters(), *network.buffers())}
    shell = copy.deepcopy(network, memo)
    out: M = cpu_offload(shell, device, state_dict=dict(network.state_dict()))
    return out
