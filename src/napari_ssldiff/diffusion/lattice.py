"""Windows on a lattice without bounds, and a store of results that knows its size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from napari_ssldiff.diffusion.presets import window_weights
from napari_ssldiff.geometry import Box

Key = tuple[int, int]


@dataclass(frozen=True)
class Lattice:
    """Square windows at every multiple of a stride, in both directions and without end.

    Parameters
    ----------
    window, stride
        In latents or pixels; the stride is at most the window.
    """

    window: int
    stride: int

    def box(self, key: Key) -> Box:
        """The window at row and column ``key`` of the lattice."""
        return Box(key[0] * self.stride, key[1] * self.stride, self.window, self.window)

    def covering(self, box: Box) -> list[Key]:
        """Windows that share a place with ``box``, row by row."""

        def along(first: int, end: int) -> range:
            return range((first - self.window) // self.stride + 1, -(-end // self.stride))

        return [(i, j) for i in along(box.y, box.y1) for j in along(box.x, box.x1)]

    def shares(self, kind: str) -> torch.Tensor:
        """``(window, window)`` float32: each window's share at its places.

        At every place of the lattice the shares of the windows that cover it add up to 1.
        """
        weights = window_weights(kind, self.window)
        own = self.box((0, 0))
        total = torch.zeros_like(weights)
        for key in self.covering(own):
            other = self.box(key)
            both = own.intersect(other)
            total[both.slices] += weights[both.shift(-other.y, -other.x).slices]
        return weights / total


class Sized(Protocol):
    """A tensor or an array."""

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        ...


Name = TypeVar("Name", bound=Hashable)
Kept = TypeVar("Kept", bound=Sized)


class ByteCache(Generic[Name, Kept]):
    """Tensors or arrays by key, the least recently used dropped first.

    Nothing is dropped before :meth:`trim`: what a computation has put here it will find.

    Parameters
    ----------
    budget
        Bytes that are kept at a trim.
    """

    def __init__(self, budget: int) -> None:
        if budget < 0:
            raise ValueError(f"a cache cannot hold {budget} bytes")
        self.budget, self.used = budget, 0
        self._tensors: OrderedDict[Name, Kept] = OrderedDict()

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def __iter__(self) -> Iterator[Name]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def get(self, key: Name) -> Kept | None:
        """What is kept under ``key``, now the most recently used; or ``None``."""
        if key not in self._tensors:
            return None
        self._tensors.move_to_end(key)
        return self._tensors[key]

    def put(self, key: Name, tensor: Kept) -> None:
        """Keep a tensor."""
        before = self._tensors.pop(key, None)
        if before is not None:
            self.used -= before.nbytes
        self._tensors[key] = tensor
        self.used += tensor.nbytes

    def trim(self) -> None:
        """Drop what was not used for longest until the rest fits the budget."""
        while self.used > self.budget and self._tensors:
            _, tensor = self._tensors.popitem(last=False)
            self.used -= tensor.nbytes
