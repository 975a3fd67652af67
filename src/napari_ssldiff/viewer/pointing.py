"""Real cells like one that was pointed at, or of a kind that was picked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.field import Vectors
from napari_ssldiff.embeddings.look import Near, nearest, of_kind, similarity
from napari_ssldiff.viewer.field_job import OpenedField, Whole
from napari_ssldiff.viewer.kinds import Kind

#: Real cells that are shown beside one that was pointed at.
NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class Pointed:
    """What the user pointed at.

    Parameters
    ----------
    about
        What it is, and what stands beside it.
    vector
        ``(d,)``.
    near
        The real cells most like it, of the field as it was opened or of the whole scene.
    """

    about: str
    vector: Vectors
    near: tuple[Near, ...]


def cell_of(
    opened: OpenedField, row: int, column: int, vector: Vectors, whole: bool = False
) -> Pointed:
    """A cell, and the real ones most like it.

    Parameters
    ----------
    vector
        What it is by now.
    whole
        Whether it is a cell of the scene's sample rather than of the region.
    """
    (field, _), (h, w) = opened.sorted, opened.field.cell
    if whole:
        y, x = opened.corner(row, column)
    else:
        y, x = (o + i * s for o, i, s in zip(opened.field.origin, (row, column), (h, w),
                                              strict=True))  # fmt: skip

    def itself(near: Near) -> bool:
        top, left = opened.corner(near.row, near.column)
        return abs(top - y) < h and abs(left - x) < w

    # Cells of the sample lie on a lattice of their own, so up to four of them reach into it.
    found = [n for n in nearest(field, vector, NEIGHBOURS + 4) if not itself(n)]
    of = "cell of the slide" if whole else f"cell {row + 1}, {column + 1}"
    where = "" if opened.whole is None else " in the whole slide"
    about = f"The {of} and the real cells nearest to it{where}, by cosine:"
    return Pointed(about, vector, tuple(found[:NEIGHBOURS]))


def kind_of(opened: OpenedField, kind: Kind, index: int) -> Pointed:
    """A kind, and the real cells of it that are most like its prototype; of what is none of the
    field's own kinds, the real cells most like it.
    """
    field, found = opened.sorted
    where = "the region" if opened.whole is None else "the whole slide"
    name = kind.name[:1].upper() + kind.name[1:]
    if index < len(found.vectors):
        near = of_kind(field, found, index, NEIGHBOURS)
        about = f"{name} and the real cells of it in {where} that are most like its middle:"
    else:
        near = nearest(field, kind.vector, NEIGHBOURS)
        about = f"{name} and the real cells in {where} that are most like it:"
    return Pointed(about, kind.vector, tuple(near))


def heat_of(whole: Whole, vector: Vectors) -> NDArray[np.float32]:
    """``(rows, columns)`` cosines with a vector all over a scene; not a number where it was not
    looked at.
    """
    field = whole.sampled.field
    return np.where(_looked_at(whole), similarity(field, vector), np.float32(np.nan))


def map_of(whole: Whole, colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(rows, columns, 4)``: colours of its cells, clear where it was not looked at."""
    alpha = np.where(_looked_at(whole), 255, 0).astype(np.uint8)
    return np.concatenate([colours, alpha[..., None]], -1)


def _looked_at(whole: Whole) -> NDArray[np.bool_]:
    valid = whole.sampled.field.valid
    return np.ones(whole.sampled.field.shape, bool) if valid is None else valid
