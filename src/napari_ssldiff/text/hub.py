"""Where published text encoders come from, and in which layout each of them lies.

Three layouts: open_clip's (``open_clip_config.json``), transformers' (``config.json`` of a CLIP or
SigLIP), and those that are known by name because nothing beside their weights describes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_ssldiff.errors import ModelError
from napari_ssldiff.text import towers
from napari_ssldiff.text.towers import Loaded, fetch

CONFIG = "open_clip_config.json"
HUB = "hf-hub:"
TAKES = (
    "It takes a folder with open_clip_config.json and weights, or with config.json of a CLIP or "
    "SigLIP of transformers; hf-hub:OWNER/NAME; ARCHITECTURE:TAG such as "
    "ViT-B-32:laion2b_s34b_b79k; or ARCHITECTURE:FILE"
)
#: Checkpoints without a description: repository → what it is called → (architecture, file).
BARE: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "chendelong/RemoteCLIP": {
        name: (name, f"RemoteCLIP-{name}.pt") for name in ("ViT-B-32", "ViT-L-14", "RN50")
    },
}
#: Names that open_clip once gave to what a text tower is made of.
_OLD_NAMES = {"proj": "hf_proj_type", "pooler_type": "hf_pooler_type"}


def read(name: str | Path) -> Loaded:
    """A published text encoder.

    Parameters
    ----------
    name
        As for :func:`~napari_ssldiff.text.encoder.load_text_encoder`.

    Raises
    ------
    ModelError
        If the name is of no form that is known, or a file or package is missing.
    Exception
        Whatever the libraries raise.
    """
    folder, text = Path(name), str(name)
    if folder.is_dir():
        if not (folder / CONFIG).is_file() and (folder / "config.json").is_file():
            return towers.from_transformers(str(folder), folder.name)
        return _open_clip(f"local-dir:{folder}", folder.name, folder)
    if text.startswith(HUB):
        return _of_hub(text)
    architecture, _, tag = text.partition(":")
    if not tag:  # open_clip would make one up of random weights
        raise ModelError(f"cannot load the text encoder {text}: {TAKES}")
    if architecture == towers.CONCH:
        return towers.from_conch(tag, text)
    return _open_clip(architecture, text, tag=tag)


def _of_hub(text: str) -> Loaded:
    repo, _, variant = text.removeprefix(HUB).partition(":")
    known = {key.casefold(): key for key in BARE}.get(repo.casefold())
    if known is not None:
        variants = BARE[known]
        chosen = variant or next(iter(variants))
        if chosen not in variants:
            raise ModelError(f"{repo} has {', '.join(variants)}, not {variant!r}")
        architecture, file = variants[chosen]
        return _open_clip(architecture, f"{HUB}{known}:{chosen}", tag=fetch(known, file))
    if variant:
        raise ModelError(
            f"cannot load the text encoder {text}: {repo} has no variants that are known here. "
            f"Leave out {':' + variant!r}"
        )
    if repo.casefold() == towers.CONCH_REPO.casefold():
        return towers.from_conch(None, text)
    if _has(repo, CONFIG):
        return _open_clip(text, text)
    return towers.from_transformers(repo, text)


def _has(repo: str, file: str) -> bool:
    """Whether a repository has a file; without network, whether the hub's cache has it."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        fetch(repo, file)
    except LocalEntryNotFoundError:
        # Without network nothing says whether it exists. Another layout in the cache decides.
        from huggingface_hub import try_to_load_from_cache

        return not isinstance(try_to_load_from_cache(repo, "config.json"), str)
    except EntryNotFoundError:
        return False
    return True


def _open_clip(key: str, shown: str, folder: Path | None = None, tag: str = "") -> Loaded:
    import open_clip

    changes: dict[str, Any] = {}
    if folder is not None or key.startswith(HUB):
        tower = _text_tower(key, folder)
        if tower is not None:
            changes["text_cfg"] = tower
    # Without weights open_clip only warns, and hands out a model of random ones. What is no
    # safetensors is read as weights only, which runs nothing.
    model, _, preprocess = open_clip.create_model_and_transforms(
        key, pretrained=tag or None, require_pretrained=True, weights_only=True, **changes
    )
    return Loaded(shown, model, preprocess, open_clip.get_tokenizer(key))


def _text_tower(key: str, folder: Path | None) -> dict[str, Any] | None:
    """How to build a text tower of transformers, where there is one: not from the hub if the
    folder says what it is made of, and never with weights that are replaced at once.
    """
    import open_clip

    described = (open_clip.get_model_config(key) or {}).get("text_cfg", {})
    named = described.get("hf_model_name")
    if not named:
        return None
    tower = {_OLD_NAMES.get(k, k): v for k, v in described.items()} | {"hf_model_pretrained": False}
    if folder is None:
        return tower
    missing = [] if any((folder / n).is_file() for n in ("tokenizer.json", "vocab.txt")) else [
        "tokenizer.json"
    ]  # fmt: skip
    for place in (folder, folder / str(named).rpartition("/")[2]):
        if _is_tower(place / "config.json"):
            tower["hf_model_name"] = str(place)
            break
    else:
        if not _reachable(named):
            missing.append("config.json")
    if missing:
        raise ModelError(
            f"cannot load the text encoder {folder.name}: its text tower is {named}, of which "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} neither in {folder} "
            f"nor to be had from the hub. Copy {'it' if len(missing) == 1 else 'them'} there from "
            f"https://huggingface.co/{named}"
        )
    return tower


def _is_tower(path: Path) -> bool:
    """Whether a ``config.json`` is of a text model, and not of a CLIP as a whole."""
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(kind, str) and kind not in ("clip", "siglip", "siglip2")


def _reachable(repo: str) -> bool:
    try:
        fetch(repo, "config.json")
    except Exception:  # no network, no such repository, no leave: all the same here
        return False
    return True
