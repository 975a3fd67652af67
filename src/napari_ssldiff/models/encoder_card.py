"""A component card for any vision model of timm or transformers, from what came with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_ssldiff.embeddings.encoder import EncoderSpec, check_preprocessing
from napari_ssldiff.embeddings.networks import outline
from napari_ssldiff.errors import ModelError

#: Transformers whose last layer begins with a class token that stands for the picture.
_CLASS_TOKEN = ("beit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "vit_msn")
#: PIL's numbers of filters, as ``preprocessor_config.json`` has them.
_RESAMPLE = {2: "bilinear", 3: "bicubic"}


def encoder_card(library: str, name: str, folder: Path | None = None) -> dict[str, Any]:
    """Describe an encoder by its own configuration.

    Parameters
    ----------
    library
        ``"timm"`` or ``"transformers"``.
    name
        Of the model. With timm and no folder: an architecture, with a tag where it has one
        (``vit_base_patch16_224.dino``).
    folder
        Where its files lie: ``config.json`` (timm's or transformers') and, of transformers,
        ``preprocessor_config.json``.

    Returns
    -------
    dict
        A card of kind ``encoder``, without weights, and without the pixel size it was trained at,
        which no configuration says.

    Raises
    ------
    ModelError
        If something that is needed is missing, or the preprocessing cannot be kept to.
    """
    if library == "timm":
        part = _timm(name, folder)
    elif library == "transformers":
        if folder is None:
            raise ModelError(f"a transformers model needs its folder, {name} has none")
        part = _transformers(folder)
    else:
        raise ModelError(f"unknown encoder library {library!r}: timm and transformers are known")
    identifier = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "encoder"
    check_preprocessing(
        EncoderSpec(
            id=identifier,
            resolution=1.0,
            unit="micrometer",
            cell=part["input"],
            input=part["input"],
            mean=part["mean"],
            std=part["std"],
            width=part["width"],
            token=part["token"],
            resize=part["resize"],
            crop=part["crop"],
        )
    )
    part = {k: list(v) if isinstance(v, tuple) else v for k, v in part.items()}
    return {
        "kind": "encoder",
        "id": identifier,
        "name": name,
        "description": f"An encoder of {library}, described by its own configuration.",
        "licence": {"name": "unknown: ask the authors", "commercial": "unknown"},
        "verified": [f"preprocessing and width read from its configuration ({library})"],
        "encoder": part,
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"there is no {path}: name the folder in which the encoder's {path.name} lies"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} is no configuration of a model")
    return data


def _timm(name: str, folder: Path | None) -> dict[str, Any]:
    import timm

    options: dict[str, Any] = {"num_classes": 0}
    if folder is None:
        found = timm.get_pretrained_cfg(name)
        config: Mapping[str, Any] = found.to_dict() if found else {}
        pool = None
    else:
        saved = _json(folder / "config.json")
        name = str(saved.get("architecture", name))
        config = saved.get("pretrained_cfg", saved)
        pool = saved.get("global_pool")
        options |= dict(saved.get("model_args") or {})
    options["num_classes"] = 0
    network: Any = outline({"library": "timm", "name": name, "options": options, "width": 1})
    if not config.get("mean"):
        config = {**network.pretrained_cfg, **config}
    size = tuple(config.get("input_size") or ())
    if len(size) != 3 or size[0] != 3 or size[1] != size[2]:
        raise ModelError(f"{name} takes pictures of {size}: an encoder needs square RGB")
    resize = str(config.get("interpolation") or "bicubic")
    return {
        "library": "timm",
        "name": name,
        "options": options,
        "input": int(size[1]),
        "resize": resize if resize in ("bicubic", "bilinear") else "bicubic",
        "crop": float(config.get("crop_pct") or 1),
        "mean": _triple(config["mean"], name),
        "std": _triple(config["std"], name),
        "width": int(network.num_features),
        # A network without a pool of its own (global_pool: "") gives all its tokens.
        "token": "cls" if pool == "" else "pooled",
    }


def _transformers(folder: Path) -> dict[str, Any]:
    config = _json(folder / "config.json")
    config = config.get("vision_config", config)
    steps = _json(folder / "preprocessor_config.json")
    if steps.get("do_rescale", True) and abs(steps.get("rescale_factor", 1 / 255) * 255 - 1) > 0.01:
        raise ModelError(f"{folder} scales pixels by {steps['rescale_factor']}: allowed is 1/255")
    widths = config.get("hidden_sizes") or [config.get("hidden_size") or config.get("embed_dim")]
    if not widths[-1]:
        raise ModelError(f"{folder / 'config.json'} names no hidden_size: it is no vision model")
    whole = _edge(steps.get("size")) or _edge(config.get("image_size"))
    seen = _edge(steps.get("crop_size")) if steps.get("do_center_crop") else whole
    if not whole or not seen:
        raise ModelError(f"{folder / 'preprocessor_config.json'} names no size of the input")
    normal = steps.get("do_normalize", True)
    return {
        "library": "transformers",
        "name": folder.name,
        "options": {},
        "input": seen,
        "resize": _RESAMPLE.get(steps.get("resample", 3), "bicubic"),
        "crop": min(1.0, seen / whole),
        "mean": _triple(steps["image_mean"], str(folder)) if normal else (0.0, 0.0, 0.0),
        "std": _triple(steps["image_std"], str(folder)) if normal else (1.0, 1.0, 1.0),
        "width": int(widths[-1]),
        "token": "cls" if config.get("model_type") in _CLASS_TOKEN else "pooled",
    }


def _edge(size: Any) -> int:
    """The edge in pixels of what the configurations call a size; 0 where it is none."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height")
    if isinstance(size, list) and size:
        size = size[0]
    return int(size) if isinstance(size, (int, float)) else 0


def _triple(values: Any, what: str) -> tuple[float, float, float]:
    numbers = [float(v) for v in values]
    if len(numbers) != 3:
        raise ModelError(f"{what} is normalised over {len(numbers)} channels: RGB has 3")
    return numbers[0], numbers[1], numbers[2]
