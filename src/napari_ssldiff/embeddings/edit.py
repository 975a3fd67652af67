"""Operations on fields: pure functions from fields to fields, on the unit sphere throughout.

Where a function takes ``mask`` it is ``(rows, columns)`` in [0, 1]: how much each cell takes
part; ``None`` is all of every cell. Cells with 0 come back bit for bit. The frame of the first
field stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter1d  # type: ignore[import-untyped]
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from napari_ssldiff.embeddings.field import EmbeddingField, Vectors, normalise, slerp
from napari_ssldiff.embeddings.line import along
from napari_ssldiff.embeddings.scatter import TIGHTEST, drawn_around
from napari_ssldiff.errors import InputError

#: Cells that :func:`transfer` matches at once.
MATCHED = 1024
#: Largest radius of :func:`smooth`, in cells: beyond it a field of any size is its mean.
WIDEST = 1000


def _weights(field: EmbeddingField, mask: ArrayLike | None) -> NDArray[np.float32]:
    if mask is None:
        return np.ones(field.shape, np.float32)
    weights = np.asarray(mask, np.float32)
    if weights.shape != field.shape:
        raise InputError(f"a mask of {weights.shape} cells does not fit a field of {field.shape}")
    if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.max() <= 1):
        raise InputError("a mask's values lie between 0 and 1")
    return weights


def _same_space(a: EmbeddingField, b: EmbeddingField) -> None:
    if (a.encoder, a.width) != (b.encoder, b.width):
        raise InputError(
            f"fields of different encoders do not mix: {a.encoder} with {a.width} numbers, "
            f"{b.encoder} with {b.width}; embed both with one model"
        )


def _vector(field: EmbeddingField, vector: ArrayLike, name: str) -> Vectors:
    v = normalise(vector)
    if v.shape != (field.width,):
        raise InputError(f"{name} needs {field.width} numbers, got an array of shape {v.shape}")
    if not v.any():
        raise InputError(f"{name} is a zero vector, which points nowhere")
    return v


def _arc(a: Vectors, b: Vectors, t: NDArray[np.float32]) -> Vectors:
    """Slerp, the ends exact."""
    at = t[..., None]
    return np.where(at == 0, a, np.where(at == 1, b, slerp(a, b, t)))


def _towards(field: EmbeddingField, goal: Vectors, t: NDArray[np.float32]) -> EmbeddingField:
    """Every cell on its way to its goal."""
    return replace(field, vectors=_arc(field.vectors, goal, t))


def average(field: EmbeddingField, mask: ArrayLike | None = None) -> Vectors:
    """``(d,)``: the mean direction of a field's cells, weighted by ``mask``.

    Raises
    ------
    InputError
        If nothing takes part, or the cells cancel each other out.
    """
    total = (field.vectors * _weights(field, mask)[..., None]).sum((0, 1), dtype=np.float64)
    if np.linalg.norm(total) < 1e-6:
        raise InputError("the cells have no mean direction: choose others")
    return normalise(total)


def content(field: EmbeddingField) -> Vectors:
    """``(n, d)``: the cells that hold tissue or ground; all of them where none does."""
    held = field.valid if field.valid is not None and field.valid.any() else ...
    return field.vectors[held].reshape(-1, field.width)


def typical(field: EmbeddingField) -> Vectors:
    """``(d,)``: the mean direction of a field's :func:`content`, so that the glass around a
    tissue is no part of what it is like.

    Raises
    ------
    InputError
        If the cells cancel each other out.
    """
    held = field.valid if field.valid is not None and field.valid.any() else None
    return average(field, held)


def direction(towards: ArrayLike, away: ArrayLike) -> Vectors:
    """``(d,)``: what distinguishes one set of ``(…, d)`` unit vectors from another: the normalised
    difference of their means.

    Raises
    ------
    InputError
        If the means are the same.
    """
    means = []
    for vectors in (towards, away):
        v = np.asarray(vectors, np.float64)
        means.append(v.reshape(-1, v.shape[-1]).mean(0))
    difference = means[0] - means[1]
    if np.linalg.norm(difference) < 1e-6:
        raise InputError("both sets have the same mean: there is no direction between them")
    return normalise(difference)


def mix(
    a: EmbeddingField, b: EmbeddingField, amount: float, mask: ArrayLike | None = None
) -> EmbeddingField:
    """From ``a`` (amount 0) to ``b`` (amount 1) along the sphere.

    Raises
    ------
    InputError
        If the fields differ in shape or encoder, or the amount is not in [0, 1].
    """
    _same_space(a, b)
    if a.shape != b.shape:
        raise InputError(
            f"fields of {a.shape} and {b.shape} cells do not mix: stretch one over the other first"
        )
    if not 0 <= amount <= 1:
        raise InputError(f"the amount lies between 0 and 1, got {amount}")
    return _towards(a, b.vectors, np.float32(amount) * _weights(a, mask))


def stretched(field: EmbeddingField, like: EmbeddingField) -> EmbeddingField:
    """A field's content in the frame of another, stretched over all of it: what :func:`mix` needs
    of a region of another shape. A field of the same shape keeps its vectors bit for bit.

    Raises
    ------
    InputError
        If the fields are of different encoders.
    """
    _same_space(field, like)
    if field.shape == like.shape:
        return replace(like, vectors=field.vectors)
    places = [
        o + (np.arange(n) + 0.5) / n * m * c
        for o, n, m, c in zip(field.origin, like.shape, field.shape, field.cell, strict=True)
    ]
    return replace(like, vectors=field.sample(places[0][:, None], places[1]))


def interpolate(
    field: EmbeddingField,
    start: ArrayLike,
    end: ArrayLike,
    path: Literal["y", "x"] | ArrayLike,
    *,
    width: float = 1.0,
    soft: float = 0.0,
    mask: ArrayLike | None = None,
) -> EmbeddingField:
    """Cells that lead from one meaning to another, by slerp over the length of the way.

    Parameters
    ----------
    start, end
        ``(d,)`` or ``(…, d)``, of which the mean direction counts.
    path
        ``"x"`` or ``"y"``: from the first column or row that takes part to the last, all of them
        exactly ``start`` and ``end`` there. Or ``(n, 2)`` points ``(row, column)`` of a polyline,
        where whole numbers are the middles of cells; a cell takes the meaning of the point of
        the line that is nearest.
    width, soft
        Of a line, in cells: what is within half the width of it becomes the meaning, what is
        farther fades into the field over ``soft``.

    Raises
    ------
    InputError
        If a meaning is none, the line has no length, or a width is negative.
    """
    weights = _weights(field, mask)
    a = _vector(field, _mean(start), "the start")
    b = _vector(field, _mean(end), "the end")
    if isinstance(path, str):
        t = _within(weights > 0, path)
    else:
        t, near = along(field.shape, path, width, soft)
        weights = near * weights
    return _towards(field, _between(field, a, b, t), weights)


def way(
    field: EmbeddingField,
    start: ArrayLike,
    end: ArrayLike,
    path: ArrayLike,
    width: float = 1.0,
    soft: float = 0.0,
) -> tuple[EmbeddingField, NDArray[np.float32]]:
    """What :func:`interpolate` leads a field's cells to along a line, and how far each of them."""
    t, near = along(field.shape, path, width, soft)
    a, b = _vector(field, _mean(start), "the start"), _vector(field, _mean(end), "the end")
    return replace(field, vectors=_between(field, a, b, t)), near


