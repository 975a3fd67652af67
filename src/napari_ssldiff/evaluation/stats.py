"""Counts and intervals: what stands beside every figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Estimate:
    """One figure with its 95 % interval and what it was counted over.

    Parameters
    ----------
    value
        The figure.
    interval
        ``(low, high)``; ``None`` where there is one group only, whose spread nobody knows.
    count
        Observations (cells, tiles, windows…).
    groups
        Independent things that they come from (images, places): what is resampled.
    """

    value: float
    interval: tuple[float, float] | None
    count: int
    groups: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON: ``value``, ``interval``, ``n``, ``images``."""
        return {
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "n": self.count,
            "images": self.groups,
        }


def members(groups: ArrayLike) -> list[NDArray[np.int64]]:
    """Indices of every group's observations."""
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    order = np.argsort(index, kind="stable")
    return np.split(order, np.cumsum(np.bincount(index))[:-1]) if len(order) else []


def resample(parts: Sequence[NDArray[np.int64]], rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of one bootstrap draw: as many groups as there are, with replacement, each whole.

    Observations of one image are not independent, so images are drawn, not observations.
    """
    return np.concatenate([parts[i] for i in rng.integers(0, len(parts), len(parts))])


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    groups: ArrayLike,
    rng: np.random.Generator,
    draws: int = 1000,
    *,
    centred: bool = False,
) -> Estimate:
    """A figure of indices, with its percentile interval over groups.

    Parameters
    ----------
    statistic
        Takes observation indices (repeats included), returns the figure.
    groups
        One label per observation.
    centred
        Subtract the mean excess of the draws over the figure. For distances that repeats can
        only raise, such as Fréchet's, whose plain interval would not hold the figure itself.
    """
    parts = members(groups)
    count = int(sum(map(len, parts)))
    value = float(statistic(np.arange(count)))
    if len(parts) < 2:
        return Estimate(value, None, count, len(parts))
    values = np.array([statistic(resample(parts, rng)) for _ in range(draws)], float)
    values = values[np.isfinite(values)]
    if centred:
        values = values - values.mean() + value
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(value, (float(low), float(high)), count, len(parts))


def mean_estimate(
    values: ArrayLike, groups: ArrayLike, rng: np.random.Generator, draws: int = 1000
) -> Estimate:
    """The mean of observations, bootstrapped over groups; fast, by the groups' sums."""
    x = np.asarray(values, float)
    parts = members(groups)
    value = float(x.mean())
    if len(parts) < 2:
        return Estimate(value, None, len(x), len(parts))
    sums = np.array([x[p].sum() for p in parts])
    sizes = np.array([len(p) for p in parts], float)
    draw = rng.integers(0, len(parts), (draws, len(parts)))
    means = sums[draw].sum(1) / sizes[draw].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(value, (float(low), float(high)), len(x), len(parts))


def plain(value: Any, digits: int = 5) -> Any:
    """JSON-ready: numpy unwrapped, floats at ``digits`` significant, and ``None`` for no number.

    A file with NaN in it is no JSON; a figure that is not a number is one that is missing.
    """
    if isinstance(value, dict):
        return {str(k): plain(v, digits) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v, digits) for v in value]
    if isinstance(value, Estimate):
        return plain(value.to_dict(), digits)
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return float(f"{number:.{digits}g}") if math.isfinite(number) else None
    return value
