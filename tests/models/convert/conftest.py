"""The paper's models at a width that a test can afford, with weights under the original's names."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from napari_ssldiff.models.card import ModelCard, read_card

REPOSITORY = Path(__file__).parents[3]
CATALOGUE = REPOSITORY / "src/napari_ssldiff/models/catalogue"


def load_plain(name: str) -> ModuleType:
    """A module of ``benchmarks/``: the same computation serves the tests and the full size."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / f"benchmarks/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def plain() -> Any:
    """Latent diffusion's networks, written out in plain torch."""
    return load_plain("plain_ldm")


@pytest.fixture(scope="session")
def shapes() -> Any:
    """The tensors of latent diffusion's checkpoints."""
    return load_plain("plain_ldm_shapes")


def narrow(card: ModelCard, **encoder: Any) -> ModelCard:
    """A card of the catalogue with its networks a sixth as wide, in windows of 64 px."""
    parts: dict[str, Any] = copy.deepcopy(dict(card.parts))
    parts["denoiser"]["config"] |= {
        "sample_size": 16,
        "block_out_channels": [32, 64, 96, 160],
        "cross_attention_dim": 24,
    }
    parts["autoencoder"]["config"] |= {
        "block_out_channels": [32, 64, 128],
        "num_vq_embeddings": 64,
    }
    parts["conditioning"]["context"] = 24
    parts["encoder"] |= {"width": 12, **encoder}
    return replace(card, window=64, cell=64, parts=parts)


@pytest.fixture(scope="session")
def small_card() -> Callable[[str], ModelCard]:
    """A narrow card by the id of one in the catalogue."""
    return lambda name: narrow(read_card(CATALOGUE / f"{name}.yaml"))


@pytest.fixture(scope="session")
def small_checkpoint(shapes: Any) -> Callable[[bool], dict[str, torch.Tensor]]:
    """The ``state_dict`` of a narrow checkpoint, with or without a region token."""

    def make(region: bool) -> dict[str, torch.Tensor]:
        wanted = shapes.unet_shapes(shapes.UnetConfig(model_channels=32, context_dim=24))
        wanted |= shapes.vq_shapes(shapes.VqConfig(ch=32, n_embed=64))
        wanted |= shapes.condition_shapes(12, 24, 20 if region else 0)
        return {**shapes.random_tensors(wanted), **shapes.schedule_buffers()}

    return make


@pytest.fixture(scope="session")
def plain_pixart() -> Any:
    """PixArt's transformer, written out in plain torch."""
    return load_plain("plain_pixart")


@pytest.fixture(scope="session")
def plain_zoomldm() -> Any:
    """ZoomLDM's condition transformer, written out in plain torch."""
    return load_plain("plain_zoomldm")


@pytest.fixture(scope="session")
def plain_stain() -> Any:
    """PixCell's flow between stains, written out in plain torch."""
    return load_plain("plain_stain")
