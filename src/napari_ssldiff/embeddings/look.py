"""Looking at a field: colours, similarity, prototypes, nearest cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_ssldiff.embeddings.field import EmbeddingField, Vectors, normalise
from napari_ssldiff.errors import InputError

#: Share of cells at either end of an axis whose colour is as strong as it gets.
TAIL = 0.02


@dataclass(frozen=True)
class Colours:
    """Colours of embeddings: three directions in which cells differ most, as red, green and blue.

    Cells of like content have like colours, in every field that the same colours are used for.

    Parameters
    ----------
    axes
        ``(3, d)`` orthonormal rows.
    low, high
        ``(3,)``: where each axis is darkest and brightest.
    """

    axes: Vectors
    low: Vectors
    high: Vectors

    def __call__(self, vectors: ArrayLike) -> NDArray[np.uint8]:
        """``(…, d)`` → ``(…, 3)`` uint8."""
        share = (np.asarray(vectors, np.float32) @ self.axes.T - self.low) / (self.high - self.low)
        return np.asarray(np.clip(share * 255 + 0.5, 0, 255), np.uint8)


def fit_colours(field: EmbeddingField) -> Colours:
    """Colours by the principal components of a field's cells, those of background left out."""
    cells = cells_of(field)
    centred = cells - cells.mean(0)
    axes = np.zeros((3, field.width), np.float32)
    found = np.linalg.svd(centred, full_matrices=False)[2][:3]
    axes[: len(found)] = found
    # The sign of a component is arbitrary: the largest number is made positive, to be the same
    # wherever it is computed.
    peak = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
    axes *= np.where(peak < 0, -1, 1)
    low, high = np.quantile(cells @ axes.T, (TAIL, 1 - TAIL), axis=0)
    flat = high - low < 1e-6
    middle = np.where(flat, low - 0.5, low), np.where(flat, low + 0.5, high)
    return Colours(axes, *(np.asarray(m, np.float32) for m in middle))


def similarity(field: EmbeddingField, vector: ArrayLike) -> NDArray[np.float32]:
    """``(rows, columns)`` cosines of every cell with a ``(d,)`` vector."""
    v = normalise(vector)
    if v.shape != (field.width,):
        raise InputError(f"a vector of this field has {field.width} numbers, got {v.shape}")
    return np.asarray(field.vectors @ v, np.float32)


@dataclass(frozen=True)
class Prototypes:
    """What a field consists of.

    Parameters
    ----------
    vectors
        ``(k, d)`` unit vectors, the most frequent first.
    labels
        ``(rows, columns)``: which one a cell is nearest to, from 0.
    cells
        ``(row, column)`` of the cell nearest to each.
    """

    vectors: Vectors
    labels: NDArray[np.int64]
    cells: tuple[tuple[int, int], ...]


def prototypes(field: EmbeddingField, count: int, seed: int = 0) -> Prototypes:
    """Prototypes of a field by k-means on the sphere; fewer where cells are fewer or alike.

    Raises
    ------
    InputError
        If ``count`` is below 1.
    """
    from sklearn.cluster import KMeans

    if count < 1:
        raise InputError(f"there is at least 1 prototype, got {count}")
    cells = cells_of(field)
    k = min(count, len(np.unique(cells.round(5), axis=0)))
    found = KMeans(k, n_init=4, random_state=seed).fit(cells)
    # A cell is of the kind whose middle it is most like, which k-means, by distances to middles
    # inside the sphere, says now and then of another.
    vectors, valid = normalise(found.cluster_centers_), _valid(field)
    counts = np.bincount((cells @ vectors.T).argmax(1), minlength=k)
    vectors = vectors[[i for i in np.argsort(-counts, kind="stable") if counts[i]]]
    cosines = field.vectors @ vectors.T
    labels = cosines.argmax(-1)
    own = valid[..., None] & (labels[..., None] == np.arange(len(vectors)))
    nearest = np.where(own, cosines, -2).reshape(-1, len(vectors)).argmax(0)
    rows, columns = np.unravel_index(nearest, field.shape)
    return Prototypes(vectors, labels, tuple(zip(rows.tolist(), columns.tolist(), strict=True)))


@dataclass(frozen=True)
class Near:
    """A cell and its cosine with what was sought."""

    row: int
    column: int
    cosine: float


def nearest(
    field: EmbeddingField,
    vector: ArrayLike,
    count: int = 5,
    *,
    beside: tuple[int, int] | None = None,
) -> list[Near]:
    """The cells of a field that are most like a ``(d,)`` vector, the nearest first.

    Parameters
    ----------
    beside
        ``(row, column)`` of a cell that does not count, since it is the one that is asked about.
    """
    cosines = np.where(_valid(field), similarity(field, vector), -2)
    if beside is not None:
        cosines[beside] = -2
    return _best(cosines, count)


def of_kind(field: EmbeddingField, found: Prototypes, kind: int, count: int = 5) -> list[Near]:
    """The cells of one kind that are most like its prototype, the nearest first.

    Parameters
    ----------
    found
        What :func:`prototypes` makes of the field.
    kind
        Which, from 0.

    Raises
    ------
    InputError
        If there is no such kind.
    """
    if not 0 <= kind < len(found.vectors):
        raise InputError(f"there is no kind {kind}: there are {len(found.vectors)}, from 0")
    cosines = similarity(field, found.vectors[kind])
    cosines = np.where(_valid(field) & (found.labels == kind), cosines, -2)
    return _best(cosines, count)


def _best(cosines: NDArray[np.float32], count: int) -> list[Near]:
    """Cells of the largest cosines; of -2 none."""
    best = np.argsort(-cosines, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(best, cosines.shape)
    found = (Near(int(r), int(c), float(cosines[r, c])) for r, c in zip(rows, columns, strict=True))
    return [near for near in found if near.cosine > -2]


def _valid(field: EmbeddingField) -> NDArray[np.bool_]:
    if field.valid is None or not field.valid.any():
        return np.ones(field.shape, bool)
    return field.valid


def cells_of(field: EmbeddingField) -> Vectors:
    """``(n, d)``: a field's cells, those of background left out."""
    return np.asarray(field.vectors[_valid(field)], np.float32)
