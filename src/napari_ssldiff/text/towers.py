"""Text encoders that open_clip does not know, used as its own are: CLIP and SigLIP of transformers,
and CONCH through the package of its authors.
"""

from __future__ import annotations

import importlib
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from napari_ssldiff.errors import ModelError

#: What the weights of a finished prior's own copy are called, whatever the layout.
OWN_WEIGHTS = "open_clip_model.safetensors"
CONCH = "conch_ViT-B-16"
CONCH_REPO = "MahmoodLab/conch"
_CONCH_INSTALL = "pip install git+https://github.com/mahmoodlab/CONCH.git"
#: Of CONCH's text tower; the last one is the place of a token that the model puts there.
_CONCH_CONTEXT = 128
_TYPES = ("clip", "siglip", "siglip2")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Loaded:
    """A model with all that it takes to use it.

    Parameters
    ----------
    name
        What it is called.
    model
        Has ``encode_text`` of ``(n, context)`` int64 and ``encode_image`` of ``(n, 3, h, w)``.
    preprocess
        A PIL image → ``(3, h, w)`` float.
    tokenizer
        A list of texts → ``(n, context)`` int64.
    """

    name: str
    model: Any
    preprocess: Callable[[Any], Any]
    tokenizer: Callable[[list[str]], Any]


def fetch(repo: str, file: str) -> str:
    """The path of a repository's file in the hub's cache, fetched if it is not there."""
    from huggingface_hub import hf_hub_download

    return str(hf_hub_download(repo, file))


