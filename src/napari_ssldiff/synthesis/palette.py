"""Colours of embeddings: what a map of a slide that was not made yet is drawn with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from napari_ssldiff.embeddings.endless import Places
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box

#: Alpha of a pixel that only the field's map shows: it is approximate, and looks it.
APPROXIMATE = 160
#: The map is computed at no more than so many places per side of a view.
_MAP_SIDE = 128


@dataclass(frozen=True)
class Palette:
    """The mean colour of a cell, as far as it is linear in its embedding.

    Parameters
    ----------
    weights, bias
        ``(d, 3)`` and ``(3,)`` float32: colour = vector @ weights + bias, in [0, 255].
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(…, d)`` → ``(…, 3)`` float32 in [0, 255]."""
        return np.asarray(np.clip(vectors @ self.weights + self.bias, 0, 255), np.float32)

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible form; :meth:`from_dict` restores an equal palette."""
        return {"weights": self.weights.tolist(), "bias": self.bias.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Palette:
        """The palette that :meth:`to_dict` described."""
        return cls(np.asarray(data["weights"], np.float32), np.asarray(data["bias"], np.float32))


def fit_palette(
    field: EmbeddingField, colours: NDArray[np.floating[Any]], ridge: float = 1e-2
) -> Palette:
    """The palette of a scene, by ridge regression.

    Parameters
    ----------
    field
        ``(rows, columns, d)`` embeddings of the scene's cells.
    colours
        ``(rows, columns, 3)``: the cells' mean colours, in [0, 255].
    ridge
        Penalty on the weights, per cell.
    """
    x = field.vectors.reshape(-1, field.width).astype(np.float64)
    y = np.asarray(colours, np.float64).reshape(-1, 3)
    if len(x) != len(y):
        raise InputError(f"a palette needs a colour per cell: {len(x)} cells, {len(y)} colours")
    mean, middle = x.mean(0), y.mean(0)
    gram = (x - mean).T @ (x - mean) + ridge * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, (x - mean).T @ (y - middle))
    return Palette(weights.astype(np.float32), (middle - mean @ weights).astype(np.float32))


def draw_map(places: Places, palette: Palette, level: int, box: Box) -> NDArray[np.uint8]:
    """``(h, w, 4)`` uint8: the colours of a field at a box of a level that halves ``level`` times.

    They are taken at a lattice of places that a panned view shares, and interpolated; no network is
    called.
    """
    step = 2**level
    while max(box.shape) * 2**level > _MAP_SIDE * step:
        step *= 2
    first = [n * 2**level // step for n in (box.y, box.x)]
    last = [-(-n * 2**level // step) for n in (box.y1, box.x1)]
    rows, columns = (np.arange(a - 1, b + 2) for a, b in zip(first, last, strict=True))
    colours = palette(
        places.glance(((rows + 0.5) * step)[:, None], ((columns + 0.5) * step)[None, :])
    )
    grid = torch.from_numpy(colours).permute(2, 0, 1)[None]
    ratio = step >> level
    if ratio > 1:
        size = [n * ratio for n in grid.shape[2:]]
        grid = F.interpolate(grid, size, mode="bilinear", align_corners=False)
    y, x = box.y - int(rows[0]) * ratio, box.x - int(columns[0]) * ratio
    rgb = grid[0, :, y : y + box.h, x : x + box.w].permute(1, 2, 0).round().to(torch.uint8)
    alpha = np.full((*box.shape, 1), APPROXIMATE, np.uint8)
    return np.concatenate([rgb.numpy(), alpha], 2)
