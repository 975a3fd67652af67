"""Model cards: one validated YAML per model, and everything needed to load it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from napari_ssldiff.errors import ModelError

_REQUIRED = (
    "id",
    "name",
    "domain",
    "description",
    "resolution",
    "unit",
    "window",
    "cell",
    "guidance",
    "autoencoder",
    "denoiser",
    "conditioning",
    "scheduler",
    "encoder",
    "licence",
    "weights",
)


@dataclass(frozen=True)
class ModelCard:
    """What a model is and where its parts lie.

    Parameters
    ----------
    id, name, description
        For people and commands.
    domain
        ``"histology"`` or ``"remote sensing"``.
    resolution, unit
        Of the model's pixels: micrometer or meter.
    window, cell
        Edges in pixels of a denoised window and of a conditioning cell.
    guidance
        Default guidance scale.
    parts
        ``autoencoder``, ``denoiser``, ``conditioning``, ``scheduler``, ``encoder`` and,
        optionally, ``evaluation_encoder``: library classes, their configurations and the names
        of weight files. Optionally ``student``: ``method``, ``rank``, ``alpha``, ``steps``,
        ``guidance`` and ``weights`` of a LoRA that makes the denoiser a few-step student.
    weights
        ``{file name: sha256}``, relative to ``folder``.
    folder
        Where the card lies.
    extra
        Licence, data, attribution, training: what a reader wants to know.
    """

    id: str
    name: str
    domain: str
    description: str
    resolution: float
    unit: str
    window: int
    cell: int
    guidance: float
    parts: Mapping[str, Any]
    weights: Mapping[str, str]
    folder: Path
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """sha256 over the weights' hashes and the numbers that define the model."""
        key = [self.weights, self.parts, self.resolution, self.unit, self.window, self.cell]
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()

    def encoder_id(self, key: str = "encoder") -> str:
        """Identifier of an encoder, the version of its weights included.

        One that is ``absent`` (the registry's word for known, but not installed) has none.

        Raises
        ------
        ModelError
            If the card has none of that name.
        """
        if key not in self.parts:
            raise ModelError(f"the card of {self.id} has no {key}")
        part = self.parts[key]
        if "absent" in part:
            return f"{part['id']}@absent"
        digests = "".join(self.weights[name] for name in part["weights"])
        return f"{part['id']}@{hashlib.sha256(digests.encode()).hexdigest()[:12]}"

    def weight_path(self, name: str) -> Path:
        """The file of a part.

        Raises
        ------
        ModelError
            If the card does not list it, or it is missing.
        """
        if name not in self.weights:
            raise ModelError(f"the card of {self.id} lists no weights named {name!r}")
        path = self.folder / name
        if not path.is_file():
            raise ModelError(f"{self.id} is incomplete: {path} is missing; install it again")
        return path


def read_card(path: Path) -> ModelCard:
    """Read and check a card.

    Raises
    ------
    ModelError
        If it is not a card, or a weight lies outside its folder's parent.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())  # YAML's errors run over several lines
        raise ModelError(f"cannot read the model card {path}: {said}") from None
    missing = [k for k in _REQUIRED if not isinstance(data, dict) or k not in data]
    if missing:
        raise ModelError(f"{path} is not a model card: it lacks {', '.join(missing)}")
    if not isinstance(data["weights"], dict):
        raise ModelError(f"the card {path} must map weight files to their sha256")
    folder = path.parent.resolve()
    for name in data["weights"]:
        if not (folder / name).resolve().is_relative_to(folder.parent):
            raise ModelError(f"the card {path} names weights outside its folder: {name}")
    names = (
        "autoencoder",
        "denoiser",
        "conditioning",
        "scheduler",
        "encoder",
        "evaluation_encoder",
        "student",
    )
    try:
        return ModelCard(
            id=str(data["id"]),
            name=str(data["name"]),
            domain=str(data["domain"]),
            description=str(data["description"]),
            resolution=float(data["resolution"]),
            unit=str(data["unit"]),
            window=int(data["window"]),
            cell=int(data["cell"]),
            guidance=float(data["guidance"]),
            parts={k: data[k] for k in names if k in data},
            weights=dict(data["weights"]),
            folder=folder,
            extra={
                k: v for k, v in data.items() if k not in (*_REQUIRED, *names) or k == "licence"
            },
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"the card {path} holds a value of the wrong kind: {error}") from None
