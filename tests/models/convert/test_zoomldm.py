"""ZoomLDM's two layouts, its condition transformer, and its magnifications."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from napari_ssldiff.diffusion.zoomldm import ZoomProjection
from napari_ssldiff.errors import ModelError
from napari_ssldiff.models import parts
from napari_ssldiff.models.card import ModelCard, read_card
from napari_ssldiff.models.convert import convert, layout_of
from napari_ssldiff.models.convert.ldm import ema_names
from napari_ssldiff.models.skeleton import model_spec

CATALOGUE = Path(__file__).parents[3] / "src/napari_ssldiff/models/catalogue"
EMBEDDING, WIDTH, HIDDEN, LAYERS, HEADS, LIMIT = 20, 24, 40, 2, 4, 1e-4
FOLDER = {
    "model.diffusion_model.": "unet.",
    "first_stage_model.": "vae.",
    "cond_stage_model.": "conditioning_encoder.",
}
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def condition(plain_zoomldm: Any) -> Tensors:
    tensors: Tensors = plain_zoomldm.random_tensors(EMBEDDING, WIDTH, HIDDEN, LAYERS, 8)
    return tensors


@pytest.fixture(scope="module")
def card() -> ModelCard:
    whole = read_card(CATALOGUE / "zoomldm-brca.yaml")
    own: dict[str, Any] = copy.deepcopy(dict(whole.parts))
    own["denoiser"]["config"] |= {
        "sample_size": 16, "block_out_channels": [32, 64, 96, 160], "cross_attention_dim": WIDTH,
    }  # fmt: skip
    own["autoencoder"]["config"] |= {"block_out_channels": [32, 64, 128], "num_vq_embeddings": 64}
    own["conditioning"] |= {"context": WIDTH, "layers": LAYERS, "heads": HEADS, "hidden": HIDDEN}
    own["encoder"] = {"width": EMBEDDING}
    return replace(whole, window=64, cell=64, parts=own)


@pytest.fixture(scope="module")
def checkpoint(shapes: Any, condition: Tensors) -> Tensors:
    """As the published file: with averages, and the U-Net's last weights beside them."""
    unet = shapes.unet_shapes(shapes.UnetConfig(model_channels=32, context_dim=WIDTH))
    vq = shapes.vq_shapes(shapes.VqConfig(ch=32, n_embed=64))
    last, averages = shapes.random_tensors(unet, 1), shapes.random_tensors(unet, 2)
    names = ema_names(unet)
    return {
        **last,
        **{names[k]: v for k, v in averages.items()},
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(1),
        **shapes.random_tensors(vq),
        **{f"cond_stage_model.{k}": v for k, v in condition.items()},
        **shapes.schedule_buffers(),
    }


def projection(condition: Tensors, side: int, magnification: int = 0) -> ZoomProjection:
    from napari_ssldiff.models.convert.zoomldm import condition_tensors

    module = ZoomProjection(side, EMBEDDING, WIDTH, magnification, 8, LAYERS, HEADS, HIDDEN)
    module.load_state_dict(condition_tensors(condition))
    return module.eval()


@pytest.mark.parametrize(("side", "magnification"), [(1, 0), (2, 1), (4, 2), (8, 3), (8, 7)])
@torch.inference_mode()
def test_the_condition_is_the_originals_at_every_magnification(
    side: int, magnification: int, condition: Tensors, plain_zoomldm: Any
) -> None:
    torch.manual_seed(side)
    raw = torch.randn(2, EMBEDDING, side, side)
    wanted = plain_zoomldm.forward(condition, raw, magnification, HEADS)
    vectors = torch.nn.functional.normalize(raw.flatten(2).transpose(1, 2), dim=2)
    found = projection(condition, side, magnification)(vectors).context
    assert found.shape == (2, 65, WIDTH)
    torch.testing.assert_close(found, wanted, atol=LIMIT, rtol=0)


@torch.inference_mode()
def test_no_condition_is_zeros_after_the_transformer(condition: Tensors) -> None:
    vectors = torch.zeros(2, 4, EMBEDDING)
    vectors[1] = torch.eye(EMBEDDING)[:4]
    found = projection(condition, 2)(vectors).context
    assert (found[0] == 0).all()
    assert float(found[1].abs().min(1).values.max()) > 0


