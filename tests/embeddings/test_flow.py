"""Euler's method against ways that are known, and fields that go along."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.embeddings.flow import ROWS, FlowNetwork, Translation, along_flow
from napari_ssldiff.errors import Cancelled


def test_a_constant_flow_moves_by_itself() -> None:
    x, way = torch.randn(5, 3), torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(along_flow(lambda x, t: way.expand_as(x), x, 100), x + way)


def test_a_decay_is_that_of_eulers_method() -> None:
    x = torch.randn(4, 2, dtype=torch.float64)
    for steps in (1, 10, 100):
        found = along_flow(lambda x, t: -x, x, steps)
        torch.testing.assert_close(found, x * (1 - 1 / steps) ** steps)


def test_times_run_from_a_thousandth_to_all_but_one_in_timesteps() -> None:
    times: list[float] = []

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.shape == (2,)
        assert t[0] == t[1]
        times.append(float(t[0]) / 999)
        return x

    along_flow(network, torch.zeros(2, 1), 100)
    assert times == pytest.approx(np.linspace(1e-3, 1 - 1e-3, 100), abs=1e-6)


class Turn(nn.Module):
    """Moves a vector by its length along the next axis."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(x) * torch.tensor([0.0, 7.0])


def field(rows: int, columns: int) -> EmbeddingField:
    vectors = np.zeros((rows, columns, 2), np.float32)
    vectors[..., 0] = 1
    valid = np.zeros((rows, columns), bool)
    valid[0] = True
    return EmbeddingField(vectors, (3, 4), (8, 8), "encoder@1", 0.5, "micrometer", valid)


def translation(scale: float) -> Translation:
    return Translation("H&E", "HER2", Turn(), torch.device("cpu"), steps=10, scale=scale)


def test_a_field_gets_its_length_before_the_flow_and_loses_it_behind() -> None:
    source = field(2, 3)
    moved = translation(scale=7.0)(source)
    # From (7, 0) by (0, 7): half a right angle, whereas a unit vector would turn nearly whole.
    np.testing.assert_allclose(moved.vectors, np.full((2, 3, 2), 0.5**0.5), atol=1e-6)
    assert moved.vectors.dtype == np.float32
    assert np.array_equal(moved.valid, source.valid)
    assert (moved.origin, moved.cell, moved.encoder) == (source.origin, source.cell, source.encoder)
    turned = translation(scale=1.0)(source).vectors
    np.testing.assert_allclose(turned[0, 0], np.array([1, 7]) / 50**0.5, atol=1e-6)


def test_a_large_field_goes_in_parts_and_is_the_same() -> None:
    torch.manual_seed(0)
    network = FlowNetwork(6, 16, 2).eval()
    vectors = np.random.default_rng(0).normal(size=(3, ROWS // 2, 6)).astype(np.float32)
    whole = EmbeddingField(vectors, (0, 0), (8, 8), "e", 0.5, "micrometer")
    row = EmbeddingField(vectors[2:], (0, 0), (8, 8), "e", 0.5, "micrometer")
    translate = Translation("a", "b", network, torch.device("cpu"), 5, 3.0)
    told: list[tuple[float, float]] = []
    found = translate(whole, progress=lambda done, total: told.append((done, total)))
    np.testing.assert_allclose(found.vectors[2:], translate(row).vectors, atol=1e-6)
    assert len(told) == 2 * 5  # two parts
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (3 * ROWS // 2, 3 * ROWS // 2)


def test_cancelling_stops_within_a_step() -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Cancelled("by the user")

    with pytest.raises(Cancelled):
        translation(1.0)(field(1, 1), check=check)
    assert len(calls) == 3
