"""A card file as what conversion and checks take, whatever kind it is."""

from __future__ import annotations

from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.entries import Entry
from napari_ssldiff.models.resolve import cards_of


def card_for(entry: Entry) -> ModelCard:
    """A model's card, of its first variant; a component's with nothing but the component in it.

    Raises
    ------
    ModelError
        If it names a component that nobody knows.
    """
    if entry.kind == "model":
        return cards_of(entry)[0]
    part = {"id": entry.name, **entry.data[entry.kind]}
    part.setdefault("weights", [])
    return ModelCard(
        id=entry.id,
        name=str(entry.data["name"]),
        domain="",
        description=str(entry.data["description"]),
        resolution=float(part.get("resolution") or 1),
        unit=str(part.get("unit") or "micrometer"),
        window=0,
        cell=int(part.get("patch") or part.get("input") or 0),
        guidance=1.0,
        parts={entry.kind: part},
        weights=dict(entry.data.get("weights") or {}),
        folder=entry.folder,
        extra={},
    )


def own_parts(entry: Entry) -> list[str]:
    """The parts whose weights are the card's own and not a component's."""
    if entry.kind != "model":
        return [entry.kind]
    parts = ("denoiser", "conditioning", "translation", "autoencoder", "encoder")
    return [part for part in parts if part in entry.data and "ref" not in entry.data[part]]
