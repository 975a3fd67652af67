"""Train a small open_clip model on areas of images and the captions that are made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from napari_ssldiff.errors import InputError
from napari_ssldiff.text.captions import RELATIONS, Captions, vocabulary
from napari_ssldiff.text.captions import composed as composed_caption
from napari_ssldiff.text.encoder import VOCABULARY, TextEncoder, TokenTable
from napari_ssldiff.training.loop import Runtime, Schedule, Trainer
from napari_ssldiff.training.meanings import Area, Areas, condition_pictures, joined
from napari_ssldiff.training.state import replace_file, write_tensors
from napari_ssldiff.training.validation import fixed_batches
from napari_ssldiff.training.weights import restore

#: What the vision tower takes: mean and deviation of [0, 1].
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
Corpus = Mapping[str, tuple[Areas, Captions]]


class Words:
    """The words of some domains, as tokens of open_clip's tokeniser numbered anew.

    Parameters
    ----------
    domains
        ``"histology"``, ``"remote sensing"``.
    context
        Tokens of a text.

    Raises
    ------
    InputError
        If none of the domains has captions.
    """

    def __init__(self, domains: Sequence[str], context: int) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self.tokeniser = SimpleTokenizer(context_length=context)
        words = {word for domain in domains for word in vocabulary(domain)}
        if not any(vocabulary(d) - vocabulary("") for d in domains):
            raise InputError(
                f"there are no captions for {', '.join(domains)}: a card's domain is histology or "
                "remote sensing"
            )
        self.words = sorted(words)
        used = {0, *self.tokeniser(["a"])[0].tolist()}
        for word in self.words:
            used |= set(self.tokeniser.encode(word))
        self.table = TokenTable(sorted(used))

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """``(n, context)`` int64."""
        return self.table.renumber(self.tokeniser(list(texts)))


def model_config(config: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """The model as open_clip's configuration files describe it."""
    return {
        "embed_dim": int(config["width"]),
        "vision_cfg": dict(config["vision"]),
        "text_cfg": {**config["text"], "vocab_size": tokens},
    }


def build(config: Mapping[str, Any], tokens: int) -> nn.Module:
    """An untrained open_clip model."""
    from open_clip.model import CLIP

    made: nn.Module = CLIP(**model_config(config, tokens))
    return made


def normalise_pictures(pictures: torch.Tensor) -> torch.Tensor:
    """[0, 1] → what the vision tower takes."""
    return (pictures - MEAN[0]) / STD[0]


def draw_pairs(
    corpus: Corpus, count: int, cells: int, composed: float, rng: np.random.Generator
) -> tuple[list[Area], list[str]]:
    """Areas of 2 to ``cells`` cells a side and a caption of each, domains in equal parts.

    A share ``composed`` of them is joined from two areas, with a caption that says what lies where.
    """
    drawn: list[Area] = []
    texts: list[str] = []
    names = list(corpus)
    while len(drawn) < count:
        areas, captions = corpus[names[len(drawn) % len(names)]]
        most = min(cells, areas.largest)
        side = int(rng.integers(2, most + 1)) if most > 2 else most
        area = areas.draw(side, side, rng)
        text = captions.caption(area.facts, area.label, rng)
        if text and rng.random() < composed:
            other = areas.draw(side, side, rng)
            place = str(rng.choice(list(RELATIONS)))
            if said := captions.caption(other.facts, other.label, rng):
                area = joined(area, other, place, rng)
                text = composed_caption(text, said, place, rng)
        if text:
            drawn.append(area)
            texts.append(text)
    return drawn, texts


def contrast(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, same: torch.Tensor
) -> torch.Tensor:
    """The loss of CLIP (Radford et al. 2021), pairs with the same words all counting as right.

    Parameters
    ----------
    image, text
        ``(n, d)`` unit vectors.
    same
        ``(n, n)`` bool: texts that are alike.
    """
    logits = scale * image @ text.T
    target = same.float() / same.float().sum(1, keepdim=True)
    across = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target.T)
    return across / 2


