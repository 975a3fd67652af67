"""From card files to model cards: components are put in, variants spelled out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.card import ModelCard, card_of
from napari_ssldiff.models.entries import Entry, Kind, catalogue, newest, way_to
from napari_ssldiff.models.merging import merged

#: The part of a model → the kind of component that it may name.
COMPONENTS: dict[str, Kind] = {
    "encoder": "encoder", "evaluation_encoder": "encoder", "autoencoder": "autoencoder",
}  # fmt: skip
# Of a component's sight; the card's own resolution and unit stand in their place.
_SIGHT = ("resolution", "unit", "patch")


def cards_of(entry: Entry) -> list[ModelCard]:
    """The model cards of a card file: one for each variant, or one.

    Raises
    ------
    ModelError
        If it is of no model, or it names a component that nobody knows.
    """
    if entry.kind != "model":
        raise ModelError(f"{entry.id} is an {entry.kind}, not a model")
    plain = {key: value for key, value in entry.data.items() if key != "variants"}
    variants = entry.data.get("variants") or {}
    if not variants:
        return [_card(plain, entry.folder)]
    cards = []
    for name, changes in variants.items():
        own = merged(plain, changes)
        own["id"] = f"{entry.id}:{name}"
        own.setdefault("variant", str(name))
        if "name" not in changes:
            own["name"] = f"{plain['name']}, {name}"
        cards.append(_card(own, entry.folder))
    return cards


def _card(data: dict[str, Any], folder: Path) -> ModelCard:
    data = {**data, "weights": dict(data.get("weights") or {})}
    for part, kind in COMPONENTS.items():
        if isinstance(data.get(part), Mapping) and "ref" in data[part]:
            data[part] = _component(data, part, kind, folder)
    return card_of(data, folder)


def _component(data: dict[str, Any], part: str, kind: Kind, folder: Path) -> dict[str, Any]:
    """A component's own mapping as part of a model; its weights join those of the model."""
    changes = {key: value for key, value in data[part].items() if key != "ref"}
    ref = data[part]["ref"]
    found = newest(ref, kind)
    known = found or catalogue().get(ref.partition("@")[0])
    if known is None or known.kind != kind:
        raise ModelError(
            f"{data['id']} names the {kind} {ref}, which is neither known nor installed"
        )
    own = merged({"id": known.name, **known.data[kind]}, changes)
    if found is None:
        why = f"{data['id']} is conditioned on {ref}" if kind == "encoder" else (
            f"{data['id']} draws with the autoencoder {ref}")  # fmt: skip
        own |= {"weights": [], "absent": f"{why}, which is not installed: {way_to(known)}"}
    else:
        where = Path(os.path.relpath(found.folder, folder)).as_posix()
        own["weights"] = [f"{where}/{name}" for name in own.get("weights", [])]
        data["weights"] |= {f"{where}/{k}": v for k, v in found.data["weights"].items()}
        facts = {"id": found.id, **(found.data.get("imported") or {})}
        data["components"] = {**data.get("components", {}), part: facts}
        if own.get("library") == "transformers":
            own["name"] = f"{where}/{own['name']}"
    if kind == "encoder":
        own = {**sight(data, own, ref), **{k: v for k, v in own.items() if k not in _SIGHT}}
    return own


def sight(data: Mapping[str, Any], encoder: Mapping[str, Any], ref: str) -> dict[str, int]:
    """How an encoder looks at a cell of a model: ``detail`` and ``patches``.

    An encoder that sees finer than the model reads ``detail`` pixels for each of the model's; where
    a cell is wider than what the encoder sees at once, it sees ``patches`` × ``patches`` of it.

    Raises
    ------
    ModelError
        If the encoder's pixels are no whole fraction of the model's, or of another kind.
    """
    size, unit = encoder.get("resolution"), encoder.get("unit")
    if unit and unit != data["unit"]:
        raise ModelError(f"{data['id']} sees {data['unit']}s, its encoder {ref} {unit}s")
    detail = 1
    if size:
        ratio = float(data["resolution"]) / float(size)
        detail = max(1, round(ratio))
        if ratio > 1 and abs(ratio / detail - 1) > 0.1 and "detail" not in encoder:
            raise ModelError(
                f"{data['id']} has {data['resolution']:g} {data['unit']} per pixel, its encoder "
                f"{ref} {size:g}: the ratio has to be a whole number, or the card must say detail"
            )
    detail = int(encoder.get("detail", detail))
    patches = 1
    if encoder.get("patch"):
        patches = max(1, round(int(data["cell"]) * detail / int(encoder["patch"])))
    return {"detail": detail, "patches": patches}
