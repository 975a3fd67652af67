"""Fields without bounds from their descriptions, a prior's with the prior that is at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ssldiff.embeddings.endless import Places, places_from_dict
from napari_ssldiff.errors import ModelError
from napari_ssldiff.text.places import PriorPlaces

if TYPE_CHECKING:
    from napari_ssldiff.models.priors import Words


def read_places(
    data: Mapping[str, Any],
    words: Words | None = None,
    *,
    beside: Path | None = None,
    device: str = "cpu",
) -> Places:
    """The places that a ``to_dict`` described.

    Parameters
    ----------
    words
        The prior that sampled them, where one did; looked up among those installed if left out.
    beside
        Folder of a model that need not be installed; its neighbours are looked through first.
    device
        Where a prior that was looked up runs.

    Raises
    ------
    InputError
        If they are of no known kind.
    ModelError
        If the prior is not installed or has other weights.
    """
    if data.get("kind") != "prior":
        return places_from_dict(data)
    words = words or _installed(data, beside, device)
    return PriorPlaces.from_dict(data, words.prior, words.card.hash)


def _installed(data: Mapping[str, Any], beside: Path | None, device: str) -> Words:
    from napari_ssldiff.models.priors import list_priors, load_words

    name, wanted = str(data["prior"]), str(data["prior_hash"])
    own = [card for card in list_priors(beside) if card.id == name]
    if not own:
        raise ModelError(f"the field was sampled by the prior {name}, which is not installed")
    for card in own:
        if card.hash == wanted:
            return load_words(card, device)
    have = ", ".join(card.hash[:12] for card in own)
    raise ModelError(
        f"the field was sampled by {name} ({wanted[:12]}), installed is {have}: install that "
        "version of the prior"
    )
