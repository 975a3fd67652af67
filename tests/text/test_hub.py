"""Text encoders of the field, in the layouts in which they are published: small random ones."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoImageProcessor,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from napari_ssldiff.errors import ModelError
from napari_ssldiff.text import hub, towers
from napari_ssldiff.text.encoder import load_text_encoder

TEXTS = ["dense nuclei in pink stroma", "few trees"]
SAID = [*TEXTS, "a forest with many trees", "a carpark beside houses", "the cellrich areas"]
TOWER: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
VISION: dict[str, Any] = TOWER | {"image_size": 32, "patch_size": 16}
TINY: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {
        "context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
    },
}  # fmt: skip
BERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"


@pytest.fixture
def pictures() -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (40, 60, 3), np.uint8), np.full((16, 16, 3), 200, np.uint8)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No hub, and an empty cache of it; returned is the cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(cache: Path, repo: str) -> Path:
    """Where the hub's cache keeps a repository's files."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("0" * 40)
    folder = place / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    return folder


def unit(vectors: torch.Tensor) -> np.ndarray[Any, Any]:
    return torch.nn.functional.normalize(vectors.float(), dim=1).detach().numpy()


def same(a: Any, b: Any) -> bool:
    return np.allclose(a, b, atol=1e-5)


# ---- transformers' layout: Git-RSCLIP ---------------------------------------------------------


