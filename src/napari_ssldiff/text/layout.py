"""What a sentence says about where: "A beside B", "A around B", "A with a car park".

A prior takes a meaning per cell. This module reads the few words of English that place one thing
by another and turns a prompt into areas, each with a prompt of its own; the rest of a sentence is
the text encoder's business. What was read is shown to the user, so nothing is guessed in secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from napari_ssldiff.embeddings.field import slerp
from napari_ssldiff.text.captions import RELATIONS, words_of
from napari_ssldiff.text.statements import STATEMENTS

Weights = NDArray[np.float32]
#: Things that lie somewhere in a scene rather than everywhere.
OBJECTS = (
    "car park", "parking lot", "park", "sports field", "construction site", "wood", "warehouse",
    "lawn", "field", "vessel", "lumen",
)  # fmt: skip
_OBJECT = re.compile(
    r"(?:,|\bwith\b|\band\b)\s+(?:an?|one)\s+((?:\w+\s+)?(" + "|".join(OBJECTS) + r"))\b"
)
_PLACED = "|".join(phrase for phrases in RELATIONS.values() for phrase in phrases)
_PRONOUN = "it|them|this|these|that"
#: "A with B around it".
_TURNED = re.compile(rf"(.+?),?\s+(?:with|and)\s+(.+?)\s+({_PLACED})\s+(?:{_PRONOUN})")
_SIDES = {"left": "left", "right": "right", "top": "above", "bottom": "below"}
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
_SIDE = r"(?:on|at|in) the (left|right|top|bottom)(?: side| half)?"
#: "A on the left, B on the right", and "on the left A, on the right B".
_AFTER = re.compile(rf"(.+?)\s+{_SIDE}\s*[,;]?\s*(?:and\s+|with\s+)?(.+?)(?:\s+{_SIDE})?")
_BEFORE = re.compile(rf"{_SIDE}\s*,?\s*(.+?)\s*[,;]?\s*(?:and\s+)?{_SIDE}\s*,?\s*(.+)")
#: Share of a scene that an object takes.
OBJECT_SHARE = 0.16


@dataclass(frozen=True)
class Part:
    """A place and what is there; ``place`` is one of the words above, or ``"spot"``."""

    place: str
    prompt: str


@dataclass(frozen=True)
class Layout:
    """A prompt taken apart: ``root`` is everywhere that no part is."""

    root: str
    parts: tuple[Part, ...] = ()

    @property
    def text(self) -> str:
        """One line on how a prompt was read; ``""`` where it places nothing."""
        where = {
            "left": "on the left", "right": "on the right", "above": "in the upper half",
            "below": "in the lower half", "centre": "in the centre", "ring": "all around",
            "spot": "in one place",
        }  # fmt: skip
        parts = [f"{where[p.place]}: {p.prompt}" for p in self.parts]
        return "; ".join([f"everywhere: {self.root}", *parts]) if parts else ""

    @property
    def unplaced(self) -> tuple[str, ...]:
        """Sides that are named ("on the left") where nothing was placed by them."""
        texts = (self.root, *(part.prompt for part in self.parts))
        return tuple(dict.fromkeys(side for text in texts for side in re.findall(_SIDE, text)))


def read_layout(prompt: str, knows: Callable[[str], bool] = lambda word: True) -> Layout:
    """Take a prompt apart at the first word of place or by its sides, or else lift objects out.

    What captions say in one breath ("houses under trees") is one meaning and not two places.

    Parameters
    ----------
    knows
        Whether a word means anything to who reads the parts. Objects of other words stay in their
        sentence, where they are told of: by themselves they would be a prompt of nothing.
    """
    text = " ".join(prompt.casefold().split())
    hits = _relations(text)
    for phrase in _sayings():
        for said in re.finditer(rf"\b{re.escape(phrase)}\b", text):
            hits = [h for h in hits if not said.start() <= h[0] < said.end()]
    if hits and (turned := _TURNED.fullmatch(text)):
        return read_layout(f"{turned[2]} {turned[3]} {turned[1]}", knows)
    hits = [h for h in hits if not re.fullmatch(_PRONOUN, text[h[1] :])]
    if hits:
        # At one place the longest phrase is meant: "to the left of" and not "left of".
        start, end, place = min(hits, key=lambda h: (h[0], -h[1]))
        return Layout(text[:start], (Part(place, text[end:]),))
    if sides := _by_sides(text):
        return sides
    parts, at = [], 0
    while hit := _OBJECT.search(text, at):
        if not text[: hit.start()].strip(" ,"):
            break
        if all(map(knows, words_of(hit[2]))):
            parts.append(Part("spot", hit[1]))
            before = text[: hit.start()].rstrip(" ,")
            text, at = (before + text[hit.end() :]).strip(" ,"), len(before)
        else:
            at = hit.end()
    return Layout(text, tuple(parts))


def _by_sides(text: str) -> Layout | None:
    """What lies on which side, where a text says so of one thing and names another."""
    if said := _BEFORE.fullmatch(text):
        side, rest, other, there = said.groups()
    elif said := _AFTER.fullmatch(text):
        rest, side, there, other = said.groups()
    else:
        return None
    place = _SIDES[other] if other else _OPPOSITE[_SIDES[side]]
    return None if place == _SIDES[side] else Layout(rest, (Part(place, there),))


def _relations(text: str) -> list[tuple[int, int, str]]:
    """Every word of place: where it begins and ends, and the place of what follows it."""
    return [
        (hit.start(), hit.end(), place)
        for place, phrases in RELATIONS.items()
        for phrase in phrases
        for hit in re.finditer(rf"(?<=\w)[,;]?\s+{phrase}\s+(?=\w)", text)
    ]


@cache
def _sayings() -> tuple[str, ...]:
    """What captions say that holds a word of place."""
    said = {p for statements in STATEMENTS.values() for s in statements for p in s.sayings}
    return tuple(sorted(phrase for phrase in said if _relations(phrase)))


def place_weights(
    place: str, shape: tuple[int, int], feather: float, rng: np.random.Generator
) -> Weights:
    """``(rows, columns)`` float32 in [0, 1]: how far each cell belongs to a place.

    Parameters
    ----------
    feather
        Cells over which a border fades.
    rng
        Chooses where a spot lies.
    """
    rows, columns = shape
    y, x = np.mgrid[:rows, :columns] + 0.5
    if place in ("left", "right"):
        inside = (x < columns / 2) if place == "left" else (x >= columns / 2)
    elif place in ("above", "below"):
        inside = (y < rows / 2) if place == "above" else (y >= rows / 2)
    else:
        share = OBJECT_SHARE if place == "spot" else 0.4
        radius = np.sqrt(share / np.pi)
        cy, cx = (0.5, 0.5) if place != "spot" else rng.uniform(0.3, 0.7, 2)
        distance = np.hypot((y / rows - cy), (x / columns - cx))
        inside = distance < radius if place != "ring" else distance >= radius
        if place != "ring" and not inside.any():
            # On a few cells the disc may lie between their middles.
            inside = np.arange(distance.size).reshape(shape) == distance.argmin()
    weights: Weights = inside.astype(np.float32)
    if feather > 0:
        weights = gaussian_filter(weights, feather / 2, mode="nearest")
    return weights


def mixed(base: NDArray[np.float32], over: NDArray[np.float32], weights: Weights) -> Weights:
    """``(rows, columns, d)``: conditions on the way from ``base`` to ``over`` along the sphere.

    Parameters
    ----------
    base
        ``(rows, columns, d)``.
    over
        ``(d,)``.
    weights
        ``(rows, columns)`` in [0, 1].
    """
    return slerp(base, np.broadcast_to(over, base.shape), weights)
