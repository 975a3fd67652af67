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
from napari_ssldiff.models.entries import BUNDLED
from napari_ssldiff.text.columns import Columns
from napari_ssldiff.text.conditions import PriorKind

if TYPE_CHECKING:
    import torch

    from napari_ssldiff.text.encoder import TextEncoder
    from napari_ssldiff.text.prior import Prior

FILE = "prior.yaml"
_REQUIRED = (
    "id", "domain", "description", "encoder", "resolution", "unit", "cell", "guidance", "config",
    "weights",
)  # fmt: skip
_OPTIONAL = ("text", "condition", "guidance_interval")


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
    guidance_interval
        The steps that are guided, in log(alpha / sigma); ``None``: all are.
    config
        As for :class:`napari_ssldiff.text.prior.PriorNetwork`, ``prediction`` and ``scheduler``.
    text
        The text encoder: a folder relative to the card's, or what open_clip loads by name;
        ``""`` where there is none.
    weights
        ``{file: sha256}`` of the prior and of the text encoder's folder, relative to ``folder``.
    folder
        Where the card lies.
    condition
        ``kind`` is ``"text"`` or ``"csv"``. Text encoders that are loaded by name have their
        ``sha256`` here (:attr:`TextEncoder.digest`), tables their ``columns``.
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
    condition: Mapping[str, Any] = field(default_factory=lambda: {"kind": "text"})
    guidance_interval: tuple[float, float] | None = None

    @property
    def kind(self) -> PriorKind:
        """What its network is conditioned on."""
        return "csv" if self.condition["kind"] == "csv" else "text"

    @property
    def columns(self) -> Columns | None:
        """The columns of a prior of numbers."""
        return Columns.from_list(self.condition["columns"]) if self.kind == "csv" else None

    @property
    def takes(self) -> str:
        """What it can be asked for, as one reads it."""
        if self.columns is None:
            return "words, classes and pictures"
        return f"numbers ({', '.join(self.columns.names)})"

    @property
    def hash(self) -> str:
        """sha256 over the weights' hashes and the numbers that define the prior."""
        key = [self.weights, self.config, self.encoder, self.resolution, self.unit, self.cell]
        if self.condition != {"kind": "text"}:
            key.append(self.condition)
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
        interval = data.get("guidance_interval")
        low, high = (0.0, 1.0) if interval is None else map(float, interval)
        if not low < high:
            raise ModelError(
                f"the card {path}: guidance_interval is low below high, got {interval}"
            )
        condition = dict(data.get("condition", {"kind": "text"}))
        if condition.get("kind") not in ("text", "csv"):
            raise ModelError(
                f"the card {path} is of a prior conditioned on {condition.get('kind')!r}: this "
                "version knows text and csv"
            )
        if condition["kind"] == "csv":
            Columns.from_list(condition["columns"])
        elif "text" not in data:
            raise ModelError(f"{path} is no card of a prior: it lacks text")
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
            text=str(data.get("text", "")),
            weights=dict(data["weights"]),
            folder=folder,
            extra={k: v for k, v in data.items() if k not in (*_REQUIRED, *_OPTIONAL)},
            condition=condition,
            guidance_interval=None if interval is None else (low, high),
        )
    except (OSError, UnicodeDecodeError, TypeError, ValueError, KeyError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ModelError(f"cannot read the card {path}: {said}") from None


def list_priors(beside: Path | None = None) -> list[PriorCard]:
    """Cards of all installed priors, bundled ones first; before them those beside a model.

    Parameters
    ----------
    beside
        Folder of a model that need not be installed.
    """
    folders = [BUNDLED.resolve(), (cache_dir() / "models").resolve()]
    if beside is not None and beside.resolve().parent not in folders:
        folders.insert(0, beside.resolve().parent)
    return [read_prior(p) for f in folders for p in sorted(f.glob(f"*/{FILE}"))]


def prior_for(encoder: str, kind: PriorKind = "text", beside: Path | None = None) -> PriorCard:
    """The prior that makes fields of an encoder from conditions of a kind.

    Parameters
    ----------
    beside
        As for :func:`list_priors`.

    Raises
    ------
    InputError
        If there is none, naming what the encoder's own priors take, or which encoders have one.
    """
    found = list_priors(beside)
    own = [card for card in found if card.encoder == encoder]
    for card in own:
        if card.kind == kind:
            return card
    how = {
        "text": "train one with 'napari-ssldiff train text' and 'train prior'",
        "csv": "train one with 'napari-ssldiff train prior --condition csv:FILE'",
    }[kind]
    if own:
        asked = "words" if kind == "text" else "numbers"
        told = "; ".join(f"{card.id} takes {card.takes}" for card in own)
        raise InputError(
            f"no prior makes fields of the encoder {encoder} from {asked}: {told}. {how}"
        )
    have = ", ".join(card.encoder for card in found if card.kind == kind) or "none"
    raise InputError(
        f"no prior makes fields of the encoder {encoder} (there are priors for: {have}): {how}"
    )


@dataclass(frozen=True)
class Words:
    """A prior and what it understands.

    Parameters
    ----------
    card
        What it is.
    prior
        Loaded.
    text
        Its text encoder; ``None`` where it takes numbers.
    """

    card: PriorCard
    prior: Prior
    text: TextEncoder | None = None


def load_words(card: PriorCard, device: str = "auto") -> Words:
    """Load a prior, and its text encoder where it has one.

    Raises
    ------
    ModelError
        If weights are missing or damaged, or do not fit the card.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from napari_ssldiff.models.load import resolve_device
    from napari_ssldiff.models.quantised import restored
    from napari_ssldiff.text.prior import Prior, PriorFacts, PriorNetwork

    where = resolve_device(device)
    for name, digest in card.weights.items():
        path = card.folder / name
        if not path.is_file():
            raise ModelError(f"{card.id} is incomplete: {path} is missing; install it again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ModelError(f"{path} is damaged: its sha256 is not the card's; install it again")
    folder = (card.folder / card.text).resolve()
    own = [
        name for name in card.weights
        if not (card.text and (card.folder / name).resolve().is_relative_to(folder))
    ]  # fmt: skip
    try:
        network = PriorNetwork(card.config)
        tensors = {k: v for n in own for k, v in load_file(card.folder / n).items()}
        network.load_state_dict(restored(tensors))
    except (KeyError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        said = str(error).splitlines()[-1].strip()[:200]
        raise ModelError(f"the weights of {card.id} do not fit its card: {said}") from None
    facts = PriorFacts(
        card.id, card.encoder, card.resolution, card.unit, card.cell, card.guidance,
        card.guidance_interval,
    )  # fmt: skip
    prior = Prior(facts, card.config, network, where)
    if card.columns is not None:
        if card.columns.width != prior.condition_width:
            raise ModelError(
                f"{card.id} takes conditions of {prior.condition_width} numbers, its "
                f"{len(card.columns.names)} columns give {card.columns.width}: the card is wrong"
            )
        return Words(card, prior)
    return Words(card, prior, _text_encoder(card, folder, prior.condition_width, where))


def _text_encoder(card: PriorCard, folder: Path, width: int, device: torch.device) -> TextEncoder:
    """The encoder that a card names, if it is the one that the prior was trained with."""
    from napari_ssldiff.text.encoder import load_text_encoder

    text = load_text_encoder(folder if folder.is_dir() else card.text, device)
    if text.width != width:
        raise ModelError(
            f"{card.id} takes conditions of {width} numbers, its text encoder {text.name} gives "
            f"{text.width}: the card names the wrong one"
        )
    wanted = card.condition.get("sha256")
    if wanted is not None and text.digest != wanted:
        raise ModelError(
            f"the text encoder {text.name} has other weights than the one that {card.id} was "
            "trained with: bring that one, or train the prior again"
        )
    return text
