"""PixCell's two layouts and the modules of its cards: same numbers, same answers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from napari_ssldiff.diffusion.pixcell import PixCellProjection
from napari_ssldiff.errors import ModelError
from napari_ssldiff.models import parts
from napari_ssldiff.models.card import ModelCard, read_card
from napari_ssldiff.models.convert import Converted, convert, layout_of
from napari_ssldiff.models.convert.autoencoders import stock_autoencoder
from napari_ssldiff.models.convert.folder import check_configs, differences
from napari_ssldiff.models.convert.pixcell import pixart_tensors
from napari_ssldiff.models.skeleton import model_spec

CATALOGUE = Path(__file__).parents[3] / "src/napari_ssldiff/models/catalogue"

HEADS, WIDTH, CAPTION, LIMIT = 4, 48, 24, 1e-4
Tensors = dict[str, torch.Tensor]
Make = Callable[[str], tuple[ModelCard, Tensors]]


@pytest.fixture(scope="module")
def vae() -> dict[str, Any]:
    """The autoencoder's part of a card, narrow."""
    import yaml

    part: dict[str, Any] = yaml.safe_load((CATALOGUE / "sd3-vae.yaml").read_text())["autoencoder"]
    part["config"] |= {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1}
    return part


@pytest.fixture(scope="module")
def make(plain_pixart: Any, vae: dict[str, Any]) -> Make:
    """A narrow card by the id of one in the catalogue, and a checkpoint in PixArt's names."""

    def build(name: str) -> tuple[ModelCard, Tensors]:
        card = read_card(CATALOGUE / f"{name}.yaml")
        own: dict[str, Any] = copy.deepcopy(dict(card.parts))
        config, tokens = own["denoiser"]["config"], (card.window // card.cell) ** 2
        config |= {"num_attention_heads": HEADS, "attention_head_dim": WIDTH // HEADS,
                   "num_layers": 2, "cross_attention_dim": WIDTH, "sample_size": 8,
                   "caption_channels": CAPTION}  # fmt: skip
        if "control" in own["denoiser"]:
            own["denoiser"]["control"] = {"blocks": 1}
        own |= {"autoencoder": vae, "encoder": {"width": CAPTION}}
        side = card.window // card.cell
        card = replace(card, window=64, cell=64 // side, parts=own)
        scale = config["interpolation_scale"]
        return card, plain_pixart.random_tensors(WIDTH, 2, 8, tokens, CAPTION, scale=scale)

    return build


def own_folder(original: Tensors) -> Tensors:
    """The same checkpoint as the published folders name it."""
    left = {k: v for k, v in original.items() if k != "pos_embed"}
    null, places = left.pop("y_embedder.y_embedding"), left.pop("y_pos_embed", None)
    out = {f"transformer.{k}": v for k, v in pixart_tensors(left).items()}
    out["transformer.caption_projection.uncond_embedding"] = null
    if places is not None:
        out["transformer.y_pos_embed.y_pos_embed"] = places
    return out


def beside(second: Tensors) -> Tensors:
    """A ControlNet as the authors' class names and saves it, ends that it never uses included."""
    names = {"c_embedder.proj": "cond_pos_embed.proj", "outlets.": "controlnet_blocks."}
    left = {k: v for k, v in second.items() if k != "pos_embed" and not k.startswith(tuple(names))}
    out = pixart_tensors(left)
    for key in second.keys() - left.keys() - {"pos_embed"}:
        old = next(n for n in names if key.startswith(n))
        out[key.replace(old, names[old])] = second[key]
    ends = ("proj_out.weight", "proj_out.bias", "scale_shift_table")
    out |= {name: torch.zeros(1) for name in (*ends, "caption_projection.uncond_embedding")}
    return {f"controlnet.{k}": v for k, v in out.items()}


def load(card: ModelCard, converted: Converted, part: str) -> Any:
    spec = model_spec(card)
    module = (
        parts.network(card.parts[part])
        if part == "denoiser"
        else parts.projection(card.parts[part], spec)
    )
    module.load_state_dict(converted.parts[part])
    return module.eval()


@pytest.mark.parametrize("name", ["pixcell-256", "pixcell-1024"])
@torch.inference_mode()
def test_the_transformer_answers_as_the_original(name: str, make: Make, plain_pixart: Any) -> None:
    card, tensors = make(name)
    assert layout_of(tensors).name == "pixart-original"
    converted = convert(tensors, card)
    torch.manual_seed(0)
    tokens = (card.window // card.cell) ** 2
    x, t = torch.randn(3, 16, 8, 8), torch.tensor([999, 400, 3])
    vectors = torch.nn.functional.normalize(torch.randn(3, tokens, CAPTION), dim=2)
    condition = load(card, converted, "conditioning")(vectors)
    found = load(card, converted, "denoiser")(x, t, condition.context).sample
    scale = card.parts["conditioning"]["scale"]
    wanted = plain_pixart.forward(tensors, x, t, vectors * scale, HEADS)
    assert wanted.shape[1] == 32
    assert float(wanted.std()) > 0.3
    torch.testing.assert_close(found, wanted[:, :16], atol=LIMIT, rtol=0)


@pytest.mark.parametrize("name", ["pixcell-256", "pixcell-1024"])
@torch.inference_mode()
def test_no_condition_is_the_checkpoints_own(name: str, make: Make, plain_pixart: Any) -> None:
    card, tensors = make(name)
    converted = convert(tensors, card)
    null = tensors["y_embedder.y_embedding"]
    zeros = torch.zeros(1, len(null), CAPTION)
    context = load(card, converted, "conditioning")(zeros).context
    x, t = torch.randn(1, 16, 8, 8), torch.tensor([600])
    found = load(card, converted, "denoiser")(x, t, context).sample
    wanted = plain_pixart.forward(tensors, x, t, null[None], HEADS)
    torch.testing.assert_close(found, wanted[:, :16], atol=LIMIT, rtol=0)


def test_windows_without_condition_stand_beside_windows_with_one() -> None:
    projection = PixCellProjection(2, 3, 5.0)
    projection.null += 7
    both = torch.stack([torch.zeros(4, 3), torch.eye(3)[[0, 1, 2, 0]]])
    context = projection(both).context
    assert (context[0] == 7).all()
    torch.testing.assert_close(context[1], both[1] * 5)


@pytest.mark.parametrize("name", ["pixcell-256", "pixcell-1024"])
def test_both_layouts_are_one_model(name: str, make: Make) -> None:
    card, tensors = make(name)
    folder = own_folder(tensors)
    assert layout_of(folder).name == "pixcell-diffusers"
    one, other = convert(tensors, card), convert(folder, card)
    lone = convert({k.removeprefix("transformer."): v for k, v in folder.items()}, card)
    for part in ("denoiser", "conditioning"):
        assert one.parts[part].keys() == other.parts[part].keys() == lone.parts[part].keys()
        for key, value in one.parts[part].items():
            assert torch.equal(value, other.parts[part][key]), key
            assert torch.equal(value, lone.parts[part][key]), key


def test_the_card_of_the_other_model_is_refused(make: Make) -> None:
    _, tensors = make("pixcell-256")
    with pytest.raises(ModelError, match=r"interpolation_scale is 2 .*another model"):
        convert(tensors, make("pixcell-1024")[0])
    with pytest.raises(ModelError, match=r"null is \(1, 24\), not \(16, 24\)"):
        convert(own_folder(tensors), make("pixcell-1024")[0])


def test_tensors_that_are_strange_missing_or_of_another_width_are_named(make: Make) -> None:
    card, tensors = make("pixcell-1024")
    with pytest.raises(ModelError, match=r"no tensor named blocks\.0\.attn\.q_norm\.weight"):
        convert({**tensors, "blocks.0.attn.q_norm.weight": torch.ones(1)}, card)
    lacking = {k: v for k, v in tensors.items() if k != "blocks.1.mlp.fc2.bias"}
    with pytest.raises(ModelError, match=r"blocks.1.ff.net.2.bias is missing"):
        convert(lacking, card)
    with pytest.raises(ModelError, match="places are missing"):
        convert({k: v for k, v in tensors.items() if k != "y_pos_embed"}, card)
    folder = {**own_folder(tensors), "text_encoder.weight": torch.ones(1)}
    with pytest.raises(ModelError, match=r"nothing needs: text_encoder\.weight"):
        convert(folder, card)


@torch.inference_mode()
def test_the_autoencoder_brings_its_latents_to_the_published_scale(
    make: Make, vae: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    stock = diffusers.AutoencoderKL(**vae["config"]).eval()
    card, tensors = make("pixcell-256")
    inside = {f"vae.{k}": v for k, v in stock.state_dict().items()}
    converted = convert({**own_folder(tensors), **inside}, card)
    own = parts.autoencoder(vae)
    own.load_state_dict(converted.parts["autoencoder"])
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    latents = own.eval().encode(images)
    wanted = (stock.encode(images).latent_dist.mode() - 0.0609) * 1.5305
    torch.testing.assert_close(latents, wanted)
    decoded = stock.decode(latents / 1.5305 + 0.0609).sample.clamp(-1, 1)
    torch.testing.assert_close(own.decode(latents), decoded)


def test_an_old_folder_of_an_autoencoder_is_read_too(vae: dict[str, Any]) -> None:
    with torch.device("meta"):
        names = diffusers.AutoencoderKL(**vae["config"]).state_dict()
    tensors = {k: torch.zeros(v.shape) for k, v in names.items()}
    swaps = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}

    def aged(name: str) -> str:
        for new, old in swaps.items():
            name = name.replace(f"attentions.0.{new}", f"attentions.0.{old}")
        return name

    old = {aged(k): v for k, v in tensors.items()}
    assert old.keys() != tensors.keys()
    assert stock_autoencoder(old, vae).keys() == stock_autoencoder(tensors, vae).keys()
    with pytest.raises(ModelError, match="AutoencoderKL does not fit"):
        stock_autoencoder({"decoder.conv_in.weight": torch.zeros(1)}, vae)


def test_a_folders_configuration_is_compared_with_the_cards() -> None:
    part = read_card(CATALOGUE / "pixcell-256.yaml").parts["denoiser"]
    with torch.device("meta"):
        own = diffusers.PixArtTransformer2DModel(**part["config"])
    config = {**own.config, "caption_num_tokens": 1, "_class_name": "PixCellTransformer2DModel"}
    assert list(differences(config, part)) == []
    found = list(differences({**config, "interpolation_scale": 1, "num_layers": 12}, part))
    assert found == [
        "interpolation_scale is 1 there and 0.5 in the card",
        "num_layers is 12 there and 28 in the card",
    ]


def test_a_folder_of_another_network_is_refused_before_its_tensors_are() -> None:
    card = read_card(CATALOGUE / "pixcell-256.yaml")
    config = {**card.parts["denoiser"]["config"], "interpolation_scale": 1}
    configs = {"transformer": config, "vae": {"latent_channels": 4}, "": {"_class_name": "X"}}
    with pytest.raises(ModelError, match=r"transformer/config\.json .* interpolation_scale is 1"):
        check_configs(configs, card, ["denoiser", "conditioning"])
    configs["transformer"] = card.parts["denoiser"]["config"]
    check_configs(configs, card, ["denoiser", "conditioning"])


@pytest.mark.parametrize(("name", "count"), [("pixcell-256", 1), ("pixcell-1024", 16)])
def test_the_published_size_is_the_cards(name: str, count: int) -> None:
    card = read_card(CATALOGUE / f"{name}.yaml")
    with torch.device("meta"):
        network = parts.network(card.parts["denoiser"])
        width = card.parts["denoiser"]["config"]["caption_channels"]
        projection = PixCellProjection(card.window // card.cell, width, 1.0)
    size = sum(p.numel() for p in network.parameters())
    assert size == card.extra["sizes"]["denoiser_parameters"] == 608_072_960
    tensors = projection.state_dict()
    assert (
        sum(v.numel() for v in tensors.values()) == card.extra["sizes"]["conditioning_parameters"]
    )
    assert tensors["null"].shape == (count, 1536)


@pytest.fixture
def cells(make: Make, plain_pixart: Any) -> tuple[ModelCard, Tensors, Tensors]:
    """The card that reads a mask, narrow; a transformer and its ControlNet in PixArt's names."""
    card, tensors = make("pixcell-256-cells")
    return card, tensors, plain_pixart.random_control(WIDTH, 1, 8, CAPTION, scale=0.5)


@torch.inference_mode()
def test_a_mask_of_cells_is_heard_as_the_original_hears_it(
    cells: tuple[ModelCard, Tensors, Tensors], plain_pixart: Any
) -> None:
    card, tensors, second = cells
    converted = convert({**own_folder(tensors), **beside(second)}, card)
    assert len(converted.unused) == 4
    network = load(card, converted, "denoiser")
    projection = load(card, converted, "conditioning")
    torch.manual_seed(0)
    x, picture, t = torch.randn(3, 16, 8, 8), torch.randn(3, 16, 8, 8), torch.tensor([900, 400, 3])
    picture[1] = 0  # the row that guidance leads away from
    vectors = torch.nn.functional.normalize(torch.randn(3, 1, CAPTION), dim=2)
    found = network(torch.cat([x, picture], 1), t, projection(vectors).context).sample
    captions = vectors * projection.scale
    added = plain_pixart.control(second, x, picture, t, captions, HEADS)
    added = [a * torch.tensor([1.0, 0.0, 1.0])[:, None, None] for a in added]
    wanted = plain_pixart.forward(tensors, x, t, captions, HEADS, added)[:, :16]
    torch.testing.assert_close(found, wanted, atol=LIMIT, rtol=0)
    plain = plain_pixart.forward(tensors, x, t, captions, HEADS)[:, :16]
    assert float((wanted - plain)[[0, 2]].abs().mean()) > 0.1


@torch.inference_mode()
def test_without_a_mask_it_is_the_model_without_one(
    cells: tuple[ModelCard, Tensors, Tensors],
) -> None:
    card, tensors, second = cells
    network = load(card, convert({**own_folder(tensors), **beside(second)}, card), "denoiser")
    torch.manual_seed(0)
    x, t, context = torch.randn(2, 16, 8, 8), torch.tensor([900, 5]), torch.randn(2, 1, CAPTION)
    wanted = network.transformer(
        x, encoder_hidden_states=context, timestep=t,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample[:, :16]  # fmt: skip
    shown = network(torch.cat([x, torch.randn_like(x)], 1), t, context).sample
    assert torch.equal(network(x, t, context).sample, wanted)
    assert torch.equal(network(torch.cat([x, torch.zeros_like(x)], 1), t, context).sample, wanted)
    assert not torch.allclose(shown, wanted, atol=0.01)


@torch.inference_mode()
def test_a_copy_hears_with_its_own_ears(cells: tuple[ModelCard, Tensors, Tensors]) -> None:
    card, tensors, second = cells
    network = load(card, convert({**own_folder(tensors), **beside(second)}, card), "denoiser")
    other = copy.deepcopy(network)
    inputs = torch.randn(1, 32, 8, 8), torch.tensor([500]), torch.randn(1, 1, CAPTION)
    before = network(*inputs).sample
    for weight in network.control.parameters():
        weight.zero_()
    assert torch.equal(other(*inputs).sample, before)
    assert not torch.allclose(network(*inputs).sample, before, atol=0.01)


def test_a_folder_without_the_controlnet_is_refused_and_one_with_it_serves_the_plain_card(
    cells: tuple[ModelCard, Tensors, Tensors], make: Make
) -> None:
    card, tensors, second = cells
    with pytest.raises(ModelError, match=r"pixcell-256-cells needs the folder controlnet/"):
        convert(own_folder(tensors), card)
    whole = {**own_folder(tensors), **beside(second)}
    nested = {
        k.replace("controlnet.", "controlnet.transformer.") if "_blocks." not in k else k: v
        for k, v in whole.items()
    }
    assert (
        convert(nested, card).parts["denoiser"].keys()
        == convert(whole, card).parts["denoiser"].keys()
    )
    lone = convert(whole, make("pixcell-256")[0])
    assert sum(name.startswith("controlnet.") for name in lone.unused) == len(beside(second))
    few = {k: v for k, v in whole.items() if k != "controlnet.controlnet_blocks.0.bias"}
    with pytest.raises(ModelError, match=r"control\.controlnet_blocks\.0\.bias is missing"):
        convert(few, card)


def test_the_published_controlnet_has_the_size_that_its_folder_tells_of() -> None:
    card = read_card(CATALOGUE / "pixcell-256-cells.yaml")
    with torch.device("meta"):
        network: Any = parts.network(card.parts["denoiser"])
    size = sum(p.numel() for p in network.parameters())
    assert size == card.extra["sizes"]["denoiser_parameters"] == 608_072_960 + 622_605_312


def test_a_control_of_more_blocks_than_the_transformer_is_refused() -> None:
    part = copy.deepcopy(dict(read_card(CATALOGUE / "pixcell-256-cells.yaml").parts["denoiser"]))
    part["config"]["num_layers"] = 20
    with torch.device("meta"), pytest.raises(ValueError, match=r"27 blocks beside .* of 20"):
        parts.network(part)
