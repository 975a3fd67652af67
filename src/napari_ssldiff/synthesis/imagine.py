"""From conditions to a field: prompts, where they hold, and what they were read as."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from napari_ssldiff.embeddings.field import EmbeddingField, Vectors
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.synthesis.meaning import meaning
from napari_ssldiff.text.conditions import Condition, Text
from napari_ssldiff.text.layout import mixed, place_weights, read_layout

if TYPE_CHECKING:
    from napari_ssldiff.models.priors import Words


#: Cells around a canvas in which what lies beside it is looked at, at most.
_REACH = 64


@dataclass(frozen=True)
class RegionPrompt:
    """What one region shall show.

    Parameters
    ----------
    region, text
        Where, and what; ``""`` leaves it to the root prompt.
    beside
        It lies beside what is filled and reaches over the border only; it need not.
    without
        Where this lies, it does not hold.
    """

    region: Region
    text: str = ""
    beside: bool = False
    without: Region | None = None


@dataclass(frozen=True)
class Prompt:
    """What an image shall show.

    Parameters
    ----------
    text
        The root in words: wherever no region says otherwise. It may place things ("A beside B").
    negative
        What to keep away from.
    regions
        Prompts of their own, in level-0 pixels; where they overlap the later one holds.
    seed
        0 … 2**63 - 1.
    guidance
        How strictly the field follows the words; ``None``: as
        :meth:`PriorFacts.scale <napari_ssldiff.text.prior.PriorFacts.scale>` has it.
    feather
        Cells over which one meaning fades into another.
    condition
        The root as another kind of condition, in the place of ``text``.
    """

    text: str = ""
    negative: str = ""
    regions: tuple[RegionPrompt, ...] = ()
    seed: int = 0
    guidance: float | None = None
    feather: float = 1.0
    condition: Condition | None = None

    def __post_init__(self) -> None:
        if self.condition is not None and self.text:
            raise InputError("a prompt is words or another condition, not both")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"the seed must be between 0 and 2**63 - 1, got {self.seed}")
        if self.guidance is not None and not 0 <= self.guidance <= 100:
            raise InputError(f"guidance must be between 0 and 100, got {self.guidance}")
        if not 0 <= self.feather <= 1000:
            raise InputError(f"a border fades over 0 to 1000 cells, got {self.feather}")

    @property
    def root(self) -> Condition:
        """What holds wherever no region says otherwise."""
        return Text(self.text) if self.condition is None else self.condition


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


@dataclass(frozen=True, eq=False)
class Laid:
    """Conditions laid over cells.

    Parameters
    ----------
    grid
        ``(rows, columns, d)``: the meaning of every cell.
    notes
        For the user.
    root
        What a history says of the root condition.
    """

    grid: Vectors
    notes: tuple[str, ...]
    root: Mapping[str, Any]


def lay(
    words: Words,
    prompt: Prompt,
    shape: tuple[int, int],
    origin: tuple[float, float],
    cell: tuple[float, float],
) -> Laid:
    """The meaning of every cell.

    Raises
    ------
    InputError
        If a prompt is empty or no word of it is known, or the prior does not take the condition.
    """
    notes: list[str] = []

    def vector(condition: Condition) -> Vectors:
        found = meaning(words, condition)
        notes.extend(found.notes)
        return found.vector

    root, rng = prompt.root, np.random.default_rng([prompt.seed, 0x1A])
    knows = (lambda word: True) if words.text is None else words.text.knows
    layout = read_layout(root.prompt if isinstance(root, Text) else "", knows)
    base = meaning(words, Text(layout.root or root.prompt) if isinstance(root, Text) else root)
    notes.extend(base.notes)
    grid: Vectors = np.broadcast_to(base.vector, (*shape, len(base.vector)))
    if layout.text:
        notes.append(f"read as {layout.text}")
    notes += [
        f"{side!r} places nothing here: say 'A beside B', or 'A on the left, B on the right'"
        for side in layout.unplaced
    ]
    for part in layout.parts:
        weights = place_weights(part.place, shape, prompt.feather, rng)
        if not weights.any():  # one cell has no left and no surroundings
            notes.append(f"{part.prompt!r} has no place: the image has too few cells")
            continue
        grid = mixed(grid, vector(Text(part.prompt)), weights)
    for one in prompt.regions:
        if one.text.strip():
            weights = _inside(one, shape, origin, cell, prompt.feather)
            if not weights.any():
                if one.beside:
                    continue
                why = _missed(one.region, shape, origin, cell)
                notes.append(f"{one.text!r} has no place: its region {why}")
                continue
            grid = mixed(grid, vector(Text(one.text)), weights)
    # The words as they were given, not what is left of them once things have been placed.
    record = {**base.record, "prompt": root.prompt} if isinstance(root, Text) else base.record
    return Laid(np.ascontiguousarray(grid, np.float32), tuple(dict.fromkeys(notes)), record)


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
        If a prompt is empty or no word of it is known, or the prior does not take the condition.
    """
    facts = words.prior.facts
    cell = cell or (float(facts.cell), float(facts.cell))
    laid = lay(words, prompt, shape, origin, cell)
    guided = guidance_of(words, prompt)
    vectors = words.prior.sample(
        laid.grid, shape, prompt.seed, guided.scale,
        negative=guided.away, check=check, progress=progress,
    )  # fmt: skip
    field = EmbeddingField(vectors, origin, cell, facts.encoder, facts.resolution, facts.unit)
    notes = (*laid.notes, *guided.notes)
    return Imagined(field, notes, _record(words, prompt, laid.root, guided))


