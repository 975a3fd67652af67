"""From words to a field: prompts, where they hold, and what they were read as."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from napari_ssldiff.embeddings.field import EmbeddingField, Vectors
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.text.layout import mixed, place_weights, read_layout

if TYPE_CHECKING:
    from napari_ssldiff.models.priors import Words


@dataclass(frozen=True)
class RegionPrompt:
    """What one region shall show; ``""`` leaves it to the root prompt."""

    region: Region
    text: str = ""


@dataclass(frozen=True)
class Prompt:
    """What an image shall show, in words.

    Parameters
    ----------
    text
        The root: wherever no region says otherwise. It may place things ("A beside B").
    negative
        What to keep away from.
    regions
        Prompts of their own, in level-0 pixels; where they overlap the later one holds.
    seed
        0 … 2**63 - 1.
    guidance
        How strictly the field follows the words; ``None``: the prior's own.
    feather
        Cells over which one meaning fades into another.
    """

    text: str
    negative: str = ""
    regions: tuple[RegionPrompt, ...] = ()
    seed: int = 0
    guidance: float | None = None
    feather: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise InputError(f"the seed must be between 0 and 2**63 - 1, got {self.seed}")
        if self.guidance is not None and not 0 <= self.guidance <= 100:
            raise InputError(f"guidance must be between 0 and 100, got {self.guidance}")
        if not 0 <= self.feather <= 1000:
            raise InputError(f"a border fades over 0 to 1000 cells, got {self.feather}")


@dataclass(frozen=True)
class Imagined:
    """A field made of words.

    Parameters
    ----------
    field
        The field.
    notes
        Lines for the user: words that were ignored, how a prompt was read.
    record
        JSON on how it came about, for a request's history.
    """

    field: EmbeddingField
    notes: tuple[str, ...]
    record: str

    @property
    def history(self) -> tuple[str, ...]:
        """A request's ``history``."""
        return (self.record,)


def conditions(
    words: Words,
    prompt: Prompt,
    shape: tuple[int, int],
    origin: tuple[float, float],
    cell: tuple[float, float],
) -> tuple[Vectors, tuple[str, ...]]:
    """``(rows, columns, d)``: the meaning of every cell; and notes for the user.

    Raises
    ------
    InputError
        If a prompt is empty or no word of it is known.
    """
    notes: list[str] = []

    def meaning(text: str) -> Vectors:
        told = words.text.check(text)
        if told:
            notes.append(told)
        (vector,) = words.text.text([text])
        found: Vectors = vector
        return found

    layout, rng = read_layout(prompt.text), np.random.default_rng([prompt.seed, 0x1A])
    root = meaning(layout.root or prompt.text)
    grid: Vectors = np.broadcast_to(root, (*shape, len(root)))
    if layout.text:
        notes.append(f"read as {layout.text}")
    for part in layout.parts:
        weights = place_weights(part.place, shape, prompt.feather, rng)
        grid = mixed(grid, meaning(part.prompt), weights)
    for one in prompt.regions:
        if one.text.strip():
            weights = _inside(one.region, shape, origin, cell, prompt.feather)
            if not weights.any():
                notes.append(f"{one.text!r} has no place: its region lies outside the image")
                continue
            grid = mixed(grid, meaning(one.text), weights)
    return np.ascontiguousarray(grid, np.float32), tuple(dict.fromkeys(notes))


def imagine(
    words: Words,
    prompt: Prompt,
    shape: tuple[int, int],
    origin: tuple[float, float] = (0.0, 0.0),
    cell: tuple[float, float] | None = None,
    *,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Imagined:
    """Make a field from a prompt.

    Parameters
    ----------
    shape
        ``(rows, columns)``.
    origin, cell
        As of :class:`~napari_ssldiff.embeddings.field.EmbeddingField`; by default the frame is that
        of an empty canvas at the encoder's resolution.
    check
        Raises to cancel.
    progress
        Told the sampler's steps.

    Raises
    ------
    InputError
        If a prompt is empty or no word of it is known.
    """
    facts = words.prior.facts
    cell = cell or (float(facts.cell), float(facts.cell))
    grid, notes = conditions(words, prompt, shape, origin, cell)
    against = None
    if prompt.negative.strip():
        told = words.text.check(prompt.negative)
        notes = (*notes, told) if told else notes
        against = words.text.text([prompt.negative])[0]
    vectors = words.prior.sample(
        grid, shape, prompt.seed, prompt.guidance,
        negative=against, check=check, progress=progress,
    )  # fmt: skip
    field = EmbeddingField(vectors, origin, cell, facts.encoder, facts.resolution, facts.unit)
    return Imagined(field, notes, _record(words, prompt))


def _inside(
    region: Region,
    shape: tuple[int, int],
    origin: tuple[float, float],
    cell: tuple[float, float],
    feather: float,
) -> NDArray[np.float32]:
    """How much of each cell is inside a region, faded over ``feather`` cells."""
    fine = 4
    moved = Region.from_vertices(np.asarray(region.vertices) - np.asarray(origin))
    box = Box(0, 0, shape[0] * fine, shape[1] * fine)
    mask = moved.mask(box, (fine / cell[0], fine / cell[1])).astype(np.float32)
    weights: NDArray[np.float32] = mask.reshape(shape[0], fine, shape[1], fine).mean((1, 3))
    if feather > 0:
        weights = gaussian_filter(weights, feather / 2, mode="nearest")
    return weights


def _record(words: Words, prompt: Prompt) -> str:
    facts: dict[str, Any] = asdict(prompt)
    facts["regions"] = [
        {"region": part.region.to_list(), "text": part.text} for part in prompt.regions
    ]
    if prompt.guidance is None:
        facts["guidance"] = words.prior.facts.guidance
    made = {
        "made": "prompt", **facts, "prior": words.card.id, "prior_hash": words.card.hash,
        "text_encoder": words.text.name,
    }  # fmt: skip
    return json.dumps(made, sort_keys=True)
