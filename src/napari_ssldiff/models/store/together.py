"""A model and the components that it names, fetched in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from napari_ssldiff.errors import ModelError, OutputError
from napari_ssldiff.models.entries import Entry, catalogue, newest
from napari_ssldiff.models.resolve import COMPONENTS
from napari_ssldiff.models.store.fetch import fetch
from napari_ssldiff.models.store.work import QUIET, Work

#: Parts without which a model draws nothing, or only fields that were made elsewhere.
_NEEDED = ("autoencoder", "encoder")


@dataclass(frozen=True)
class Outcome:
    """What came of fetching a component.

    Parameters
    ----------
    id
        As it was asked for.
    entry
        What is installed; ``None`` where that failed.
    why
        What went wrong, in one line.
    """

    id: str
    entry: Entry | None
    why: str = ""


def missing_parts(entry: Entry) -> list[Entry]:
    """Known components that a model's card names and that are not installed.

    Those of an encoder's or an autoencoder's card are none.
    """
    found = []
    for part in _NEEDED:
        own = entry.data.get(part) if entry.kind == "model" else None
        ref = own.get("ref") if own else None
        if ref and newest(str(ref), COMPONENTS[part]) is None:
            known = catalogue().get(str(ref).partition("@")[0])
            if known is not None and known.kind == COMPONENTS[part]:
                found.append(known)
    return found


def fetch_parts(
    parts: Sequence[Entry], *, trust_unknown: bool = False, work: Work = QUIET
) -> list[Outcome]:
    """Fetch components whose terms were accepted; one that fails does not stop the others.

    Parameters
    ----------
    parts
        Cards of the catalogue.
    """
    outcomes = []
    for part in parts:
        try:
            entry = fetch(part.id, accept_licence=True, trust_unknown=trust_unknown, work=work)
            outcomes.append(Outcome(part.id, entry))
        except (ModelError, OutputError) as error:
            outcomes.append(Outcome(part.id, None, str(error)))
    return outcomes
