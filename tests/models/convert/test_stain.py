"""Virtual staining: a pair of files as their authors save it becomes a plain network and a flow."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from napari_ssldiff.embeddings.flow import along_flow
from napari_ssldiff.errors import ModelError
from napari_ssldiff.models import parts
from napari_ssldiff.models.card import ModelCard, read_card, read_data
from napari_ssldiff.models.convert import convert, layout_of
from napari_ssldiff.models.convert.adapter import merge_adapter
from napari_ssldiff.models.convert.pixcell import pixart_tensors
from napari_ssldiff.models.foreign import read_checkpoint

CATALOGUE = Path(__file__).parents[3] / "src/napari_ssldiff/models/catalogue"
STAINS = ("mist-er", "mist-her2", "mist-ki67", "mist-pr", "her2match")
HEADS, WIDTH, CAPTION, TOKENS, HIDDEN, BLOCKS = 4, 48, 24, 16, 32, 3
#: The layers that the authors name; a transformer of PixArt has four of them in every block.
CHANGED = [
    f"attn2.{n}" for n in ("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out", "to_k",
                           "to_out.0", "to_q", "to_v")
]  # fmt: skip
Tensors = dict[str, torch.Tensor]


def catalogue_card(name: str) -> ModelCard:
    from napari_ssldiff.models.entries import known
    from napari_ssldiff.models.resolve import cards_of

    return cards_of(known(name))[0]


@pytest.fixture(scope="module")
def card() -> ModelCard:
    """HER2's card, narrow."""
    whole = catalogue_card("pixcell-mist-her2")
    own: dict[str, Any] = copy.deepcopy(dict(whole.parts))
    own["denoiser"]["config"] |= {
        "num_attention_heads": HEADS, "attention_head_dim": WIDTH // HEADS, "num_layers": 2,
        "cross_attention_dim": WIDTH, "sample_size": 8, "caption_channels": CAPTION,
    }  # fmt: skip
    own["translation"] |= {"hidden": HIDDEN, "blocks": BLOCKS, "steps": 7}
    own["encoder"] = {"width": CAPTION}
    return replace(whole, window=64, cell=16, parts=own)


@pytest.fixture(scope="module")
def plain_network(card: ModelCard, plain_pixart: Any) -> Tensors:
    """The transformer without adapter, as a published folder names it."""
    scale = card.parts["denoiser"]["config"]["interpolation_scale"]
    tensors = plain_pixart.random_tensors(WIDTH, 2, 8, TOKENS, CAPTION, scale=scale)
    null, places = tensors.pop("y_embedder.y_embedding"), tensors.pop("y_pos_embed")
    del tensors["pos_embed"]
    return {
        **pixart_tensors(tensors),
        "caption_projection.uncond_embedding": null,
        "y_pos_embed.y_pos_embed": places,
    }


def adapted(
    card: ModelCard, plain: Tensors, rank: int = 4, alpha: float = 4
) -> tuple[Any, Tensors]:
    """peft's network with an adapter of random numbers, and all that it saves."""
    network = diffusers.PixArtTransformer2DModel(**card.parts["denoiser"]["config"])
    own = {k: v for k, v in plain.items() if k in network.state_dict()}
    network.load_state_dict(own)
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=CHANGED),
        network,
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    rest = {k: v for k, v in plain.items() if k not in own}
    return network.eval(), {**{k: v.clone() for k, v in network.state_dict().items()}, **rest}


@pytest.fixture(scope="module")
def pair(card: ModelCard, plain_network: Tensors) -> tuple[Any, Tensors]:
    return adapted(card, plain_network)


def joined(adapter: Tensors, flow: Tensors) -> Tensors:
    return {
        **{f"lora.{k}": v for k, v in adapter.items()},
        **{f"mlp.{k}": v for k, v in flow.items()},
    }


@pytest.fixture(scope="module")
def flow(plain_stain: Any) -> Tensors:
    made: Tensors = plain_stain.random_tensors(CAPTION, HIDDEN, BLOCKS)
    return made


