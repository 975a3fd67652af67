"""Words and pictures in one space: models of others (``hub.py``), or our own of open_clip.

Our own is small because it knows few words: its table holds the tokens of its captions only. The
file ``vocabulary.json`` beside its weights lists these tokens (as numbers of open_clip's
tokeniser) and the words; a folder without it takes every word.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from napari_ssldiff.embeddings.field import Vectors, normalise
from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.text import hub
from napari_ssldiff.text.captions import GLUE, PLACING, words_of

VOCABULARY = "vocabulary.json"


class TokenTable:
    """Tokens of open_clip's byte-pair tokeniser, numbered anew so that few are needed.

    Order is kept: the end of a text, where open_clip reads a text's features, is its largest
    number.

    Parameters
    ----------
    tokens
        Old numbers, rising; the first is 0, with which texts are filled up.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = np.asarray(tokens, np.int64)
        if not len(self.tokens) or self.tokens[0] != 0 or (np.diff(self.tokens) <= 0).any():
            raise ValueError("tokens begin with 0 and rise")

    def __len__(self) -> int:
        return len(self.tokens)

    def renumber(self, ids: torch.Tensor) -> torch.Tensor:
        """Old numbers → new ones; unknown tokens become 0."""
        old = ids.cpu().numpy()
        at = np.searchsorted(self.tokens, old).clip(max=len(self.tokens) - 1)
        return torch.from_numpy(np.where(self.tokens[at] == old, at, 0))


class TextEncoder:
    """A model that gives texts and images vectors of one space.

    Parameters
    ----------
    name
        What it is called: a hub id or a folder's name.
    model, preprocess, tokenizer
        As open_clip makes them, or something that can be called as these can.
    words
        The words that it knows; ``None``: any.
    table
        Of its tokens, where they were numbered anew.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        preprocess: Any,
        tokenizer: Any,
        words: frozenset[str] | None = None,
        table: TokenTable | None = None,
    ) -> None:
        self.name, self.model, self.words, self.table = name, model.eval(), words, table
        self._preprocess, self._tokenizer = preprocess, tokenizer

    @cached_property
    def width(self) -> int:
        """Length of its vectors."""
        return int(self.text(["a"]).shape[1])

    @cached_property
    def digest(self) -> str:
        """sha256 over the names and values of its weights."""
        total = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            total.update(name.encode())
            total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return total.hexdigest()

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """``(n, context)`` int64, as the model takes them."""
        ids: torch.Tensor = self._tokenizer([_plain(t) for t in texts])
        return ids if self.table is None else self.table.renumber(ids)

    @torch.inference_mode()
    def text(self, texts: Sequence[str]) -> Vectors:
        """``(n, d)`` unit vectors of texts; words that it does not know count for nothing."""
        known = [" ".join(w for w in words_of(t) if self.knows(w)) for t in texts]
        device = next(self.model.parameters()).device
        return normalise(self.model.encode_text(self.tokens(known).to(device)).float().cpu())

    @torch.inference_mode()
    def images(self, images: Sequence[NDArray[np.uint8]]) -> Vectors:
        """``(n, d)`` unit vectors of ``(h, w, 3)`` uint8 images."""
        device = next(self.model.parameters()).device
        batch = torch.stack([self._preprocess(Image.fromarray(image)) for image in images])
        return normalise(self.model.encode_image(batch.to(device)).float().cpu())

    def knows(self, word: str) -> bool:
        """Whether a word means anything to it."""
        return self.words is None or word in self.words

    def unknown(self, text: str) -> dict[str, list[str]]:
        """Words of a text that it does not know, each with the nearest that it does."""
        if self.words is None:
            return {}
        return {
            word: difflib.get_close_matches(word, sorted(self.words), n=3, cutoff=0.6)
            for word in words_of(text)
            if word not in self.words
        }

    def check(self, text: str) -> str | None:
        """What to tell about a prompt: which words are not known, and from which word on it is too
        long to be heard; ``None`` where all of it is heard.

        Raises
        ------
        InputError
            If nothing of it is known.
        """
        words = words_of(text)
        if not words:
            raise InputError("the prompt is empty: describe what the image shall show")
        unknown = self.unknown(text)
        empty = self.words is not None and not set(words) - set(unknown) - GLUE - PLACING
        if not unknown and not empty:
            return self._unheard(words)
        told = "; ".join(
            f"{word!r} (near: {', '.join(near)})" if near else repr(word)
            for word, near in unknown.items()
        )
        if empty:
            which = f"knows no word of the prompt {_short(text)!r}: {told}"
            if len(unknown) < len(set(words)):
                which = f"finds nothing to draw in the prompt {_short(text)!r}"
                which += f", and does not know {told}" if unknown else ""
            raise InputError(
                f"{self.name} {which}. It is small and understands descriptions in English such as "
                "'few trees' or 'dense nuclei'"
            )
        notes = f"{self.name} does not know and ignores {told}", self._unheard(words)
        return "; ".join(note for note in notes if note)

    def _unheard(self, words: Sequence[str]) -> str | None:
        """What to tell where a prompt is longer than the context, which ends it without a word."""
        known = [word for word in words if self.knows(word)]
        whole = self.tokens([" ".join(known)])
        # Whatever the tokeniser: words that change no token are not heard, nor are any after them.
        heard = bisect_left(
            range(len(known)),
            True,
            key=lambda n: torch.equal(self.tokens([" ".join(known[:n])]), whole),
        )
        if heard == len(known):
            return None
        return (
            f"the prompt is too long for {self.name}: of {len(known)} words it hears {heard}, and "
            f"nothing from {_short(' '.join(known[heard : heard + 3]))!r} on; say it shorter"
        )


def _plain(text: str) -> str:
    return " ".join(words_of(text))


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def load_text_encoder(name: str | Path, device: torch.device | str = "cpu") -> TextEncoder:
    """A text encoder by hub id, by folder in the hub's layout, or by architecture and weights.

    Parameters
    ----------
    name
        ``hf-hub:OWNER/NAME``, with ``:VARIANT`` for repositories of several; a folder in the layout
        of open_clip or of transformers (CLIP, SigLIP); ``ARCHITECTURE:TAG`` as open_clip lists its
        pretrained models (``ViT-B-32:laion2b_s34b_b79k``); or ``ARCHITECTURE:FILE``.

    Raises
    ------
    ModelError
        If it cannot be loaded.
    """
    folder = Path(name)
    words, table = _vocabulary(folder) if folder.is_dir() else (None, None)
    shown = folder.name if folder.is_dir() else str(name)
    try:
        loaded = hub.read(name)
    except ModelError:
        raise
    except Exception as error:  # the libraries raise whatever their parts raise
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"cannot load the text encoder {shown}: {said}. {hub.TAKES}") from error
    return TextEncoder(
        loaded.name, loaded.model.to(device), loaded.preprocess, loaded.tokenizer, words, table
    )


def _vocabulary(folder: Path) -> tuple[frozenset[str] | None, TokenTable | None]:
    path = folder / VOCABULARY
    if not path.is_file():
        return None, None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return frozenset(data["words"]), TokenTable(data["tokens"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the vocabulary {path} cannot be read: {error}") from None
