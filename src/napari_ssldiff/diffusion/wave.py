"""Bands of a canvas, and the order in which a wavefront of them takes its steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from napari_ssldiff.geometry import Box


@dataclass(frozen=True)
class Band:
    """Some rows of windows.

    Attributes
    ----------
    windows
        In latents of the canvas.
    strip
        The rows of the canvas that this band settles.
    last
        The last strip that the windows reach.
    """

    windows: tuple[Box, ...]
    strip: Box
    last: int


def plan_bands(
    windows: Sequence[Box], shape: tuple[int, int], least: int, upwards: bool = False
) -> list[Band]:
    """Cut a canvas into bands of at least ``least`` windows (the last one may have fewer).

    Parameters
    ----------
    windows
        Row by row.
    shape
        ``(h, w)`` of the canvas in latents.
    upwards
        The first band is the lowest; otherwise it is the topmost.
    """
    if upwards:  # the same on the canvas upside down
        turned = sorted((_turned(w, shape) for w in windows), key=lambda w: (w.y, w.x))
        return [
            Band(
                tuple(_turned(w, shape) for w in band.windows),
                _turned(band.strip, shape),
                band.last,
            )
            for band in plan_bands(turned, shape, least)
        ]
    groups: list[list[Box]] = []
    for _, row in itertools.groupby(windows, key=lambda w: w.y):
        if groups and len(groups[-1]) < least:
            groups[-1].extend(row)
        else:
            groups.append(list(row))
    tops = [0, *(group[0].y for group in groups[1:]), shape[0]]
    bands = []
    for n, group in enumerate(groups):
        end = max(w.y1 for w in group)
        last = max(q for q in range(n, len(groups)) if tops[q] < end)
        strip = Box(tops[n], 0, tops[n + 1] - tops[n], shape[1])
        bands.append(Band(tuple(group), strip, last))
    return bands


def _turned(box: Box, shape: tuple[int, int]) -> Box:
    return Box(shape[0] - box.y1, box.x, box.h, box.w)


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
    """What a wavefront takes until its first ``rows`` rows of latents are final."""
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
    upwards: bool = False,
) -> int | None:
    """Windows in a band with which a canvas costs little more and has its first rows far earlier.

    Parameters
    ----------
    windows
        Row by row.
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
    upwards
        As for :func:`plan_bands`.

    Returns
    -------
    The least windows of a band, or ``None`` where no number of them would do.
    """
    whole, heights = effort_of(len(windows), batch, cost), list[int]()
    for _, row in itertools.groupby(windows, key=lambda w: w.y):
        heights.append((heights[-1] if heights else 0) + len(list(row)))
    for least in heights[: len(heights) // 2]:
        bands = plan_bands(windows, shape, least, upwards)
        if sum(effort_of(len(band.windows), batch, cost) for band in bands) > (1 + more) * whole:
            continue
        first = effort_until(bands, steps, batch, cost, min(rows, shape[0]))
        # Higher bands finish later still.
        return least if first <= share * whole * steps else None
    return None