@torch.inference_mode()
def test_a_pair_of_pickles_answers_as_pefts_network_and_the_plain_flow(
    card: ModelCard, plain_network: Tensors, pair: Any, flow: Tensors, plain_stain: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    network, saved = pair
    (tmp_path / "scratch").mkdir()
    folder = tmp_path / "stain"
    for kind, tensors in (("lora", saved), ("mlp", flow)):
        (folder / "ckpts" / kind).mkdir(parents=True)
        torch.save(tensors, folder / "ckpts" / kind / f"mist_her2_{kind}.pth")
    read = read_checkpoint(folder, tmp_path / "scratch").tensors
    assert layout_of(read).name == "pixcell-stain"
    converted = convert(read, card)
    assert set(converted.parts) == {"denoiser", "conditioning", "translation"}
    assert converted.unused == ()

    own = parts.network(card.parts["denoiser"])
    own.load_state_dict(converted.parts["denoiser"])
    x, t, tokens = (
        torch.randn(2, 16, 8, 8),
        torch.tensor([999, 30]),
        torch.randn(2, TOKENS, CAPTION),
    )
    wanted = network(
        x, encoder_hidden_states=tokens, timestep=t,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample  # fmt: skip
    found = own.eval()(x, t, tokens).sample
    torch.testing.assert_close(found, wanted[:, :16], atol=1e-5, rtol=0)
    own.transformer.load_state_dict({k: plain_network[k] for k in own.transformer.state_dict()})
    assert float((own(x, t, tokens).sample - found).abs().max()) > 0.05, "it would do without"

    translate = parts.translation(card.parts["translation"], CAPTION)
    translate.load_state_dict(converted.parts["translation"])
    vectors = torch.randn(5, CAPTION) * 3
    moved = along_flow(translate.eval(), vectors, 7)
    exact = plain_stain.translated({k: v.double() for k, v in flow.items()}, vectors.double(), 7)
    assert float((exact - vectors).norm(dim=1).min()) > 1
    torch.testing.assert_close(moved.double(), exact, atol=1e-4, rtol=0)


def test_only_what_an_adapter_names_is_changed_and_by_alpha_over_rank(
    plain_network: Tensors, card: ModelCard
) -> None:
    _, saved = adapted(card, plain_network, rank=3, alpha=6)
    merged = merge_adapter(saved, {"rank": 3, "alpha": 6})
    assert merged.keys() == plain_network.keys()
    changed = {k for k, v in merged.items() if not torch.equal(v, plain_network[k])}
    layers = ("to_q", "to_k", "to_v", "to_out.0")
    assert changed == {
        f"transformer_blocks.{n}.attn2.{layer}.weight" for n in (0, 1) for layer in layers
    }
    layer = "transformer_blocks.1.attn2.to_k"
    down, up = (saved[f"{layer}.lora_{half}.default.weight"].double() for half in "AB")
    by_hand = plain_network[f"{layer}.weight"].double() + 6 / 3 * torch.einsum(
        "or,ri->oi", up, down
    )
    torch.testing.assert_close(merged[f"{layer}.weight"].double(), by_hand, atol=1e-6, rtol=0)


@pytest.mark.parametrize("front", ["", "transformer.", "base_model.model."])
def test_an_adapter_beside_plain_weights_is_merged_under_any_of_its_usual_names(
    front: str, pair: Any, plain_network: Tensors
) -> None:
    _, saved = pair
    alone = {
        front + k.replace(".default", ""): v for k, v in saved.items() if ".lora_" in k
    }  # fmt: skip
    ours = {"rank": 4, "alpha": 4.0}
    merged, wanted = merge_adapter({**plain_network, **alone}, ours), merge_adapter(saved, ours)
    assert merged.keys() == wanted.keys()
    assert all(torch.equal(merged[k], wanted[k]) for k in wanted)


def without(name: str) -> Any:
    return lambda saved: {k: v for k, v in saved.items() if k != name}


FIRST = "transformer_blocks.0.attn2.to_q"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(f"{FIRST}.lora_B.default.weight"), rf"{FIRST}\.lora_B\.weight is missing"),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith(f"{FIRST}.lora")},
            rf"{FIRST} is made for an adapter and has none",
        ),
        (without(f"{FIRST}.base_layer.weight"), rf"changes {FIRST}, which the network lacks"),
        (without(f"{FIRST}.base_layer.bias"), r"to_q\.bias is missing"),
        (without("caption_projection.uncond_embedding"), "lacks caption_projection"),
        (lambda s: {**s, f"{FIRST}.lora_magnitude_vector.default": torch.ones(1)}, "no part of a"),
        (lambda s: {**s, f"{FIRST}.lora_A.other.weight": torch.ones(4, WIDTH)}, "several adapters"),
        (lambda s: {**s, "head.weight": torch.ones(1)}, r"head\.weight is not known"),
        (
            lambda s: {**s, f"{FIRST}.lora_A.default.weight": torch.ones(4, WIDTH + 1)},
            r"\(48, 4\) × \(4, 49\), its weight \(48, 48\)",
        ),
        (lambda s: {k: v for k, v in s.items() if ".lora_" in k}, "install pixcell-1024 first"),
    ],
)
def test_files_that_are_not_whole_or_hold_more_are_refused_by_name(
    change: Any, said: str, card: ModelCard, pair: Any, flow: Tensors
) -> None:
    with pytest.raises(ModelError, match=said):
        convert(joined(change(pair[1]), flow), card)


