"""Two files that are one model: a LoRA and, beside it, the flow that translates embeddings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from napari_ssldiff.errors import ModelError

#: The words in the names of the two, which stand before their tensors' names.
ADAPTER, FLOW = "lora", "mlp"
_ENDINGS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")
#: Where they lie in a folder: side by side, or as the authors' repository has them.
_PLACES = ("", ADAPTER, FLOW, f"ckpts/{ADAPTER}", f"ckpts/{FLOW}")


def pair_in(folder: Path) -> dict[str, Path] | None:
    """The pair of a folder, ``{"lora": …, "mlp": …}``; ``None`` where it has none.

    Raises
    ------
    ModelError
        If there are several.
    """
    found: dict[str, list[Path]] = {ADAPTER: [], FLOW: []}
    for place in _PLACES:
        for file in _files(folder / place):
            for word in found:
                if word in _words(file):
                    found[word].append(file)
    if not all(found.values()):
        return None
    for word, files in found.items():
        if len(files) > 1:
            names = ", ".join(file.name for file in files[:5])
            raise ModelError(
                f"{folder} holds several files of a {word} ({names}): name the file of the LoRA "
                "that you mean, or put the two that belong together into a folder of their own"
            )
    return {word: files[0] for word, files in found.items()}


def pair_of(file: Path) -> dict[str, Path] | None:
    """A LoRA's file and the flow of the same name, beside it or in ``mlp/`` beside its folder."""
    if ADAPTER not in _words(file):
        return None
    wanted = [FLOW if word == ADAPTER else word for word in _words(file)]
    for place in (file.parent, file.parent.parent / FLOW):
        for other in _files(place):
            if _words(other) == wanted:
                return {ADAPTER: file, FLOW: other}
    return None


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (
            file for file in sorted(folder.iterdir()) if file.suffix in _ENDINGS and file.is_file()
        )


def _words(file: Path) -> list[str]:
    return re.split(r"[^a-z0-9]+", file.stem.lower())
