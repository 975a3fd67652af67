"""Where a model's weights came from, for what its pictures carry. Imports no torch."""

from __future__ import annotations

from typing import Any

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.registry import get_card


def origin_of(model: str, digest: str) -> dict[str, Any]:
    """How an imported model got here.

    Parameters
    ----------
    model
        Its id.
    digest
        :attr:`~napari_ssldiff.models.card.ModelCard.hash` of the weights that were used.

    Returns
    -------
    ``model``: file, sha256, layout, date and ``hash_known``, which is false where nobody but the
    user vouches for the file; likewise ``encoder`` and ``autoencoder`` where they are components.
    Empty for models that were not imported, or are others by now.
    """
    try:
        card = get_card(model)
    except ModelError:
        return {}
    if card.hash != digest:
        return {}
    found = {"model": card.extra.get("imported"), **card.extra.get("components", {})}
    return {part: dict(facts) for part, facts in found.items() if facts}
