"""Bags of cells: which class is a whole region, when only the region is labelled?

Attention pooling after Ilse, Tomczak and Welling (2018), *Attention-based deep multiple instance
learning*: z = sum_k a_k h_k with a = softmax(w' tanh(V h_k)). Beside it, as a plain reference,
logistic regression on the mean and standard deviation of a bag's cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation.augment_classify import (
    CONDITIONS,
    Ints,
    Labelled,
    balanced_weights,
    choose_penalty,
    fit,
)

Floats = NDArray[np.float32]

CLASSIFIERS = ("attention", "mean + sd")
#: Fixed beforehand and not tuned: three cases leave nothing to tune on.
HIDDEN, ATTENTION, EPOCHS, RATE, DECAY, DROPOUT = 64, 32, 150, 2e-3, 1e-3, 0.25


@dataclass(frozen=True)
class Bag:
    """The cells of one region.

    Parameters
    ----------
    cells
        ``(k, d)`` float32, k ≥ 1 of any number.
    label
        Class index.
    case
        Index of the patient.
    source
        Index of the region: that of a variation is its source's.
    weight
        Relative weight in training.
    """

    cells: Floats
    label: int
    case: int
    source: int
    weight: float = 1.0


class AttentionPooling(nn.Module):
    """Bag → class scores.

    Parameters
    ----------
    width
        Of a cell's vector.
    classes
        Number of classes.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.instance = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT))
        self.attention = nn.Sequential(
            nn.Linear(HIDDEN, ATTENTION), nn.Tanh(), nn.Linear(ATTENTION, 1)
        )
        self.head = nn.Linear(HIDDEN, classes)

    def forward(self, cells: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """``(n, k, width)`` and a ``(n, k)`` bool mask of cells → ``(n, classes)`` scores."""
        h = self.instance(cells)
        scores = self.attention(h)[..., 0].masked_fill(~present, -torch.inf)
        pooled = torch.einsum("nk,nkh->nh", scores.softmax(1), h)
        out: torch.Tensor = self.head(pooled)
        return out


def _padded(bags: Sequence[Bag]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(bag.cells) for bag in bags)
    cells = np.zeros((len(bags), longest, bags[0].cells.shape[1]), np.float32)
    present = np.zeros((len(bags), longest), bool)
    for i, bag in enumerate(bags):
        cells[i, : len(bag.cells)] = bag.cells
        present[i, : len(bag.cells)] = True
    return torch.from_numpy(cells), torch.from_numpy(present)


def pooled(bags: Sequence[Bag]) -> Labelled:
    """Mean and standard deviation over the cells of every bag, grouped by source."""
    features = np.stack([np.r_[bag.cells.mean(0), bag.cells.std(0)] for bag in bags])
    return Labelled(
        features.astype(np.float32),
        np.array([bag.label for bag in bags]),
        np.array([bag.source for bag in bags]),
        np.array([bag.weight for bag in bags], float),
    )


def train_attention(
    train: Sequence[Bag], test: Sequence[Bag], classes: int, seed: int, epochs: int = EPOCHS
) -> Ints:
    """Train on bags, all of them in every step, and predict others; ``(test,)`` classes.

    The random state of torch is left as it was.
    """
    every = np.concatenate([bag.cells for bag in train])
    middle, spread = torch.from_numpy(every.mean(0)), torch.from_numpy(every.std(0) + 1e-6)
    cells, present = _padded(train)
    cells = (cells - middle) / spread
    labels = torch.tensor([bag.label for bag in train])
    weights = torch.from_numpy(balanced_weights(pooled(train))).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AttentionPooling(cells.shape[2], classes)
        optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
        for _ in range(epochs):
            losses = nn.functional.cross_entropy(network(cells, present), labels, reduction="none")
            optimiser.zero_grad()
            (losses * weights).mean().backward()
            optimiser.step()
    network.eval()
    cells, present = _padded(test)
    with torch.inference_mode():
        return network((cells - middle) / spread, present).argmax(1).numpy()  # type: ignore[no-any-return]


def _linear(train: Sequence[Bag], judge: Sequence[Bag], test: Sequence[Bag], seed: int) -> Ints:
    data, others, unseen = pooled(train), pooled(judge), pooled(test)
    penalty = choose_penalty(data.scaled(data), others.scaled(data), seed)
    predicted = fit(data.scaled(data), penalty).predict(unseen.scaled(data).features)
    return np.asarray(predicted, dtype=np.int64)


def leave_one_case_out(
    real: Sequence[Bag], synthetic: Sequence[Bag], classifier: str, repeats: int, seed: int
) -> dict[str, Ints]:
    """Predict the real bags of every case by a classifier that saw no bag of that case.

    Parameters
    ----------
    synthetic
        Variations of real bags; those of the case left out stay out too.
    classifier
        One of :data:`CLASSIFIERS`.
    repeats
        Trainings, each with its own seed (start, order of dropout, folds).

    Returns
    -------
    Condition → ``(repeats, real)`` class indices, in the order of ``real``.

    Raises
    ------
    InputError
        If the cases that remain lack a class.
    """
    cases = sorted({bag.case for bag in real})
    classes = max(bag.label for bag in real) + 1
    out = {name: np.full((repeats, len(real)), -1, np.int64) for name in CONDITIONS}
    for case in cases:
        index = [i for i, bag in enumerate(real) if bag.case == case]
        test = [real[i] for i in index]
        ours = [bag for bag in real if bag.case != case]
        made = [bag for bag in synthetic if bag.case != case]
        lacking = set(range(classes)) - {bag.label for bag in ours}
        if lacking:
            raise InputError(
                f"without one case the regions lack {len(lacking)} of {classes} classes: more "
                "cases are needed"
            )
        sets = {"real": (ours, ours), "synthetic": (made, made), "both": (ours + made, ours)}
        for name, (train, judge) in sets.items():
            for r in range(repeats):
                if classifier == "attention":
                    predicted = train_attention(train, test, classes, seed + r)
                else:
                    predicted = _linear(train, judge, test, seed + r)
                out[name][r, index] = predicted
    return out
