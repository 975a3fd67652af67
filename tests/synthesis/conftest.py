"""A scene, and a model that paints exactly what its tokens say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.diffusion.bundle import Denoiser, StudentSpec
from napari_ssldiff.diffusion.conditioning import Condition
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import Scene, open_scene
from napari_ssldiff.synthesis import Started, TileDone, synthesize


@pytest.fixture(autouse=True)
def _no_user_cache(own_cache: Path) -> None:
    """Every test gets a cache folder of its own."""


@pytest.fixture
def scene_of(write_scene: Callable[..., Path]) -> Iterator[Callable[..., Scene]]:
    """Opens pixels as a scene from a file; closed at the end of the test."""
    opened: list[Scene] = []

    def make(pixels: NDArray[Any], microns: float = 0.5) -> Scene:
        path = write_scene(pixels, microns, name=f"scene-{len(opened)}.tif")
        opened.append(open_scene(path))
        return opened[-1]

    yield make
    for scene in opened:
        scene.close()


class Folding(nn.Module):
    """A lossless autoencoder: 2 × 2 patches fold into channels, and back."""

    def encode(self, images: torch.Tensor) -> Any:
        return SimpleNamespace(latents=F.pixel_unshuffle(images, 2))

    def decode(self, latents: torch.Tensor) -> Any:
        return SimpleNamespace(sample=F.pixel_shuffle(latents, 2))


class Painted(nn.Module):
    """Lays the first three numbers of each token over its cell, row by row."""

    def forward(self, tokens: torch.Tensor) -> Condition:
        grid = tokens[..., :3].transpose(1, 2).unflatten(2, (2, 2))
        return Condition(tokens, F.interpolate(grid, (32, 32), mode="nearest"))


class Painter(nn.Module):
    """Answers that the clean window is what the condition's map says."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        return SimpleNamespace(sample=0.9 * x[:, 12:].repeat_interleave(4, 1))


@pytest.fixture
def painter(bundle: Any) -> Any:
    """The tiny model with a lossless autoencoder and a network that paints its tokens."""
    spec = replace(bundle.spec, latent_channels=12, latent_factor=2, prediction="sample")
    cpu = torch.device("cpu")
    parts = Autoencoder(Folding(), 1, 12), Painter(), Painted()
    return replace(bundle, denoiser=Denoiser(spec, *parts, cpu))  # type: ignore[arg-type]


class Student(Painter):
    """Paints likewise, and counts the windows it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = 0

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        self.windows += len(x)
        return super().forward(x, t, context)


@pytest.fixture
def taught_painter(painter: Any) -> Any:
    """:func:`painter` with a student of four steps, made at a guidance of 1.5."""
    own = painter.denoiser
    spec = replace(own.spec, student=StudentSpec(4, 1.5))
    student = Student()
    parts = own.autoencoder, own.network, own.projection, own.device, lambda: student
    return replace(painter, denoiser=Denoiser(spec, *parts))


@pytest.fixture
def drawn() -> Callable[..., NDArray[np.uint8]]:
    """Carries out a request: ``(h, w, 3)`` of its output box."""

    def draw(request: Any, bundle: Any, scene: Any, **how: Any) -> NDArray[np.uint8]:
        box, image = Box(0, 0, 0, 0), np.zeros((0, 0, 3), np.uint8)
        for event in synthesize(request, bundle=bundle, scene=scene, **how):
            if isinstance(event, Started):
                box = event.output_box
                image = np.zeros((*box.shape, 3), np.uint8)
            elif isinstance(event, TileDone):
                image[event.box.shift(-box.y, -box.x).slices] = event.pixels[..., :3]
        return image

    return draw
