"""The modules that a card describes, for the names and shapes of their tensors."""

from __future__ import annotations

import torch
from torch import nn

from napari_ssldiff.embeddings.networks import build_network
from napari_ssldiff.models import parts
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.skeleton import model_spec


def module_of(card: ModelCard, part: str) -> nn.Module:
    """A part without weights, on the device ``meta`` where it can be built there.

    Parameters
    ----------
    card
        Of a model, or of a component as :func:`.component.card_for` gives it.
    part
        ``"autoencoder"``, ``"denoiser"``, ``"conditioning"``, ``"translation"`` or
        ``"encoder"``.

    Raises
    ------
    ModelError
        If the card describes no such part.
    """
    own = card.parts[part]
    if part == "encoder":
        arguments = own["library"], own["name"], own.get("options", {}), int(own["width"])
        try:
            with torch.device("meta"):
                return build_network(*arguments)
        except (NotImplementedError, RuntimeError):  # some compute while they are built
            return build_network(*arguments)
    with torch.device("meta"):
        if part == "autoencoder":
            return parts.autoencoder(own)
        if part == "denoiser":
            return parts.network(own)
        if part == "translation":
            return parts.translation(own, int(card.parts["encoder"]["width"]))
        return parts.projection(own, model_spec(card))
