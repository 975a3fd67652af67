"""Which card a checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import torch

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.convert import LAYOUTS, convert
from napari_ssldiff.models.entries import catalogue
from napari_ssldiff.models.store.component import card_for, own_parts
from napari_ssldiff.models.store.modules import module_of

# What a conversion may raise on tensors that hold nothing, or on a card of another family.
_WRONG = (ModelError, KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError)


class _Asked(Mapping[str, torch.Tensor]):
    """Tensors that note which names are looked for."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]  # also what goes through all names comes by here

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same names and shapes without their numbers; small ones stay, a layout may read them."""
    return {
        name: tensor if tensor.numel() <= 4096 else tensor.to("meta")
        for name, tensor in tensors.items()
    }


def fitting(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Cards of the catalogue that a checkpoint fits, name by name and shape by shape."""
    shapes, found = shapes_of(tensors), []
    for entry in catalogue().values():
        try:
            parts = convert(shapes, card_for(entry)).parts
        except _WRONG:
            continue
        if "translation" in parts or "translation" not in own_parts(entry):
            found.append(entry.id)
    return found


def _share(tensors: Mapping[str, torch.Tensor], card: ModelCard, parts: list[str]) -> float:
    best = 0.0
    for layout in LAYOUTS:
        asked = _Asked(tensors)
        with suppress(*_WRONG):
            layout.convert(asked, card)
        if len(asked.names) > 8:  # fewer are marks of a layout, no network
            best = max(best, sum(name in tensors for name in asked.names) / len(asked.names))
    # Names of the modules themselves, whatever stands before them.
    ends = {name.split(".", cut)[-1] for name in tensors for cut in range(name.count(".") + 1)}
    own = [name for part in parts for name in module_of(card, part).state_dict()]
    own = [name.removeprefix("network.") for name in own]
    return max(best, sum(name in ends for name in own) / max(len(own), 1))


def nearest(tensors: Mapping[str, torch.Tensor]) -> str:
    """The card that a checkpoint fits, or of whose names it has most; empty where none is near."""
    if fits := fitting(tensors):
        return f"it fits the card {' or '.join(fits)}"
    shapes = shapes_of(tensors)
    shares = {}
    for entry in catalogue().values():
        try:
            shares[entry.id] = _share(shapes, card_for(entry), own_parts(entry))
        except _WRONG:
            continue
    best = max(shares, key=shares.__getitem__, default="")
    if not best or shares[best] < 0.05:
        return ""
    return f"the nearest card is {best}, {shares[best]:.0%} of whose names are there"
