"""How large a download is, and how sure that is. Asks no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from napari_ssldiff.models.entries import Entry
from napari_ssldiff.models.store.places import in_words


@dataclass(frozen=True)
class Amount:
    """A number of bytes.

    Parameters
    ----------
    size
        In bytes.
    basis
        ``"exact"``: of the files, as their host or the card has them. ``"published"``: rounded by
        who published it. ``"parameters"``: what the weights take once they are installed, counted
        from their number; a checkpoint may hold more.
    """

    size: int
    basis: Literal["exact", "published", "parameters"] = "exact"

    @property
    def exact(self) -> bool:
        """Whether it is known to the byte."""
        return self.basis == "exact"

    @property
    def short(self) -> str:
        """For a table: ``"704 MB"`` or ``"~2.43 GB"``."""
        return in_words(self.size) if self.exact else f"~{in_words(self.size)}"

    @property
    def told(self) -> str:
        """In words, of a download."""
        if self.basis == "published":
            return f"about {in_words(self.size)}, as published"
        if self.basis == "parameters":
            return f"size not known; about {in_words(self.size)} once it is installed"
        return in_words(self.size)


def source_amount(source: Mapping[str, Any]) -> Amount | None:
    """All files of a source, as far as its card says it."""
    sizes = [file.get("size") for file in source.get("files") or []]
    if sizes and all(sizes):
        return Amount(int(sum(sizes)))
    about = source.get("size_about")
    return Amount(int(about), "published") if about else None


def download_amount(entry: Entry, number: int = 1) -> Amount | None:
    """The download of a card's source, counted from 1; ``None`` where nobody has said."""
    sources = entry.data.get("sources") or []
    found = source_amount(sources[number - 1]) if 0 < number <= len(sources) else None
    installed = (entry.data.get("sizes") or {}).get("installed_bytes")
    return found or (Amount(int(installed), "parameters") if installed else None)
