"""What an encoder's embeddings know: nearest neighbours and a linear probe on labelled images.

Beside the encoder stands a colour histogram with the same neighbours' vote: what an encoder does
not know better than that, it does not know. Every choice (descriptor, k, vote) is made by leaving
one group out on the training fold, for both alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.evaluation.stats import Estimate, bootstrap, members

Vectors = NDArray[np.floating[Any]]
Classes = NDArray[np.int64]

NEIGHBOURS = (1, 3, 5, 9, 15, 25)
HISTOGRAM_BINS = (4, 6, 8, 12)


def balanced_accuracy(truth: Classes, predicted: Classes) -> float:
    """Mean recall over the classes that ``truth`` holds."""
    return float(np.mean([(predicted[truth == c] == c).mean() for c in np.unique(truth)]))


def colour_histogram(picture: NDArray[np.uint8], bins: int) -> NDArray[np.float32]:
    """Square roots of a joint RGB histogram's shares, ``(bins³,)``: a unit vector.

    The dot product of two such vectors is the Bhattacharyya coefficient.
    """
    level = picture.reshape(-1, 3).astype(np.int64) * bins // 256
    counts = np.bincount(level @ np.array([bins * bins, bins, 1]), minlength=bins**3)
    return np.asarray(np.sqrt(counts / counts.sum()), np.float32)


def embedding_descriptors(
    cells: Sequence[NDArray[np.float32]], train: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """Descriptors of pictures from their cells' embeddings ``(cells, d)``, one per picture.

    ``mean``; ``mean and std``; and both whitened by the training pictures' principal
    components (up to 64, their variances floored at 1 % of the largest).
    """
    mean = np.stack([c.mean(0) for c in cells]).astype(np.float64)
    std = np.stack([c.std(0) for c in cells]).astype(np.float64)
    out = {"mean": mean, "mean and std": np.concatenate([mean, std], 1)}
    for name in ("mean", "mean and std"):
        x = out[name] - out[name][train].mean(0)
        _, s, axes = np.linalg.svd(x[train], full_matrices=False)
        keep = min(64, int((s > 1e-6 * s[0]).sum()))
        scale = np.sqrt(s[:keep] ** 2 + 0.01 * s[0] ** 2)
        out[f"whitened {name}"] = x @ axes[:keep].T / scale
        out[f"centred {name}"] = x
    return out


def vote(
    similarity: NDArray[np.floating[Any]], labels: Classes, k: int, balanced: bool
) -> NDArray[np.int64]:
    """Class of every query by its k most similar references.

    Parameters
    ----------
    similarity
        ``(queries, references)``; -inf bars a reference.
    labels
        Class of every reference, from 0.
    balanced
        Weigh votes by one over the class's frequency, so that a rare class can win.
    """
    classes = int(labels.max()) + 1
    weight = np.ones(classes)
    if balanced:
        weight = len(labels) / np.maximum(np.bincount(labels, minlength=classes), 1)
    k = min(k, similarity.shape[1])
    near = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    value = np.take_along_axis(similarity, near, 1)
    # Nearness breaks ties and weighs far less than a vote.
    spread = np.where(np.isfinite(value), 1 + 1e-3 * value, 0.0)
    votes = np.zeros((len(similarity), classes))
    for c in range(classes):
        votes[:, c] = ((labels[near] == c) * spread).sum(1) * weight[c]
    return np.asarray(votes.argmax(1))


def _unit(x: Vectors) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


@dataclass(frozen=True)
class Neighbours:
    """A neighbours' vote, chosen on the training fold and applied to the test fold.

    ``left_out`` is the balanced accuracy that it was chosen by.
    """

    descriptor: str
    k: int
    balanced: bool
    left_out: float
    predicted: Classes


def choose_neighbours(
    descriptors: Mapping[str, Vectors],
    labels: Classes,
    groups: Sequence[str],
    train: NDArray[np.bool_],
) -> Neighbours:
    """Choose descriptor, k and vote by leaving groups out, then classify the test pictures.

    Parameters
    ----------
    descriptors
        Candidates, ``(n, d)`` of all pictures; compared by cosine.
    labels
        Class of every picture, from 0; the test fold's are never looked at.
    groups
        Place or patient of every picture. Pictures of the query's own group cannot vote, so
        the same place in another year does not answer for itself.
    train
        Which pictures are of the training fold.
    """
    own = np.unique(np.asarray(groups), return_inverse=True)[1][train]
    y = labels[train]
    best: tuple[float, str, int, bool] | None = None
    for name, vectors in descriptors.items():
        x = _unit(vectors)[train]
        similarity = x @ x.T
        similarity[own[:, None] == own[None, :]] = -np.inf
        for k in NEIGHBOURS:
            for balanced in (False, True):
                value = balanced_accuracy(y, vote(similarity, y, k, balanced))
                if best is None or value > best[0]:
                    best = value, name, k, balanced
    assert best is not None
    value, name, k, balanced = best
    x = _unit(descriptors[name])
    predicted = vote(x[~train] @ x[train].T, y, k, balanced)
    return Neighbours(name, k, balanced, value, predicted)


def linear_probe(
    vectors: Vectors, labels: Classes, groups: Sequence[str], train: NDArray[np.bool_]
) -> tuple[Classes, float]:
    """Logistic regression on standardised vectors; predictions of the test fold and the C used.

    C is chosen by grouped cross-validation on the training fold.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, own = vectors[train], labels[train], np.asarray(groups)[train]

    def fit(c: float, a: Vectors, b: Classes) -> Any:
        model = LogisticRegression(C=c, class_weight="balanced", max_iter=500)
        return make_pipeline(StandardScaler(), model).fit(a, b)

    folds = min(5, len(np.unique(own)), int(np.bincount(y).max()))
    scores = {0.03: 0.0}  # the choice where there are too few groups to choose by
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer groups than folds
        splits = list(StratifiedGroupKFold(folds).split(x, y, own)) if folds > 1 else []
        splits = [(a, b) for a, b in splits if len(np.unique(y[a])) > 1 and len(b)]
        for c in (0.003, 0.03, 0.3) if splits else ():
            guesses = [(y[b], fit(c, x[a], y[a]).predict(x[b])) for a, b in splits]
            truth, said = (np.concatenate(part) for part in zip(*guesses, strict=True))
            scores[c] = balanced_accuracy(truth, said)
        c = max(scores, key=lambda key: scores[key])
        return np.asarray(fit(c, x, y).predict(vectors[~train])), c


