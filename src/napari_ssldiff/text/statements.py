"""What can be said of an area, and when: by facts of its pixels and by labels of its image.

A *statement* says that some facts lie in some parts of their distribution over the training
images: ``trees: (0.7, 1)`` is true of the 30 % of areas with most trees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

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
        Name of the class of areas that it describes by itself, where there is one; that of a
        statement about one label is otherwise the label.
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
_NONE = ("no", "without", "hardly any", "barely any", "almost no", "scarcely any")
_FREE = ("without any", "free of")
_FEW = ("few", *_NONE, "not many", "lacking", "very few", *_FREE)
_MUCH = ("much", "abundant", "lots of", "plenty of", "a lot of", "a great deal of")
_LITTLE = ("little", *_NONE, "not much", "lacking", "very little", *_FREE)
_NUCLEI = ("nuclei", "cells", "dense nuclei", "crowded cells", "packed nuclei")
_PINK = ("pink", "pink stroma", "eosin", "collagen", "pink matrix", "pink tissue")
_WHITE = ("holes", "lumens", "white spaces", "empty spaces", "open lumens")
_FIBRES = ("fibres", "fibrous tissue", "collagen fibres", "stroma", "eosinophilic stroma")
_FAT = ("fat", "fat cells", "adipose tissue", "adipocytes")
_DARK = (
    "dark staining",
    "deep colour",
    "dark cells",
    "intense stain",
    "dark tumour cells",
    "hyperchromatic cells",
)
_TREES = ("trees", "single trees", "street trees", "tree crowns")
_WOODS = ("large trees", "tall trees", "woods", "forests", "wooded areas")
_GREEN = ("tree cover", "leafy canopy", "canopy", "woodland")
_GRASS = ("grass", "green grass", "lawn", "green")
_LAWNS = ("lawns", "parks", "sports fields")
_PLANTS = ("vegetation", "plants", "greenery", "green cover")
_PAVED = ("asphalt", "concrete", "pavement", "paved ground", "parking")
_LOTS = ("parking lots", "large car parks", "wide roads")
_BRIGHT = ("bright roofs", "white roofs", "warehouses", "big buildings")
_BUILT = ("buildings", "roofs", "built ground", "rooftops")
_SOIL = ("bare soil", "dry ground", "open land", "dry grass", "brown ground")
_FIELDS = ("dry fields", "bare fields", "sandy places")
_HOUSES = ("houses", "small houses", "homes")


#: Of the Californian places where the aerial images were taken, as their table calls them.
_CITIES = (
    "bishop", "chico", "claremont", "eureka", "long_beach", "palm_springs", "riverside",
    "santa_monica",
)  # fmt: skip


def _city(label: str) -> Statement:
    name = label.replace("_", " ").title()
    phrases = (
        name, f"in {name}", f"the city of {name}", f"a place in {name}", f"streets of {name}",
        f"a neighbourhood of {name}",
    )  # fmt: skip
    return Statement({}, phrases, (label,), kind=name)


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
    ), amounts=_MUCH, things=(*_PINK, *_FIBRES)),
    Statement({"eosin": _LOW}, (
        "little eosin", "no pink stroma", "little pink", "without stroma",
    ), amounts=_LITTLE, things=(*_PINK, *_FIBRES)),
    Statement({"eosin": _HIGH, "nuclei": (0.0, 0.5)}, (
        "pink fibrous stroma", "fibrous stroma", "collagen fibres", "fibrous pink tissue",
        "eosinophilic matrix with few cells",
    )),
    Statement({"white": _HIGH}, (
        "large white spaces", "wide lumens", "many empty spaces", "open lumens", "much white",
        "loose tissue", "holes",
    ), amounts=_MANY, things=_WHITE),
    Statement({"white": _LOW}, (
        "no white spaces", "no lumens", "solid tissue", "compact tissue", "without empty spaces",
        "no fat",
    ), amounts=_FEW, things=_WHITE),
    Statement({"white": (0.9, 1.0)}, ("empty background", "glass", "nothing but background")),
    Statement({"fat": (0.85, 1.0)}, (
        "fat", "fat cells", "adipose tissue", "adipocytes", "round empty fat cells",
    ), amounts=_MANY, things=_FAT),
    Statement({"fat": (0.0, 0.3), "white": (0.0, 0.5)}, ("without fat",),
              amounts=_LITTLE, things=_FAT),
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
    Statement({"crowns": _HIGH}, (
        "many trees", "lots of trees", "many single trees", "many tree crowns", "street trees",
    ), amounts=_MANY, things=_TREES),
    Statement({"crowns": _LOW}, (
        "few trees", "no trees", "hardly any trees", "without trees", "sparse trees",
    ), amounts=_FEW, things=_TREES),
    Statement({"trees": _HIGH}, (
        "large trees", "dense trees", "big trees", "tall trees", "leafy streets",
        "a green canopy", "tree cover",
    ), amounts=_MANY, things=_WOODS),
    Statement({"trees": _LOW}, (
        "no trees", "without trees", "without large trees", "no forest", "without forest",
        "no woods", "a place without trees",
    ), amounts=_FEW, things=_WOODS),
    Statement({"vegetated": _HIGH}, (
        "much vegetation", "a green area", "lush vegetation", "plants", "green cover",
    ), amounts=_MUCH, things=_PLANTS),
    Statement({"vegetated": _LOW}, (
        "little vegetation", "no vegetation", "bare of plants", "an area without green",
    ), amounts=_LITTLE, things=_PLANTS),
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
    Statement({"grass": _HIGH}, ("lawns and parks",), amounts=_MANY, things=_LAWNS),
    Statement({"grass": _LOW}, ("no lawns and no parks",), amounts=_FEW, things=_LAWNS),
    Statement({"paved": _HIGH}, ("wide roads and car parks",), amounts=_MANY, things=_LOTS),
    Statement({"paved": _LOW}, (
        "no car parks", "without car parks", "no parking lots",
    ), amounts=_FEW, things=_LOTS),
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
    Statement({"soil": _HIGH}, ("dry fields",), amounts=_MANY, things=_FIELDS),
    Statement({"soil": _LOW}, ("no dry fields",), amounts=_FEW, things=_FIELDS),
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
    Statement({"built": _HIGH}, (
        "a built area", "many roofs", "many rooftops", "buildings close together",
        "a densely built area",
    ), amounts=_MANY, things=_BUILT, kind="Built area"),
    Statement({"built": _LOW}, (
        "hardly any buildings", "few roofs", "no rooftops", "an unbuilt area", "unbuilt land",
    ), amounts=_FEW, things=_BUILT),
    Statement({"grid": _HIGH, "detail": (0.3, 1.0)}, (
        "straight streets", "a grid of streets", "streets at right angles", "straight roads",
        "a regular street pattern", "streets in a grid", "rows of houses",
    ), kind="Grid of streets"),
    Statement({"grid": _LOW, "detail": (0.3, 1.0), "trees": (0.0, 0.9)}, (
        "winding streets", "curved streets", "curved roads", "winding roads",
        "an irregular street pattern", "irregular streets", "no straight streets",
    ), kind="Winding streets"),
    *(_city(label) for label in _CITIES),
)  # fmt: skip

STATEMENTS: dict[str, tuple[Statement, ...]] = {
    "histology": HISTOLOGY,
    "remote sensing": REMOTE_SENSING,
}
