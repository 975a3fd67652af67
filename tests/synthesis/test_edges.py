"""How a variation meets its surroundings: grown, faded, and with colours that agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.extend import extend
from napari_ssldiff.synthesis import (
    Sampler,
    Started,
    SynthesisRequest,
    TileDone,
    make_request,
    synthesize,
)
from napari_ssldiff.synthesis.frame import (
    denoise_mask,
    held_on_canvas,
    inside_on_canvas,
    plan_frame,
)
from napari_ssldiff.synthesis.match import CONTRAST, correction
from napari_ssldiff.synthesis.prepare import frame_of

FAST = Sampler(steps=2, seed=5, guidance=1.0)
Make = Callable[..., tuple[Box, np.ndarray]]


@pytest.fixture
def make(scene_of: Callable[..., Any], textured: Any, painter: Any) -> Make:
    """The output box and the RGBA pixels of a variation of a textured scene."""
    # The painter's latents are pixels, four to a place: their mean is what they look like.
    autoencoder = painter.denoiser.autoencoder
    autoencoder.preview_weight = torch.eye(3).repeat_interleave(4, 1) / 4

    def run(
        region: Region, pixels: np.ndarray | None = None, **options: Any
    ) -> tuple[Box, np.ndarray]:
        scene = scene_of(textured(300, 400) if pixels is None else pixels)
        sampler = options.pop("sampler", FAST)
        budget = options.pop("budget", 2**30)
        request = make_request(scene, region, painter, sampler, **options)
        box, image = Box(0, 0, 0, 0), np.zeros((0, 0, 4), np.uint8)
        for event in synthesize(request, bundle=painter, scene=scene, budget=budget):
            if isinstance(event, Started):
                box = event.output_box
                image = np.zeros((*box.shape, 4), np.uint8)
            elif isinstance(event, TileDone):
                image[event.box.shift(-box.y, -box.x).slices] = event.pixels
        return box, image

    return run


def test_a_grown_region_reaches_beyond_its_edge_as_far_as_the_image(make: Make) -> None:
    box, image = make(Region.from_box(Box(5, 100, 120, 90)), grow=12)
    assert box == Box(0, 88, 137, 114)
    alpha = image[..., 3]
    assert (alpha[:, 12:-12] == 255).all()
    assert (alpha[5:125] == 255).all()
    assert alpha[-1, 0] < 255  # corners are round: so far from the region
    assert alpha[-1, 50] == 255


def test_growing_and_fading_by_the_same_leaves_the_region_whole(make: Make) -> None:
    region = Region(((60.0, 100.0), (200.0, 90.0), (180.0, 260.0), (70.0, 240.0)))
    box, image = make(region, grow=20, feather=20)
    inside = region.mask(box)
    alpha = image[..., 3].astype(int)
    assert (alpha[inside] >= 254).all()
    ring = (alpha > 0) & (alpha < 254)
    assert ring.sum() > 2000
    assert not (ring & inside).any()
    y, x = (100, 0)
    assert (np.diff(alpha[y, x:40]) >= 0).all()


@pytest.mark.parametrize("grid", ["source", "model"])
def test_the_grown_ring_is_denoised_and_the_context_beyond_it_is_the_source(
    make: Make, textured: Any, grid: str
) -> None:
    pixels = textured(300, 400)
    region = Region.from_box(Box(100, 120, 64, 64))
    box, grown = make(region, pixels, grow=16, context=32, grid=grid)
    _, narrow = make(region, pixels, context=32, grid=grid)
    assert box == Box(84, 104, 96, 96)
    real = pixels[box.slices].astype(int)
    made = grown[..., :3].astype(int)
    # The painter paints its tokens, which the source does not look like.
    assert np.abs(made - real)[4:12, 20:-20].mean() > 15
    assert narrow.shape == (64, 64, 4)


def test_colours_are_made_to_agree_with_the_source_around_the_region(make: Make) -> None:
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal((200, 120, 160), 10, (300, 400, 3)), 0, 255).astype(np.uint8)
    region = Region.from_box(Box(100, 100, 128, 128))
    _, plain = make(region, pixels)
    _, matched = make(region, pixels, match=48)
    means = [image[..., :3].mean((0, 1)) for image in (plain, matched)]
    real = pixels.mean((0, 1))
    assert np.abs(means[0] - real).max() > 20
    assert np.abs(means[1] - real).max() < 0.4 * np.abs(means[0] - real).max()
    assert matched.shape == plain.shape


def test_colours_agree_as_well_where_the_canvas_is_sampled_in_bands(make: Make) -> None:
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal((200, 120, 160), 10, (300, 400, 3)), 0, 255).astype(np.uint8)
    region = Region.from_box(Box(60, 100, 200, 128))
    box, whole = make(region, pixels, match=40)
    there, banded = make(region, pixels, match=40, budget=20_000)
    assert box == there
    assert np.abs(banded.astype(int) - whole).max() <= 1
    assert np.abs(banded.astype(int) - make(region, pixels)[1]).max() > 10


def test_a_correction_restores_tone_and_bounded_contrast() -> None:
    rng = torch.Generator().manual_seed(0)
    real = torch.rand(3, 20, 30, generator=rng) - 0.5
    ring = torch.zeros(20, 30, dtype=torch.bool)
    ring[:5] = True
    found = correction(real / 1.1 - 0.2, real, ring)
    torch.testing.assert_close(found(real / 1.1 - 0.2), real, atol=1e-4, rtol=0)
    flat = correction(real * 0.01 + 0.3, real, ring)
    assert torch.allclose(flat.scale, torch.tensor(CONTRAST[1]))
    made = flat(real * 0.01 + 0.3)
    assert torch.allclose(made[:, ring].mean(1), real[:, ring].mean(1), atol=1e-5)
    few = torch.zeros_like(ring)
    few[0, :3] = True
    with pytest.raises(InputError, match="only 3 latents"):
        correction(real, real, few)


def test_what_cannot_be_matched_is_refused_before_the_first_step(make: Make) -> None:
    region = Region.from_box(Box(50, 50, 64, 64))
    with pytest.raises(InputError, match="give context or match"):
        make(region, context=8, match=8)
    with pytest.raises(InputError, match="not with the preset lazy"):
        make(region, match=16, sampler=replace(FAST, preset="lazy"))
    with pytest.raises(InputError, match="grow must be at least 0 pixels, got -1"):
        make(region, grow=-1)


def test_a_ring_too_small_to_match_is_refused_before_the_first_step(
    scene_of: Callable[..., Any], textured: Any, painter: Any
) -> None:
    scene = scene_of(textured(128, 128))
    request = make_request(scene, Region.from_box(scene.box), painter, FAST, match=8)
    asked: list[Any] = []
    painter.denoiser.network.register_forward_pre_hook(lambda *call: asked.append(call))
    with pytest.raises(InputError, match="too few to match"):
        list(synthesize(request, bundle=painter, scene=scene))
    assert not asked


def test_requests_carry_it_and_older_ones_are_read(
    scene_of: Callable[..., Any], textured: Any, bundle: Any
) -> None:
    scene = scene_of(textured(128, 128))
    request = make_request(
        scene, Region.from_box(Box(40, 40, 50, 50)), bundle, FAST, grow=3, match=8
    )
    data = json.loads(json.dumps(request.to_dict()))
    assert SynthesisRequest.from_dict(data) == request
    assert len({request.digest, request.with_(grow=4).digest, request.with_(match=9).digest}) == 3
    del data["grow"], data["match"]
    old = SynthesisRequest.from_dict(data)
    assert (old.grow, old.match) == (0, 0)


def test_outpainting_continues_the_image_past_its_edge(
    scene_of: Callable[..., Any], textured: Any, painter: Any
) -> None:
    pixels = textured(300, 400)
    scene = extend(scene_of(pixels), 256)
    assert scene.shape == (812, 912)
    region = Region.from_box(Box(296, 656, 128, 96))  # at the right edge, beyond it
    request = make_request(scene, region, painter, FAST, context=32)
    inside = make_request(scene, Region.from_box(Box(296, 560, 128, 96)), painter, FAST)
    # What is asked for beyond the edge is the mirror image of what lies inside.
    np.testing.assert_allclose(
        request.field.sample(350.0, [672.0, 700.0]),
        inside.field.sample(350.0, [640.0, 612.0]),
        atol=0.6,
    )
    tiles = [e for e in synthesize(request, bundle=painter, scene=scene) if isinstance(e, TileDone)]
    assert sum(t.box.area for t in tiles) == 128 * 96
    assert all((t.pixels[..., 3] == 255).all() for t in tiles)
    # Where the image ends nothing is known, so it is denoised; inside it the source stays.
    frame = frame_of(scene, region, painter, "source", context=64)
    mask = denoise_mask(frame, 2, scene.held)
    there = held_on_canvas(frame, scene.held)[::2, ::2]
    assert not there.all()
    assert (mask[~there] == 1).all()
    assert (mask[there] == 0).all()


def test_distances_measured_in_strips_are_those_measured_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    region = Region(((30, 40), (300, 90), (180, 330), (60, 200)))
    frame = plan_frame(region, (400, 400), (1.5, 1.5), 32, 8, "source", context=40, grow=21)
    whole = inside_on_canvas(frame, 9.5)
    monkeypatch.setattr("napari_ssldiff.synthesis.frame.STRIP", 17)
    assert np.array_equal(inside_on_canvas(frame, 9.5), whole)
    assert whole.any()
    assert not whole.all()
