"""Fixtures that every room's tests share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real images that ``NAPARI_SSLDIFF_DATA`` names; without it the test skips."""
    folder = os.environ.get("NAPARI_SSLDIFF_DATA")
    if not folder:
        pytest.skip("set NAPARI_SSLDIFF_DATA to the folder of real images to run this test")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"NAPARI_SSLDIFF_DATA names {folder}, which is no folder")
    return path


# A whole model, far too small to be of use: 64-px windows of 2 × 2 cells and 8 × 8 latents.
_AUTOENCODER: dict[str, Any] = {
    "in_channels": 48,
    "out_channels": 48,
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
_UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 7,
    "out_channels": 4,
    "cross_attention_dim": 8,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}
_ENCODER: dict[str, Any] = {
    "library": "timm",
    "name": "resnet10t",
    "options": {"channels": [8, 8, 8, 16]},
    "input": 32,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "width": 12,
}


def write_tiny_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A model folder (card and safetensors) with random weights; ``changes`` go into the card."""
    from napari_ssldiff.viewer.native import load_triton_apart

    load_triton_apart()  # a test before may have shown a window
    import diffusers
    import torch
    from safetensors.torch import save_file

    from napari_ssldiff.diffusion.autoencoder import Autoencoder
    from napari_ssldiff.diffusion.conditioning import TokenProjection
    from napari_ssldiff.embeddings.encoder import build_network

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    autoencoder = Autoencoder(diffusers.AutoencoderKL(**_AUTOENCODER), 4, 4, 8)
    autoencoder.shift.uniform_(-0.3, 0.3)
    autoencoder.scale.uniform_(0.1, 0.3)
    autoencoder.preview_weight.normal_(0, 0.3)
    modules = {
        "autoencoder": autoencoder,
        "unet": diffusers.UNet2DConditionModel(**_UNET),
        "projection": TokenProjection(2, 12, 8, 3, 8),
        "encoder": build_network("timm", "resnet10t", _ENCODER["options"], 12),
        "encoder-eval": build_network("timm", "resnet10t", _ENCODER["options"], 12),
    }
    weights = {}
    for name, module in modules.items():
        file = f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, folder / file)
        weights[file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    card = {
        "id": "tiny",
        "name": "Tiny",
        "domain": "histology",
        "description": "Random weights, for tests.",
        "licence": "BSD-3-Clause",
        "resolution": 0.5,
        "unit": "micrometer",
        "window": 64,
        "cell": 32,
        "guidance": 1.5,
        "autoencoder": {
            "class": "AutoencoderKL",
            "config": _AUTOENCODER,
            "patch": 4,
            "linear": 8,
            "factor": 8,
            "channels": 4,
            "weights": ["autoencoder.safetensors"],
        },
        "denoiser": {
            "class": "UNet2DConditionModel",
            "config": _UNET,
            "prediction": "v_prediction",
            "weights": ["unet.safetensors"],
        },
        "conditioning": {"context": 8, "spatial": 3, "weights": ["projection.safetensors"]},
        "scheduler": {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.0015,
            "beta_end": 0.0195,
            "num_train_timesteps": 1000,
        },
        "encoder": {"id": "tiny-encoder", **_ENCODER, "weights": ["encoder.safetensors"]},
        "evaluation_encoder": {
            "id": "tiny-eval",
            **_ENCODER,
            "weights": ["encoder-eval.safetensors"],
        },
        "weights": weights,
        **changes,
    }
    (folder / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model with random weights. Do not write to it."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def make_tiny_model() -> Callable[..., Path]:
    """:func:`write_tiny_model`, for a folder of the test's own."""
    return write_tiny_model


@pytest.fixture(scope="session")
def bundle(tiny_folder: Path) -> Any:
    """The tiny model, loaded on the CPU."""
    from napari_ssldiff.models import load_bundle

    return load_bundle(str(tiny_folder), "cpu")


class _Axes:
    """A text encoder that knows three words, each of them an axis."""

    name, width, _known = "fake", 16, ("tumour", "stroma", "fat")

    def text(self, texts: list[str]) -> NDArray[np.float32]:
        found = [[word in text for word in self._known].index(True) for text in texts]
        return np.eye(self.width, dtype=np.float32)[found]

    def check(self, text: str) -> str | None:
        from napari_ssldiff.errors import InputError

        if not any(word in text for word in self._known):
            raise InputError(f"knows no word of {text!r}")
        return "ignores 'odd'" if "odd" in text else None


@pytest.fixture(scope="session")
def tiny_words(bundle: Any) -> Any:
    """A prior with random weights that makes fields for :func:`bundle`, and what it understands."""
    import torch

    from napari_ssldiff.models.priors import PriorCard, Words
    from napari_ssldiff.text.prior import Prior, PriorFacts, PriorNetwork

    spec = bundle.encoder.spec
    config = {
        "window": 4, "width": bundle.spec.token_width, "channels": 8, "condition": _Axes.width,
        "context": 16, "spatial": 4, "prediction": "sample",
        "scheduler": {
            "beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195,
            "num_train_timesteps": 1000,
        },
        "network": {
            "block_out_channels": [16], "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D"],
            "attention_head_dim": 8, "norm_num_groups": 8,
        },
    }  # fmt: skip
    torch.manual_seed(0)
    network = PriorNetwork(config)
    network.axes.fit(torch.nn.functional.normalize(torch.randn(400, config["width"]), dim=1), 0.5)
    own = "tiny-prior", "histology", "", spec.id, spec.resolution, spec.unit, spec.cell, 1.0
    card = PriorCard(*own, config, "fake", {}, Path())
    facts = PriorFacts(card.id, spec.id, spec.resolution, spec.unit, spec.cell, 1.0)
    prior = Prior(facts, config, network, torch.device("cpu"))
    return Words(card, prior, _Axes())  # type: ignore[arg-type]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NAPARI_SSLDIFF_CACHE", str(folder))
    return folder


@pytest.fixture
def write_scene(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``(h, w, 3)`` uint8 as TIFF of a pixel size in micrometres (default 0.5)."""
    import tifffile

    def write(pixels: NDArray[np.uint8], microns: float = 0.5, name: str = "scene.tif") -> Path:
        path = tmp_path / name
        per_cm = 10_000 / microns
        tifffile.imwrite(
            path,
            pixels,
            photometric="rgb",
            tile=(64, 64),
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            metadata=None,
        )
        return path

    return write


@pytest.fixture(scope="session")
def textured() -> Callable[[int, int], NDArray[np.uint8]]:
    """``(h, w, 3)`` uint8 of smooth coloured waves with some grain, another at every place."""

    def make(h: int, w: int) -> NDArray[np.uint8]:
        y, x = np.mgrid[:h, :w] + 0.5
        waves = [np.sin(x / 11) * np.cos(y / 17), np.sin((x + y) / 23), np.cos(x / 31 - y / 13)]
        grain = np.random.default_rng(0).normal(0, 8, (h, w, 3))
        return np.clip(127.5 + 90 * np.stack(waves, -1) + grain, 0, 255).astype(np.uint8)

    return make