def _between(field: EmbeddingField, a: Vectors, b: Vectors, t: NDArray[np.float32]) -> Vectors:
    shape = field.vectors.shape
    return _arc(np.broadcast_to(a, shape), np.broadcast_to(b, shape), t)


def _mean(vectors: ArrayLike) -> NDArray[np.float64] | Vectors:
    v = np.asarray(vectors, np.float32)
    return v if v.ndim == 1 else v.reshape(-1, v.shape[-1]).mean(0, dtype=np.float64)


def _within(inside: NDArray[np.bool_], axis: str) -> NDArray[np.float32]:
    """From 0 to 1 over the rows or columns that take part."""
    if axis not in ("y", "x"):
        raise InputError(f"an axis is x or y, got {axis!r}")
    used = np.nonzero(inside.any(1 if axis == "y" else 0))[0]
    line = np.zeros(inside.shape[axis == "x"], np.float32)
    if len(used):
        span = slice(used[0], used[-1] + 1)
        line[span] = ramp((1, used[-1] + 1 - used[0]), "x")[0]
    return np.broadcast_to(line[:, None] if axis == "y" else line, inside.shape).copy()


def ramp(shape: tuple[int, int], axis: Literal["y", "x"]) -> NDArray[np.float32]:
    """``shape`` float32 from 0 at the first row or column to 1 at the last: a mask for
    :func:`mix` that leads from one field to another.
    """
    rows, columns = shape
    count = rows if axis == "y" else columns
    line = np.linspace(0, 1, count, dtype=np.float32) if count > 1 else np.zeros(1, np.float32)
    return np.broadcast_to(line[:, None] if axis == "y" else line, shape).copy()