@dataclass(frozen=True)
class Predictions:
    """What the test pictures of one task were taken for.

    Parameters
    ----------
    task
        Its name.
    source
        The set of pictures; tasks of one source share their test pictures' groups, which the
        bootstrap then draws together.
    truth
        ``(n,)`` classes.
    methods
        ``{"encoder": (n,), "histogram": (n,), …}`` predicted classes.
    groups
        Place, patient or picture of every test picture.
    """

    task: str
    source: str
    truth: Classes
    methods: Mapping[str, Classes]
    groups: tuple[str, ...]


def accuracy(part: Predictions, method: str, rng: np.random.Generator) -> Estimate:
    """Balanced accuracy of one method with its interval over groups."""
    said = part.methods[method]
    return bootstrap(
        lambda i: balanced_accuracy(part.truth[i], said[i]), part.groups, rng, draws=500
    )


def error_ratio(
    parts: Sequence[Predictions],
    rng: np.random.Generator,
    method: str = "encoder",
    against: str = "histogram",
    draws: int = 2000,
) -> dict[str, Any]:
    """Balanced error of one method over another's, tasks pooled, with a paired interval.

    The errors ``1 - balanced accuracy`` are averaged over tasks, each task alike, before they
    are divided. A draw takes groups with replacement, the same for both methods and for all
    tasks of one source.

    Returns
    -------
    ``ratio`` (below 1: fewer errors than ``against``), ``reduction`` = 1 - ratio, each with its
    interval, and the pooled accuracies.
    """
    sources: dict[str, list[str]] = {}
    for part in parts:
        known = sources.setdefault(part.source, [])
        known += sorted(set(part.groups) - set(known))
    index = [dict(zip(np.unique(p.groups).tolist(), members(p.groups), strict=True)) for p in parts]

    def errors(chosen: Mapping[str, Sequence[str]] | None) -> tuple[float, float]:
        out = []
        for part, places in zip(parts, index, strict=True):
            if chosen is None:
                at = np.arange(len(part.truth))
            else:
                drawn = [places[g] for g in chosen[part.source] if g in places]
                if not drawn:
                    continue
                at = np.concatenate(drawn)
            truth = part.truth[at]
            out.append(
                [1 - balanced_accuracy(truth, part.methods[m][at]) for m in (method, against)]
            )
        ours, theirs = np.mean(out, axis=0)
        return float(ours), float(theirs)

    ours, theirs = errors(None)
    ratios = []
    for _ in range(draws):
        chosen = {
            name: [groups[i] for i in rng.integers(0, len(groups), len(groups))]
            for name, groups in sources.items()
        }
        a, b = errors(chosen)
        if b > 0:
            ratios.append(a / b)
    low, high = np.percentile(ratios, [2.5, 97.5]) if ratios else (np.nan, np.nan)
    ratio = ours / theirs if theirs else float("nan")
    return {
        "ratio": ratio,
        "interval": [float(low), float(high)],
        "reduction": 1 - ratio,
        "reduction_interval": [float(1 - high), float(1 - low)],
        f"{method}_balanced_accuracy": 1 - ours,
        f"{against}_balanced_accuracy": 1 - theirs,
        "tasks": [p.task for p in parts],
        "n": sum(len(p.truth) for p in parts),
        "groups": sum(map(len, sources.values())),
    }
