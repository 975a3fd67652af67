"""An encoder's probes on one labelled set, and pooled over several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.encoder import Encoder
from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation.labels import Labelled
from napari_ssldiff.evaluation.probes import (
    HISTOGRAM_BINS,
    Predictions,
    accuracy,
    choose_neighbours,
    colour_histogram,
    embedding_descriptors,
    error_ratio,
    linear_probe,
)
from napari_ssldiff.evaluation.regions import cells_of


@dataclass(frozen=True)
class Task:
    """A labelled set and the encoder that is tested on it.

    Parameters
    ----------
    name
        Of the task.
    source
        Of the set of pictures: tasks of one source are bootstrapped together.
    pictures
        With label, fold and group.
    encoder
        Reads them at its own resolution.
    """

    name: str
    source: str
    pictures: Sequence[Labelled]
    encoder: Encoder


Described = tuple[NDArray[np.float32], dict[int, NDArray[np.float32]]]


def describe(item: Labelled, encoder: Encoder) -> Described:
    """A picture's cell embeddings ``(cells, d)``, and its colour histograms by bins.

    Raises
    ------
    InputError
        If it is smaller than a cell or cannot be read.
    """
    spec = encoder.spec
    picture = item.read(spec.resolution)
    if min(picture.shape[:2]) < spec.cell:
        raise InputError(f"{item.path} is smaller than a cell of {spec.cell} pixels")
    cells = encoder.embed(cells_of(picture, spec.cell))
    return cells, {bins: colour_histogram(picture, bins) for bins in HISTOGRAM_BINS}


def solve(
    task: Task,
    *,
    linear: bool = True,
    seen: dict[tuple[object, ...], Described] | None = None,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> tuple[Predictions, dict[str, Any]]:
    """Classify the test pictures of a task by encoder and by colour histogram.

    Parameters
    ----------
    linear
        Whether to add the linear probe.
    seen
        Descriptions of pictures that another task may share; filled here.
    progress
        Told ``(pictures done, pictures)``.

    Returns
    -------
    The predictions, and the balanced accuracies with intervals and with what was chosen.

    Raises
    ------
    InputError
        If a picture is smaller than a cell or cannot be read.
    """
    seen = {} if seen is None else seen
    described: list[Described] = []
    for i, item in enumerate(task.pictures):
        key = (task.encoder.spec.id, item.path, item.pixel_size, item.aspect)
        if key not in seen:
            seen[key] = describe(item, task.encoder)
        described.append(seen[key])
        progress(i + 1, len(task.pictures))
    train = np.array([p.fold == "train" for p in task.pictures])
    groups = [p.group for p in task.pictures]
    classes, labels = np.unique([p.label for p in task.pictures], return_inverse=True)
    descriptors = embedding_descriptors([cells for cells, _ in described], train)
    chosen = {
        "encoder": choose_neighbours(descriptors, labels, groups, train),
        "histogram": choose_neighbours(
            {f"{n}³ colours": np.stack([h[n] for _, h in described]) for n in HISTOGRAM_BINS},
            labels, groups, train,
        ),
    }  # fmt: skip
    methods = {name: vote.predicted for name, vote in chosen.items()}
    facts: dict[str, Any] = {
        name: {
            "descriptor": vote.descriptor,
            "k": vote.k,
            "balanced_votes": vote.balanced,
            "left_out_accuracy": vote.left_out,
        }
        for name, vote in chosen.items()
    }
    if linear:
        methods["linear"], c = linear_probe(descriptors["mean and std"], labels, groups, train)
        facts["linear"] = {"descriptor": "mean and std", "C": c}
    tested = tuple(g for g, t in zip(groups, train, strict=True) if not t)
    part = Predictions(task.name, task.source, labels[~train], methods, tested)
    rng = np.random.default_rng(0)
    for name in methods:
        facts[name]["balanced_accuracy"] = accuracy(part, name, rng).to_dict()
    return part, {
        "task": task.name,
        "classes": classes.tolist(),
        "train": int(train.sum()),
        "test": int((~train).sum()),
        "groups": len(set(tested)),
        **facts,
        "error_over_histogram": error_ratio([part], rng),
    }


def pooled_knn(
    tasks: Sequence[Task],
    *,
    linear: bool = True,
    progress: Callable[[str, float, float], None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Neighbours' accuracy of encoders over several tasks, against colour histograms.

    Returns
    -------
    ``tasks`` (see :func:`solve`) and ``pooled`` (:func:`error_ratio`), with ``pooled_linear``
    where the linear probe was asked for.
    """
    parts, rows = [], []
    seen: dict[tuple[object, ...], Described] = {}
    for task in tasks:
        part, facts = solve(
            task,
            linear=linear,
            seen=seen,
            progress=lambda done, total, name=task.name: progress(name, done, total),  # type: ignore[misc]
        )
        parts.append(part)
        rows.append(facts)
    out = {"tasks": rows, "pooled": error_ratio(parts, np.random.default_rng(0))}
    if linear:
        out["pooled_linear"] = error_ratio(parts, np.random.default_rng(0), method="linear")
    return out
