"""Folders in diffusers' own names: ``unet/``, ``vae/``, ``conditioning/``; or an autoencoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models import parts
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.convert.autoencoders import stock_autoencoder
from napari_ssldiff.models.convert.layout import Converted, Layout, Tensors

#: A folder's component → the part of a card that it fills.
_PARTS = {"unet": "denoiser", "transformer": "denoiser", "vae": "autoencoder"}
#: What belongs to a saved network and changes nothing of what it computes.
_NOTES = ("force_upcast", "sample_size")


def component(tensors: Tensors, name: str) -> Tensors:
    """Tensors of a folder's component, without its name."""
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}


def differences(config: Mapping[str, Any], part: Mapping[str, Any]) -> Iterator[str]:
    """Where a folder's ``config.json`` says other than a card's part, one line each.

    Keys that the card leaves out have diffusers' defaults; keys that diffusers' class does not
    take are passed over, as are notes that change no number.
    """
    with torch.device("meta"):
        network: Any = parts.stock(part)
    own = network.config
    for key in sorted(config.keys() & own.keys()):
        # A transformer's places of patches follow from its size; convolutions have none.
        if key.startswith("_") or (key in _NOTES and not hasattr(network, "pos_embed")):
            continue
        theirs, ours = _plain(config[key]), _plain(own[key])
        if theirs != ours:
            yield f"{key} is {theirs!r} there and {ours!r} in the card"


def check_configs(configs: Mapping[str, Any], card: ModelCard, wanted: Sequence[str]) -> None:
    """Refuse a folder whose networks are built otherwise than the card's.

    Parameters
    ----------
    configs
        Component → what its ``config.json`` holds; ``""`` is the folder itself.
    wanted
        Parts that are taken from it.

    Raises
    ------
    ModelError
        Naming the first differences.
    """
    for name, config in configs.items():
        part = _PARTS.get(name, wanted[0] if name == "" and len(wanted) == 1 else "")
        if part not in wanted or "class" not in card.parts[part]:
            continue
        found = list(differences(config, card.parts[part]))
        if found:
            where = f"{name}/config.json" if name else "config.json"
            raise ModelError(
                f"{where} is of another network than the {part} of {card.id}: "
                f"{'; '.join(found[:5])}"
            )


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _is_folder(tensors: Tensors) -> bool:
    return "unet.conv_in.weight" in tensors or _vae(tensors) is not None


def _vae(tensors: Tensors) -> str | None:
    """What an autoencoder's names begin with, ``None`` where there is none."""
    mark = "decoder.up_blocks.0.resnets.0.conv1.weight"
    return next((p for p in ("vae.", "") if p + mark in tensors), None)


def _convert(tensors: Tensors, card: ModelCard) -> Converted:
    out: dict[str, Tensors] = {}
    prefix = _vae(tensors)
    known = ("",) if prefix == "" else ("unet.", "vae.", "conditioning.")
    if prefix is not None:
        own: Tensors = {
            k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)
        }
        out["autoencoder"] = stock_autoencoder(own, card.parts["autoencoder"])
    for part, name in (("denoiser", "unet"), ("conditioning", "conditioning")):
        if found := component(tensors, name):
            out[part] = found
    strange = sorted(k for k in tensors if not k.startswith(known))
    if strange:
        raise ModelError(f"the folder has tensors that nothing needs: {', '.join(strange[:10])}")
    return Converted(out)


#: ``unet/`` and ``vae/`` as diffusers saves them; ``conditioning/`` with the names of the card's
#: own module, where it has one. A lone autoencoder is one, too.
DIFFUSERS = Layout("diffusers", _is_folder, _convert)
