"""Priors: which there are, whose fields they make, and how they are loaded.

A prior stands beside pixel models as ``prior.yaml``. It belongs to an encoder and not to a network
of pixels, so that a pixel model may be trained anew without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from napari_ssldiff.cache import cache_dir
from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.models.registry import BUNDLED

if TYPE_CHECKING:
    from napari_ssldiff.text.encoder import TextEncoder
    from napari_ssldiff.text.prior import Prior

FILE = "prior.yaml"
_REQUIRED = (
    "id", "domain", "description", "encoder", "resolution", "unit", "cell", "guidance", "config",
    "text", "weights",
)  # fmt: skip


@dataclass(frozen=True)
class PriorCard:
    """What a prior is and where its parts lie.

    Parameters
    ----------
    id, domain, description
        For people and commands.
    encoder
        Identifier of the encoder of its fields, weights included.
    resolution, unit, cell
        Of the encoder's pixels, and the edge of a cell in them.
    guidance
        Default scale.
    config
        As for :class:`napari_ssldiff.text.prior.PriorNetwork`, ``prediction`` and ``scheduler``.
    text
        The text encoder: a folder relative to the card's, or what open_clip loads by name.
    weights
        ``{file: sha256}`` of the prior and of the text encoder's folder, relative to ``folder``.
    folder
        Where the card lies.
    """

    id: str
    domain: str
    description: str
    encoder: str
    resolution: float
    unit: str
    cell: int
    guidance: float
    config: Mapping[str, Any]
    text: str
    weights: Mapping[str, str]
    folder: Path
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """sha256 over the weights' hashes and the numbers that define the prior."""
        key = [self.weights, self.config, self.encoder, self.resolution, self.unit, self.cell]
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def read_prior(path: Path) -> PriorCard:
    """Read and check a prior's card.

    Raises
    ------
    ModelError
        If it is not one.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        missing = [k for k in _REQUIRED if k not in data]
        if missing:
            raise ModelError(f"{path} is no card of a prior: it lacks {', '.join(missing)}")
        folder = path.parent.resolve()
        for name in data["weights"]:
            if not (folder / name).resolve().is_relative_to(folder.parent):
                raise ModelError(f"the card {path} names weights outside its folder: {name}")
        return PriorCard(
            id=str(data["id"]),
            domain=str(data["domain"]),
            description=str(data["description"]),
            encoder=str(data["encoder"]),
            resolution=float(data["resolution"]),
            unit=str(data["unit"]),
            cell=int(data["cell"]),
            guidance=float(data["guidance"]),
            config=dict(data["config"]),
            text=str(data["text"]),
            weights=dict(data["weights"]),
            folder=folder,
            extra={k: v for k, v in data.items() if k not in _REQUIRED},
        )
    except (OSError, UnicodeDecodeError, TypeError, ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ModelError(f"cannot read the card {path}: {said}") from None


def list_priors() -> list[PriorCard]:
    """Cards of all installed priors, bundled ones first."""
    folders = (BUNDLED, cache_dir() / "models")
    return [read_prior(p) for f in folders for p in sorted(f.glob(f"*/{FILE}"))]


def prior_for(encoder: str) -> PriorCard:
    """The prior that makes fields of an encoder.

    Raises
    ------
    InputError
        If there is none, naming the encoders that have one.
    """
    found = list_priors()
    for card in found:
        if card.encoder == encoder:
            return card
    have = ", ".join(card.encoder for card in found) or "none"
    raise InputError(
        f"no prior makes fields of the encoder {encoder} (there are priors for: {have}): train one "
        "with 'napari-ssldiff train text' and 'train prior'"
    )


@dataclass(frozen=True)
class Words:
    """A prior and the text encoder that it understands.

    Parameters
    ----------
    card
        What it is.
    prior, text
        Loaded.
    """

    card: PriorCard
    prior: Prior
    text: TextEncoder


def load_words(card: PriorCard, device: str = "auto") -> Words:
    """Load a prior and its text encoder.

    Raises
    ------
    ModelError
        If weights are missing or damaged, or do not fit the card.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from napari_ssldiff.models.load import resolve_device
    from napari_ssldiff.models.quantised import restored
    from napari_ssldiff.text.encoder import load_text_encoder
    from napari_ssldiff.text.prior import Prior, PriorFacts, PriorNetwork

    where = resolve_device(device)
    for name, digest in card.weights.items():
        path = card.folder / name
        if not path.is_file():
            raise ModelError(f"{card.id} is incomplete: {path} is missing; install it again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ModelError(f"{path} is damaged: its sha256 is not the card's; install it again")
    folder = card.folder / card.text
    text = load_text_encoder(folder.resolve() if folder.is_dir() else card.text, where)
    own = [n for n in card.weights if not (card.folder / n).resolve().is_relative_to(
        folder.resolve())]  # fmt: skip
    try:
        network = PriorNetwork(card.config)
        tensors = {k: v for n in own for k, v in load_file(card.folder / n).items()}
        network.load_state_dict(restored(tensors))
    except (KeyError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        said = str(error).splitlines()[-1].strip()[:200]
        raise ModelError(f"the weights of {card.id} do not fit its card: {said}") from None
    facts = PriorFacts(card.id, card.encoder, card.resolution, card.unit, card.cell, card.guidance)
    prior = Prior(facts, card.config, network, where)
    if text.width != prior.condition_width:
        raise ModelError(
            f"{card.id} takes conditions of {prior.condition_width} numbers, its text encoder "
            f"{text.name} gives {text.width}: the card names the wrong one"
        )
    return Words(card, prior, text)
