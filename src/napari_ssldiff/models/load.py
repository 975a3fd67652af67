"""From a card to modules with weights: safetensors only, checked by sha256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec, StudentSpec
from napari_ssldiff.embeddings.encoder import (
    AbsentEncoder,
    Encoder,
    EncoderSpec,
    NetworkEncoder,
    build_network,
)
from napari_ssldiff.errors import ModelError
from napari_ssldiff.models import parts
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.lora import merged
from napari_ssldiff.models.registry import get_card

#: Environment variable: set to 1, networks are compiled when they are first called.
COMPILE = "NAPARI_SSLDIFF_COMPILE"
Fill = Callable[[ModelCard, torch.nn.Module, Iterable[str]], None]


@dataclass
class ModelBundle:
    """A loaded model: encoder and denoiser on one device.

    Parameters
    ----------
    card
        What it is.
    encoder
        Makes the embeddings that condition it; an :class:`AbsentEncoder` where the card's is not
        installed.
    denoiser
        Autoencoder, network and projection; its ``student`` where the card has one.
    device
        Where everything runs.
    """

    card: ModelCard
    encoder: Encoder
    denoiser: Denoiser
    device: torch.device

    @property
    def hash(self) -> str:
        """sha256 that names these weights."""
        return self.card.hash

    @property
    def spec(self) -> ModelSpec:
        """The engine's view of the model."""
        return self.denoiser.spec

    @cached_property
    def evaluation_encoder(self) -> NetworkEncoder:
        """A second encoder of another objective, for measurement only.

        Raises
        ------
        ModelError
            If the card has none.
        """
        return _encoder(self.card, "evaluation_encoder", self.device)


def resolve_device(name: str = "auto") -> torch.device:
    """``auto`` (CUDA, then MPS, then CPU), or what ``name`` says.

    Raises
    ------
    ModelError
        If that device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"unknown device {name!r}: use auto, cpu, cuda or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ModelError(f"unknown device {name!r}: use auto, cpu, cuda or mps")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {name!r} was asked for, but torch sees no CUDA GPU; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA GPUs"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError(f"device {name!r} was asked for, but torch sees no Apple GPU; use cpu")
    return device


def _checked(card: ModelCard, name: str) -> Path:
    """A weight file whose sha256 is the card's."""
    path = card.weight_path(name)
    if hashlib.sha256(path.read_bytes()).hexdigest() != card.weights[name]:
        raise ModelError(f"{path} is damaged: its sha256 is not the card's; install it again")
    return path


def _tensors(card: ModelCard, names: Iterable[str]) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for name in names:
        path = _checked(card, name)
        try:
            out |= {k: v.float() for k, v in load_file(path).items()}
        except SafetensorError as error:
            raise ModelError(f"cannot read the weights {path}: {error}") from None
    return out


def _fill(card: ModelCard, module: torch.nn.Module, names: Iterable[str]) -> None:
    try:
        module.load_state_dict(_tensors(card, names))
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise ModelError(f"the weights of {card.id} do not fit its card: {detail}") from None


def encoder_spec(card: ModelCard, key: str = "encoder") -> EncoderSpec:
    """What a card says of its encoder, the version of its weights in the identifier.

    An encoder that is ``absent`` (the registry's word for known, but not installed) has no version.

    Raises
    ------
    ModelError
        If the card has none of that name.
    """
    name = card.encoder_id(key)
    part = card.parts[key]
    return EncoderSpec(
        id=name,
        resolution=card.resolution,
        unit=card.unit,
        cell=card.cell,
        input=int(part["input"]),
        mean=tuple(part["mean"]),
        std=tuple(part["std"]),
        width=int(part["width"]),
        token=part.get("token", "pooled"),
        detail=int(part.get("detail", 1)),
        patches=int(part.get("patches", 1)),
        resize=str(part.get("resize", "bicubic")),
        crop=float(part.get("crop", 1)),
    )


def _encoder(card: ModelCard, key: str, device: torch.device, fill: Fill = _fill) -> NetworkEncoder:
    spec = encoder_spec(card, key)
    part = card.parts[key]
    if "absent" in part:
        raise ModelError(str(part["absent"]))
    library, options = part["library"], part.get("options", {})
    if library == "transformers":
        # A folder in the hub's layout beside the card; the library reads its safetensors itself.
        for name in part["weights"]:
            _checked(card, name)
        folder = (card.folder / part["name"]).resolve()
        pinned = {(card.folder / name).resolve() for name in part["weights"]}
        for path in folder.glob("*.safetensors"):
            if path.resolve() not in pinned:
                raise ModelError(f"the card of {card.id} does not list the weights {path}")
        network = build_network(library, str(folder), options, spec.width)
    else:
        network = build_network(library, part["name"], options, spec.width)
        fill(card, network, part["weights"])
    return NetworkEncoder(spec, network, device)


def load_encoder(card: ModelCard, device: torch.device) -> NetworkEncoder:
    """A model's encoder alone.

    Raises
    ------
    ModelError
        If the card does not describe it, or its weights are damaged.
    """
    try:
        return _encoder(card, "encoder", device)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the card of {card.id} does not describe an encoder: {error}") from error


def load_bundle(model: str | ModelCard, device: str = "auto") -> ModelBundle:
    """Load a model by id, folder or card.

    Raises
    ------
    ModelError
        If it is unknown, incomplete or damaged, or the device is not there.
    """
    card = model if isinstance(model, ModelCard) else get_card(model)
    bundle = assemble(card, resolve_device(device))
    if os.environ.get(COMPILE, "0") not in ("", "0"):
        bundle.denoiser.compile()
    return bundle


def assemble(card: ModelCard, where: torch.device, fill: Fill = _fill) -> ModelBundle:
    """A card's networks on a device, each given its weights by ``fill(card, module, names)``.

    Raises
    ------
    ModelError
        If the card does not describe a model.
    """
    try:
        return _assemble(card, where, fill)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        said = " ".join(str(error).split())[:160]
        raise ModelError(
            f"the card of {card.id} does not describe a model: {type(error).__name__}: {said}"
        ) from error


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
    )


def _assemble(card: ModelCard, where: torch.device, fill: Fill) -> ModelBundle:
    student, spec = card.parts.get("student"), model_spec(card)
    vae, unet, tokens = (card.parts[k] for k in ("autoencoder", "denoiser", "conditioning"))
    autoencoder = parts.autoencoder(vae)
    fill(card, autoencoder, vae["weights"])
    network = parts.network(unet)
    fill(card, network, unet["weights"])
    projection = parts.projection(tokens, spec)
    fill(card, projection, tokens["weights"])
    why = card.parts["encoder"].get("absent")
    encoder = (
        AbsentEncoder(encoder_spec(card), why) if why else _encoder(card, "encoder", where, fill)
    )
    return ModelBundle(
        card,
        encoder,
        Denoiser(
            spec,
            autoencoder,
            network,
            projection,
            where,
            _student(card, student, network) if student else None,
        ),
        where,
    )


def _student(
    card: ModelCard, part: Mapping[str, Any], network: torch.nn.Module
) -> Callable[[], torch.nn.Module]:
    """What makes the student's network; its weights are read then, so others need not wait."""
    scale, names = float(part["alpha"]) / int(part["rank"]), list(part["weights"])
    for name in names:
        card.weight_path(name)

    def make() -> torch.nn.Module:
        try:
            return merged(network, _tensors(card, names), scale)
        except ValueError as error:
            raise ModelError(f"the student of {card.id} does not fit its card: {error}") from None

    return make