def piece_tokenizer(folder: Path) -> None:
    """As SigLIP's: pieces, an end, which also fills up, and no begin."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    made.train_from_iterator(
        SAID * 9,
        trainers.UnigramTrainer(vocab_size=70, special_tokens=special, unk_token="<unk>"),
    )
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    made.save(str(folder / "tokenizer.json"))
    described = {
        "tokenizer_class": "SiglipTokenizer", "eos_token": "</s>", "pad_token": "</s>",
        "unk_token": "<unk>", "model_max_length": 64, "model_input_names": ["input_ids"],
        "processor_class": "SiglipProcessor",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(described))


def siglip(folder: Path) -> SiglipModel:
    folder.mkdir(parents=True, exist_ok=True)
    piece_tokenizer(folder)
    torch.manual_seed(0)
    words = TOWER | {
        "vocab_size": 80, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": 1,
    }  # fmt: skip
    model = SiglipModel(SiglipConfig(text_config=words, vision_config=VISION)).eval()
    model.save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


def vectors_of(answer: Any) -> torch.Tensor:
    return answer if isinstance(answer, torch.Tensor) else answer.pooler_output


def test_a_siglip_gives_the_vectors_that_transformers_gives(
    tmp_path: Path, pictures: list[Any], no_network: Path
) -> None:
    folder = cached(no_network, "lcybuaa/Git-RSCLIP")
    model = siglip(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    ids = tokenizer(TEXTS, padding="max_length", max_length=64, return_tensors="pt")["input_ids"]
    seen = AutoImageProcessor.from_pretrained(folder)(
        images=[Image.fromarray(p) for p in pictures], return_tensors="pt"
    )
    for name in (folder, "hf-hub:lcybuaa/Git-RSCLIP"):
        loaded = load_text_encoder(name)
        assert loaded.tokens(TEXTS).shape == (2, 64)
        assert same(loaded.text(TEXTS), unit(vectors_of(model.get_text_features(input_ids=ids))))
        assert same(loaded.images(pictures), unit(vectors_of(model.get_image_features(**seen))))
        assert loaded.width == 16
        assert loaded.check("anything goes") is None


def test_texts_reach_a_siglip_as_it_was_trained_on_them(tmp_path: Path) -> None:
    siglip(tmp_path / "sig")
    loaded = load_text_encoder(tmp_path / "sig")
    # In lower case, and signs are taken out rather than made spaces of: hyphens too.
    plain, odd, apart = loaded.tokens(["the cellrich areas", "The CELL-rich areas!", "cell rich"])
    assert torch.equal(plain, odd)
    assert not torch.equal(plain, apart)


def test_a_siglip_tells_what_is_beyond_its_context(tmp_path: Path) -> None:
    siglip(tmp_path / "sig")
    told = load_text_encoder(tmp_path / "sig").check(" ".join(["trees"] * 90))
    assert told is not None
    assert "too long for sig" in told


def test_weights_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    model = siglip(tmp_path / "sig")
    state = {k: v.clone() for k, v in model.state_dict().items() if "text_model.head" not in k}
    save_file(state, tmp_path / "sig/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"weights of sig lack text_model\.head\.bias"):
        load_text_encoder(tmp_path / "sig")


def test_a_copy_of_the_weights_under_our_name_is_the_same_encoder(tmp_path: Path) -> None:
    siglip(tmp_path / "sig")
    first = load_text_encoder(tmp_path / "sig")
    state = {k: v.contiguous() for k, v in first.model.state_dict().items()}
    save_file(state, tmp_path / "sig" / towers.OWN_WEIGHTS)
    (tmp_path / "sig/model.safetensors").unlink()
    again = load_text_encoder(tmp_path / "sig")
    assert again.digest == first.digest
    assert same(again.text(TEXTS), first.text(TEXTS))


def test_a_clip_of_transformers_does_not_hear_what_fills_its_texts_up(
    tmp_path: Path, pictures: list[Any]
) -> None:
    from transformers import CLIPImageProcessor

    folder = tmp_path / "clip"
    folder.mkdir()
    piece_tokenizer(folder)
    described = json.loads((folder / "tokenizer_config.json").read_text())
    described["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    words = TOWER | {
        "vocab_size": 80, "max_position_embeddings": 40, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    config = CLIPConfig(text_config=words, vision_config=VISION, projection_dim=16)
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    loaded = load_text_encoder(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    for text in TEXTS:  # one by one: nothing fills them up
        answer = model.get_text_features(**tokenizer([text], return_tensors="pt"))
        assert same(loaded.text([text]), unit(vectors_of(answer)))
    seen = AutoImageProcessor.from_pretrained(folder)(
        images=[Image.fromarray(p) for p in pictures], return_tensors="pt"
    )
    assert same(loaded.images(pictures), unit(vectors_of(model.get_image_features(**seen))))


def test_a_model_without_pictures_is_no_text_encoder(tmp_path: Path) -> None:
    BertModel(BertConfig(**TOWER, vocab_size=30)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match="bert is a model of the type 'bert'"):
        load_text_encoder(tmp_path / "bert")


# ---- bare state dicts: RemoteCLIP -------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> open_clip.CLIP:
    """A tiny architecture that open_clip knows by name, and that RemoteCLIP is said to be of."""
    (tmp_path / "ssldiff-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "ssldiff-tiny.json")
    known = {"chendelong/RemoteCLIP": {
        n: ("ssldiff-tiny", f"RemoteCLIP-{n}.pt") for n in ("ViT-B-32", "RN50")
    }}  # fmt: skip
    monkeypatch.setattr(hub, "BARE", known)
    torch.manual_seed(0)
    return open_clip.model.CLIP(**TINY).eval()


def test_a_state_dict_alone_is_known_by_its_repository(
    bare: open_clip.CLIP, pictures: list[Any], no_network: Path
) -> None:
    folder = cached(no_network, "chendelong/RemoteCLIP")
    torch.save(bare.state_dict(), folder / "RemoteCLIP-ViT-B-32.pt")
    ids = open_clip.get_tokenizer("ssldiff-tiny")(TEXTS)
    expected = unit(bare.encode_text(ids))
    for name in (
        "hf-hub:chendelong/RemoteCLIP",
        "hf-hub:chendelong/RemoteCLIP:ViT-B-32",
        f"ssldiff-tiny:{folder / 'RemoteCLIP-ViT-B-32.pt'}",
    ):
        loaded = load_text_encoder(name)
        assert same(loaded.text(TEXTS), expected)
        assert loaded.images(pictures).shape == (2, 16)
    assert load_text_encoder("hf-hub:chendelong/remoteclip").name.endswith("RemoteCLIP:ViT-B-32")
    with pytest.raises(ModelError, match=r"RemoteCLIP has ViT-B-32, RN50, not 'ViT-H'"):
        load_text_encoder("hf-hub:chendelong/RemoteCLIP:ViT-H")
    with pytest.raises(ModelError, match=r"RemoteCLIP:RN50: "):
        load_text_encoder("hf-hub:chendelong/RemoteCLIP:RN50")  # not in the cache, no network
    with pytest.raises(ModelError, match=r"no variants that are known here. Leave out ':x'"):
        load_text_encoder("hf-hub:wisdomik/QuiltNet-B-32:x")


class Runs:
    """A pickle that runs something."""

    def __reduce__(self) -> Any:
        return (print, ("ran",))


def test_a_state_dict_that_would_run_something_is_refused(
    bare: open_clip.CLIP, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": bare.state_dict(), "more": Runs()}, tmp_path / "bad.pt")
    with pytest.raises(ModelError, match="cannot load the text encoder ssldiff-tiny"):
        load_text_encoder(f"ssldiff-tiny:{tmp_path / 'bad.pt'}")
    assert "ran" not in capsys.readouterr().out


def test_remoteclip_s_table_names_architectures_of_open_clip() -> None:
    for variants in hub.BARE.values():
        for architecture, file in variants.values():
            assert architecture in open_clip.list_models()
            assert file.endswith(".pt")


# ---- open_clip's layout: QuiltNet, BiomedCLIP -------------------------------------------------


def test_the_plain_layout_is_read_from_the_hub_s_cache(
    bare: open_clip.CLIP, no_network: Path
) -> None:
    folder = cached(no_network, "wisdomik/QuiltNet-B-32")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    # The hub's repository has a description for transformers as well; open_clip's comes first.
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    torch.save(bare.state_dict(), folder / "open_clip_pytorch_model.bin")
    loaded = load_text_encoder("hf-hub:wisdomik/QuiltNet-B-32")
    ids = open_clip.get_tokenizer("ssldiff-tiny")(TEXTS)
    assert same(loaded.text(TEXTS), unit(bare.encode_text(ids)))


def biomed(folder: Path, old: bool = False) -> Any:
    """BiomedCLIP's layout: timm's pictures, a BERT of another repository for words."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    bert = BertConfig(**TOWER, vocab_size=80, max_position_embeddings=40)
    bert.save_pretrained(folder)
    names = ("proj", "pooler_type") if old else ("hf_proj_type", "hf_pooler_type")
    words = {
        "hf_model_name": BERT, "hf_tokenizer_name": BERT, "context_length": 32,
        names[0]: "mlp", names[1]: "cls_last_hidden_state_pooler",
    }  # fmt: skip
    seen = {
        "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "",
        "timm_proj": "linear", "image_size": 32,
    }  # fmt: skip
    config = {"embed_dim": 16, "vision_cfg": seen, "text_cfg": words}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    known = words | {
        "hf_model_name": str(folder), "hf_model_pretrained": False, "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
    }  # fmt: skip
    known = {k: v for k, v in known.items() if k not in ("proj", "pooler_type")}
    model = open_clip.model.CustomTextCLIP(16, seen, known).eval()
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(SAID, trainers.WordLevelTrainer(special_tokens=special))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(folder / "tokenizer.json"))
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "[PAD]",
        "cls_token": "[CLS]", "sep_token": "[SEP]",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return model


