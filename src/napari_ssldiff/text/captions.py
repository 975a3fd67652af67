"""Sentences about images, made from facts: what a text encoder learns its words from.

Captions join a few :mod:`statements <napari_ssldiff.text.statements>` that are true of an area in
one of many forms, so that no word order is the only one. Two areas that lie beside, above or around
each other have captions that say so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.text.statements import STATEMENTS, Statement

#: What a caption may begin with, by domain.
_OPENINGS = {
    "histology": (
        "", "", "a section with", "a slide of", "tissue with", "an image of", "histology of",
        "an area of",
    ),
    "remote sensing": (
        "", "", "an aerial image of", "a place with", "a city area with", "a view of",
        "an area with", "a scene with",
    ),
}  # fmt: skip
_JOINTS = (" with ", " and ", ", ", ", ", " and ", ", with ")
#: Articles and joints that every prompt may use.
GLUE = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "with",
        "and",
        "in",
        "on",
        "it",
        "is",
        "are",
        "that",
        "which",
        "there",
        "some",
    ]
)
#: Place: words that put what follows them into it, what precedes them being the rest.
RELATIONS = {
    "left": ("to the right of", "right of"),
    "right": ("beside", "next to", "to the left of", "left of", "adjacent to"),
    "below": ("above", "on top of", "north of"),
    "above": ("below", "beneath", "under", "south of"),
    "centre": ("surrounding", "around", "encircling", "enclosing"),
    "ring": ("surrounded by", "encircled by", "enclosed by", "inside", "within"),
}
#: Words of these, and other words for places: by themselves they describe nothing.
PLACING = frozenset(
    word for phrases in RELATIONS.values() for phrase in phrases for word in phrase.split()
) | {"top", "bottom", "side", "half", "centre", "center", "middle"}
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, punctuation and signs left out."""
    return _WORD.findall(text.casefold())


def vocabulary(domain: str) -> frozenset[str]:
    """Every word that captions of a domain can contain."""
    phrases = [p for s in STATEMENTS.get(domain, ()) for p in s.sayings]
    if not phrases:
        return GLUE
    placing = [words for said in RELATIONS.values() for words in said]
    texts = (*phrases, *placing, *_OPENINGS.get(domain, ()))
    return GLUE | {word for text in texts for word in words_of(text)}


def heard(domain: str, text: str) -> int:
    """How many words of a text captions of a domain can contain, those of every domain aside."""
    return len((set(words_of(text)) - GLUE) & vocabulary(domain))


def classes(domain: str) -> dict[str, tuple[str, ...]]:
    """The classes that captions of a domain know, each with every sentence that says no more.

    They are the labels of images that captions speak of, and the kinds of areas that facts
    define.
    """
    found: dict[str, tuple[str, ...]] = {}
    openings = dict.fromkeys(_OPENINGS.get(domain, ()))
    for s in STATEMENTS.get(domain, ()):
        name = s.kind or (s.label[0] if len(s.label) == 1 else "")
        if name:
            found[name] = tuple(f"{o} {p}".strip() for p in s.phrases for o in openings)
    return found


class Captions:
    """Makes captions of areas.

    Parameters
    ----------
    domain
        ``"histology"`` or ``"remote sensing"``.
    names
        Of the facts.
    population
        ``(n, facts)``: areas of the training images, whose quantiles the statements speak of.
    """

    def __init__(
        self, domain: str, names: Sequence[str], population: NDArray[np.floating[Any]]
    ) -> None:
        self.domain, self.names = domain, tuple(names)
        self._sorted = np.sort(np.asarray(population, np.float64), 0)
        self.statements = [
            s for s in STATEMENTS.get(domain, ()) if all(name in self.names for name in s.when)
        ]

    def quantiles(self, facts: NDArray[np.floating[Any]]) -> dict[str, float]:
        """Where the ``(facts,)`` of an area lie among the population."""
        n = len(self._sorted)
        return {
            name: float(np.searchsorted(self._sorted[:, i], facts[i])) / n
            for i, name in enumerate(self.names)
        }

    def true_of(self, facts: NDArray[np.floating[Any]], label: str = "") -> list[Statement]:
        """The statements that hold for an area."""
        at = self.quantiles(facts)
        return [
            s
            for s in self.statements
            if (not s.label or label in s.label)
            and all(low <= at[name] <= high for name, (low, high) in s.when.items())
        ]

    def caption(
        self, facts: NDArray[np.floating[Any]], label: str, rng: np.random.Generator
    ) -> str:
        """One sentence about an area; ``""`` where nothing can be said."""
        chosen = self.true_of(facts, label)
        if not chosen:
            return ""
        count = min(len(chosen), 1 + int(rng.choice(4, p=(0.35, 0.35, 0.2, 0.1))))
        order = rng.permutation(len(chosen))[:count]
        parts = [chosen[i].said(rng) for i in order]
        text = parts[0]
        for part in parts[1:]:
            text += _JOINTS[int(rng.integers(len(_JOINTS)))] + part
        opening = str(rng.choice(_OPENINGS.get(self.domain, ("",))))
        return f"{opening} {text}".strip()


def composed(rest: str, there: str, place: str, rng: np.random.Generator) -> str:
    """One sentence about two areas.

    Parameters
    ----------
    rest, there
        Captions of what is everywhere else, and of what is at the place.
    place
        One of :data:`RELATIONS`.
    """
    return f"{rest} {rng.choice(RELATIONS[place])} {there}"
