"""Folders as diffusers and transformers lay them out, and checkpoints in shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.foreign import Checkpoint

Read = Callable[..., Checkpoint]


def config(folder: Path, **values: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A pipeline whose U-Net is safe, whose VAE is pickled, with a scheduler beside them."""
    root = tmp_path / "pipeline"
    config(root / "unet", in_channels=3)
    save_file({"w": torch.ones(2)}, root / "unet" / "diffusion_pytorch_model.safetensors")
    torch.save({"w": torch.zeros(2)}, root / "unet" / "diffusion_pytorch_model.bin")
    config(root / "vae", latent_channels=4)
    torch.save({"d.w": torch.arange(3)}, root / "vae" / "diffusion_pytorch_model.bin")
    config(root / "conditioning_encoder")
    save_file({"w": torch.ones(4)}, root / "conditioning_encoder" / "model.safetensors")
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text("{}")
    return root


def test_components_become_prefixes(pipeline: Path, read: Read) -> None:
    checkpoint = read(pipeline)
    assert checkpoint.form == "folder"
    assert set(checkpoint.tensors) == {"unet.w", "vae.d.w", "conditioning_encoder.w"}
    assert torch.equal(checkpoint.tensors["unet.w"], torch.ones(2)), "the safe file goes first"
    assert checkpoint.configs == {
        "unet": {"in_channels": 3},
        "vae": {"latent_channels": 4},
        "conditioning_encoder": {},
    }


def test_a_component_without_weights_keeps_its_configuration(pipeline: Path, read: Read) -> None:
    (pipeline / "vae" / "diffusion_pytorch_model.bin").unlink()
    checkpoint = read(pipeline)
    assert set(checkpoint.tensors) == {"unet.w", "conditioning_encoder.w"}
    assert checkpoint.configs["vae"] == {"latent_channels": 4}


def test_the_hash_of_a_folder_is_of_the_files_that_were_read(pipeline: Path, read: Read) -> None:
    before = read(pipeline).sha256
    (pipeline / "README.md").write_text("words")
    assert read(pipeline).sha256 == before
    names = [
        "conditioning_encoder/config.json",
        "conditioning_encoder/model.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
    ]
    sums = [hashlib.sha256((pipeline / name).read_bytes()).hexdigest() for name in names]
    lines = "".join(f"{total}  {name}\n" for total, name in zip(sums, names, strict=True))
    assert before == hashlib.sha256(lines.encode()).hexdigest()


def test_a_flat_folder_has_no_prefix(tmp_path: Path, read: Read) -> None:
    config(tmp_path / "vit", hidden_size=8)
    save_file({"layer.w": torch.ones(2)}, tmp_path / "vit" / "model.safetensors")
    (tmp_path / "vit" / "training_args.bin").write_bytes(b"\x80\x04N.")
    checkpoint = read(tmp_path / "vit")
    assert set(checkpoint.tensors) == {"layer.w"}
    assert checkpoint.configs == {"": {"hidden_size": 8}}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A flat folder of two shards with an index."""
    root = tmp_path / "large"
    config(root)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    save_file({"a": torch.ones(2)}, root / names[0])
    save_file({"b": torch.zeros(3)}, root / names[1])
    places = {"a": names[0], "b": names[1]}
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return root


def test_shards_are_read_by_folder_or_by_index(sharded: Path, read: Read) -> None:
    assert set(read(sharded).tensors) == {"a", "b"}
    alone = read(sharded / "model.safetensors.index.json")
    assert (set(alone.tensors), alone.form) == ({"a", "b"}, "safetensors")


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"a": "../../secret.safetensors"}}, "not beside it"),
        ({"weight_map": {"a": "/etc/passwd"}}, "not beside it"),
        ({"weight_map": {"a": "gone.safetensors"}}, "missing"),
        ({"weight_map": {"z": "model-00001-of-00002.safetensors"}}, "promises 'z'"),
        ({"weight_map": []}, "no index"),
        ([1], "no JSON object"),
    ],
)
def test_an_index_that_lies_is_refused(sharded: Path, read: Read, index: object, said: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=said):
        read(sharded)


def test_pickled_shards_are_read(tmp_path: Path, read: Read) -> None:
    root = tmp_path / "old"
    config(root)
    for number, name in enumerate("ab", 1):
        torch.save({name: torch.ones(number)}, root / f"pytorch_model-0000{number}-of-00002.bin")
    places = {name: f"pytorch_model-0000{n}-of-00002.bin" for n, name in enumerate("ab", 1)}
    (root / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    tensors = read(root).tensors
    assert {name: tensor.numel() for name, tensor in tensors.items()} == {"a": 1, "b": 2}


def test_a_folder_with_one_file_of_weights_needs_no_usual_name(tmp_path: Path, read: Read) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "weights.ckpt")
    (tmp_path / "config.yaml").write_text("model: {}")
    assert set(read(tmp_path).tensors) == {"w"}


def test_a_folder_that_leaves_a_choice_or_none_says_so(tmp_path: Path, read: Read) -> None:
    with pytest.raises(ModelError, match="holds no weights"):
        read(tmp_path)
    for name in ("brca", "naip"):
        (tmp_path / name).mkdir()
        torch.save({"w": torch.ones(1)}, tmp_path / name / "weights.ckpt")
    with pytest.raises(ModelError, match=r"name .*brca.*weights\.ckpt itself"):
        read(tmp_path)
    torch.save({"w": torch.ones(1)}, tmp_path / "brca" / "other.ckpt")
    with pytest.raises(ModelError, match=r"several files of weights \(other\.ckpt, weights\.ckpt"):
        read(tmp_path / "brca")


def test_a_damaged_configuration_is_named(tmp_path: Path, read: Read) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    for text in ("{", "[" * 100_000, "3"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelError, match=r"config\.json"):
            read(tmp_path)
