"""Few labels, many draws: logistic regression on real, synthetic and both, and its spread."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from napari_ssldiff.errors import InputError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

CONDITIONS = ("real", "synthetic", "both")
#: Inverse strengths of the L2 penalty that the cross-validation chooses from.
PENALTIES = (0.01, 0.1, 1.0, 10.0)
_FALLBACK = 0.1
#: Share of the training groups that a draw of all labels leaves out, so that draws differ.
HELD_BACK = 0.1


@dataclass(frozen=True)
class Labelled:
    """Features of labelled images.

    Parameters
    ----------
    features
        ``(n, f)`` float32.
    labels
        ``(n,)`` class indices.
    groups
        ``(n,)`` indices of places or patients.
    weights
        ``(n,)`` relative weights; the variations of one image share the weight of one.
    """

    features: Floats
    labels: Ints
    groups: Ints
    weights: NDArray[np.float64]

    def take(self, index: Ints | NDArray[np.bool_]) -> Labelled:
        """Some of them."""
        return Labelled(
            self.features[index], self.labels[index], self.groups[index], self.weights[index]
        )

    def scaled(self, like: Labelled) -> Labelled:
        """Features with the mean of ``like`` subtracted, over its standard deviation."""
        middle, spread = like.features.mean(0), like.features.std(0) + 1e-6
        return replace(self, features=((self.features - middle) / spread).astype(np.float32))

    def __add__(self, other: Labelled) -> Labelled:
        return Labelled(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.groups, other.groups]),
            np.concatenate([self.weights, other.weights]),
        )


def balanced_weights(data: Labelled) -> NDArray[np.float64]:
    """Weights with the same sum in every class and a mean of 1."""
    sums = np.bincount(data.labels, data.weights)
    weights = data.weights / sums[data.labels]
    return np.asarray(weights / weights.mean())


def fit(data: Labelled, penalty: float) -> LogisticRegression:
    """Logistic regression with an L2 penalty of inverse strength ``penalty``."""
    model = LogisticRegression(C=penalty, max_iter=300, tol=1e-3)
    with warnings.catch_warnings():
        # Not quite converged at the weakest penalty is good enough to be compared with.
        warnings.filterwarnings("ignore", category=UserWarning)
        model.fit(data.features, data.labels, sample_weight=balanced_weights(data))
    return model


def balanced_accuracy(truth: Ints, predicted: Ints) -> float:
    """Mean recall over the classes that occur in ``truth``."""
    return float(np.mean([np.mean(predicted[truth == c] == c) for c in np.unique(truth)]))


def choose_penalty(data: Labelled, judge: Labelled, seed: int) -> float:
    """The penalty with the best balanced accuracy by cross-validation over groups.

    Parameters
    ----------
    data
        What the classifier is trained on.
    judge
        What it is judged on: the real ones of ``data`` where there are any. Groups of the
        fold left out are out of the training, variations of their images included.
    """
    distinct = [len(np.unique(judge.groups[judge.labels == c])) for c in np.unique(judge.labels)]
    folds = min(3, *distinct)
    if folds < 2:
        return _FALLBACK
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    scores: dict[float, list[float]] = {penalty: [] for penalty in PENALTIES}
    for _, test in splitter.split(judge.features, judge.labels, judge.groups):
        rest = data.take(~np.isin(data.groups, judge.groups[test]))
        if len(np.unique(rest.labels)) < len(np.unique(data.labels)):
            continue
        for penalty in PENALTIES:
            predicted = fit(rest, penalty).predict(judge.features[test])
            scores[penalty].append(balanced_accuracy(judge.labels[test], predicted))
    if not scores[PENALTIES[0]]:
        return _FALLBACK
    # The first best, so that ties take the stronger penalty.
    return max(PENALTIES, key=lambda penalty: float(np.mean(scores[penalty])))


@dataclass(frozen=True)
class Draw:
    """Which images are labelled: indices into the real ones, and those whose variations enter."""

    real: Ints
    varied: Ints


def draw_labels(
    labels: Ints, groups: Ints, pool: Ints, count: int | None, rng: np.random.Generator
) -> Draw:
    """Draw ``count`` real images of every class.

    As many as possible are of the pool, but never more than half of it where the class has
    others: draws that all take the whole pool would have no spread.

    Parameters
    ----------
    labels, groups
        Of all real training images.
    pool
        Indices of those that have variations.
    count
        ``None`` takes all, but a random tenth of the groups, with all of the pool that is in.

    Raises
    ------
    InputError
        If a class has fewer than ``count`` images.
    """
    if count is None:
        names = np.unique(groups)
        out = rng.choice(names, int(len(names) * HELD_BACK), replace=False)
        real = np.nonzero(~np.isin(groups, out))[0]
        return Draw(real, real[np.isin(real, pool)])
    chosen, varied = [], []
    for c in np.unique(labels):
        members = np.nonzero(labels == c)[0]
        if len(members) < count:
            raise InputError(
                f"a class has {len(members)} training images, fewer than the {count} labels per "
                "class that were asked for: choose fewer with --labels"
            )
        inside = members[np.isin(members, pool)]
        outside = members[~np.isin(members, pool)]
        most = len(inside) if not len(outside) else max(1, len(inside) // 2)
        few = max(min(count, most), count - len(outside))
        some = rng.choice(inside, min(few, len(inside)), replace=False)
        others = rng.choice(outside, count - len(some), replace=False)
        varied.append(some)
        chosen.append(np.concatenate([some, others]))
    return Draw(np.concatenate(chosen), np.concatenate(varied))


def run_draws(
    real: Labelled,
    synthetic: Labelled,
    source: Ints,
    test: Labelled,
    count: int | None,
    draws: int,
    seed: int,
) -> tuple[dict[str, Ints], Draw]:
    """Train on every draw, in every condition, and predict the held-out images.

    Parameters
    ----------
    synthetic
        Variations; ``source`` says of which real image each is.

    Returns
    -------
    predictions
        Condition → ``(draws, test)`` class indices.
    draw
        The last draw, for its counts.

    Raises
    ------
    InputError
        If a group is on both sides, or a class has too few images.
    """
    if np.isin(test.groups, real.groups).any():
        raise InputError("a place or patient is in training and in the test: mend the folds")
    # By all real training images, without their labels: the same scale in every draw.
    synthetic, test, real = synthetic.scaled(real), test.scaled(real), real.scaled(real)
    pool = np.unique(source)
    out: dict[str, list[Ints]] = {name: [] for name in CONDITIONS}
    for i in range(draws):
        rng = np.random.default_rng([seed, i])
        draw = draw_labels(real.labels, real.groups, pool, count, rng)
        ours, made = real.take(draw.real), synthetic.take(np.isin(source, draw.varied))
        sets = {"real": (ours, ours), "synthetic": (made, made), "both": (ours + made, ours)}
        for name, (data, judge) in sets.items():
            penalty = choose_penalty(data, judge, seed + i)
            out[name].append(fit(data, penalty).predict(test.features).astype(np.int64))
    return {name: np.stack(values) for name, values in out.items()}, draw


def paired_interval(
    first: Ints,
    second: Ints,
    truth: Ints,
    groups: Ints,
    rng: np.random.Generator,
    times: int = 2000,
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the difference ``second`` - ``first``.

    Draws and test groups are resampled together, and the same ones for both conditions
    (Efron and Tibshirani 1993): the interval covers the choice of labelled images and that of
    test places.

    Parameters
    ----------
    first, second
        ``(draws, test)`` predicted classes.
    truth, groups
        ``(test,)``.

    Returns
    -------
    low, high
        In balanced accuracy.
    """
    gain = (second == truth).astype(float) - (first == truth).astype(float)
    names, place = np.unique(groups, return_inverse=True)
    draws = rng.multinomial(len(gain), np.full(len(gain), 1 / len(gain)), times) / len(gain)
    weight = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), times)[:, place]
    mean = draws @ gain
    recalls = []
    for c in np.unique(truth):
        inside = weight * (truth == c)
        total = inside.sum(1)
        # A class that no resampled group holds has no recall.
        sums = (inside * mean).sum(1)
        recalls.append(np.divide(sums, total, out=np.full(times, np.nan), where=total > 0))
    values = np.nanmean(np.stack(recalls), axis=0)
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def summarise(
    predictions: Mapping[str, Ints],
    truth: Ints,
    groups: Ints,
    rng: np.random.Generator,
) -> dict[str, object]:
    """Mean and standard deviation over draws per condition, and what the synthetic ones add."""
    scores = {
        name: [balanced_accuracy(truth, row) for row in rows] for name, rows in predictions.items()
    }
    low, high = paired_interval(predictions["real"], predictions["both"], truth, groups, rng)
    row: dict[str, object] = {
        name: {"mean": _round(np.mean(v)), "sd": _round(np.std(v, ddof=min(1, len(v) - 1)))}
        for name, v in scores.items()
    }
    row["gain"] = {
        "mean": _round(np.mean(np.subtract(scores["both"], scores["real"]))),
        "interval": [_round(low), _round(high)],
    }
    row["per_draw"] = {name: _rounded(v) for name, v in scores.items()}
    return row


def _round(value: float | np.floating[object]) -> float:  # type: ignore[type-var]
    return round(float(value), 4)


def _rounded(values: Sequence[float]) -> list[float]:
    return [_round(v) for v in values]
