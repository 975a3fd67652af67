"""What can be painted: kinds of cells, and goals that are another vector at every cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings import edit
from napari_ssldiff.embeddings.field import EmbeddingField, Vectors
from napari_ssldiff.errors import InputError


class Goal(Protocol):
    """What cells become, where that is not the same everywhere."""

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """``(rows, columns)`` in [0, 1]: how far each goes; ``None``: all of them all the way."""
        ...

    def of(self, field: EmbeddingField) -> EmbeddingField:
        """The field that they become when all of it is painted."""
        ...


@dataclass(frozen=True, eq=False)
class Content:
    """The cells of another region, stretched over the field: painting them is mixing.

    Parameters
    ----------
    vectors
        ``(rows, columns, d)``.
    """

    vectors: Vectors
    weights: None = None

    def of(self, field: EmbeddingField) -> EmbeddingField:
        """The other region's cells in their place."""
        return replace(field, vectors=self.vectors)


@dataclass(frozen=True, eq=False)
class Way:
    """Cells along a path that lead from one meaning to another.

    Parameters
    ----------
    vectors, weights
        As :func:`napari_ssldiff.embeddings.edit.way` makes them.
    """

    vectors: Vectors
    weights: NDArray[np.float32]

    def of(self, field: EmbeddingField) -> EmbeddingField:
        """The meanings along the path."""
        return replace(field, vectors=self.vectors)


@dataclass(frozen=True, eq=False)
class Shift:
    """Every cell moved on the sphere.

    Parameters
    ----------
    direction
        ``(d,)``.
    angle
        Radians.
    """

    direction: Vectors
    angle: float
    weights: None = None

    def of(self, field: EmbeddingField) -> EmbeddingField:
        """The moved field."""
        return edit.move(field, self.direction, self.angle)


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of cell that can be painted.

    Parameters
    ----------
    vector
        ``(d,)``, of unit length; of several the mean direction.
    name
        What it is called in a field's history.
    encoder
        Whose vector it is.
    picture
        ``(h, w, 3)`` uint8 of what is real of it; ``None`` where nothing is.
    goal
        What painted cells become; by default all of them ``vector``.
    op
        What painting it is called in a field's history.
    facts
        How it came about, as JSON can say it.
    """

    vector: Vectors
    name: str
    encoder: str
    picture: NDArray[np.uint8] | None = None
    goal: Goal | None = None
    op: str = "paint"
    facts: Mapping[str, Any] = field(default_factory=dict)


def painted(
    kept: EmbeddingField, labels: NDArray[np.int64], kinds: list[Kind], amount: float
) -> EmbeddingField:
    """A field with kinds painted on it.

    Parameters
    ----------
    labels
        ``(rows, columns)``: the kind, from 1, that lies on a cell; 0 for none.
    amount
        How far painted cells go, in [0, 1].

    Raises
    ------
    InputError
        If a label has no kind.
    """
    made = kept
    for label in np.unique(labels[labels > 0]):
        if label > len(kinds):
            raise InputError(f"there is no kind {label}: paint with one of {len(kinds)}")
        kind, mask = kinds[label - 1], (labels == label) * np.float32(amount)
        if kind.goal is None:
            made = edit.paint(made, kind.vector, mask)
        else:
            far = 1 if kind.goal.weights is None else kind.goal.weights
            made = edit.mix(made, kind.goal.of(kept), 1.0, mask * far)
    return made


def told_of(
    labels: NDArray[np.int64], kinds: list[Kind], amount: float
) -> tuple[str, dict[str, Any]]:
    """What a field's history says of :func:`painted`: the operation and its facts."""
    used = {int(k): kinds[k - 1] for k in np.unique(labels[labels > 0])}
    counts = {kind.name: int((labels == k).sum()) for k, kind in used.items()}
    ops = {kind.op for kind in used.values()}
    facts: dict[str, Any] = {"amount": round(amount, 4), "cells": counts}
    origins = {kind.name: dict(kind.facts) for kind in used.values() if kind.facts}
    if origins:
        facts["kinds"] = origins
    return ops.pop() if len(ops) == 1 else "paint", facts


def named(name: str, kinds: Iterable[Kind]) -> str:
    """``name``, with a number behind it where a kind is called so already."""
    taken, made, n = {kind.name for kind in kinds}, name, 2
    while made in taken:
        made, n = f"{name} ({n})", n + 1
    return made
