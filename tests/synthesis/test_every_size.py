"""Sizes that divide by nothing: every pixel is delivered once, painted and opaque."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes import Scene
from napari_ssldiff.synthesis import Sampler, Started, TileDone, make_request, synthesize


@pytest.mark.parametrize(("grid", "microns"), [("source", 0.37), ("source", 0.5), ("model", 0.5)])
@pytest.mark.parametrize("preset", ["paper", "bulk", "draft", "lazy"])
@pytest.mark.parametrize("shape", [(1, 1), (255, 255), (257, 257), (1000, 37)], ids=str)
def test_every_pixel_of_any_size_is_painted_once(
    shape: tuple[int, int],
    preset: str,
    grid: str,
    microns: float,
    scene_of: Callable[..., Scene],
    painter: Any,
) -> None:
    scene = scene_of(np.full((1007, 271, 3), (180, 90, 140), np.uint8), microns)
    region = Region.from_box(Box(3, 5, *shape))
    sampler = Sampler(preset=preset, steps=1, guidance=1.0)
    request = make_request(scene, region, painter, sampler, grid=grid)
    # One colour everywhere, which no pixel has that was left out.
    vectors = np.zeros_like(request.field.vectors)
    vectors[..., :3] = 0.8, -0.36, 0.48
    request = request.with_(field=replace(request.field, vectors=vectors))
    times, image = np.zeros(scene.shape, int), np.zeros((*scene.shape, 4), np.uint8)
    box = Box(0, 0, 0, 0)
    for event in synthesize(request, bundle=painter, scene=scene):
        if isinstance(event, Started):
            box = event.output_box
        elif isinstance(event, TileDone):
            assert box.contains(event.box)
            times[event.box.slices] += 1
            image[event.box.slices] = event.pixels
    assert box == Box(3, 5, *shape)
    assert (times[box.slices] == 1).all()
    assert times.sum() == box.area
    made = image[box.slices].reshape(-1, 4)
    assert (made[:, 3] == 255).all()
    assert np.ptp(made, axis=0).max() <= 1
    assert np.abs(made[0, :3].astype(int) - (219, 86, 183)).max() <= 2
