"""Precision, recall, diversity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_ssldiff.evaluation.manifold import diversity, inside_manifold, precision_recall


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def shares(made: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    found = precision_recall(made, real, [str(i // 5) for i in range(len(made))], rng())
    return found["precision"]["value"], found["recall"]["value"]


def test_the_same_set_is_wholly_inside_and_a_far_one_wholly_outside() -> None:
    x = rng().normal(size=(100, 4))
    assert shares(x, x) == (1, 1)
    assert shares(x + 100, x) == (0, 0)


def test_one_mode_of_two_has_precision_but_half_the_recall() -> None:
    real = np.concatenate([rng(1).normal(size=(100, 3)), rng(2).normal(size=(100, 3)) + 50])
    made = rng(3).normal(size=(200, 3))
    precision, recall = shares(made, real)
    assert precision > 0.8
    assert 0.35 < recall <= 0.5


def test_the_shares_are_torch_fidelity_s() -> None:
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    made, real = rng(1).normal(size=(150, 6)), rng(2).normal(size=(120, 6)) + 0.5
    theirs = calculate_precision_recall_full(torch.from_numpy(made), torch.from_numpy(real))
    ours = inside_manifold(made, real).mean(), inside_manifold(real, made).mean()
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_seeds_that_change_nothing_have_no_diversity_and_free_ones_as_much_as_real_cells() -> None:
    real = rng(1).normal(size=(400, 5))
    groups = [str(i // 4) for i in range(400)]
    none = diversity(real, real, real, groups, rng())
    assert none["relative"]["value"] == 0
    free = diversity(
        rng(2).normal(size=(400, 5)), rng(3).normal(size=(400, 5)), real, groups, rng(), 100
    )
    assert free["relative"]["value"] == pytest.approx(1, abs=0.1)
    assert free["relative"]["interval"][0] < 1 < free["relative"]["interval"][1]