def paint(
    field: EmbeddingField, prototype: ArrayLike, mask: ArrayLike | None = None
) -> EmbeddingField:
    """Cells drawn towards a ``(d,)`` prototype; where the mask is 1 they are it."""
    goal = np.broadcast_to(_vector(field, prototype, "a prototype"), field.vectors.shape)
    return _towards(field, goal, _weights(field, mask))


def move(
    field: EmbeddingField, along: ArrayLike, angle: float, mask: ArrayLike | None = None
) -> EmbeddingField:
    """Every cell moved by ``angle`` radians along the great circle towards ``along``.

    The exponential map of the part of ``along`` that is tangent to the sphere at the cell; a
    negative angle moves away. A cell that is ``along`` itself stays.
    """
    if not np.isfinite(angle):
        raise InputError(f"an angle is a finite number of radians, got {angle}")
    goal = _vector(field, along, "a direction")
    v = field.vectors
    tangent = goal - (v @ goal)[..., None] * v
    length = np.linalg.norm(tangent, axis=-1, keepdims=True)
    unit = np.where(length > 1e-6, tangent / np.maximum(length, 1e-6), 0)
    theta = (np.float32(angle) * _weights(field, mask))[..., None]
    moved = np.where(length > 1e-6, np.cos(theta) * v + np.sin(theta) * unit, v)
    return replace(field, vectors=np.where(theta == 0, v, moved))


def replace_similar(
    field: EmbeddingField,
    like: ArrayLike,
    by: ArrayLike,
    threshold: float,
    softness: float = 0.0,
    mask: ArrayLike | None = None,
) -> EmbeddingField:
    """Cells whose cosine with ``like`` exceeds ``threshold`` become ``by``.

    ``softness`` is the width in cosine over which the change sets in, around the threshold.
    """
    if not -1 <= threshold <= 1 or not 0 <= softness <= 2:
        raise InputError(
            f"a threshold lies in [-1, 1] and a softness in [0, 2], got {threshold} and {softness}"
        )
    cosine = field.vectors @ _vector(field, like, "what is sought")
    if softness:
        t = np.clip((cosine - threshold) / softness + 0.5, 0, 1)
        t = t * t * (3 - 2 * t)
    else:
        t = (cosine > threshold).astype(np.float32)
    goal = np.broadcast_to(_vector(field, by, "what takes its place"), field.vectors.shape)
    return _towards(field, goal, (t * _weights(field, mask)).astype(np.float32))


