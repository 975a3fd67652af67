"""The preset ``lazy`` through the one door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.synthesis import (
    Finished,
    Progress,
    Sampler,
    Started,
    SynthesisRequest,
    TileDone,
    make_request,
    synthesize,
)


def test_a_request_says_all_that_the_last_bit_depends_on_and_gives_the_same_pixels_again(
    scene_of: Callable[..., Any], textured: Callable[[int, int], Any], bundle: Any
) -> None:
    scene = scene_of(textured(300, 400))
    region = Region.from_box(Box(10, 20, 120, 150))
    made = []
    for sampler in (Sampler("lazy", steps=3, seed=5), Sampler("lazy", steps=3, seed=5, batch=8)):
        request = make_request(scene, region, bundle, sampler)
        assert (request.sampler.batch, request.sampler.threads) == (8, 1)
        again = SynthesisRequest.from_dict(request.to_dict())
        assert again == request
        events = list(synthesize(again, bundle=bundle, scene=scene))
        first, last = events[0], events[-1]
        assert isinstance(first, Started)
        assert isinstance(last, Finished)
        assert first.evaluations == last.evaluations > 0
        done = [e.done for e in events if isinstance(e, Progress) and e.stage == "denoising"]
        assert done == sorted(done)
        assert len(done) > 10
        assert done[-1] == first.evaluations
        made.append([e for e in events if isinstance(e, TileDone)])
    for one, other in zip(*made, strict=True):
        assert one.box == other.box
        assert np.array_equal(one.pixels, other.pixels)
    assert all((tile.pixels[..., 3] == 255).all() for tile in made[0])
    assert sum(tile.box.area for tile in made[0]) == 120 * 150


def test_strength_zero_is_the_source_for_lazy_too(
    scene_of: Callable[..., Any], textured: Callable[[int, int], Any], painter: Any
) -> None:
    pixels = textured(300, 400)
    scene = scene_of(pixels)
    region = Region.from_box(Box(0, 0, 128, 128))
    request = make_request(scene, region, painter, Sampler("lazy", steps=2, strength=0.0))
    tile = next(e for e in synthesize(request, bundle=painter, scene=scene)
                if isinstance(e, TileDone))  # fmt: skip
    inside = tile.box.intersect(Box(0, 0, 100, 100))
    error = tile.pixels[inside.slices][..., :3].astype(int) - pixels[inside.slices]
    assert np.abs(error).max() <= 2


def test_batch_and_threads_belong_to_lazy_alone(
    scene_of: Callable[..., Any], textured: Callable[[int, int], Any], bundle: Any
) -> None:
    scene, region = scene_of(textured(300, 400)), Region.from_box(Box(0, 0, 64, 64))
    with pytest.raises(InputError, match="belong to the preset lazy"):
        make_request(scene, region, bundle, Sampler("bulk", batch=4))
    with pytest.raises(InputError, match="threads must be between 1 and 1024, got 0"):
        Sampler("lazy", threads=0)
