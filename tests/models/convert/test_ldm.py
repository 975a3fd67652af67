"""Latent diffusion's names and the modules of a card: same numbers, same answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models import parts
from napari_ssldiff.models.card import ModelCard, read_card
from napari_ssldiff.models.convert import Converted, convert, layout_of
from napari_ssldiff.models.convert.ldm import ema_names, unet_tensors, vq_tensors
from napari_ssldiff.models.convert.ldm_unet import unet_names
from napari_ssldiff.models.convert.ldm_vq import vq_names
from napari_ssldiff.models.skeleton import model_spec

CATALOGUE = Path(__file__).parents[3] / "src/napari_ssldiff/models/catalogue"
Checkpoint = Callable[[bool], dict[str, torch.Tensor]]
Card = Callable[[str], ModelCard]
PAPER = ("brca-20x", "crc-20x", "brca-5x", "naip-lrdm")
#: Largest difference that is allowed, in fp32.
LIMIT = 1e-4


@pytest.fixture(scope="module")
def checkpoint(small_checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return small_checkpoint(True)


@pytest.fixture(scope="module")
def card(small_card: Card) -> ModelCard:
    return small_card("brca-20x")


@pytest.fixture(scope="module")
def converted(checkpoint: dict[str, torch.Tensor], card: ModelCard) -> Converted:
    return convert(checkpoint, card)


def load(card: ModelCard, converted: Converted, part: str) -> Any:
    spec = model_spec(card)
    make = {"denoiser": lambda p: parts.network(p),
            "autoencoder": parts.autoencoder,
            "conditioning": lambda p: parts.projection(p, spec)}[part]  # fmt: skip
    module = make(card.parts[part])
    module.load_state_dict(converted.parts[part])
    return module.eval()


@pytest.mark.parametrize("name", PAPER)
def test_names_and_counts_of_the_papers_models_are_the_published_ones(
    name: str, shapes: Any
) -> None:
    card = read_card(CATALOGUE / f"{name}.yaml")
    unet, vq = (card.parts[p]["config"] for p in ("denoiser", "autoencoder"))
    of_unet, of_vq = shapes.unet_shapes(shapes.UnetConfig()), shapes.vq_shapes(shapes.VqConfig())
    assert sorted(unet_names(unet).values()) == sorted(of_unet)
    assert sorted(vq_names(vq).values()) == sorted(of_vq)
    assert (len(of_unet), len(of_vq)) == (688, 205)
    assert shapes.parameters(of_unet) == card.extra["sizes"]["denoiser_parameters"]
    assert shapes.parameters(of_vq) == card.extra["sizes"]["autoencoder_parameters"]
    assert round(shapes.parameters(of_unet) / 1e6, 1) == 400.9
    assert round(shapes.parameters(of_vq) / 1e6, 1) == 55.3


@pytest.mark.parametrize(
    ("blocks", "layers", "down", "up"),
    [((32, 64), 1, "DC", "CD"), ((32, 32, 64), 3, "CCD", "DCC"), ((32,), 2, "C", "C")],
)
def test_any_u_net_of_the_family_has_its_names(
    blocks: tuple[int, ...], layers: int, down: str, up: str
) -> None:
    kinds = {"C": "CrossAttn{}Block2D", "D": "{}Block2D"}
    config = {"block_out_channels": list(blocks), "layers_per_block": layers,
              "down_block_types": [kinds[k].format("Down") for k in down],
              "up_block_types": [kinds[k].format("Up") for k in up],
              "cross_attention_dim": 16, "attention_head_dim": 1}  # fmt: skip
    with torch.device("meta"):
        network = parts.network({"class": "UNet2DConditionModel", "config": config})
    names = unet_names(config)
    assert set(names) == set(network.state_dict())
    assert len(set(names.values())) == len(names)


@torch.inference_mode()
def test_the_u_net_answers_as_the_original(
    checkpoint: dict[str, torch.Tensor], card: ModelCard, converted: Converted, plain: Any
) -> None:
    torch.manual_seed(0)
    x, context = torch.randn(2, 3, 16, 24), torch.randn(2, 2, 24)
    t = torch.tensor([981.0, 20.0])
    found = load(card, converted, "denoiser")(x, t, context).sample
    wanted = plain.unet(checkpoint, x, t, context)
    assert float(wanted.std()) > 0.3
    torch.testing.assert_close(found, wanted, atol=LIMIT, rtol=0)


@torch.inference_mode()
def test_every_tensor_of_the_u_net_matters(
    checkpoint: dict[str, torch.Tensor], card: ModelCard, converted: Converted
) -> None:
    network = load(card, converted, "denoiser")
    torch.manual_seed(0)
    x, context, t = torch.randn(1, 3, 16, 16), torch.randn(1, 2, 24), torch.tensor([400.0])
    before = network(x, t, context).sample
    # Were two tensors of one shape exchanged, only values could tell.
    for name in ("up_blocks.2.resnets.1.conv2.weight", "down_blocks.3.attentions.1.proj_in.bias"):
        value = network.get_parameter(name)
        value += 0.1
        assert float((network(x, t, context).sample - before).abs().max()) > 10 * LIMIT, name
        value -= 0.1


@torch.inference_mode()
def test_the_autoencoder_encodes_and_decodes_as_the_original(
    checkpoint: dict[str, torch.Tensor], card: ModelCard, converted: Converted, plain: Any
) -> None:
    torch.manual_seed(0)
    autoencoder = load(card, converted, "autoencoder")
    images, latents = torch.rand(1, 3, 64, 96) * 2 - 1, torch.randn(1, 3, 16, 20)
    wanted = plain.vq_encode(checkpoint, images)
    torch.testing.assert_close(autoencoder.encode(images), wanted, atol=LIMIT, rtol=0)
    wanted = plain.vq_decode(checkpoint, latents)
    assert float(wanted.std()) > 0.3
    torch.testing.assert_close(autoencoder.decode_raw(latents), wanted, atol=LIMIT, rtol=0)
    shown = autoencoder.decode(latents)
    torch.testing.assert_close(shown, wanted.clamp(-1, 1), atol=LIMIT, rtol=0)


@pytest.mark.parametrize(("name", "region"), [("brca-20x", True), ("crc-20x", False)])
@torch.inference_mode()
def test_the_condition_is_the_originals_and_none_is_its_bias(
    name: str, region: bool, small_card: Card, small_checkpoint: Checkpoint, plain: Any
) -> None:
    card, tensors = small_card(name), small_checkpoint(region)
    projection = load(card, convert(tensors, card), "conditioning")
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(3, 12), dim=-1)
    found = projection(vectors[:, None]).context
    assert found.shape == (3, 2 if region else 1, 24)
    torch.testing.assert_close(found, plain.condition(tensors, 7 * vectors))
    null = projection(torch.zeros(1, 1, 12)).context
    torch.testing.assert_close(null, plain.condition(tensors, torch.zeros(1, 12)))
    biases = [tensors["cond_stage_model.patch_fc.bias"]]
    if region:
        biases.append(tensors["cond_stage_model.region_fc.bias"])
    assert torch.equal(null[0], torch.stack(biases))


def test_what_training_left_is_told_and_not_taken(
    checkpoint: dict[str, torch.Tensor], card: ModelCard, converted: Converted
) -> None:
    more = {"inception.blocks.0.weight": torch.ones(2), "model_ema.decay": torch.tensor(0.9)}
    again = convert({**checkpoint, **more}, card)
    assert set(again.unused) - set(converted.unused) == set(more)
    assert "betas" in converted.unused
    taken = sum(len(part) for part in converted.parts.values())
    added = 4  # buffers of our autoencoder
    assert taken - added + len(converted.unused) == len(checkpoint)


def test_moving_averages_take_the_place_of_the_last_weights(
    checkpoint: dict[str, torch.Tensor], card: ModelCard
) -> None:
    name = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    average = "model_ema.diffusion_modelinput_blocks10in_layers2weight"
    assert ema_names([name, "betas"]) == {name: average}
    own = dict(checkpoint)
    own[average] = torch.full_like(own[name], 0.5)
    made = convert(own, card)
    assert torch.equal(made.parts["denoiser"]["down_blocks.0.resnets.0.conv1.weight"], own[average])
    assert name in made.unused
    del own[name]  # a checkpoint that was pruned to its averages
    assert torch.equal(
        convert(own, card).parts["denoiser"]["down_blocks.0.resnets.0.conv1.weight"], own[average]
    )


def test_other_prefixes_shapes_and_scales_are_understood(
    checkpoint: dict[str, torch.Tensor], card: ModelCard
) -> None:
    unet, vq = (card.parts[p]["config"] for p in ("denoiser", "autoencoder"))
    renamed = {k.replace("model.diffusion_model.", "unet."): v for k, v in checkpoint.items()}
    found = unet_tensors(renamed, {**unet, "use_linear_projection": True}, "unet.")
    assert found["mid_block.attentions.0.proj_in.weight"].shape == (160, 160)
    scaled = vq_tensors({**checkpoint, "scale_factor": torch.tensor(0.5)}, vq)
    assert scaled["scale"].tolist() == [2, 2, 2]
    with pytest.raises(ModelError, match="scale_factor has to be above 0"):
        vq_tensors({**checkpoint, "scale_factor": torch.tensor(0.0)}, vq)


def test_the_layout_is_known_by_its_names(checkpoint: dict[str, torch.Tensor]) -> None:
    assert layout_of(checkpoint).name == "lrdm"
    others = {k: v for k, v in checkpoint.items() if not k.startswith("cond_stage_model.")}
    with pytest.raises(ModelError, match="no known layout"):
        layout_of({k: v for k, v in others.items() if not k.startswith("model.")})


def test_a_checkpoint_of_another_kind_is_refused(
    checkpoint: dict[str, torch.Tensor], card: ModelCard, small_card: Card
) -> None:
    def refused(change: dict[str, Any], text: str, card: ModelCard = card) -> None:
        tensors = {k: v for k, v in {**checkpoint, **change}.items() if v is not None}
        with pytest.raises(ModelError, match=text):
            convert(tensors, card)

    lacking = "model.diffusion_model.out.2.bias"
    refused({lacking: None}, f"lacks {lacking} of the U-Net")
    refused({"first_stage_model.quantize.embedding.weight": None}, "embedding.weight of the auto")
    refused({"model.diffusion_model.label_emb.weight": torch.ones(1)}, "no place for: .*label_emb")
    text = r"conditioning of brca-20x does not fit: project.weight is \(24, 13\), not \(24, 12\)"
    refused({"cond_stage_model.patch_fc.weight": torch.ones(24, 13)}, text)
    refused({"alphas_cumprod": torch.linspace(1, 0, 1000)}, "another noise schedule")
    refused({"alphas_cumprod": torch.full((1000,), float("nan"))}, "another noise schedule")
    # Two tokens where the card knows of one.
    refused({}, "no place for: cond_stage_model.region_fc.bias", small_card("crc-20x"))
    wide = replace(card, parts={**card.parts, "encoder": {**card.parts["encoder"], "width": 20}})
    refused({}, r"project.weight is \(24, 12\), not \(24, 20\)", wide)