@pytest.mark.parametrize("old", [False, True])
def test_a_text_tower_of_transformers_is_built_from_the_folder_alone(
    tmp_path: Path, pictures: list[Any], old: bool
) -> None:
    model = biomed(tmp_path / "BiomedCLIP", old)
    loaded = load_text_encoder(tmp_path / "BiomedCLIP")
    ids = PreTrainedTokenizerFast.from_pretrained(tmp_path / "BiomedCLIP")(
        TEXTS, padding="max_length", max_length=32, return_tensors="pt"
    )["input_ids"]
    assert same(loaded.text(TEXTS), unit(model.encode_text(ids)))
    shown = open_clip.transform.image_transform(32, is_train=False)
    batch = torch.stack([shown(Image.fromarray(p)) for p in pictures])
    assert same(loaded.images(pictures), unit(model.encode_image(batch)))


def test_what_a_text_tower_lacks_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "BiomedCLIP"
    biomed(folder)
    # The configuration may stand in a folder of the tower's own name.
    own = folder / BERT.rpartition("/")[2]
    own.mkdir()
    (folder / "config.json").rename(own / "config.json")
    assert load_text_encoder(folder).width == 16
    (own / "config.json").unlink()
    with pytest.raises(ModelError, match=rf"{BERT}, of which config\.json is neither in .*Copy it"):
        load_text_encoder(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json and config\.json are neither in"):
        load_text_encoder(folder)


# ---- a package of its own: CONCH --------------------------------------------------------------


class FakeConch(torch.nn.Module):
    """What the calls of CONCH's network take and give."""

    def __init__(self) -> None:
        super().__init__()
        self.text = torch.nn.Embedding(80, 8)
        self.visual = torch.nn.Linear(3, 8)
        self.text_decoder = torch.nn.Linear(8, 80)

    def encode_text(self, ids: torch.Tensor, normalize: bool, embed_cls: bool = True) -> Any:
        assert ids.shape[1] == 128
        return self.text(ids[:, :-1]).mean(1)  # the last place is made room of

    def encode_image(self, pixels: torch.Tensor, normalize: bool, proj_contrast: bool) -> Any:
        assert proj_contrast
        return self.visual(pixels.mean((2, 3)))


def conch_package(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    piece_tokenizer(folder)
    room = types.ModuleType("conch.open_clip_custom")

    def create(cfg: str, path: str) -> Any:
        assert cfg == "conch_ViT-B-16"
        model = FakeConch()
        model.load_state_dict(torch.load(path, weights_only=True), strict=False)
        return model, open_clip.transform.image_transform(32, is_train=False)

    room.create_model_from_pretrained = create  # type: ignore[attr-defined]
    room.get_tokenizer = lambda: PreTrainedTokenizerFast.from_pretrained(  # type: ignore[attr-defined]
        folder
    )
    monkeypatch.setitem(sys.modules, "conch", types.ModuleType("conch"))
    monkeypatch.setitem(sys.modules, "conch.open_clip_custom", room)


def test_conch_comes_through_its_own_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: list[Any], no_network: Path
) -> None:
    conch_package(monkeypatch, tmp_path)
    torch.manual_seed(0)
    model = FakeConch()
    folder = cached(no_network, "MahmoodLab/conch")
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("text_decoder")}
    file = folder / "pytorch_model.bin"
    torch.save(state, file)
    first = load_text_encoder(f"conch_ViT-B-16:{file}")
    again = load_text_encoder("hf-hub:MahmoodLab/CONCH")
    ids = PreTrainedTokenizerFast.from_pretrained(tmp_path)(
        TEXTS, padding="max_length", max_length=127, return_tensors="pt"
    )["input_ids"]
    ids = torch.nn.functional.pad(ids, (0, 1), value=1)
    assert same(first.text(TEXTS), unit(model.encode_text(ids, normalize=False)))
    assert first.images(pictures).shape == (2, 8)
    assert first.digest == again.digest  # the decoder is random and counts for nothing
    del state["visual.bias"]
    torch.save(state, file)
    with pytest.raises(ModelError, match=r"lack visual\.bias: get the file anew"):
        load_text_encoder(f"conch_ViT-B-16:{file}")


def test_without_its_package_conch_says_how_to_get_it(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(b"")
    for name in ("hf-hub:MahmoodLab/conch", f"conch_ViT-B-16:{file}"):
        with pytest.raises(ModelError, match=r"pip install git\+https://github.com/mahmoodlab"):
            load_text_encoder(name)
    with pytest.raises(ModelError, match="there is no file"):
        load_text_encoder("conch_ViT-B-16:nowhere.bin")


def test_a_repository_that_is_not_there_says_so_and_what_can_be_given(no_network: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot load the text encoder hf-hub:no/such: .*OWNER"):
        load_text_encoder("hf-hub:no/such")
