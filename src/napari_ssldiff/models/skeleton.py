"""A card's networks without their weights: built in a moment, and no bytes of memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from accelerate import init_empty_weights
from torch import nn

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.diffusion.bundle import ModelSpec, StudentSpec
from napari_ssldiff.embeddings.flow import FlowNetwork
from napari_ssldiff.embeddings.networks import build_network
from napari_ssldiff.models import parts
from napari_ssldiff.models.card import ModelCard

#: Inside it modules are made; the usual one leaves their parameters on the meta device.
Making = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Skeleton:
    """The networks of a card.

    Parameters
    ----------
    spec
        The model's numbers.
    autoencoder, network, projection
        Behind the engine's contracts.
    encoder
        ``None`` where it is absent, or a library makes it with its weights only.
    translation
        ``None`` where the card has none.
    """

    spec: ModelSpec
    autoencoder: Autoencoder
    network: nn.Module
    projection: nn.Module
    encoder: nn.Module | None
    translation: FlowNetwork | None = None


def model_spec(card: ModelCard) -> ModelSpec:
    """The numbers of a card that the engine needs; KeyError or ValueError where they lack."""
    student = card.parts.get("student")
    vae, unet = card.parts["autoencoder"], card.parts["denoiser"]
    return ModelSpec(
        window=card.window,
        tokens=card.window // card.cell,
        token_width=int(card.parts["encoder"]["width"]),
        latent_channels=int(vae["channels"]),
        latent_factor=int(vae["factor"]),
        prediction=unet["prediction"],
        schedule=dict(card.parts["scheduler"]),
        student=StudentSpec(int(student["steps"]), float(student["guidance"])) if student else None,
        time_offset=int(unet.get("time_offset", 0)),
        control=bool(unet.get("control")),
    )


def skeleton_of(card: ModelCard, making: Making = init_empty_weights) -> Skeleton:
    """Build what a card describes.

    Raises
    ------
    AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError, ModelError
        If it does not describe a model.
    """
    spec = model_spec(card)
    vae, unet, tokens = (card.parts[k] for k in ("autoencoder", "denoiser", "conditioning"))
    with making():
        return Skeleton(
            spec,
            parts.autoencoder(vae),
            parts.network(unet),
            parts.projection(tokens, spec),
            encoder_of(card),
            translation_of(card),
        )


def translation_of(card: ModelCard) -> FlowNetwork | None:
    """A translation's network as :class:`Skeleton` has it."""
    part = card.parts.get("translation")
    return parts.translation(part, int(card.parts["encoder"]["width"])) if part else None


def encoder_of(card: ModelCard, key: str = "encoder") -> nn.Module | None:
    """An encoder's network as :class:`Skeleton` has it."""
    part = card.parts[key]
    if "absent" in part or part["library"] == "transformers":
        return None
    return build_network(part["library"], part["name"], part.get("options", {}), int(part["width"]))
