"""Which token, which part of a cell, and what is refused at load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from napari_ssldiff.embeddings.encoder import EncoderSpec, NetworkEncoder, build_network
from napari_ssldiff.errors import ModelError

CPU = torch.device("cpu")
HALF = (0.5, 0.5, 0.5)
SPEC = EncoderSpec("test@0", 0.5, "micrometer", 64, 32, HALF, HALF, 24, "cls")
VIT: dict[str, Any] = {
    "num_classes": 0,
    "embed_dim": 24,
    "depth": 1,
    "num_heads": 2,
    "img_size": 32,
    "patch_size": 8,
    "reg_tokens": 4,
}


def timm_vit(**options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network("timm", "vit_tiny_patch16_224", {**VIT, **options}, 24)


def cells(side: int = 32, count: int = 3) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def normalised(pixels: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def test_the_class_token_and_the_mean_of_patches_leave_registers_out() -> None:
    network = timm_vit(mlp_layer="SwiGLUPacked", act_layer="SiLU")
    both = NetworkEncoder(replace(SPEC, width=48, token="cls+mean"), network, CPU)
    with torch.no_grad():
        tokens = network.forward_features(normalised(cells()))  # type: ignore[operator]
    assert tokens.shape == (3, 1 + 4 + 16, 24)
    expected = F.normalize(torch.cat([tokens[:, 0], tokens[:, -16:].mean(1)], 1), dim=1)
    np.testing.assert_allclose(both.embed(cells()), expected.numpy(), atol=1e-5)


def test_transformers_registers_are_left_out_as_well() -> None:
    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    network = Dinov2WithRegistersModel(config).eval()
    both = NetworkEncoder(replace(SPEC, width=48, token="cls+mean"), network, CPU)
    with torch.no_grad():
        tokens = network(normalised(cells())).last_hidden_state
    expected = F.normalize(torch.cat([tokens[:, 0], tokens[:, -16:].mean(1)], 1), dim=1)
    np.testing.assert_allclose(both.embed(cells()), expected.numpy(), atol=1e-5)


def test_a_timm_models_class_token_is_not_its_pool_where_that_is_a_mean() -> None:
    network = timm_vit(global_pool="avg", fc_norm=False)
    first = NetworkEncoder(SPEC, network, CPU).embed(cells())
    pooled = NetworkEncoder(replace(SPEC, token="pooled"), network, CPU).embed(cells())
    with torch.no_grad():
        tokens = network.forward_features(normalised(cells()))  # type: ignore[operator]
    np.testing.assert_allclose(first, F.normalize(tokens[:, 0], dim=1).numpy(), atol=1e-5)
    assert np.abs(first - pooled).max() > 0.01


def test_a_crop_sees_the_middle_of_each_patch_of_a_cell() -> None:
    network = timm_vit()
    whole = NetworkEncoder(SPEC, network, CPU)
    middle = NetworkEncoder(replace(SPEC, crop=0.8), network, CPU)
    cell = cells(40)  # 32 / 0.8: nothing is resized
    np.testing.assert_allclose(middle.embed(cell), whole.embed(cell[:, 4:36, 4:36]), atol=1e-6)
    four = NetworkEncoder(replace(SPEC, crop=0.8, patches=2), network, CPU)
    tiles = [cells(40, 1)[0], *cells(40, 4)[1:]]
    joined = np.concatenate([np.concatenate(tiles[:2], 1), np.concatenate(tiles[2:], 1)])[None]
    mean = middle.embed(np.stack(tiles)).mean(0)
    np.testing.assert_allclose(four.embed(joined)[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_the_filter_of_resizing_is_the_specs() -> None:
    network = timm_vit()
    spec = replace(SPEC, resize="bilinear")
    small = F.interpolate(
        torch.from_numpy(cells(64)).permute(0, 3, 1, 2).float() / 255,
        (32, 32),
        mode="bilinear",
        antialias=True,
    )
    with torch.no_grad():
        expected = F.normalize(network.eval()((small - 0.5) / 0.5), dim=1)
    found = NetworkEncoder(spec, network, CPU).embed(cells(64))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (123.7, 116.3, 103.5)}, "divide it by 255"),
        ({"std": (58.4, 57.1, 57.4)}, "divide it by 255"),
        ({"mean": (-1.0, 0.5, 0.5)}, "means lie in 0…1"),
        ({"std": (0.0, 0.2, 0.2)}, "deviations in"),
        ({"std": (float("nan"),) * 3}, "deviations in"),
        ({"token": "first"}, "known are pooled, cls, cls\\+mean"),
        ({"resize": "nearest"}, "known are bicubic, bilinear"),
        ({"crop": 1.5}, "crops to 1.5"),
    ],
)
def test_preprocessing_that_cannot_be_right_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        NetworkEncoder(replace(SPEC, **changes), timm_vit(), CPU)


def test_a_network_without_a_class_token_says_so() -> None:
    network = build_network("timm", "resnet10t", {"channels": [8, 8, 8, 24], "num_classes": 0}, 24)
    with pytest.raises(ModelError, match="no class token: its token is pooled"):
        NetworkEncoder(SPEC, network, CPU)


def test_weights_that_answer_nothing_or_nonsense_are_refused() -> None:
    network = timm_vit()
    with torch.no_grad():
        network.patch_embed.proj.weight.zero_()  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="same vector for different pictures"):
        NetworkEncoder(SPEC, network, CPU)
    with torch.no_grad():
        network.norm.bias.fill_(torch.nan)  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="not finite"):
        NetworkEncoder(SPEC, network, CPU)


def test_an_architecture_that_this_timm_lacks_names_the_like_and_the_way_out() -> None:
    with pytest.raises(ModelError, match=r"vit_large_patch16_dinov9.*it knows .*update timm"):
        build_network("timm", "vit_large_patch16_dinov9", {}, 24)
    with pytest.raises(ModelError, match="cannot build vit_tiny_patch16_224 with the card's opt"):
        build_network("timm", "vit_tiny_patch16_224", {"gone_option": 1}, 24)
    with pytest.raises(ModelError, match=r"unknown mlp_layer 'os\.system'.*SwiGLUPacked"):
        build_network("timm", "vit_tiny_patch16_224", {"mlp_layer": "os.system"}, 24)
