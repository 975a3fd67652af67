"""Bands of a canvas, and the order in which a wavefront of them takes its steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from napari_ssldiff.geometry import Box

#: Of a canvas: where a wavefront begins.
Edge = Literal["top", "bottom", "left", "right"]


@dataclass(frozen=True)
class Facing:
    """A canvas seen with one of its edges on top.

    Bands are planned as rows of windows from the top; this says where they lie for other edges.

    Parameters
    ----------
    edge
        That comes to lie on top: the canvas is mirrored, and transposed if it is one of the sides.
    extent
        ``(h, w)`` of the canvas, in the unit of the boxes.
    """

    edge: Edge
    extent: tuple[int, int]

    @property
    def sideways(self) -> bool:
        """Whether what look like rows are columns of the canvas."""
        return self.edge in ("left", "right")

    @property
    def mirrored(self) -> bool:
        """Whether what comes later lies before, in memory."""
        return self.edge in ("bottom", "right")

    @property
    def shape(self) -> tuple[int, int]:
        """``(h, w)`` of the canvas as it is seen."""
        h, w = self.extent
        return (w, h) if self.sideways else (h, w)

    def seen(self, box: Box) -> Box:
        """A box of the canvas as it is seen."""
        mirrored = self._mirror(box)
        return _transposed(mirrored) if self.sideways else mirrored

    def real(self, box: Box) -> Box:
        """The box of the canvas that is seen as ``box``."""
        return self._mirror(_transposed(box) if self.sideways else box)

    def rows(self, windows: Iterable[Box]) -> list[Box]:
        """Windows as they are seen, row by row from the top."""
        return sorted(map(self.seen, windows), key=lambda w: (w.y, w.x))

    def _mirror(self, box: Box) -> Box:
        h, w = self.extent
        y = h - box.y1 if self.edge == "bottom" else box.y
        x = w - box.x1 if self.edge == "right" else box.x
        return Box(y, x, box.h, box.w)


def _transposed(box: Box) -> Box:
    return Box(box.x, box.y, box.w, box.h)


@dataclass(frozen=True)
class Band:
    """Some rows of windows; columns, from one of the sides.

    Attributes
    ----------
    windows
        In latents of the canvas.
    strip
        The rows (columns) of the canvas that this band settles.
    last
        The last strip that the windows reach.
    """

    windows: tuple[Box, ...]
    strip: Box
    last: int


def plan_bands(
    windows: Sequence[Box], shape: tuple[int, int], least: int, edge: Edge = "top"
) -> list[Band]:
    """Cut a canvas into bands of at least ``least`` windows (the last one may have fewer).

    Parameters
    ----------
    windows
        In any order.
    shape
        ``(h, w)`` of the canvas in latents.
    edge
        Where the first band lies.
    """
    facing = Facing(edge, shape)
    height, width = facing.shape
    groups: list[list[Box]] = []
    for _, row in itertools.groupby(facing.rows(windows), key=lambda w: w.y):
        if groups and len(groups[-1]) < least:
            groups[-1].extend(row)
        else:
            groups.append(list(row))
    tops = [0, *(group[0].y for group in groups[1:]), height]
    bands = []
    for n, group in enumerate(groups):
        end = max(w.y1 for w in group)
        last = max(q for q in range(n, len(groups)) if tops[q] < end)
        strip = Box(tops[n], 0, tops[n + 1] - tops[n], width)
        bands.append(Band(tuple(map(facing.real, group)), facing.real(strip), last))
    return bands


class Wave:
    """Which band takes its next step, and which are done.

    Parameters
    ----------
    bands
        From the first.
    begin, end
        Steps ``begin`` … ``end - 1`` are taken.

    Attributes
    ----------
    done
        The next step of every band.
    first
        The first band that is not done.
    """

    def __init__(self, bands: Sequence[Band], begin: int, end: int) -> None:
        self._bands, self._end = bands, end
        self.done = [begin] * len(bands)
        self.first = 0

    def __iter__(self) -> Iterator[int]:
        """The bands in the order of their steps; a band has taken it when the next is asked for."""
        while self.first < len(self._bands):
            band = next(b for b in range(self.first, len(self._bands)) if self._may(b))
            yield band
            self.done[band] += 1
            while self.first < len(self._bands) and self.done[self.first] == self._end:
                self.first += 1

    def _may(self, b: int) -> bool:
        i = self.done[b]
        before = b == 0 or self.done[b - 1] > i
        return i < self._end and before and self.done[self._bands[b].last] == i


def effort_of(count: int, batch: int, cost: Callable[[float], float]) -> float:
    """What ``count`` windows take in calls of equal size, none larger than ``batch``.

    Parameters
    ----------
    cost
        Of a network call of so many windows, in any unit.
    """
    calls = -(-count // batch)
    return calls * cost(count / calls)


def effort_until(
    bands: Sequence[Band], steps: int, batch: int, cost: Callable[[float], float], rows: int
) -> float:
    """What a wavefront from the top takes until its first ``rows`` rows of latents are final."""
    effort, wave = 0.0, Wave(bands, 0, steps)
    ends = list(itertools.accumulate(band.strip.h for band in bands))
    for band in wave:
        effort += effort_of(len(bands[band].windows), batch, cost)
        final = wave.first + (band == wave.first and wave.done[band] == steps - 1)
        if final and ends[final - 1] >= rows:
            break
    return effort


def early_bands(
    windows: Sequence[Box],
    shape: tuple[int, int],
    batch: int,
    steps: int,
    rows: int,
    cost: Callable[[float], float],
    share: float,
    more: float,
) -> int | None:
    """Windows in a band with which a canvas costs little more and has its first rows far earlier.

    Parameters
    ----------
    windows
        Row by row, from where the first band is to lie.
    batch
        Windows per network call.
    steps
        That are taken.
    rows
        Rows of latents that the first pixels wait for.
    cost
        As for :func:`effort_of`.
    share
        Of what the whole canvas takes: the first ``rows`` must be final after no more.
    more
        What all bands may take beyond the whole canvas, as a share of it.

    Returns
    -------
    The least windows of a band, or ``None`` where no number of them would do.
    """
    whole, heights = effort_of(len(windows), batch, cost), list[int]()
    for _, row in itertools.groupby(windows, key=lambda w: w.y):
        heights.append((heights[-1] if heights else 0) + len(list(row)))
    for least in heights[: len(heights) // 2]:
        bands = plan_bands(windows, shape, least)
        if sum(effort_of(len(band.windows), batch, cost) for band in bands) > (1 + more) * whole:
            continue
        first = effort_until(bands, steps, batch, cost, min(rows, shape[0]))
        # Higher bands finish later still.
        return least if first <= share * whole * steps else None
    return None
