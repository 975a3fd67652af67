"""Which models there are, and which one suits a scene. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.entries import (
    BUNDLED,
    Entry,
    catalogue,
    entries_in,
    installed,
    newest,
    read_entry,
    way_to,
)
from napari_ssldiff.models.resolve import cards_of

if TYPE_CHECKING:
    from napari_ssldiff.scenes.scene import Scene


class _Sized(Protocol):
    @property
    def resolution(self) -> float: ...


CardLike = TypeVar("CardLike", bound=_Sized)


def list_models() -> list[ModelCard]:
    """Cards of all models at hand, bundled ones first; a card for each variant of a model.

    Raises
    ------
    ModelError
        If a bundled card is broken. An installed one is left out: :func:`problems` tells of it.
    """
    cards = [card for entry in entries_in(BUNDLED) for card in cards_of(entry)]
    for entry in installed()[0]:
        if entry.kind == "model":
            try:
                cards += cards_of(entry)
            except ModelError:
                continue
    return cards


def problems() -> dict[str, str]:
    """What is wrong with installed cards: the name of the folder → one line."""
    good, bad = installed()
    found = {broken.name: broken.why for broken in bad}
    for entry in good:
        if entry.kind == "model":
            try:
                cards_of(entry)
            except ModelError as error:
                found[entry.folder.name] = str(error)
    return found


def get_card(model: str, resolution: float | None = None) -> ModelCard:
    """The card of a model.

    Parameters
    ----------
    model
        An id, for the newest installed version; ``id@version``; either with ``:variant`` behind;
        or a folder with a card, likewise.
    resolution
        Wanted length of a pixel, in the model's unit: of a model with variants that is named
        without one, the nearest is taken.

    Raises
    ------
    ModelError
        If there is none, it is broken, or a variant has to be named.
    """
    whole, _, variant = model.partition(":")
    own = (e for e in entries_in(BUNDLED) if e.id == whole)
    if entry := next(own, None) or newest(whole, "model"):
        return _of_entry(read_entry(entry.path), variant, resolution)
    for folder, _, variant in ((model, "", ""), model.rpartition(":")):
        if folder and (Path(folder) / "card.yaml").is_file():
            return _of_entry(read_entry(Path(folder) / "card.yaml"), variant, resolution)
    for broken in installed()[1]:
        if whole in (broken.name, broken.name.partition("@")[0]):
            raise ModelError(broken.why)
    if known := catalogue().get(whole.partition("@")[0]):
        if known.kind != "model":
            raise ModelError(f"{whole} is an {known.kind}, not a model")
        raise ModelError(f"{whole} is known, but not installed: {way_to(known)}")
    at_hand = ", ".join(card.id for card in list_models()) or "none installed"
    raise ModelError(f"unknown model {model!r}: known are {at_hand}, or a folder with a card.yaml")


def _of_entry(entry: Entry, variant: str, resolution: float | None = None) -> ModelCard:
    if "weights" not in entry.data:
        raise ModelError(f"{entry.path} is not the card of an installed model: it lacks weights")
    cards = cards_of(entry)
    if not variant and (len(cards) == 1 or resolution is not None):
        return variant_for(cards, cards[0].resolution if resolution is None else resolution)
    for card in cards:
        if variant and card.id.endswith(f":{variant}"):
            return card
    have = ", ".join(card.id for card in cards)
    if variant:
        raise ModelError(f"{entry.id} has no variant {variant!r}: there are {have}")
    raise ModelError(f"{entry.id} has variants, name one: {have}")


def variant_for(cards: Sequence[CardLike], resolution: float) -> CardLike:
    """The card whose pixels are nearest to a length of the same unit, on a log scale.

    Of two that are as near, the finer: it shows what the other one shows, and more.

    Parameters
    ----------
    cards
        At least one.
    """
    finest_first = sorted(cards, key=lambda card: card.resolution)
    return min(finest_first, key=lambda card: round(abs(math.log(card.resolution / resolution)), 9))


def choose_model(scene: Scene, resolution: float | None = None) -> ModelCard:
    """The card nearest to a scene in domain and resolution.

    The unit tells the domain: micrometres are slides, metres and degrees are scenes seen from
    above. Among those the nearest resolution on a log scale wins. A scene without a pixel size
    is taken for histology at the model's own resolution.

    Parameters
    ----------
    resolution
        Of the level that one looks at, in the scene's unit; by default of the scene itself.

    Raises
    ------
    InputError
        If no model has the scene's unit.
    """
    size = scene.encoder_pixel_size
    unit = "micrometer" if size.unit == "pixel" else size.unit
    if scene.crs and size.unit in ("pixel", "degree"):
        unit = "meter"
    fitting = [card for card in list_models() if card.unit == unit]
    if not fitting:
        raise InputError(
            f"no installed model works in {unit}, the unit of {scene.name}: name one with --model"
        )
    if resolution is None and size.unit == "pixel":
        return fitting[0]
    wanted = size.y if resolution is None else resolution
    return min(fitting, key=lambda card: abs(math.log(card.resolution / wanted)))