@dataclass(frozen=True)
class Guidance:
    """How a prior is led.

    Parameters
    ----------
    scale
        Classifier-free guidance.
    interval
        The steps that it leads, as in :class:`~napari_ssldiff.text.prior.PriorFacts`.
    away
        ``(d,)``: what it keeps away from, or ``None``.
    notes
        What the user should know.
    """

    scale: float
    interval: tuple[float, float] | None
    away: Vectors | None
    notes: tuple[str, ...]


def guidance_of(words: Words, prompt: Prompt) -> Guidance:
    """The guidance that a prompt asks of a prior, its negative prompt included."""
    facts = words.prior.facts
    if not prompt.negative.strip():
        return Guidance(facts.scale(prompt.guidance, False), facts.interval(False), None, ())
    away, scale = meaning(words, Text(prompt.negative)), facts.scale(prompt.guidance, True)
    notes = away.notes
    if scale == 1:
        notes = (*notes, "guidance 1 keeps away from nothing: the negative prompt is not heard")
    return Guidance(scale, facts.interval(True), away.vector, notes)


def _inside(
    one: RegionPrompt,
    shape: tuple[int, int],
    origin: tuple[float, float],
    cell: tuple[float, float],
    feather: float,
) -> NDArray[np.float32]:
    """How much of each cell is inside a region, faded over ``feather`` cells."""
    fine = 4
    # What lies beside the canvas reaches into it. A region of the canvas does not fade where that
    # ends, so it is seen as if it went on there.
    reach = min(math.ceil(2 * feather), _REACH) if one.beside else 0
    rows, columns = (n + 2 * reach for n in shape)
    corner = np.asarray(origin) - reach * np.asarray(cell)
    box = Box(0, 0, rows * fine, columns * fine)

    def mask_of(region: Region) -> NDArray[np.float32]:
        moved = Region.from_vertices(np.asarray(region.vertices) - corner)
        return moved.mask(box, (fine / cell[0], fine / cell[1])).astype(np.float32)

    mask = mask_of(one.region)
    if one.without is not None:
        mask *= 1 - mask_of(one.without)
    weights: NDArray[np.float32] = mask.reshape(rows, fine, columns, fine).mean((1, 3))
    if feather > 0:
        weights = gaussian_filter(weights, feather / 2, mode="nearest")
    return weights[reach : reach + shape[0], reach : reach + shape[1]]


def _missed(
    region: Region,
    shape: tuple[int, int],
    origin: tuple[float, float],
    cell: tuple[float, float],
) -> str:
    """Why no cell is inside a region."""
    points = (np.asarray(region.vertices) - np.asarray(origin)) / np.asarray(cell)
    low, high = points.min(0), points.max(0)
    if (high <= 0).any() or (low >= shape).any():
        return "lies outside the image"
    return "is too thin, less than a quarter of a cell"


def _told(one: RegionPrompt) -> dict[str, Any]:
    made: dict[str, Any] = {"region": one.region.to_list(), "text": one.text}
    if one.without is not None:
        made["without"] = one.without.to_list()
    return made


def _record(words: Words, prompt: Prompt, root: Mapping[str, Any], guided: Guidance) -> str:
    made = {
        "made": "prompt", "text": prompt.text, "condition": dict(root), "negative": prompt.negative,
        "regions": [_told(one) for one in prompt.regions],
        "seed": prompt.seed, "guidance": guided.scale, "guidance_interval": guided.interval,
        "feather": prompt.feather,
        "prior": words.card.id, "prior_hash": words.card.hash,
        "text_encoder": None if words.text is None else words.text.name,
    }  # fmt: skip
    return json.dumps(made, sort_keys=True)
