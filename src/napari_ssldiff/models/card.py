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
from napari_ssldiff.models.merging import merged

#: Cards of models that others publish, without weights.
CATALOGUE = Path(__file__).parent / "catalogue"
#: What the keys of :attr:`ModelCard.parts` may be.
PARTS = (
    "autoencoder",
    "denoiser",
    "conditioning",
    "translation",
    "scheduler",
    "encoder",
    "evaluation_encoder",
    "student",
)
_NUMBERS = (
    "id", "name", "domain", "description", "resolution", "unit", "window", "cell", "guidance",
    "weights",
)  # fmt: skip
_COMMON = ("id", "name", "description", "licence")
#: What a card that is like another says for itself, or not at all: who it is, and what was claimed
#: of the other one.
_OWN = (
    "id", "name", "description", "sources", "verified", "published", "data", "weights",
    "imported",
)  # fmt: skip
#: What no card of a kind can do without.
REQUIRED: dict[str, tuple[str, ...]] = {
    "model": (
        *_COMMON, "domain", "resolution", "unit", "window", "cell", "guidance", "autoencoder",
        "denoiser", "conditioning", "scheduler", "encoder",
    ),
    "encoder": (*_COMMON, "encoder"),
    "autoencoder": (*_COMMON, "autoencoder"),
}  # fmt: skip
# LibYAML is an order of magnitude faster and not everywhere.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
        Optionally ``translation``: a flow that makes the source's embeddings those of another
        stain.
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


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises
    ------
    ModelError
        If it cannot be read.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())  # YAML's errors run over several lines
        raise ModelError(f"cannot read the model card {path}: {said}") from None


def read_data(path: Path, full: bool = True) -> dict[str, Any]:
    """What a card's file holds, of whatever kind it is, checked.

    A card that is ``like`` another, which lies beside it or in the catalogue, is spelled out: what
    it does not say is as there, but for its identity and for what was claimed of the other.

    Parameters
    ----------
    path
        The file.
    full
        Check every field, which takes the import of pydantic; else only that all is there that a
        list of models shows.

    Raises
    ------
    ModelError
        If it is not a card, or a weight lies outside its folder's parent.
    """
    data = _spelled_out(read_yaml(path), path)
    wrong = _lacking(data)
    if full and not wrong:
        from napari_ssldiff.models.schema import check

        wrong = check(data)
    if wrong:
        raise ModelError(f"{path} is not a model card: {wrong}")
    folder = path.parent.resolve()
    for name in data.get("weights") or {}:
        if not (folder / str(name)).resolve().is_relative_to(folder.parent):
            raise ModelError(f"the card {path} names weights outside its folder: {name}")
    return dict(data)


def _spelled_out(data: Any, path: Path, seen: tuple[str, ...] = ()) -> Any:
    if not isinstance(data, dict) or "like" not in data:
        return data
    other, own = str(data["like"]), {k: v for k, v in data.items() if k != "like"}
    places = [folder / f"{other}.yaml" for folder in (path.parent, CATALOGUE)]
    found = next((place for place in places if place.is_file()), None)
    if found is None or Path(other).name != other or other in seen:
        why = "no card beside it or in the catalogue" if other not in seen else "like itself"
        raise ModelError(f"the card {path} is like {other!r}, which is {why}")
    base = _spelled_out(read_yaml(found), found, (*seen, other))
    if not isinstance(base, dict):
        raise ModelError(f"{found} is not a model card: it holds {type(base).__name__}")
    out = merged({key: value for key, value in base.items() if key not in _OWN}, own)
    # Terms are one statement: half of it would be another's.
    return {**out, "licence": own["licence"]} if "licence" in own else out


def _lacking(data: Any) -> str | None:
    if not isinstance(data, dict):
        return f"it holds {type(data).__name__}, not a mapping"
    kind = data.get("kind", "model")
    if kind not in REQUIRED:
        return f"kind is {kind!r}, allowed are {', '.join(REQUIRED)}"
    missing = [key for key in REQUIRED[kind] if key not in data]
    if missing:
        return f"it lacks {', '.join(missing)}"
    wrong = [k for k in (kind, "weights") if k in data and not isinstance(data[k], dict)]
    return f"{wrong[0]} must be a mapping" if wrong else None


def card_of(data: Mapping[str, Any], folder: Path) -> ModelCard:
    """The card that the data of a model describe; nothing is resolved.

    Raises
    ------
    ModelError
        If a number is none.
    """
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
            parts={k: data[k] for k in PARTS if k in data},
            weights=dict(data.get("weights") or {}),
            folder=folder,
            extra={k: v for k, v in data.items() if k not in (*_NUMBERS, *PARTS)},
        )
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"the card of {data['id']} in {folder} holds a value of the wrong kind: {error}"
        ) from None


def read_card(path: Path) -> ModelCard:
    """Read and check the card of a model. Components that it names are not put in.

    Raises
    ------
    ModelError
        If it is not one, or a weight lies outside its folder's parent.
    """
    data = read_data(path)
    if data.get("kind", "model") != "model":
        raise ModelError(f"{path} is the card of an {data['kind']}, not of a model")
    if "weights" not in data:
        raise ModelError(f"{path} is not a model card: it lacks weights")
    return card_of(data, path.parent.resolve())
