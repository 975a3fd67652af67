"""Sentences about images, made from facts: what a text encoder learns its words from.

A *statement* says that some facts lie in some parts of their distribution over the training
images: ``trees: (0.7, 1)`` is true of the 30 % of areas with most trees. Captions join a few
statements that are true of an area in one of many forms, so that no word order is the only one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]
_LOW, _HIGH = (0.0, 0.3), (0.7, 1.0)


@dataclass(frozen=True)
class Statement:
    """Something that can be said of an area.

    Parameters
    ----------
    when
        By fact: the quantiles between which it lies.
    phrases
        Ways to say it, as the noun phrase of a sentence.
    label
        Said of areas that carry one of these labels only.
    amounts, things
        Every amount with every thing says it too. A negation that was heard with one thing only
        is learnt as a name for that thing; heard with many, as what it does to any of them.
    kind
        Name of the class of areas that it describes by itself, where there is one.
    """

    when: Mapping[str, Range]
    phrases: tuple[str, ...]
    label: tuple[str, ...] = ()
    kind: str = ""
    amounts: tuple[str, ...] = ()
    things: tuple[str, ...] = ()

    @property
    def crossed(self) -> tuple[str, ...]:
        """Every amount with every thing."""
        return tuple(f"{amount} {thing}" for amount in self.amounts for thing in self.things)

    @property
    def sayings(self) -> tuple[str, ...]:
        """All ways to say it, each once."""
        return tuple(dict.fromkeys((*self.phrases, *self.crossed)))

    def said(self, rng: np.random.Generator) -> str:
        """One way to say it: phrases and crossed ones alike often."""
        crossed = self.crossed
        chosen = crossed if crossed and rng.random() < 0.5 else self.phrases
        return str(rng.choice(chosen))


#: Amounts of what is counted and of what is not.
_MANY = ("many", "numerous", "lots of", "plenty of", "a lot of", "a great number of")
_FEW = (
    "few",
    "no",
    "without",
    "hardly any",
    "barely any",
    "almost no",
    "scarcely any",
    "not many",
    "lacking",
    "very few",
    "without any",
    "free of",
)
_MUCH = ("much", "abundant", "lots of", "plenty of", "a lot of", "a great deal of")
_LITTLE = (
    "little",
    "no",
    "without",
    "hardly any",
    "barely any",
    "almost no",
    "scarcely any",
    "not much",
    "lacking",
    "very little",
    "without any",
    "free of",
)
_NUCLEI = ("nuclei", "cells", "dense nuclei", "crowded cells", "packed nuclei")
_PINK = ("pink", "pink stroma", "eosin", "collagen", "pink matrix", "pink tissue")
_WHITE = ("holes", "lumens", "white spaces", "empty spaces", "open lumens")
_DARK = ("dark staining", "deep colour", "dark cells", "intense stain")
_TREES = ("trees", "large trees", "tall trees", "woods")
_GREEN = ("tree cover", "leafy canopy", "canopy", "woodland")
_GRASS = ("grass", "green grass", "lawn", "green")
_PAVED = ("asphalt", "concrete", "pavement", "paved ground", "parking")
_BRIGHT = ("bright roofs", "white roofs", "warehouses", "big buildings")
_SOIL = ("bare soil", "dry ground", "open land", "dry grass", "brown ground")
_HOUSES = ("houses", "small houses", "homes")


HISTOLOGY = (
    Statement({"nuclei": _HIGH}, (
        "dense nuclei", "many nuclei", "crowded nuclei", "closely packed nuclei", "many cells",
        "high cellularity", "a cellular tissue", "numerous nuclei", "high nuclear density",
    ), amounts=_MANY, things=_NUCLEI),
    Statement({"nuclei": _LOW}, (
        "sparse nuclei", "few nuclei", "scattered nuclei", "hardly any nuclei", "few cells",
        "low cellularity", "low nuclear density", "no crowded nuclei", "without many nuclei",
    ), amounts=_FEW, things=_NUCLEI),
    Statement({"dark": _HIGH}, (
        "dark staining", "deep colour", "a dark tissue", "hyperchromatic cells", "intense stain",
    ), amounts=_MUCH, things=_DARK),
    Statement({"dark": _LOW}, (
        "pale staining", "light colour", "a pale tissue", "weak stain", "no dark staining",
    ), amounts=_LITTLE, things=_DARK),
    Statement({"nuclei": _HIGH, "dark": _HIGH}, (
        "dark crowded nuclei", "dense dark nuclei", "many dark nuclei",
        "crowded hyperchromatic nuclei", "densely packed dark cells",
    )),
    Statement({"nuclei": _LOW, "dark": _LOW}, ("few pale nuclei", "sparse pale cells")),
    Statement({"eosin": _HIGH}, (
        "pink stroma", "eosinophilic stroma", "pink matrix", "abundant eosin", "pink tissue",
        "much pink", "collagen",
    ), amounts=_MUCH, things=_PINK),
    Statement({"eosin": _LOW}, (
        "little eosin", "no pink stroma", "little pink", "without stroma",
    ), amounts=_LITTLE, things=_PINK),
    Statement({"eosin": _HIGH, "nuclei": (0.0, 0.5)}, (
        "pink fibrous stroma", "fibrous stroma", "collagen fibres", "fibrous pink tissue",
        "eosinophilic matrix with few cells",
    )),
    Statement({"white": _HIGH}, (
        "large white spaces", "wide lumens", "many empty spaces", "open lumens", "much white",
        "loose tissue", "holes", "fat",
    ), amounts=_MANY, things=_WHITE),
    Statement({"white": _LOW}, (
        "no white spaces", "no lumens", "solid tissue", "compact tissue", "without empty spaces",
        "no fat",
    ), amounts=_FEW, things=_WHITE),
    Statement({"white": (0.9, 1.0)}, ("empty background", "glass", "nothing but background")),
    Statement({"nuclei": _HIGH, "white": (0.0, 0.6)}, (
        "dense tumour", "cellular tumour", "solid tumour", "crowded tumour cells",
    ), ("Viable", "HER2+ breast tumour section")),
    Statement({"white": (0.0, 0.85)}, ("viable tumour", "living tumour", "tumour"), ("Viable",)),
    Statement({"white": (0.0, 0.85)}, (
        "necrotic tumour", "necrosis", "dead tumour", "non-viable tumour", "treated tumour",
    ), ("Non-Viable-Tumor",)),
    Statement({"white": (0.0, 0.85)}, (
        "normal tissue", "no tumour", "healthy tissue", "benign tissue", "tissue without tumour",
    ), ("Non-Tumor",)),
    Statement({"white": (0.0, 0.85)}, ("breast tumour", "breast tissue", "breast cancer"), (
        "HER2+ breast tumour section",
    )),
)  # fmt: skip

REMOTE_SENSING = (
    Statement({"trees": _HIGH}, (
        "many trees", "large trees", "dense trees", "lots of trees", "big trees", "tall trees",
        "leafy streets", "a green canopy", "tree cover",
    ), amounts=_MANY, things=_TREES),
    Statement({"trees": _LOW}, (
        "few trees", "no trees", "hardly any trees", "without trees", "sparse trees",
        "little vegetation",
    ), amounts=_FEW, things=_TREES),
    Statement({"trees": _HIGH}, ("cover of trees",), amounts=_MUCH, things=_GREEN),
    Statement({"trees": _LOW}, ("no cover of trees",), amounts=_LITTLE, things=_GREEN),
    Statement({"trees": (0.9, 1.0)}, ("woodland", "forest", "a wooded area", "a wood"),
              kind="Woodland"),
    Statement({"grass": _HIGH}, (
        "green lawns", "grass", "lawns", "a park", "green fields", "a sports field", "much grass",
    ), amounts=_MUCH, things=_GRASS),
    Statement({"grass": _LOW}, (
        "no grass", "no lawns", "without grass", "little grass",
    ), amounts=_LITTLE, things=_GRASS),
    Statement({"paved": _HIGH}, (
        "wide paved areas", "asphalt", "much pavement", "wide roads", "paved ground", "concrete",
    ), amounts=_MUCH, things=_PAVED),
    Statement({"paved": _LOW}, (
        "little pavement", "no asphalt", "few roads", "unpaved ground",
    ), amounts=_LITTLE, things=_PAVED),
    Statement({"paved": (0.75, 1.0), "trees": (0.0, 0.4)}, (
        "a car park", "a parking lot", "car parks", "parking lots", "a large car park",
    ), kind="Car park"),
    Statement({"bright": _HIGH}, (
        "large bright roofs", "white roofs", "bright buildings", "big buildings", "warehouses",
    ), amounts=_MANY, things=_BRIGHT),
    Statement({"bright": _LOW}, (
        "no bright roofs", "dark roofs", "no large buildings",
    ), amounts=_FEW, things=_BRIGHT),
    Statement({"bright": (0.6, 1.0), "paved": (0.6, 1.0)}, (
        "a commercial area", "an industrial area", "shops and car parks", "business buildings",
        "an industrial district with warehouses",
    ), kind="Commercial area"),
    Statement({"soil": _HIGH}, (
        "bare soil", "dry ground", "brown fields", "dry grass", "a construction site", "open land",
    ), amounts=_MUCH, things=_SOIL),
    Statement({"soil": _LOW}, (
        "no bare soil", "no dry ground", "without open land",
    ), amounts=_LITTLE, things=_SOIL),
    Statement({"soil": (0.85, 1.0), "detail": (0.0, 0.4)}, (
        "desert", "farmland", "fields", "open country", "empty land",
    ), kind="Open land"),
    Statement({"detail": _HIGH}, (
        "many small houses", "dense housing", "crowded houses", "a dense neighbourhood",
    ), amounts=_MANY, things=_HOUSES),
    Statement({"detail": _LOW}, (
        "no houses", "large open areas", "few buildings", "wide spaces",
    ), amounts=_FEW, things=_HOUSES),
    Statement({"detail": (0.45, 1.0), "paved": (0.0, 0.75), "bright": (0.0, 0.85)}, (
        "a residential neighbourhood", "houses with gardens", "a residential area", "a suburb",
        "family houses", "homes and streets",
    ), kind="Residential area"),
    Statement({"detail": (0.4, 1.0), "trees": _HIGH, "bright": (0.0, 0.85)}, (
        "a residential neighbourhood with large trees", "a leafy suburb", "houses among trees",
        "houses under trees",
    ), kind="Leafy suburb"),
)  # fmt: skip

STATEMENTS: dict[str, tuple[Statement, ...]] = {
    "histology": HISTOLOGY,
    "remote sensing": REMOTE_SENSING,
}
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
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, punctuation and signs left out."""
    return _WORD.findall(text.casefold())


def vocabulary(domain: str) -> frozenset[str]:
    """Every word that captions of a domain can contain."""
    phrases = [p for s in STATEMENTS.get(domain, ()) for p in s.sayings]
    found = {word for text in (*phrases, *_OPENINGS.get(domain, ())) for word in words_of(text)}
    return frozenset(found) | GLUE


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
        name = s.label[0] if len(s.label) == 1 else s.kind
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
