"""Distances between two sets of feature vectors: Fréchet's and the kernel's.

The formulas are torch-fidelity's, on features that are given:

- Fréchet (Heusel et al. 2017), of Gaussians with the sets' moments:
  ``|µ1 - µ2|² + tr(Σ1 + Σ2 - 2 (Σ1 Σ2)^½)``. Biased upward by about 1/n, so only distances at the
  same n compare.
- Kernel (Bińkowski et al. 2018): the unbiased squared MMD under ``(x·y/d + 1)³``, as mean and
  standard deviation over subsets. About 0 for sets of one distribution; may be negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_ssldiff.evaluation.stats import Estimate, members, resample

Features = NDArray[np.floating[Any]]

#: Fewer vectors a side and Fréchet's bias is as large as what it should measure.
LEAST = 600


@dataclass(frozen=True)
class Projection:
    """Principal components, fitted once on training features and applied to all others.

    Parameters
    ----------
    mean
        ``(d,)``.
    axes
        ``(k, d)`` orthonormal, by falling variance.
    explained
        Share of the training variance that the ``k`` axes hold.
    count
        Training vectors.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    explained: float
    count: int

    def __call__(self, features: Features) -> NDArray[np.float64]:
        """``(n, d)`` → ``(n, k)``."""
        return np.asarray((features.astype(np.float64) - self.mean) @ self.axes.T)


def fit_projection(features: Features, dims: int = 32) -> Projection:
    """PCA of ``(n, d)``, to at most ``dims`` axes (fewer where n or d is smaller)."""
    from sklearn.decomposition import PCA

    k = min(dims, features.shape[1], len(features) - 1)
    pca = PCA(k, svd_solver="full").fit(features.astype(np.float64))
    explained = float(pca.explained_variance_ratio_.sum())
    return Projection(pca.mean_, pca.components_, explained, len(features))


def frechet_distance(a: Features, b: Features) -> float:
    """Fréchet distance between ``(n, d)`` and ``(m, d)``; see the module."""
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    one, two = (
        fid_features_to_statistics(torch.from_numpy(np.ascontiguousarray(x, np.float64)))
        for x in (a, b)
    )
    return float(fid_statistics_to_metric(one, two, verbose=False)[KEY_METRIC_FID])


def kernel_distance(
    a: Features, b: Features, subsets: int = 100, size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of the kernel distance over random subsets.

    Parameters
    ----------
    a, b
        ``(n, d)`` and ``(m, d)``.
    size
        Vectors per subset; default half of the smaller set, at most 1000.
    """
    from torch_fidelity.metric_kid import (
        KEY_METRIC_KID_MEAN,
        KEY_METRIC_KID_STD,
        kid_features_to_metric,
    )

    size = size or min(1000, max(2, min(len(a), len(b)) // 2))
    out = kid_features_to_metric(
        torch.from_numpy(np.ascontiguousarray(a, np.float64)),
        torch.from_numpy(np.ascontiguousarray(b, np.float64)),
        kid_subsets=subsets,
        kid_subset_size=size,
        rng_seed=seed,
        verbose=False,
    )
    return float(out[KEY_METRIC_KID_MEAN]), float(out[KEY_METRIC_KID_STD])


def variance_ratio(made: Features, real: Features) -> dict[str, Any]:
    """Variance of the made set over the real set's, per dimension, and how it is spread.

    Below 1: the model varies less than the images do; above: more.
    """
    ratio = made.var(0, ddof=1) / real.var(0, ddof=1)
    low, high = np.percentile(ratio, [5, 95])
    return {
        "mean": float(ratio.mean()),
        "min": float(ratio.min()),
        "max": float(ratio.max()),
        "percentiles_5_95": [float(low), float(high)],
        "within_0.7_1.4": float(((ratio >= 0.7) & (ratio <= 1.4)).mean()),
        "dimensions": len(ratio),
        "n": len(made),
    }


def halves_by_cell(
    count: int, n: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two disjoint random sets of ``n`` out of ``count``: both cover the same images."""
    order = rng.permutation(count)
    return order[:n], order[n : 2 * n]


def halves_by_image(
    groups: Sequence[str], n: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Two sets of ``n`` with no image in common; ``None`` where a side cannot fill ``n``."""
    parts = members(groups)
    sides: list[list[NDArray[np.int64]]] = [[], []]
    for i in rng.permutation(len(parts)):
        sides[sum(map(len, sides[0])) > sum(map(len, sides[1]))].append(parts[i])
    if any(sum(map(len, side)) < n for side in sides):
        return None
    a, b = (rng.permutation(np.concatenate(side))[:n] for side in sides)
    return a, b


@dataclass(frozen=True)
class Floor:
    """Fréchet distances between halves of the real set, one per random split."""

    values: NDArray[np.float64]
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Mean, standard deviation and number of the splits."""
        return {
            "value": float(self.values.mean()),
            "std": float(self.values.std(ddof=1)) if len(self.values) > 1 else None,
            "splits": len(self.values),
            "n": self.n,
        }


def real_floor(
    real: Features,
    groups: Sequence[str],
    n: int,
    rng: np.random.Generator,
    *,
    splits: int = 200,
    by_image: bool = False,
) -> Floor | None:
    """What the distance is between real and real, at the same n as the figure it is for."""
    values = []
    for _ in range(splits):
        pair = halves_by_image(groups, n, rng) if by_image else halves_by_cell(len(real), n, rng)
        if pair is None:
            continue
        values.append(frechet_distance(real[pair[0]], real[pair[1]]))
    return Floor(np.array(values), n) if values else None


def ratio_to_floor(
    made: Features,
    real: Features,
    groups: Sequence[str],
    floor: Floor,
    rng: np.random.Generator,
    draws: int = 300,
) -> tuple[Estimate, Estimate]:
    """The distance, and the distance over the floor's mean, with intervals over images.

    Draws repeat images in both sets, which raises the distance; the mean of that rise is taken
    off (:func:`bootstrap`'s ``centred``). The ratio's interval also redraws the floor's splits.
    """
    value = frechet_distance(made, real)
    parts = members(groups)
    mean = float(floor.values.mean())
    if len(parts) < 2:
        return (
            Estimate(value, None, len(made), len(parts)),
            Estimate(value / mean, None, len(made), len(parts)),
        )
    drawn = []
    for _ in range(draws):
        index = resample(parts, rng)
        drawn.append(frechet_distance(made[index], real[index]))
    values = np.maximum(np.array(drawn) - np.mean(drawn) + value, 0.0)
    below = rng.choice(floor.values, (draws, len(floor.values))).mean(1)
    return tuple(  # type: ignore[return-value]
        Estimate(
            centre,
            (float(np.percentile(spread, 2.5)), float(np.percentile(spread, 97.5))),
            len(made),
            len(parts),
        )
        for centre, spread in ((value, values), (value / mean, values / below))
    )
