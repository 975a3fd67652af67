"""The encoder contract on both libraries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTModel

from napari_ssldiff.embeddings.encoder import EncoderSpec, NetworkEncoder, build_network
from napari_ssldiff.errors import ModelError

SPEC = EncoderSpec(
    id="test@0",
    resolution=0.5,
    unit="micrometer",
    cell=64,
    input=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    width=24,
    token="cls",
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer in the hub's layout, as safetensors."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=16,
    )
    path: Path = tmp_path_factory.mktemp("hub") / "vit"
    ViTModel(config).save_pretrained(path, safe_serialization=True)
    return path


@pytest.fixture
def cells() -> np.ndarray:  # type: ignore[type-arg]
    """Five random cells."""
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)


def test_a_transformers_folder_gives_unit_vectors_of_its_class_token(
    folder: Path,
    cells: np.ndarray,  # type: ignore[type-arg]
) -> None:
    network = build_network("transformers", str(folder), {"add_pooling_layer": False}, 24)
    vectors = NetworkEncoder(SPEC, network, CPU, batch=2).embed(cells)
    assert vectors.shape == (5, 24)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.ptp(vectors, axis=0).max() > 1e-3, "different cells, different vectors"


def test_the_order_and_the_batch_of_cells_do_not_matter(
    folder: Path,
    cells: np.ndarray,  # type: ignore[type-arg]
) -> None:
    network = build_network("transformers", str(folder), {"add_pooling_layer": False}, 24)
    one = NetworkEncoder(SPEC, network, CPU, batch=2).embed(cells)
    other = NetworkEncoder(SPEC, network, CPU, batch=5).embed(cells[::-1])
    assert np.allclose(one, other[::-1], atol=1e-5)


def test_a_width_that_is_not_the_card_s_is_refused(folder: Path) -> None:
    network = build_network("transformers", str(folder), {"add_pooling_layer": False}, 24)
    with pytest.raises(ModelError, match=r"vectors of 24, its card says 768"):
        NetworkEncoder(replace(SPEC, width=768), network, CPU)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path)):
        build_network("transformers", str(tmp_path), {}, 24)


def test_a_folder_cannot_run_code_of_its_own(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot load the encoder"):
        build_network("transformers", str(tmp_path), {"trust_remote_code": True}, 24)
    assert not marker.exists()


def test_unknown_libraries_and_architectures_are_named() -> None:
    with pytest.raises(ModelError, match="keras"):
        build_network("keras", "vgg", {}, 24)
    with pytest.raises(ModelError, match="no_such_net"):
        build_network("timm", "no_such_net", {}, 24)


def test_a_timm_model_gives_vectors_of_its_head() -> None:
    network = build_network("timm", "resnet10t", {"channels": [8, 8, 8, 8]}, 24)
    spec = replace(SPEC, token="pooled")
    cell = np.zeros((1, 64, 64, 3), np.uint8)
    assert NetworkEncoder(spec, network, CPU).embed(cell).shape == (1, 24)
