"""Weights in eight bits come back as good as they can be."""

from __future__ import annotations

import torch

from napari_ssldiff.models.quantised import SCALE, quantised, restored


def test_large_tensors_come_back_within_half_a_level_of_their_row() -> None:
    torch.manual_seed(0)
    weights = {
        "kernel": torch.randn(32, 16, 3, 3) * torch.logspace(-3, 1, 32)[:, None, None, None],
        "matrix": torch.randn(100, 50),
        "bias": torch.randn(5000),
        "small": torch.randn(4, 4),
        "steps": torch.arange(10_000).reshape(100, 100),
    }
    kept = quantised(weights)
    assert kept["kernel"].dtype == kept["matrix"].dtype == torch.int8
    assert kept["bias"].dtype == torch.float32
    assert {k for k in kept if k.endswith(SCALE)} == {"kernel" + SCALE, "matrix" + SCALE}
    back = restored(kept)
    assert back.keys() == weights.keys()
    for name in ("kernel", "matrix"):
        rows = weights[name].flatten(1)
        level = rows.abs().amax(1, keepdim=True) / 127
        error = (back[name].flatten(1) - rows).abs()
        assert (error <= level * 0.5001).all()
    for name in ("bias", "small", "steps"):
        assert torch.equal(back[name], weights[name].float())


def test_a_row_of_zeros_stays_zero_and_other_weights_pass() -> None:
    weights = {"w": torch.zeros(80, 80)}
    assert torch.equal(restored(quantised(weights))["w"], weights["w"])
    plain = {"w": torch.randn(80, 80).half()}
    assert torch.equal(restored(plain)["w"], plain["w"].float())
