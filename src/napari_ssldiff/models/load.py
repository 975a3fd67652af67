"""From a card to modules with weights, on a device."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn

from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec
from napari_ssldiff.diffusion.offload import Turns
from napari_ssldiff.diffusion.precisions import measured_precision
from napari_ssldiff.embeddings.encoder import (
    AbsentEncoder,
    Encoder,
    EncoderSpec,
    NetworkEncoder,
    build_network,
)
from napari_ssldiff.embeddings.flow import FlowNetwork, Translation
from napari_ssldiff.errors import ModelError
from napari_ssldiff.models import parts
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.filling import IN_MEMORY, Filling, checked, tensors_of
from napari_ssldiff.models.lora import merge
from napari_ssldiff.models.memory import CELLS, MemoryOptions, MemoryPlan, plan_memory
from napari_ssldiff.models.registry import get_card
from napari_ssldiff.models.skeleton import Making, Skeleton, encoder_of, skeleton_of

#: Environment variable: set to 1, networks are compiled when they are first called.
COMPILE = "NAPARI_SSLDIFF_COMPILE"
Fill = Callable[[ModelCard, nn.Module, Iterable[str]], None]


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
    plan
        What it takes of memory, and how it fits.
    translation
        Makes a source's fields those of another stain, where the card has such a thing.
    """

    card: ModelCard
    encoder: Encoder
    denoiser: Denoiser
    device: torch.device
    plan: MemoryPlan | None = None
    translation: Translation | None = None

    @property
    def hash(self) -> str:
        """sha256 that names these weights."""
        return self.card.hash

    @property
    def spec(self) -> ModelSpec:
        """The engine's view of the model."""
        return self.denoiser.spec

    @property
    def computed(self) -> dict[str, Any]:
        """What results depend on beside card and request, for their provenance.

        ``device``, ``precision`` of the network's arithmetic, ``weights`` (what they are kept in),
        and ``decode_window`` in pixels where memory had no room for the usual one.
        """
        model = self.denoiser
        facts = {"device": str(self.device), "precision": model.precision, "weights": model.kept}
        if model.limits.decode is None:
            return facts
        return {**facts, "decode_window": model.limits.decode * self.spec.latent_factor}

    @property
    def embedded(self) -> tuple[str, ...]:
        """What the history of a field that was embedded for this model begins with: JSON."""
        if self.translation is None:
            return ()
        own = self.translation
        facts = {"op": "translate", "from": own.source, "to": own.target, "steps": own.steps}
        model = {"model": self.card.id, "model_hash": self.hash}
        return (json.dumps({**facts, **model}, sort_keys=True),)

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


def _encoder(
    card: ModelCard,
    key: str,
    device: torch.device,
    fill: Fill = IN_MEMORY,
    network: nn.Module | None = None,
    batch: int = CELLS,
    at_work: Callable[[nn.Module], nn.Module] | None = None,
) -> NetworkEncoder:
    spec = encoder_spec(card, key)
    part = card.parts[key]
    if "absent" in part:
        raise ModelError(str(part["absent"]))
    if part["library"] == "transformers":
        # A folder in the hub's layout beside the card; the library reads its safetensors itself.
        for name in part["weights"]:
            checked(card, name)
        folder = (card.folder / part["name"]).resolve()
        pinned = {(card.folder / name).resolve() for name in part["weights"]}
        for path in folder.glob("*.safetensors"):
            if path.resolve() not in pinned:
                raise ModelError(f"the card of {card.id} does not list the weights {path}")
        options = part.get("options", {})
        network = build_network(part["library"], str(folder), options, spec.width)
    else:
        if network is None:
            with init_empty_weights():
                network = encoder_of(card, key)
        assert network is not None
        fill(card, network, part["weights"])
    return NetworkEncoder(spec, network, device, batch, at_work)


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