class Adapter:
    """A model with the two calls that a text encoder makes; all else is the model's own.

    Its ``state_dict`` is the model's, so a copy of the weights has the names of the original.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def eval(self) -> Adapter:
        """As of a module."""
        self.model.eval()
        return self

    def to(self, device: torch.device | str) -> Adapter:
        """As of a module."""
        self.model.to(device)
        return self

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """As of a module."""
        parameters: Iterator[torch.nn.Parameter] = self.model.parameters()
        return parameters

    def state_dict(self) -> dict[str, torch.Tensor]:
        """As of a module."""
        state: dict[str, torch.Tensor] = self.model.state_dict()
        return state


class TransformersClip(Adapter):
    """``CLIPModel`` and ``SiglipModel`` alike."""

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """``(n, d)`` vectors of texts, from their tokens."""
        # No mask: SigLIP was trained without, and in CLIP no word sees what comes after it.
        return _pooled(self.model.get_text_features(input_ids=ids))

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """``(n, d)`` vectors of pictures."""
        return _pooled(self.model.get_image_features(pixel_values=pixels))


def _pooled(answer: Any) -> torch.Tensor:
    """The vectors; transformers 4 returns them, later ones beside other things."""
    vectors: torch.Tensor = answer if isinstance(answer, torch.Tensor) else answer.pooler_output
    return vectors


def from_transformers(source: str, shown: str) -> Loaded:
    """A CLIP or SigLIP in transformers' layout.

    Parameters
    ----------
    source
        A folder, or a repository of the hub.
    shown
        What it is called.

    Raises
    ------
    ModelError
        If it is another kind of model, or its weights are not whole.
    """
    from transformers import AutoConfig, AutoImageProcessor

    config = AutoConfig.from_pretrained(source)
    if config.model_type not in _TYPES:
        raise ModelError(
            f"{shown} is a model of the type {config.model_type!r}: a text encoder has words and "
            f"pictures in one space, so it is one of {', '.join(_TYPES)}, or of open_clip"
        )
    model = _model(source, shown, config)
    processor = AutoImageProcessor.from_pretrained(source)

    def preprocess(image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = processor(images=[image], return_tensors="pt")["pixel_values"][0]
        return pixels

    return Loaded(shown, TransformersClip(model), preprocess, _tokenizer(source, config))


def _model(source: str, shown: str, config: Any) -> Any:
    from transformers import AutoModel

    own = Path(source) / OWN_WEIGHTS
    if own.is_file():  # a prior's own copy
        from safetensors.torch import load_file

        model = AutoModel.from_config(config)
        model.load_state_dict(load_file(own))
        return model
    model, found = AutoModel.from_pretrained(source, output_loading_info=True)
    if found["missing_keys"]:  # they would be random
        raise ModelError(
            f"the weights of {shown} lack {_few(found['missing_keys'])}: get its files anew"
        )
    return model.float()  # later versions keep the precision of the file


def _tokenizer(source: str, config: Any) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    siglip = config.model_type == "siglip"
    try:
        # SigLIP's own class needs sentencepiece; tokenizer.json holds the same table.
        tokenizer = (PreTrainedTokenizerFast if siglip else AutoTokenizer).from_pretrained(source)
    except Exception:
        if not siglip:
            raise
        tokenizer = AutoTokenizer.from_pretrained(source)
    length = int(config.text_config.max_position_embeddings)

    def tokenize(texts: Sequence[str]) -> torch.Tensor:
        if config.model_type != "clip":
            # SigLIP was trained on texts in lower case without any sign, hyphens too.
            texts = [" ".join(t.lower().translate(_NO_PUNCTUATION).split()) for t in texts]
        ids: torch.Tensor = tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True,
            return_tensors="pt",
        )["input_ids"]  # fmt: skip
        return ids

    return tokenize


class Conch(Adapter):
    """CONCH as a text encoder: the vectors that its authors compare words and pictures by."""

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """``(n, d)`` vectors of texts, from their tokens."""
        vectors: torch.Tensor = self.model.encode_text(ids, normalize=False)
        return vectors

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """``(n, d)`` vectors of pictures."""
        vectors: torch.Tensor = self.model.encode_image(pixels, normalize=False, proj_contrast=True)
        return vectors


def from_conch(file: str | None, shown: str) -> Loaded:
    """CONCH, whose network and tokeniser are in its authors' package and nowhere else.

    Parameters
    ----------
    file
        Its ``pytorch_model.bin``; ``None``: of the hub, which asks for leave.
    shown
        What it is called.

    Raises
    ------
    ModelError
        If the package is not installed, or the file is missing or not whole.
    """
    from open_clip.factory import load_state_dict

    if file is not None and not Path(file).is_file():
        raise ModelError(f"cannot load the text encoder {shown}: there is no file {file}")
    try:
        package = importlib.import_module("conch.open_clip_custom")
    except ImportError as error:
        raise ModelError(
            f"cannot load the text encoder {shown}: the network and the tokeniser of CONCH are in "
            f"a package of its authors, under a licence of their own ({error}). Install it with: "
            f"{_CONCH_INSTALL}"
        ) from None
    path = fetch(CONCH_REPO, "pytorch_model.bin") if file is None else file
    # The package unpickles, and takes what fits. So the file is read here first, as weights only,
    # which refuses whatever would run, and compared with what came of it.
    here = set(load_state_dict(path, weights_only=True))
    model, preprocess = package.create_model_from_pretrained(CONCH, path)
    # The published weights come without the decoder of captions, which is not used here.
    lacking = {n for n in model.state_dict() if not n.startswith("text_decoder.")} - here
    if lacking:
        raise ModelError(f"the weights of {shown} lack {_few(lacking)}: get the file anew")
    # What is left of the decoder is random: it would make another digest at every load.
    model.text_decoder = None
    tokenizer = package.get_tokenizer()

    def tokenize(texts: Sequence[str]) -> torch.Tensor:
        ids: torch.Tensor = tokenizer(
            list(texts), padding="max_length", max_length=_CONCH_CONTEXT - 1, truncation=True,
            return_tensors="pt",
        )["input_ids"]  # fmt: skip
        return torch.nn.functional.pad(ids, (0, 1), value=tokenizer.pad_token_id)

    return Loaded(shown, Conch(model), preprocess, tokenize)


def _few(names: Any) -> str:
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
