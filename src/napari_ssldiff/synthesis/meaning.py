"""From a condition to the vector that a prior takes, whatever kind of condition it is."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ssldiff.embeddings.field import Vectors, normalise
from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes.scene import PixelSize
from napari_ssldiff.text.captions import classes
from napari_ssldiff.text.conditions import ClassLabel, Condition, Numbers, Pictures, Text
from napari_ssldiff.text.pictures import read_squares

if TYPE_CHECKING:
    from napari_ssldiff.models.priors import Words
    from napari_ssldiff.text.encoder import TextEncoder


@dataclass(frozen=True)
class Meaning:
    """A condition as a prior takes it.

    Parameters
    ----------
    vector
        ``(d,)`` float32, of unit length.
    notes
        Lines for the user.
    record
        What a history says of the condition: its kind and values, pictures by their digest.
    """

    vector: Vectors
    notes: tuple[str, ...]
    record: Mapping[str, Any]


def meaning(words: Words, condition: Condition) -> Meaning:
    """What a condition means to a prior.

    Raises
    ------
    InputError
        If the prior takes another kind; if nothing of a text is known; if there is no such class
        or column; if a number is not finite; if a region is too small or of another domain.
    """
    if isinstance(condition, Numbers):
        columns = words.card.columns
        if columns is None:
            raise refused(words, "numbers")
        vector = columns.vector(condition.values)
        record = {"kind": condition.kind, "values": dict(condition.values)}
        return Meaning(vector, columns.beyond(condition.values), record)
    if words.text is None:
        raise refused(words, {"text": "words", "class": "classes"}.get(condition.kind, "pictures"))
    if isinstance(condition, Text):
        told = words.text.check(condition.prompt)
        (vector,) = words.text.text([condition.prompt])
        record = {"kind": condition.kind, "prompt": condition.prompt}
        return Meaning(vector, (told,) if told else (), record)
    if isinstance(condition, ClassLabel):
        return _of_class(words.card.domain, words.text, condition.name)
    return _of_pictures(words, words.text, condition)


def refused(words: Words, asked: str) -> InputError:
    """What to say where a prior is asked for what it does not take."""
    return InputError(f"{words.card.id} knows no {asked}: it takes {words.card.takes}")


def _of_class(domain: str, text: TextEncoder, asked: str) -> Meaning:
    """The mean of all sentences that say no more than a class."""
    known = classes(domain)
    found = {name.casefold(): name for name in known}.get(asked.strip().casefold())
    if found is None:
        near = difflib.get_close_matches(asked.casefold(), [n.casefold() for n in known], 3, 0.4)
        names = [n for n in known if n.casefold() in near] or list(known)
        there = f"{'near' if near else 'there are'}: {', '.join(names)}" if names else "it has none"
        raise InputError(f"captions of {domain} know no class {asked!r} ({there})")
    vector = normalise(text.text(known[found]).mean(0, keepdims=True))[0]
    return Meaning(vector, (), {"kind": ClassLabel.kind, "name": found})


def _of_pictures(words: Words, text: TextEncoder, condition: Pictures) -> Meaning:
    """The mean of a text encoder's picture side over squares of the regions, each alike."""
    if not condition.references:
        raise InputError("there is no reference: name an image, or choose a region")
    facts, window = words.prior.facts, words.prior.window
    pixel = PixelSize(facts.resolution, facts.resolution, facts.unit)
    means, recorded = [], []
    for one in condition.references:
        squares = read_squares(one, pixel, facts.cell, window)
        # Of unit length, or else a region whose squares differ would count for less.
        means.append(normalise(text.images(squares).mean(0)))
        total = hashlib.sha256()
        for square in squares:
            total.update(square.tobytes())
        b = one.region.bounds
        region: Any = [b.x, b.y, b.w, b.h] if one.region.is_box else one.region.to_list()
        recorded.append({"sha256": total.hexdigest(), "region": region, "squares": len(squares)})
    vector = normalise(np.stack(means).mean(0, keepdims=True))[0]
    return Meaning(vector, (), {"kind": condition.kind, "references": recorded})
