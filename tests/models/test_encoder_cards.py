"""The catalogue's encoders can be built as their cards say, and any other can be described."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import ViTConfig, ViTModel

import napari_ssldiff.models
from napari_ssldiff.embeddings.encoder import EncoderSpec, NetworkEncoder, check_preprocessing
from napari_ssldiff.embeddings.networks import build_network, outline
from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.encoder_card import encoder_card

CATALOGUE = Path(napari_ssldiff.models.__file__).parent / "catalogue"
ENCODERS: dict[str, dict[str, Any]] = {
    card["id"]: card
    for card in (yaml.safe_load(p.read_text()) for p in sorted(CATALOGUE.glob("*.yaml")))
    if card.get("kind") == "encoder"
}


def spec(part: dict[str, Any], name: str = "x@0") -> EncoderSpec:
    return EncoderSpec(
        name,
        0.5,
        "micrometer",
        64,
        part["input"],
        tuple(part["mean"]),
        tuple(part["std"]),
        part["width"],
        part["token"],
        resize=part["resize"],
        crop=part.get("crop", 1.0),
    )


def test_the_encoders_that_laboratories_use_are_in_the_box() -> None:
    assert set(ENCODERS) >= {
        "hipt-vit256",
        "phikon",
        "phikon-v2",
        "ctranspath",
        "uni",
        "uni2-h",
        "virchow2",
        "h-optimus-0",
        "h-optimus-1",
        "dino-vitb16",
        "dinov2-vitb14",
        "dinov2-vitl14",
        "dinov2-vitl14-reg",
        "dinov3-vitl16-sat",
        "satmae-vitl16-fmow",
    }


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_an_encoder_is_built_as_its_card_says(name: str) -> None:
    card = ENCODERS[name]
    part = card["encoder"]
    check_preprocessing(spec(part, name))
    network: Any = outline(part)
    tokens = 2 if part["token"] == "cls+mean" else 1
    assert network.num_features * tokens == part["width"]
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == card["sizes"]["encoder_parameters"]
    tensors = network.state_dict().values()
    assert sum(t.nbytes for t in tensors) == card["sizes"]["installed_bytes"]
    assert (
        f"{parameters / 1e6:.1f} M parameters, {len(network.state_dict())}" in card["verified"][0]
    )
    positions = network.state_dict().get("pos_embed")
    if positions is not None:  # it fits the card's input, so nothing is stretched at run time
        patch = network.patch_embed.patch_size[0]
        assert positions.shape[1] - (part["input"] // patch) ** 2 in (
            0,
            1,
            network.num_prefix_tokens,
        )


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_a_card_says_its_terms_its_source_and_what_nobody_checked(name: str) -> None:
    card = ENCODERS[name]
    assert card["licence"]["name"]
    assert card["licence"]["url"].startswith("https://")
    assert card["licence"]["commercial"] in (True, False, "unknown")
    if card["licence"].get("gated"):
        assert card["licence"]["gate_url"].startswith("https://")
    assert card["citation"]
    assert card["sources"]
    assert card["open"]
    assert any("not available" in line for line in card["verified"])


def row(card: dict[str, Any]) -> str:
    """A line of the table in docs/models/encoders.md."""
    part, licence = card["encoder"], card["licence"]
    unit = {"micrometer": "µm", "meter": "m"}.get(part.get("unit"), "")
    size = f"{part['resolution']:g} {unit}" if "resolution" in part else "any"
    token = {"cls": "class", "pooled": "mean", "cls+mean": "class + mean"}[part["token"]]
    use = {True: "yes", False: "no", "unknown": "ask"}[licence["commercial"]]
    gate = "yes" if licence.get("gated") else "no"
    way = "fetch" if card["sources"][0]["kind"] == "hub" else "import"
    count = f"{card['sizes']['encoder_parameters'] / 1e6:.0f} M"
    cells = [f"`{card['id']}`", card["domain"], size, part["input"], token, part["width"], count]
    return f"| {' | '.join(map(str, [*cells, licence['name'], use, gate, way]))} |"


def test_the_table_of_the_docs_says_what_the_cards_say() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models" / "encoders.md").read_text(
        encoding="utf-8"
    )
    missing = [line for line in map(row, ENCODERS.values()) if line not in page]
    assert not missing, "\n".join(missing)


def test_a_timm_architecture_is_described_by_its_own_configuration() -> None:
    card = encoder_card("timm", "vit_base_patch16_224.dino")
    part = card["encoder"]
    assert (part["input"], part["crop"], part["resize"]) == (224, 0.9, "bicubic")
    assert part["mean"] == [0.485, 0.456, 0.406]
    assert (part["width"], part["token"]) == (768, "pooled")
    assert yaml.safe_load(yaml.safe_dump(card)) == card


def test_a_timm_folder_brings_its_arguments(tmp_path: Path) -> None:
    saved = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "global_pool": "",
        "model_args": {
            "embed_dim": 24,
            "depth": 1,
            "num_heads": 2,
            "img_size": 32,
            "reg_tokens": 4,
        },
        "pretrained_cfg": {
            "input_size": [3, 32, 32],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": [0.7, 0.6, 0.7],
            "std": [0.2, 0.2, 0.2],
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(saved))
    part = encoder_card("timm", "my encoder", tmp_path)["encoder"]
    assert (part["name"], part["width"], part["token"]) == ("vit_tiny_patch16_224", 24, "cls")
    assert part["mean"] == [0.7, 0.6, 0.7]
    network = build_network("timm", part["name"], part["options"], part["width"])
    NetworkEncoder(spec(part), network, torch.device("cpu"))


def test_a_transformers_folder_is_described_and_runs(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=16,
    )
    ViTModel(config).save_pretrained(tmp_path, safe_serialization=True)
    steps: dict[str, Any] = {
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.2],
        "size": {"shortest_edge": 40},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "resample": 2,
    }
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(steps))
    card = encoder_card("transformers", "Mine", tmp_path)
    part = card["encoder"]
    assert card["id"] == "mine"
    assert (part["input"], part["crop"], part["resize"]) == (32, 0.8, "bilinear")
    assert (part["mean"], part["width"], part["token"]) == ([0.5, 0.4, 0.3], 24, "cls")
    network = build_network("transformers", str(tmp_path), part["options"], part["width"])
    NetworkEncoder(spec(part), network, torch.device("cpu"))

    path.write_text(json.dumps({**steps, "rescale_factor": 1 / 127.5}))
    with pytest.raises(ModelError, match="allowed is 1/255"):
        encoder_card("transformers", "Mine", tmp_path)
    path.write_text(json.dumps({**steps, "image_mean": [127.5] * 3}))
    with pytest.raises(ModelError, match="divide it by 255"):
        encoder_card("transformers", "Mine", tmp_path)
    path.unlink()
    with pytest.raises(ModelError, match=r"there is no .*preprocessor_config"):
        encoder_card("transformers", "Mine", tmp_path)


def test_what_cannot_be_described_is_refused() -> None:
    with pytest.raises(ModelError, match="needs its folder"):
        encoder_card("transformers", "x")
    with pytest.raises(ModelError, match="unknown encoder library 'keras'"):
        encoder_card("keras", "x")
    with pytest.raises(ModelError, match="does not know the architecture"):
        encoder_card("timm", "no_such_net")
