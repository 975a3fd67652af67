"""Guides in requests: from the source, from a picture, and what they do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.solvers import cumulative_alphas
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.synthesis import (
    Sampler,
    SynthesisRequest,
    make_request,
    synthesize,
)
from napari_ssldiff.synthesis.coarse import CoarsePicture, averaged
from napari_ssldiff.synthesis.prepare import frame_of, picture_guide, source_guide

REGION = Region.from_box(Box(64, 64, 128, 128))
FAST = Sampler(steps=6, guidance=1.0)


class Posterior(nn.Module):
    """The exact answer for clean latents that are normal about what the condition's map says."""

    def __init__(self, schedule: Any) -> None:
        super().__init__()
        self.kept = torch.from_numpy(cumulative_alphas(schedule)).float()

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        kept = self.kept[t][:, None, None, None]
        mean = 0.9 * x[:, 12:].repeat_interleave(4, 1)
        gain = 0.5 * kept.sqrt() / (0.5 * kept + 1 - kept)
        return SimpleNamespace(sample=mean + gain * (x[:, :12] - kept.sqrt() * mean))


@pytest.fixture
def follower(painter: Any) -> Any:
    """The painter with a network that heeds what it is shown, as real ones do."""
    own = painter.denoiser
    network = Posterior(own.spec.schedule)
    denoiser = Denoiser(own.spec, own.autoencoder, network, own.projection, own.device)
    return replace(painter, denoiser=denoiser)


@pytest.fixture
def scene(scene_of: Callable[..., Any]) -> Any:
    """Dark above, light below, at the model's resolution."""
    pixels = np.full((320, 320, 3), 60, np.uint8)
    pixels[128:] = 200
    return scene_of(pixels)


def test_the_source_is_a_guide_in_pixels_of_any_length(scene: Any, painter: Any) -> None:
    canvas = frame_of(scene, REGION, painter, "source").canvas
    guide = source_guide(scene, REGION, painter, 16 * painter.card.resolution)
    assert guide.pixels.shape == (canvas.h // 16, canvas.w // 16, 3)
    edge = (128 - canvas.y) // 16
    assert (guide.pixels[:edge] == 60).all()
    assert (guide.pixels[edge + 1 :] == 200).all()
    with pytest.raises(InputError, match="coarser than what it guides"):
        source_guide(scene, REGION, painter, painter.card.resolution)


def test_a_variation_keeps_to_its_guide(scene: Any, follower: Any, drawn: Any) -> None:
    guide = source_guide(scene, REGION, follower, 16 * follower.card.resolution)
    real = np.asarray([60.0, 200.0])

    def halves(**options: Any) -> np.ndarray:
        made = drawn(make_request(scene, REGION, follower, FAST, **options), follower, scene)
        return np.asarray([made[:56].mean(), made[72:].mean()])

    free, kept = halves(), halves(guide=guide)
    assert np.abs(kept - real).max() < 0.6 * np.abs(free - real).max()


def test_a_picture_lies_over_the_region_and_its_border_goes_on(scene: Any, painter: Any) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:, 2:] = 250
    guide = picture_guide(picture, scene, REGION, painter)
    canvas = frame_of(scene, REGION, painter, "source").canvas
    assert guide.pixels.shape[:2] == (-(-canvas.h // 32), -(-canvas.w // 32))
    middle = (128 - canvas.x) // 32
    assert (guide.pixels[:, :middle] == 0).all()
    assert (guide.pixels[:, middle:] == 250).all()
    wide = picture_guide(picture, scene, REGION, painter, around=64)
    assert wide.pixels.shape[0] > guide.pixels.shape[0]
    assert (wide.pixels[:, 0] == 0).all()
    with pytest.raises(InputError, match="coarser than what it guides"):
        picture_guide(np.zeros((512, 512, 3), np.uint8), scene, REGION, painter)


def test_a_request_carries_its_guide(scene: Any, painter: Any) -> None:
    guide = source_guide(scene, REGION, painter, 8.0, strength=0.5)
    plain = make_request(scene, REGION, painter, FAST)
    request = plain.with_(guide=guide)
    assert "guide" not in plain.to_dict()
    again = SynthesisRequest.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again == request
    assert again.digest == request.digest != plain.digest
    assert again.guide is not None
    assert np.array_equal(again.guide.pixels, guide.pixels)
    broken = request.to_dict()
    broken["guide"]["shape"] = [3, 3]
    with pytest.raises(InputError, match="not a synthesis request"):
        SynthesisRequest.from_dict(broken)


def test_guides_that_cannot_be_are_refused(scene: Any, painter: Any) -> None:
    with pytest.raises(InputError, match="between 0 and 1, got 2"):
        CoarsePicture(np.zeros((2, 2, 3), np.uint8), 2)
    with pytest.raises(InputError, match="RGB of 8 bits"):
        CoarsePicture(np.zeros((2, 2), np.uint8))
    guide = CoarsePicture(np.zeros((2, 2, 3), np.uint8))
    lazy = make_request(scene, REGION, painter, Sampler(preset="lazy", guidance=1.0), guide=guide)
    with pytest.raises(InputError, match="leave guide out"):
        list(synthesize(lazy, bundle=painter, scene=scene))
    large = make_request(scene, REGION, painter, FAST, guide=guide)
    with pytest.raises(InputError, match="leave guide out"):
        list(synthesize(large, bundle=painter, scene=scene, budget=1000))


def test_averages_are_of_equal_parts() -> None:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    found = averaged(pixels, (2, 4))
    assert found.shape == (2, 4, 3)
    assert np.array_equal(found[0, 0], np.round(pixels[:4, :2].mean((0, 1))).astype(np.uint8))