@torch.inference_mode()
def test_the_magnification_changes_what_is_read(condition: Tensors) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(1, 1, EMBEDDING), dim=2)
    one, other = (projection(condition, 1, n)(vectors).context for n in (0, 5))
    assert float((one - other).abs().max()) > 0.1


def test_sizes_and_magnifications_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="9 × 9 embeddings are more than"):
        ZoomProjection(9, 4, 8, 0, 4)
    with pytest.raises(ValueError, match="magnification 4 is not one of 4"):
        ZoomProjection(1, 4, 8, 4, 4)


def test_averages_are_preferred_and_the_last_weights_known(
    checkpoint: Tensors, card: ModelCard
) -> None:
    assert layout_of(checkpoint).name == "zoomldm"
    converted = convert(checkpoint, card)
    found = converted.parts["denoiser"]["conv_in.weight"]
    name = "model.diffusion_model.input_blocks.0.0.weight"
    assert torch.equal(found, checkpoint[ema_names([name])[name]])
    assert not torch.equal(found, checkpoint[name])
    assert name in converted.unused
    assert "model_ema.decay" in converted.unused
    module = parts.projection(card.parts["conditioning"], model_spec(card))
    module.load_state_dict(converted.parts["conditioning"])


def test_a_folder_with_the_same_names_is_the_same_model(
    checkpoint: Tensors, card: ModelCard
) -> None:
    def placed(name: str) -> str:
        return next((new + name.removeprefix(old) for old, new in FOLDER.items()
                     if name.startswith(old)), name)  # fmt: skip

    last = {k: v for k, v in checkpoint.items() if "." in k and not k.startswith("model_ema.")}
    folder = {placed(name): tensor for name, tensor in last.items()}
    assert layout_of(folder).name == "zoomldm"
    one, other = convert(last, card), convert(folder, card)
    assert not other.unused
    for part, tensors in one.parts.items():
        assert tensors.keys() == other.parts[part].keys()
        assert all(torch.equal(value, other.parts[part][key]) for key, value in tensors.items())


def test_what_is_strange_or_missing_is_named(checkpoint: Tensors, card: ModelCard) -> None:
    strange = {**checkpoint, "cond_stage_model.extra.weight": torch.ones(1)}
    with pytest.raises(ModelError, match=r"no tensor named extra\.weight"):
        convert(strange, card)
    lacking = {k: v for k, v in checkpoint.items() if k != "cond_stage_model.layer_norm.bias"}
    with pytest.raises(ModelError, match=r"norm\.bias is missing"):
        convert(lacking, card)


@pytest.mark.parametrize(
    ("name", "levels", "finest", "counts"),
    [("brca", 8, 0.5, [1, 2, 4, 8, 8, 8, 8, 8]), ("naip", 4, 1.0, [1, 2, 4, 8])],
)
def test_every_variant_is_a_magnification_of_twice_the_pixel(
    name: str, levels: int, finest: float, counts: list[int]
) -> None:
    data = yaml.safe_load((CATALOGUE / f"zoomldm-{name}.yaml").read_text())
    variants = list(data["variants"].values())
    assert [v["resolution"] for v in variants] == [finest * 2**n for n in range(levels)]
    assert [v["conditioning"]["magnification"] for v in variants] == list(range(levels))
    assert [data["window"] // v["cell"] for v in variants] == counts
    # The encoder sees 256 px of its own resolution: a cell is a whole number of those.
    patch, at = data["encoder"]["patch"], data["encoder"]["resolution"]
    assert all(v["cell"] * v["resolution"] / at % patch == 0 for v in variants)
    assert data["conditioning"]["levels"] == levels


@pytest.mark.parametrize("name", ["brca", "naip"])
def test_the_published_sizes_are_the_cards(name: str, shapes: Any) -> None:
    card = read_card(CATALOGUE / f"zoomldm-{name}.yaml")
    part = card.parts["conditioning"]
    with torch.device("meta"):
        module = ZoomProjection(1, 1024, part["context"], 0, part["levels"], part["layers"],
                                part["heads"], part["hidden"])  # fmt: skip
        unet = parts.network(card.parts["denoiser"])
    sizes = card.extra["sizes"]
    assert sum(p.numel() for p in module.parameters()) == sizes["conditioning_parameters"]
    assert sum(p.numel() for p in unet.parameters()) == sizes["denoiser_parameters"] == 400_920_579
