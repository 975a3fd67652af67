"""What a lone adapter changes, from the installed model that it was made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.entries import newest

if TYPE_CHECKING:
    import torch


def with_base(
    tensors: Mapping[str, torch.Tensor], card: ModelCard
) -> tuple[Mapping[str, torch.Tensor], str | None]:
    """Tensors with the network that an adapter among them changes, where they lack it.

    Parameters
    ----------
    tensors
        A checkpoint's.
    card
        Its denoiser's ``adapter`` names the model under ``base``.

    Returns
    -------
    The tensors, and the id of the model that was taken. Where they hold no lone adapter or the
    model is not installed, the same tensors and ``None``: the conversion then says what is missing.
    """
    from napari_ssldiff.models.convert.adapter import is_alone
    from napari_ssldiff.models.convert.stain import ADAPTER, split
    from napari_ssldiff.models.foreign.tensors import MappedTensors

    adapter = (card.parts.get("denoiser") or {}).get("adapter") or {}
    network, flow = split(tensors)
    if "base" not in adapter or not is_alone(network):
        return tensors, None
    found = newest(str(adapter["base"]), "model")
    if found is None:
        return tensors, None
    held = {
        part: MappedTensors({"": tuple(found.folder / n for n in found.data[part]["weights"])})
        for part in ("denoiser", "conditioning")
    }
    front = ADAPTER if flow else ""
    own = {front + k.removeprefix("transformer."): t for k, t in held["denoiser"].items()}
    own[f"{front}caption_projection.uncond_embedding"] = held["conditioning"]["null"]
    own[f"{front}y_pos_embed.y_pos_embed"] = held["conditioning"]["position"][None]
    return {**own, **tensors}, found.id
