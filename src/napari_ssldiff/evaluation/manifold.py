"""Precision, recall and diversity in a feature space.

Precision and recall are Kynkäänniemi et al. 2019: a set's manifold is the union of balls around
its vectors, each reaching to the k-th neighbour. Precision is the share of made vectors inside
the real manifold, recall the share of real vectors inside the made one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist  # type: ignore[import-untyped]

from napari_ssldiff.evaluation.stats import bootstrap, mean_estimate

Features = NDArray[np.floating[Any]]


def inside_manifold(queries: Features, reference: Features, k: int = 3) -> NDArray[np.bool_]:
    """Which ``queries`` ``(n, d)`` lie in a ball of ``reference`` ``(m, d)``, m > k: ``(n,)``."""
    own = cdist(reference, reference)
    # Column 0 of the sorted distances is the vector itself.
    radius = np.partition(own, k, axis=1)[:, k]
    return np.asarray((cdist(queries, reference) <= radius).any(1))


def precision_recall(
    made: Features,
    real: Features,
    groups: Sequence[str],
    rng: np.random.Generator,
    k: int = 3,
) -> dict[str, Any]:
    """Both shares with intervals over images; the manifolds themselves stay as measured."""
    return {
        "precision": mean_estimate(inside_manifold(made, real, k), groups, rng).to_dict(),
        "recall": mean_estimate(inside_manifold(real, made, k), groups, rng).to_dict(),
        "k": k,
    }


def diversity(
    first: Features,
    second: Features,
    real: Features,
    groups: Sequence[str],
    rng: np.random.Generator,
    draws: int = 500,
) -> dict[str, Any]:
    """How far two variations of the same embeddings lie apart, against real pairs.

    Parameters
    ----------
    first, second
        ``(n, d)``: the same cells by two seeds.
    real
        ``(n, d)``: the real cells.
    groups
        Image of every cell. Real pairs are of two images.

    Returns
    -------
    ``relative``: mean distance between the seeds over that between real cells of two images.
    0 would be a model that ignores the seed; about 1 one that ignores the embedding.
    """
    seeds = np.linalg.norm(first - second, axis=1)
    label = np.unique(np.asarray(groups), return_inverse=True)[1]
    apart = cdist(real, real)

    def relative(index: NDArray[np.int64]) -> float:
        other = label[index][:, None] != label[index][None, :]
        if not other.any():
            return float("nan")
        return float(seeds[index].mean() / apart[np.ix_(index, index)][other].mean())

    return {
        "seeds": mean_estimate(seeds, groups, rng).to_dict(),
        "relative": bootstrap(relative, groups, rng, draws).to_dict(),
    }
