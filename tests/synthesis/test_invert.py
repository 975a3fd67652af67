"""Fields from pixels and a model alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from napari_ssldiff.embeddings.encoder import AbsentEncoder
from napari_ssldiff.errors import Cancelled, InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.synthesis import CancelToken, Sampler, make_request
from napari_ssldiff.synthesis.invert import explain, inversion_record, invert_region
from napari_ssldiff.synthesis.prepare import frame_of

#: Of four quadrants, in [-1, 1]; the model below paints 0.9 of a unit vector's first numbers.
COLOURS = np.asarray([[0.6, -0.2, 0.1], [-0.5, 0.3, 0.2], [0.1, 0.1, -0.7], [0.3, 0.6, 0.3]])


@pytest.fixture
def scene(scene_of: Callable[..., Any]) -> Any:
    """Four quadrants of one colour each, over two cells of the model each."""
    grid = np.round((COLOURS.reshape(2, 2, 3) + 1) * 127.5).astype(np.uint8)
    return scene_of(grid.repeat(64, 0).repeat(64, 1))


@pytest.fixture
def blind(painter: Any) -> Any:
    """The painter, its encoder known but not installed."""
    return replace(painter, encoder=AbsentEncoder(painter.encoder.spec, "it is not here"))


def test_the_vectors_found_are_those_that_the_model_paints_the_image_with(
    scene: Any, blind: Any
) -> None:
    told: list[tuple[str, float, float]] = []
    region = Region.from_box(scene.box)
    field = invert_region(
        scene, region, blind, steps=200, seed=1, progress=lambda *said: told.append(said)
    )
    assert field.shape == (4, 4)
    assert field.encoder == blind.encoder.spec.id
    assert (field.origin, field.cell) == ((0.0, 0.0), (32.0, 32.0))
    np.testing.assert_allclose(np.linalg.norm(field.vectors, axis=2), 1, atol=1e-5)
    wanted = COLOURS.reshape(2, 2, 3).repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(0.9 * field.vectors[..., :3], wanted, atol=0.1)
    assert told[0] == ("inverting", 1, 200)
    assert told[-1] == ("inverting", 200, 200)
    # A field like any other: it can be painted with, by the model that it was made with.
    request = make_request(scene, region, blind, Sampler(guidance=1.0), field=field)
    assert request.field.digest == field.digest


def test_the_same_seed_finds_the_same_field(scene: Any, blind: Any) -> None:
    region = Region.from_box(Box(0, 0, 64, 64))
    one, again, other = (
        invert_region(scene, region, blind, steps=3, seed=seed).vectors for seed in (0, 0, 1)
    )
    assert np.array_equal(one, again)
    assert not np.allclose(one, other)


def test_a_start_is_gone_on_from(scene: Any, blind: Any) -> None:
    start = torch.nn.functional.normalize(torch.randn(2, 2, 12), dim=2)
    latents = torch.zeros(12, 32, 32)
    found = explain(blind.denoiser, latents, steps=1, start=start)
    assert float((found * start).sum(2).min()) > 0.8


def test_the_models_own_weights_stay_and_can_be_trained_after(scene: Any, bundle: Any) -> None:
    network = bundle.denoiser.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trained = [p.requires_grad for p in network.parameters()]
    with torch.inference_mode():  # whoever calls may have switched gradients off
        invert_region(scene, Region.from_box(Box(0, 0, 64, 64)), bundle, steps=2, batch=1)
    assert [p.requires_grad for p in network.parameters()] == trained
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_inversion_can_be_cancelled(scene: Any, blind: Any) -> None:
    token = CancelToken()

    def stop(stage: str, done: float, total: float) -> None:
        if done == 2:
            token.cancel()

    with pytest.raises(Cancelled):
        invert_region(
            scene, Region.from_box(scene.box), blind, steps=50, progress=stop, cancel=token
        )


def test_what_cannot_be_inverted_is_refused(scene: Any, blind: Any) -> None:
    with pytest.raises(InputError, match="1 to 10000 steps, got 0"):
        invert_region(scene, Region.from_box(scene.box), blind, steps=0)
    with pytest.raises(InputError, match="1 × 4 cells is smaller than a window of 2 × 2"):
        explain(blind.denoiser, torch.zeros(12, 16, 64))


def test_the_canvas_is_that_of_a_variation(scene: Any, blind: Any) -> None:
    region = Region.from_box(Box(10, 20, 40, 30))
    field = invert_region(scene, region, blind, steps=1, batch=1)
    canvas = frame_of(scene, region, blind, "source").canvas
    assert field.origin == (canvas.y, canvas.x)
    assert field.shape == (-(-canvas.h // 32), -(-canvas.w // 32))


def test_the_record_names_the_model_and_the_seed(blind: Any) -> None:
    record = inversion_record(blind, 200, 7)
    assert '"op": "invert"' in record
    assert blind.hash in record
    assert '"seed": 7' in record
