"""A denoiser whose answer can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec, StudentSpec
from napari_ssldiff.diffusion.conditioning import Condition

SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "num_train_timesteps": 1000,
}


class FlatProjection(nn.Module):
    """The tokens themselves as context, none as map."""

    def forward(self, tokens: torch.Tensor) -> Condition:
        return Condition(tokens)


class MeanNetwork(nn.Module):
    """Answers x0 = the mean of the window's tokens + a little of x, which is linear."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.batches = share, []  # type: ignore[var-annotated]

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        self.batches.append(len(x))
        mean = context.mean(dim=(1, 2))[:, None, None, None]
        return SimpleNamespace(sample=mean + self.share * x)


class FoldingNetwork(nn.Module):
    """An autoencoder of its own kind: 2 × 2 patches fold into channels, and back."""

    def encode(self, images: torch.Tensor) -> Any:
        return SimpleNamespace(latents=torch.nn.functional.pixel_unshuffle(images, 2))

    def decode(self, latents: torch.Tensor) -> Any:
        return SimpleNamespace(sample=torch.nn.functional.pixel_shuffle(latents, 2))


@pytest.fixture(scope="session")
def schedule() -> dict[str, Any]:
    """The noise schedule of the demo models."""
    return dict(SCHEDULE)


def build_denoiser(
    window: int = 8,
    share: float = 0.0,
    prediction: str = "sample",
    student: Callable[[], nn.Module] | None = None,
) -> Denoiser:
    """A denoiser of ``window`` latents (two pixels each) around :class:`MeanNetwork`."""
    spec = ModelSpec(
        window * 2, 2, 3, 12, 2, prediction, SCHEDULE,  # type: ignore[arg-type]
        StudentSpec(4, 1.5) if student else None,
    )  # fmt: skip
    return Denoiser(
        spec,
        Autoencoder(FoldingNetwork(), 1, 12),
        MeanNetwork(share),
        FlatProjection(),  # type: ignore[arg-type]
        torch.device("cpu"),
        student,
    )


@pytest.fixture
def make_denoiser() -> Callable[..., Denoiser]:
    """:func:`build_denoiser`."""
    return build_denoiser


@pytest.fixture
def spec(make_denoiser: Callable[..., Denoiser]) -> ModelSpec:
    """A model without a student, windows of 8 latents."""
    return make_denoiser().spec


@pytest.fixture
def taught(make_denoiser: Callable[..., Denoiser]) -> ModelSpec:
    """A model with a student of four steps."""
    return make_denoiser(student=lambda: MeanNetwork(0.0)).spec