def test_another_rank_than_the_cards_is_refused(
    card: ModelCard, plain_network: Tensors, flow: Tensors
) -> None:
    _, saved = adapted(card, plain_network, rank=16, alpha=16)
    with pytest.raises(ModelError, match=r"has the rank 16, the card says 4: write a card"):
        convert(joined(saved, flow), card)
    own = copy.deepcopy(dict(card.parts))
    own["denoiser"]["adapter"] |= {"rank": 16, "alpha": 16}
    assert "translation" in convert(joined(saved, flow), replace(card, parts=own)).parts


def test_a_flow_of_another_width_is_refused(card: ModelCard, pair: Any, plain_stain: Any) -> None:
    small = plain_stain.random_tensors(CAPTION, HIDDEN, BLOCKS - 1)
    with pytest.raises(ModelError, match=r"translation of .*res_blocks\.2\.emb_layers.*missing"):
        convert(joined(pair[1], small), card)
    wide = plain_stain.random_tensors(CAPTION, HIDDEN * 2, BLOCKS)
    with pytest.raises(ModelError, match=r"input_proj\.bias is \(64,\), not \(32,\)"):
        convert(joined(pair[1], wide), card)


def test_a_card_without_adapter_or_translation_says_so(
    card: ModelCard, pair: Any, flow: Tensors, plain_network: Tensors
) -> None:
    plain = copy.deepcopy(dict(card.parts))
    del plain["translation"]
    with pytest.raises(ModelError, match="the card translates nothing"):
        convert(joined(pair[1], flow), replace(card, parts=plain))
    # An adapter of a stain's own embeddings needs none; its file alone is the model.
    lone = convert(pair[1], replace(card, parts=plain))
    assert set(lone.parts) == {"denoiser", "conditioning"}
    del plain["denoiser"]["adapter"]
    with pytest.raises(ModelError, match=r"says no rank and no alpha: .*like: pixcell-mist-her2"):
        convert(pair[1], replace(card, parts=plain))
    with pytest.raises(ModelError, match="no LoRA, but a plain network"):
        convert(joined(plain_network, flow), card)


@pytest.mark.parametrize("stain", STAINS)
def test_every_stains_card_is_pixcells_with_a_flow_of_the_published_size(stain: str) -> None:
    card, base = catalogue_card(f"pixcell-{stain}"), catalogue_card("pixcell-1024")
    own, theirs = dict(card.parts["denoiser"]), base.parts["denoiser"]
    assert own.pop("adapter") == {"rank": 4, "alpha": 4, "base": "pixcell-1024"}
    assert own == theirs
    for part in ("conditioning", "scheduler"):
        assert card.parts[part] == base.parts[part]
    assert (card.window, card.cell, card.guidance) == (1024, 256, 1.2)
    with torch.device("meta"):
        flow = parts.translation(card.parts["translation"], 1536)
    # Two layers for the time, one in, three a block, one out, and norms.
    layers = 3 * 1024**2 - 1024**2 + 1536 * 1024 + 6 * 3 * 1024**2 + 1024 * 1536
    others = 2 * 1024 + 1024 + 6 * (3 * 1024 + 2 * 2 * 1024) + 2 * 1024 + 1536
    assert sum(p.numel() for p in flow.parameters()) == layers + others
    assert card.extra["sizes"]["translation_parameters"] == layers + others
    (source,) = card.extra["sources"]
    assert [Path(f["name"]).name for f in source["files"]] == [
        f"{stain.replace('-', '_')}_lora.pth", f"{stain.replace('-', '_')}_mlp.pth",
    ]  # fmt: skip
    assert any("Not verified: the published files" in said for said in card.extra["verified"])


def test_a_card_that_is_like_another_takes_over_no_claim_of_it(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "{like: pixcell-mist-her2, id: own, name: Own, description: Own., licence: {name: MIT},"
        " denoiser: {adapter: {rank: 8, alpha: 8}}, translation: {to: CK7}}"
    )
    data = read_data(tmp_path / "own.yaml")
    assert data["licence"] == {"name": "MIT"}, "terms are not mixed"
    assert data["translation"]["to"] == "CK7"
    assert data["translation"]["from"] == "H&E"
    assert data["denoiser"]["adapter"] == {"rank": 8, "alpha": 8, "base": "pixcell-1024"}
    assert (
        data["denoiser"]["config"]
        == read_data(CATALOGUE / "pixcell-1024.yaml")["denoiser"]["config"]
    )
    assert not {"verified", "sources", "data", "published", "like", "weights"} & data.keys()


@pytest.mark.parametrize(
    ("like", "said"),
    [("nothing", "no card beside it"), ("own", "like itself"), ("../own", "no card beside it")],
)
def test_a_card_that_is_like_nothing_or_itself_is_refused(
    like: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(f"{{like: {like}, id: own, name: Own}}")
    with pytest.raises(ModelError, match=said):
        read_card(tmp_path / "own.yaml")
