"""Blending windows into boxes that leave as soon as they are final."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from napari_ssldiff.diffusion.blend import blend_weight
from napari_ssldiff.diffusion.memory import attempt, twice
from napari_ssldiff.diffusion.scratch import Scratch
from napari_ssldiff.geometry import Box


@dataclass
class _Part:
    """What one window has for one box."""

    window: Box
    place: Box
    values: torch.Tensor | None  # None: on the shelf


class Mosaic:
    """Boxes of an image that is known by overlapping windows.

    It holds what boxes still wait for, so its size is that of the front of the work and not of the
    image; beyond a budget that goes to a temporary folder. To be closed.

    Parameters
    ----------
    windows
        In pixels; they cover the image. Every one is given to :meth:`add` once.
    wanted
        In pixels; boxes may overlap.
    kind
        Blending weights as in :func:`napari_ssldiff.diffusion.presets.window_weights`.
    budget
        Bytes that are held in memory; ``None``: no limit.

    Attributes
    ----------
    held
        Bytes in memory at the moment.
    """

    def __init__(
        self,
        windows: Sequence[Box],
        wanted: Sequence[Box],
        kind: str,
        budget: int | None = None,
    ) -> None:
        self._wanted, self._kind, self._budget = wanted, kind, budget
        self._edges = np.array([[b.y, b.x, b.y1, b.x1] for b in wanted]).reshape(-1, 4)
        self._missing = np.zeros(len(wanted), int)
        for window in windows:
            self._missing[self._reached(window)] += 1
        self._parts: dict[int, list[_Part]] = {}
        self._weights: dict[tuple[int, int], torch.Tensor] = {}
        self._scratch = Scratch()
        self.held = 0

    def close(self) -> None:
        """Let go of everything, on disk too."""
        self._parts.clear()
        self._scratch.close()
        self.held = 0

    def _reached(self, window: Box) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        y, x, y1, x1 = self._edges.T
        return np.nonzero((y < window.y1) & (window.y < y1) & (x < window.x1) & (window.x < x1))[0]

    def add(self, window: Box, values: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Take a window's ``(c, h, w)`` values in; the boxes that they complete.

        Yields
        ------
        A box's index in ``wanted`` and its ``(c, h, w)`` blended values.
        """
        reached = self._reached(window)
        self._missing[reached] -= 1
        for n in reached.tolist():
            place = window.intersect(self._wanted[n])
            part = values[(slice(None), *place.shift(-window.y, -window.x).slices)]
            if self._missing[n]:
                self._wait(n, window, place, part)
            else:
                last = _Part(window, place, part)
                made = twice(lambda n=n, last=last: self._blend(n, last))  # type: ignore[misc]
                self._leave(n)
                yield n, made

    def _wait(self, n: int, window: Box, place: Box, values: torch.Tensor) -> None:
        kept, size = None, values.nbytes
        # What comes last is waited for longest: windows come strip by strip where memory is short.
        if self._budget is None or self.held + size <= self._budget:
            kept = attempt(values.clone, torch.device("cpu"))
        if kept is None:
            self._scratch.put((n, window), values)
        else:
            self.held += size
        self._parts.setdefault(n, []).append(_Part(window, place, kept))

    def _blend(self, n: int, last: _Part) -> torch.Tensor:
        box = self._wanted[n]
        out, total = None, torch.zeros(box.shape)
        # Always in the same order, whatever came first: a sum of floats depends on it.
        parts = [*self._parts.get(n, ()), last]
        for part in sorted(parts, key=lambda part: part.window.to_list()):
            values = part.values
            if values is None:
                values = self._scratch.read((n, part.window))
            if out is None:
                out = torch.zeros(len(values), *box.shape)
            to = part.place.shift(-box.y, -box.x).slices
            weight = self._weight(part.window.shape)
            weight = weight[part.place.shift(-part.window.y, -part.window.x).slices]
            out[(slice(None), *to)] += weight * values
            total[to] += weight
        assert out is not None
        return out / total

    def _leave(self, n: int) -> None:
        """Let go of what a box waited with."""
        for part in self._parts.pop(n, ()):
            if part.values is None:
                self._scratch.drop((n, part.window))
            else:
                self.held -= part.values.nbytes

    def _weight(self, shape: tuple[int, int]) -> torch.Tensor:
        if shape not in self._weights:
            self._weights[shape] = blend_weight(self._kind, shape)
        return self._weights[shape]
