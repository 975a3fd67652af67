"""Do windows show in the picture? Two figures that keep each other honest.

A seam is too much change across a line; blur where windows overlap is too little detail beside it.
Either can be bought with the other, so both are measured, on the picture alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d  # type: ignore[import-untyped]
from scipy.stats import norm, t  # type: ignore[import-untyped]

from napari_ssldiff.evaluation.stats import Estimate, members

Image = NDArray[Any]
Zones = tuple[NDArray[np.bool_], NDArray[np.bool_]]

#: Latents to either side of a line at which its controls lie.
REACH = 8
#: Far below what one grey level in one pixel of a line adds; it keeps flat pictures defined.
_TINY = 1e-9


def ratio_of_means(
    above: Sequence[float],
    below: Sequence[float],
    groups: Sequence[str],
    rng: np.random.Generator,
    draws: int = 1000,
) -> Estimate:
    """Mean of ``above`` over mean of ``below``, pairwise, with a 95 % bootstrap interval.

    Whole groups are drawn. Percentiles of few groups give intervals that are too short; they are
    taken further out, at ``Φ(±sqrt(n / (n - 1)) · t(n - 1))`` (the expanded percentile interval,
    Hesterberg 2015, The American Statistician 69:371).
    """
    parts = members(groups)
    a, b = (
        np.array([np.sum(np.asarray(x, float)[p]) for p in parts]) + _TINY for x in (above, below)
    )
    value, n = float(a.sum() / b.sum()), len(parts)
    if n < 2:
        return Estimate(value, None, len(above), n)
    drawn = rng.integers(0, n, (draws, n))
    far = norm.cdf(np.sqrt(n / (n - 1)) * t.ppf([0.025, 0.975], n - 1))
    low, high = np.quantile(a[drawn].sum(1) / b[drawn].sum(1), far)
    return Estimate(value, (float(low), float(high)), len(above), n)


def inner_lines(size: int, starts: Sequence[int], window: int) -> tuple[int, ...]:
    """Borders of windows strictly inside ``[0, size)``, in the unit of the arguments.

    A line at p lies between p - 1 and p.
    """
    borders = set(starts) | {s + window for s in starts}
    return tuple(sorted(p for p in borders if 0 < p < size))


def line_energy(image: Image, lines: Sequence[int], axis: int) -> NDArray[np.float64]:
    """Mean squared step across each line: ``(len(lines),)``, in grey levels squared.

    Parameters
    ----------
    image
        ``(h, w, 3)``, any number type.
    axis
        0: lines between rows; 1: between columns.
    """
    turned = image if axis == 0 else image.swapaxes(0, 1)
    steps = (turned[p].astype(np.float64) - turned[p - 1] for p in lines)
    return np.array([float(np.mean(step * step)) for step in steps])


def controls(line: int, own: frozenset[int], size: int, factor: int, reach: int) -> list[int]:
    """Where the control lattices put a line: the lattice shifted by ±1…±``reach`` latents.

    Shifts are multiples of the latent factor because a decoder's grain repeats with it. They
    come in pairs, so that a trend across the line cancels; a pair is left out where either half
    meets a line of the lattice itself or the picture's border.
    """
    out: list[int] = []
    for d in range(1, reach + 1):
        pair = line - d * factor, line + d * factor
        if all(0 < p < size and p not in own for p in pair):
            out += pair
    return out


def seam_ratio(
    images: Sequence[Image],
    lines: tuple[Sequence[int], Sequence[int]],
    factor: int,
    rng: np.random.Generator,
    *,
    reach: int = REACH,
    draws: int = 1000,
) -> Estimate | None:
    """``ln`` of the mean gradient energy across own lines over that on control lattices.

    Above 0: lines show. Below 0: they are smoother than their surroundings.

    Parameters
    ----------
    images
        ``(h, w, 3)`` each, uint8 or float, all with the same lines.
    lines
        Own lines between rows and between columns, in pixels; see :func:`inner_lines`.
    factor
        Pixels per latent.
    reach
        In latents.

    Returns
    -------
    With a 95 % bootstrap interval over lines (a line of all images is drawn as one);
    ``None`` where no line has a control.
    """
    own_energy, control_energy, groups = [], [], []
    for image in images:
        for axis in (0, 1):
            own = frozenset(lines[axis])
            for line in sorted(own):
                others = controls(line, own, image.shape[axis], factor, reach)
                if not others:
                    continue
                own_energy.append(line_energy(image, [line], axis)[0])
                control_energy.append(line_energy(image, others, axis).mean())
                groups.append(f"{axis} {line}")
    if not groups:
        return None
    ratio = ratio_of_means(own_energy, control_energy, groups, rng, draws)
    ends = None if ratio.interval is None else tuple(float(np.log(x)) for x in ratio.interval)
    return Estimate(float(np.log(ratio.value)), ends, ratio.count, ratio.groups)  # type: ignore[arg-type]


def seam_score(ratio: Estimate) -> Estimate:
    """``|ln|`` of a :func:`seam_ratio`, its interval folded at 0; 0 is perfect.

    An interval that holds 0 before folding begins at 0 after it. The value itself is hardly ever
    0: chance moves it up whatever its sign was.
    """
    interval = None
    if ratio.interval is not None:
        low, high = ratio.interval
        ends = abs(low), abs(high)
        interval = (0.0 if low <= 0 <= high else min(ends), max(ends))
    return Estimate(abs(ratio.value), interval, ratio.count, ratio.groups)


def effective_windows(
    size: int, starts: Sequence[int], weights: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """How many windows make each place along one axis: ``(Σw)² / Σw²``, ``(size,)``.

    1 where one window alone decides, n where n windows count alike (Kish's effective sample
    size).

    Parameters
    ----------
    starts
        Of the windows, in latents; they may begin before 0 and end beyond ``size``.
    weights
        ``(window,)`` along the axis.
    """
    total, squares = np.zeros(size), np.zeros(size)
    for start in starts:
        first, end = max(0, start), min(size, start + len(weights))
        if end <= first:
            continue
        part = weights[first - start : end - start]
        total[first:end] += part
        squares[first:end] += part * part
    return np.asarray(total**2 / np.maximum(squares, np.finfo(float).tiny))


def zones(effective: NDArray[np.float64], least: float, most: float, margin: int) -> Zones | None:
    """Overlap zones and centres along one axis, as masks over its latents.

    Parameters
    ----------
    effective
        :func:`effective_windows` of the canvas.
    least, most
        Their range on a lattice without end. The upper quarter of it is overlap, the lower
        quarter is centre; a last window that was snapped to the border may lie beyond.
    margin
        Latents at either end that are neither: a network sees the end of the canvas there.

    Returns
    -------
    ``None`` where the lattice makes all places alike (the paper's: sixteen windows each), so that
    there are no centres, or where either kind is missing.
    """
    inside = np.zeros(len(effective), bool)
    inside[margin : len(effective) - margin] = True
    overlap = inside & (effective >= most - 0.25 * (most - least))
    centre = inside & (effective <= least + 0.25 * (most - least))
    if most - least < 0.1 or not overlap.any() or not centre.any():
        return None
    return overlap, centre


def _runs(mask: NDArray[np.bool_]) -> list[slice]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _strips(parts: Zones, factor: int) -> Iterator[tuple[slice, list[slice]]]:
    """Every overlap zone with the centres next to it, in pixels."""

    def pixels(run: slice) -> slice:
        return slice(run.start * factor, run.stop * factor)

    centres = _runs(parts[1])
    for run in _runs(parts[0]):
        before = [c for c in centres if c.stop <= run.start][-1:]
        after = [c for c in centres if c.start >= run.stop][:1]
        yield pixels(run), [pixels(c) for c in before + after]


def band_power(image: Image, factor: int, axis: int) -> NDArray[np.float32]:
    """``(h, w)`` local power of detail along an axis, summed over channels, in grey levels squared.

    The band is that of the derivative of a Gaussian of ``factor / 4`` pixels: its middle is a
    wave of 1.6 latents, the finest that a denoiser decides on.
    """
    power = np.zeros(image.shape[:2], np.float32)
    for channel in range(image.shape[2]):
        plane = np.asarray(image[..., channel], np.float32)
        power += gaussian_filter1d(plane, factor / 4, axis=axis, order=1) ** 2
    return power


def detail(image: Image, factor: int) -> float:
    """Mean :func:`band_power` of a picture over both axes."""
    return float(np.mean([band_power(image, factor, axis).mean(dtype=float) for axis in (0, 1)]))


def overlap_power(
    images: Sequence[Image],
    parts: tuple[Zones | None, Zones | None],
    factor: int,
    piece: int,
    rng: np.random.Generator,
    *,
    draws: int = 1000,
) -> Estimate | None:
    """Band power in overlap zones over that in the centres beside them; 1 is perfect.

    :func:`band_power` is taken *along* the zone, so that a seam, which runs along it too, adds
    nothing: a seam cannot pay for blur.

    Parameters
    ----------
    images
        ``(h, w, 3)`` each, uint8 or float, all with the same zones.
    parts
        Zones over rows and over columns; see :func:`zones`.
    factor
        Pixels per latent.
    piece
        Zones are cut into pieces of so many pixels, which the bootstrap draws.

    Returns
    -------
    With a 95 % interval; ``None`` where there is no zone or no centre beside it.
    """
    zone_power, centre_power, groups = [], [], []
    for axis, part in enumerate(parts):
        if part is None:
            continue
        strips = list(_strips(part, factor))
        for image in images:
            # Zones of the second axis are bands of columns, whose pieces follow each other in y.
            turned = image if axis == 1 else image.swapaxes(0, 1)
            power = band_power(turned, factor, 0)
            for strip, centres in strips:
                for first in range(0, len(power), piece):
                    rows = slice(first, first + piece)
                    zone_power.append(float(power[rows, strip].mean()))
                    centre_power.append(np.mean([power[rows, c].mean() for c in centres]))
                    groups.append(f"{axis} {strip.start} {first}")
    if not groups:
        return None
    return ratio_of_means(zone_power, centre_power, groups, rng, draws)
