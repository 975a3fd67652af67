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
    kind
        Name of the class of areas that it describes by itself, where there is one.
    """

    when: Mapping[str, Range]
    phrases: tuple[str, ...]
    label: tuple[str, ...] = ()
    kind: str = ""


HISTOLOGY = (
    Statement({"nuclei": _HIGH}, (
        "dense nuclei", "many nuclei", "crowded nuclei", "closely packed nuclei", "many cells",
        "high cellularity", "a cellular tissue", "numerous nuclei", "high nuclear density",
    )),
    Statement({"nuclei": _LOW}, (
        "sparse nuclei", "few nuclei", "scattered nuclei", "hardly any nuclei", "few cells",
        "low cellularity", "low nuclear density", "no crowded nuclei", "without many nuclei",
    )),
    Statement({"dark": _HIGH}, (
        "dark staining", "deep colour", "a dark tissue", "hyperchromatic cells", "intense stain",
    )),
    Statement({"dark": _LOW}, (
        "pale staining", "light colour", "a pale tissue", "weak stain", "no dark staining",
    )),
    Statement({"nuclei": _HIGH, "dark": _HIGH}, (
        "dark crowded nuclei", "dense dark nuclei", "many dark nuclei",
        "crowded hyperchromatic nuclei", "densely packed dark cells",
    )),
    Statement({"nuclei": _LOW, "dark": _LOW}, ("few pale nuclei", "sparse pale cells")),
    Statement({"eosin": _HIGH}, (
        "pink stroma", "eosinophilic stroma", "pink matrix", "abundant eosin", "pink tissue",
        "much pink", "collagen",
    )),
    Statement({"eosin": _LOW}, ("little eosin", "no pink stroma", "little pink", "without stroma")),
    Statement({"eosin": _HIGH, "nuclei": (0.0, 0.5)}, (
        "pink fibrous stroma", "fibrous stroma", "collagen fibres", "fibrous pink tissue",
        "eosinophilic matrix with few cells",
    )),
    Statement({"white": _HIGH}, (
        "large white spaces", "wide lumens", "many empty spaces", "open lumens", "much white",
        "loose tissue", "holes", "fat",
    )),
    Statement({"white": _LOW}, (
        "no white spaces", "no lumens", "solid tissue", "compact tissue", "without empty spaces",
        "no fat",
    )),
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
    )),
    Statement({"trees": _LOW}, (
        "few trees", "no trees", "hardly any trees", "without trees", "sparse trees",
        "little vegetation",
    )),
    Statement({"trees": (0.9, 1.0)}, ("woodland", "forest", "a wooded area", "a wood"),
              kind="Woodland"),
    Statement({"grass": _HIGH}, (
        "green lawns", "grass", "lawns", "a park", "green fields", "a sports field", "much grass",
    )),
    Statement({"grass": _LOW}, ("no grass", "no lawns", "without grass", "little grass")),
    Statement({"paved": _HIGH}, (
        "wide paved areas", "asphalt", "much pavement", "wide roads", "paved ground", "concrete",
    )),
    Statement({"paved": _LOW}, ("little pavement", "no asphalt", "few roads", "unpaved ground")),
    Statement({"paved": (0.75, 1.0), "trees": (0.0, 0.4)}, (
        "a car park", "a parking lot", "car parks", "parking lots", "a large car park",
    ), kind="Car park"),
    Statement({"bright": _HIGH}, (
        "large bright roofs", "white roofs", "bright buildings", "big buildings", "warehouses",
    )),
    Statement({"bright": _LOW}, ("no bright roofs", "dark roofs", "no large buildings")),
    Statement({"bright": (0.6, 1.0), "paved": (0.6, 1.0)}, (
        "a commercial area", "an industrial area", "shops and car parks", "business buildings",
        "an industrial district with warehouses",
    ), kind="Commercial area"),
    Statement({"soil": _HIGH}, (
        "bare soil", "dry ground", "brown fields", "dry grass", "a construction site", "open land",
    )),
    Statement({"soil": _LOW}, ("no bare soil", "no dry ground", "without open land")),
    Statement({"soil": (0.85, 1.0), "detail": (0.0, 0.4)}, (
        "desert", "farmland", "fields", "open country", "empty land",
    ), kind="Open land"),
    Statement({"detail": _HIGH}, (
        "many small houses", "dense housing", "crowded houses", "a dense neighbourhood",
    )),
    Statement({"detail": _LOW}, ("no houses", "large open areas", "few buildings", "wide spaces")),
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
    phrases = [p for s in STATEMENTS.get(domain, ()) for p in s.phrases]
    found = {word for text in (*phrases, *_OPENINGS.get(domain, ())) for word in words_of(text)}
    return frozenset(found) | GLUE


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
        parts = [str(rng.choice(chosen[i].phrases)) for i in order]
        text = parts[0]
        for part in parts[1:]:
            text += _JOINTS[int(rng.integers(len(_JOINTS)))] + part
        opening = str(rng.choice(_OPENINGS.get(self.domain, ("",))))
        return f"{opening} {text}".strip()