def load_bundle(
    model: str | ModelCard,
    device: str = "auto",
    options: MemoryOptions | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> ModelBundle:
    """Load a model by id, folder or card.

    Parameters
    ----------
    options
        Budget of memory, precision and offload.
    tell
        Told in one line what the model will take, before its weights are read.

    Raises
    ------
    ModelError
        If it is unknown, incomplete or damaged, the device is not there, or memory does not do.
    """
    card = model if isinstance(model, ModelCard) else get_card(model)
    bundle = assemble(card, resolve_device(device), options=options, tell=tell)
    if options is None or options.precision == "auto":
        # Here and not at the first run: whatever is drawn or written down later means the same.
        bundle.denoiser.compute_in(measured_precision(bundle.denoiser))
    if os.environ.get(COMPILE, "0") not in ("", "0"):
        bundle.denoiser.compile()
    return bundle


def assemble(
    card: ModelCard,
    where: torch.device,
    fill: Fill | None = None,
    *,
    options: MemoryOptions | None = None,
    tell: Callable[[str], None] = lambda text: None,
    making: Making = init_empty_weights,
) -> ModelBundle:
    """A card's networks on a device.

    Parameters
    ----------
    fill
        Gives a module its weights: ``fill(card, module, names)``; by default :class:`Filling`.
    options, tell
        As for :func:`load_bundle`.
    making
        Inside it modules are made, by default without weights.

    Raises
    ------
    ModelError
        If the card does not describe a model, or memory does not do.
    """
    try:
        made = skeleton_of(card, making)
        plan = plan_memory(card, where, options, made)
        if plan.notable:
            tell(plan.text)
        if fill is None:
            copied = where.type == "cpu" and plan.limits.offload == "none"
            fill = Filling(copied, made.network, plan.kept)
        return _assemble(card, where, made, plan, fill)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        said = " ".join(str(error).split())[:160]
        raise ModelError(
            f"the card of {card.id} does not describe a model: {type(error).__name__}: {said}"
        ) from error


def _assemble(
    card: ModelCard, where: torch.device, made: Skeleton, plan: MemoryPlan, fill: Fill
) -> ModelBundle:
    student = card.parts.get("student")
    for key, module in (
        ("autoencoder", made.autoencoder),
        ("denoiser", made.network),
        ("conditioning", made.projection),
    ):
        fill(card, module, card.parts[key]["weights"])
    offloads = plan.limits.offload != "none" and where.type != "cpu"
    turns = Turns(where) if offloads else None
    why = card.parts["encoder"].get("absent")
    encoder: Encoder = (
        AbsentEncoder(encoder_spec(card), why)
        if why
        else _encoder(card, "encoder", where, fill, made.encoder, plan.cells, turns)
    )
    denoiser = Denoiser(
        made.spec,
        made.autoencoder,
        made.network,
        made.projection,
        where,
        _student(card, student) if student else None,
        plan.precision,
        kept=plan.kept,
        limits=plan.limits,
        turns=turns,
    )
    translation = _translation(card, where, made.translation, fill)
    return ModelBundle(card, encoder, denoiser, where, plan, translation)


def _translation(
    card: ModelCard, where: torch.device, network: FlowNetwork | None, fill: Fill
) -> Translation | None:
    if network is None:
        return None
    part = card.parts["translation"]
    fill(card, network, part["weights"])
    scale = part.get("scale", card.parts["conditioning"].get("scale", 1.0))
    network = network.eval().to(where)
    return Translation(
        str(part["from"]), str(part["to"]), network, where, int(part["steps"]), float(scale)
    )


def _student(card: ModelCard, part: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """What makes the student's network; all weights are read then, so others need not wait.

    The network's own may be rounded or elsewhere by then.
    """
    scale, names = float(part["alpha"]) / int(part["rank"]), list(part["weights"])
    for name in names:
        card.weight_path(name)

    def make() -> nn.Module:
        base = card.parts["denoiser"]
        with init_empty_weights():
            network = parts.network(base)
        IN_MEMORY(card, network, base["weights"])
        try:
            return merge(network, tensors_of(card, names), scale)
        except ValueError as error:
            raise ModelError(f"the student of {card.id} does not fit its card: {error}") from None

    return make
