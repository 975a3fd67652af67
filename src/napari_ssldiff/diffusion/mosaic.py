"""Blending windows into boxes that leave as soon as they are final."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from napari_ssldiff.diffusion.blend import blend_weight
from napari_ssldiff.geometry import Box


@dataclass
class _Piece:
    """A decoded window, as far as boxes still need it."""

    window: Box
    place: Box
    values: torch.Tensor
    waiting: int


class Mosaic:
    """Boxes of an image that is known by overlapping windows.

    It holds windows (and of these what is needed) until the last box that they reach has left,
    so its size is that of the front of the work and not of the image.

    Parameters
    ----------
    windows
        In pixels; they cover the image. Every one is given to :meth:`add` once.
    wanted
        In pixels; boxes may overlap.
    kind
        Blending weights as in :func:`napari_ssldiff.diffusion.presets.window_weights`.
    """

    def __init__(self, windows: Sequence[Box], wanted: Sequence[Box], kind: str) -> None:
        self._wanted, self._kind = wanted, kind
        self._edges = np.array([[b.y, b.x, b.y1, b.x1] for b in wanted]).reshape(-1, 4)
        self._missing = np.zeros(len(wanted), int)
        for window in windows:
            self._missing[self._reached(window)] += 1
        self._pieces: dict[int, list[_Piece]] = {}
        self._weights: dict[tuple[int, int], torch.Tensor] = {}

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
        piece = _Piece(window, window, values, len(reached))
        for n in reached:
            self._pieces.setdefault(int(n), []).append(piece)
        self._missing[reached] -= 1
        for n in reached[self._missing[reached] == 0]:
            yield int(n), self._leave(int(n))
        if piece.waiting:
            self._crop(piece, reached[self._missing[reached] > 0])

    @property
    def held(self) -> int:
        """Bytes of the windows that are kept."""
        kept = {id(p): p for pieces in self._pieces.values() for p in pieces}
        return sum(p.values.nbytes for p in kept.values())

    def _leave(self, n: int) -> torch.Tensor:
        box = self._wanted[n]
        out, total = None, torch.zeros(box.shape)
        # Always in the same order, whatever came first: a sum of floats depends on it.
        for piece in sorted(self._pieces.pop(n), key=lambda piece: piece.window.to_list()):
            if out is None:
                out = torch.zeros(len(piece.values), *box.shape)
            both = piece.window.intersect(box)
            to, weight = both.shift(-box.y, -box.x).slices, self._weight(piece.window.shape)
            weight = weight[both.shift(-piece.window.y, -piece.window.x).slices]
            values = piece.values[(slice(None), *both.shift(-piece.place.y, -piece.place.x).slices)]
            out[(slice(None), *to)] += weight * values
            total[to] += weight
            piece.waiting -= 1
        assert out is not None
        return out / total

    def _crop(self, piece: _Piece, waiting: np.ndarray[tuple[int], np.dtype[np.intp]]) -> None:
        """Keep of a window what boxes still wait for."""
        low, high = self._edges[waiting, :2].min(0), self._edges[waiting, 2:].max(0)
        need = piece.window.intersect(Box(*low.tolist(), *(high - low).tolist()))
        if need.area < piece.place.area:
            part = piece.values[(slice(None), *need.shift(-piece.place.y, -piece.place.x).slices)]
            piece.place, piece.values = need, part.clone()

    def _weight(self, shape: tuple[int, int]) -> torch.Tensor:
        if shape not in self._weights:
            self._weights[shape] = blend_weight(self._kind, shape)
        return self._weights[shape]