def transfer(
    layout: EmbeddingField,
    palette: EmbeddingField,
    amount: float = 1.0,
    mask: ArrayLike | None = None,
    seed: int = 0,
) -> EmbeddingField:
    """The layout of one field with the embeddings of another.

    Every cell is given a cell of the palette, all of them equally often, so that the cosines add
    up to the most (the assignment problem, both centred on their means: what is unusual in the one
    becomes what is unusual in the other). Large fields are matched in random parts of
    :data:`MATCHED` cells.
    """
    _same_space(layout, palette)
    if not 0 <= amount <= 1:
        raise InputError(f"the amount lies between 0 and 1, got {amount}")
    rng = _random(seed)
    mine = layout.vectors.reshape(-1, layout.width)
    theirs = palette.vectors.reshape(-1, palette.width)
    if palette.valid is not None and palette.valid.any():
        theirs = theirs[palette.valid.ravel()]
    order = rng.permutation(len(mine))
    rounds = -(-len(mine) // len(theirs))
    pool = np.concatenate([rng.permutation(len(theirs)) for _ in range(rounds)])[: len(mine)]
    centred = normalise(mine - mine.mean(0)), normalise(theirs - theirs.mean(0))
    goal = np.empty_like(mine)
    for first in range(0, len(mine), MATCHED):
        cells, choice = order[first : first + MATCHED], pool[first : first + MATCHED]
        rows, columns = linear_sum_assignment(-(centred[0][cells] @ centred[1][choice].T))
        goal[cells[rows]] = theirs[choice[columns]]
    return _towards(
        layout, goal.reshape(layout.vectors.shape), np.float32(amount) * _weights(layout, mask)
    )


def smooth(field: EmbeddingField, radius: float, mask: ArrayLike | None = None) -> EmbeddingField:
    """A Gaussian mean of standard deviation ``radius`` cells, brought back to the sphere."""
    if not 0 <= radius <= WIDEST:
        raise InputError(f"a radius is at least 0 and at most {WIDEST} cells, got {radius}")
    if not radius:
        return field
    blurred = field.vectors
    for axis in (0, 1):
        blurred = gaussian_filter1d(blurred, radius, axis=axis, mode="nearest")
    return _towards(field, normalise(blurred), _weights(field, mask))


def jitter(
    field: EmbeddingField, concentration: float, seed: int, mask: ArrayLike | None = None
) -> EmbeddingField:
    """Every cell drawn anew from a von Mises–Fisher distribution around it.

    Parameters
    ----------
    concentration
        Kappa, above 0 and at most :data:`TIGHTEST`: large values stay close. In ``d`` dimensions
        the mean cosine is about ``kappa / (kappa + (d - 1) / 2)`` for large kappa. Sampled as by
        Wood (1994).
    """
    if not 0 < concentration <= TIGHTEST:
        raise InputError(
            f"a concentration is above 0 and at most {TIGHTEST:g}, got {concentration}: leave the "
            "field as it is to stay closer"
        )
    if field.width < 2:
        raise InputError("vectors of one number cannot be jittered")
    drawn = drawn_around(field.vectors, concentration, _random(seed))
    return _towards(field, normalise(drawn), _weights(field, mask))


def _random(seed: int) -> np.random.Generator:
    if not 0 <= seed < 2**63:
        raise InputError(f"the seed must be between 0 and 2**63 - 1, got {seed}")
    return np.random.default_rng(seed)


def harmonise(field: EmbeddingField, inside: ArrayLike, width: float) -> EmbeddingField:
    """Cells of ``inside`` drawn to the nearest cell outside, less and less over ``width`` cells.

    Parameters
    ----------
    inside
        ``(rows, columns)`` bool: what was edited.
    width
        Cells from the border at which nothing is changed any more.
    """
    edited = np.asarray(inside, bool)
    if edited.shape != field.shape:
        raise InputError(f"a mask of {edited.shape} cells does not fit a field of {field.shape}")
    if not width >= 0:
        raise InputError(f"a width is at least 0 cells, got {width}")
    if not edited.any() or edited.all() or not width:
        return field
    away, (rows, columns) = distance_transform_edt(edited, return_indices=True)
    t = np.where(edited, np.clip(1 - away / (width + 1), 0, 1), 0).astype(np.float32)
    return _towards(field, field.vectors[rows, columns], t)