def _terms(
    model: Any,
    trainer: Trainer,
    corpus: Corpus,
    words: Words,
    config: Mapping[str, Any],
    rng: np.random.Generator,
) -> dict[str, torch.Tensor]:
    size = int(config["vision"]["image_size"])
    areas, texts = draw_pairs(
        corpus, int(config["batch"]), int(config["cells"]), float(config.get("composed", 0)), rng
    )
    pictures = normalise_pictures(condition_pictures(areas, size)).to(trainer.device)
    with trainer.autocast():
        image = model.encode_image(pictures, normalize=True)
        text = model.encode_text(words(texts).to(trainer.device), normalize=True)
    same = torch.tensor([[a == b for b in texts] for a in texts], device=trainer.device)
    scale = model.logit_scale.exp().clamp(max=30)
    loss = contrast(image.float(), text.float(), scale, same)
    right = (image @ text.T).argmax(1) == torch.arange(len(texts), device=trainer.device)
    return {"loss": loss, "right": right.float().mean()}


def train(
    corpus: Corpus,
    config: Mapping[str, Any],
    schedule: Schedule,
    directory: Path,
    *,
    runtime: Runtime | None = None,
    validation: Corpus | None = None,
) -> Iterator[dict[str, Any]]:
    """Train; yields metric rows (``right``: images that find their own caption in the batch).

    Parameters
    ----------
    corpus
        By domain (``"histology"``, ``"remote sensing"``): areas to draw from and their captions.
    """
    seed = int(config["seed"])
    torch.manual_seed(seed)
    words = Words(list(corpus), int(config["text"]["context_length"]))
    model = build(config, len(words.table))
    trainer = Trainer(model, directory, schedule, seed, runtime or Runtime())

    def loss(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return _terms(model, trainer, corpus, words, config, rng)

    def held_out(module: Any, step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        assert validation is not None
        return _terms(module, trainer, validation, words, config, rng)

    yield from trainer.run(loss, validate=fixed_batches(held_out, 4, seed) if validation else None)


def result(domains: Sequence[str], config: Mapping[str, Any], directory: Path) -> tuple[Any, Words]:
    """The averaged model of a run, and its words."""
    words = Words(domains, int(config["text"]["context_length"]))
    model = build(config, len(words.table))
    restore(model, directory)
    return model.eval(), words


def encoder_of(model: nn.Module, words: Words, config: Mapping[str, Any]) -> TextEncoder:
    """A trained model as any other text encoder is used, in full precision."""
    size = int(config["vision"]["image_size"])

    def preprocess(image: Image.Image) -> torch.Tensor:
        small = np.array(image.resize((size, size), Image.Resampling.BICUBIC))
        return normalise_pictures(torch.from_numpy(small).permute(2, 0, 1).float() / 255)

    return TextEncoder(
        "text", model, preprocess, words.tokeniser, frozenset(words.words), words.table
    )


def write(model: nn.Module, words: Words, config: Mapping[str, Any], folder: Path) -> list[str]:
    """Write a model in the layout that open_clip reads from a folder; returns the file names."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "model_cfg": model_config(config, len(words.table)),
        "preprocess_cfg": {
            "mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash",
        },
    }  # fmt: skip
    replace_file(folder / "open_clip_config.json", json.dumps(described, indent=2) + "\n")
    known = {"words": words.words, "tokens": words.table.tokens.tolist()}
    replace_file(folder / VOCABULARY, json.dumps(known) + "\n")
    weights = {k: v.detach() for k, v in model.state_dict().items() if k != "attn_mask"}
    write_tensors(
        folder / "open_clip_model.safetensors",
        {k: v.half() if v.is_floating_point() else v for k, v in weights.items()},
    )
    return ["open_clip_config.json", VOCABULARY, "open_clip_model.safetensors"]
