"""Memorisation: does a sample repeat a place of the training images?

The statistic is the best normalised cross-correlation (NCC) of a window's luminance with any
place of any training image, over all shifts and the 8 symmetries of the square. What counts as
repeated is set by real windows that no training saw: their 99th percentile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft  # type: ignore[import-untyped]
from numpy.typing import NDArray

from napari_ssldiff.evaluation.stats import Estimate, members, resample

Grey = NDArray[np.float32]

#: Standard deviation in grey levels below which a window is flat and has no pattern to repeat.
FLAT = 3.0
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # Rec. 709


def luminance(pictures: NDArray[np.uint8], shrink: int = 4) -> Grey:
    """``(…, h, w, 3)`` uint8 → ``(…, h // shrink, w // shrink)`` float32, area-averaged."""
    grey = pictures.astype(np.float32) @ _LUMINANCE
    h, w = (n // shrink * shrink for n in grey.shape[-2:])
    cut = grey[..., :h, :w]
    blocks = cut.reshape(*cut.shape[:-2], h // shrink, shrink, w // shrink, shrink)
    return np.asarray(blocks.mean(axis=(-3, -1)), np.float32)


def symmetry(picture: NDArray[Any], which: int) -> NDArray[Any]:
    """One of the 8 symmetries of a square: ``which % 4`` quarter turns, mirrored from 4 on.

    The first two axes are turned.
    """
    turned = np.rot90(picture, which % 4)
    return turned[:, ::-1] if which >= 4 else turned


@dataclass(frozen=True)
class Match:
    """The best place found for one window.

    Parameters
    ----------
    ncc
        In [-1, 1]; -1 where nothing but flat places were compared.
    image
        Index of the image that holds it.
    y, x
        Its corner, in pixels of that image.
    symmetry
        What the *window* must be turned by to lie on the place, as :func:`symmetry` counts.
    """

    ncc: float
    image: int
    y: int
    x: int
    symmetry: int


class PlaceIndex:
    """Images prepared for the search of one window size.

    Parameters
    ----------
    images
        ``(h, w)`` luminance, of any sizes; those smaller than the window are passed over.
    size
        Edge of the windows.
    threads
        For the transforms.
    """

    def __init__(self, images: Sequence[Grey], size: int, threads: int = 1) -> None:
        self.size, self._threads = size, threads
        self._stacks: list[tuple[NDArray[np.int64], tuple[int, int], Any, Grey]] = []
        shapes: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(images):
            if min(image.shape) >= size:
                shapes.setdefault((image.shape[0], image.shape[1]), []).append(i)
        for shape, index in shapes.items():
            stack = np.stack([images[i] for i in index])
            # The mean of a window drops out against a zero-mean template; taking the image's
            # own off first keeps the float32 transform exact enough.
            stack = stack - stack.mean((1, 2), keepdims=True)
            spectra = scipy.fft.rfft2(stack, workers=threads)
            self._stacks.append((np.array(index), shape, spectra, self._inverse_norm(stack)))

    def _inverse_norm(self, stack: Grey) -> Grey:
        """``1 / |window - mean|`` of every window, 0 for flat ones: ``(n, h', w')``."""
        n = self.size

        def sums(x: NDArray[np.float64]) -> NDArray[np.float64]:
            total = np.pad(x.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
            return np.asarray(
                total[:, n:, n:] - total[:, :-n, n:] - total[:, n:, :-n] + total[:, :-n, :-n]
            )

        x = stack.astype(np.float64)
        energy = np.maximum(sums(x * x) - sums(x) ** 2 / n**2, 0)
        flat = energy < FLAT**2 * n**2
        return np.where(flat, 0, 1 / np.sqrt(np.where(flat, 1, energy))).astype(np.float32)

    def best(self, window: Grey) -> Match | None:
        """The best place for one ``(size, size)`` window; ``None`` if the window is flat."""
        template = window - window.mean()
        length = float(np.linalg.norm(template))
        if length < FLAT * self.size:
            return None
        template = template / length
        found = Match(-1.0, -1, 0, 0, 0)
        for index, shape, spectra, inverse in self._stacks:
            for which in range(8):
                turned = np.conj(scipy.fft.rfft2(symmetry(template, which), shape))
                # Circular correlation; every shift that keeps the window inside is free of wrap.
                ncc = scipy.fft.irfft2(spectra * turned, shape, workers=self._threads)
                ncc = ncc[:, : inverse.shape[1], : inverse.shape[2]] * inverse
                at = int(ncc.argmax())
                value = float(ncc.flat[at])
                if value > found.ncc:
                    n, y, x = np.unravel_index(at, ncc.shape)
                    found = Match(min(value, 1.0), int(index[n]), int(y), int(x), which)
        return found


def share_above(
    samples: Sequence[float],
    sample_groups: Sequence[str],
    reference: Sequence[float],
    reference_groups: Sequence[str],
    rng: np.random.Generator,
    percentile: float = 99.0,
    draws: int = 1000,
) -> dict[str, Any]:
    """Share of samples above a percentile of the real windows' statistic.

    The interval redraws the images of both sets, so it holds the threshold's uncertainty too.
    By chance the share is ``1 - percentile / 100``.
    """
    a, b = np.asarray(samples, float), np.asarray(reference, float)
    threshold = float(np.percentile(b, percentile))
    share = float((a > threshold).mean())
    ours, theirs = members(sample_groups), members(reference_groups)
    interval = None
    if len(ours) > 1 and len(theirs) > 1:
        drawn = []
        for _ in range(draws):
            limit = np.percentile(b[resample(theirs, rng)], percentile)
            drawn.append(float((a[resample(ours, rng)] > limit).mean()))
        low, high = np.percentile(drawn, [2.5, 97.5])
        interval = (float(low), float(high))
    return {
        "share": Estimate(share, interval, len(a), len(ours)).to_dict(),
        "threshold": threshold,
        "percentile": percentile,
        "reference": {"n": len(b), "images": len(theirs), "median": float(np.median(b))},
        "samples": {"median": float(np.median(a)), "max": float(a.max())},
    }


Scored = tuple[Sequence[float], Sequence[str]]


def excess(
    seen: Scored,
    unseen: Scored,
    reference: Scored,
    rng: np.random.Generator,
    percentile: float = 99.0,
    draws: int = 1000,
) -> dict[str, Any]:
    """How much more often samples of seen images lie above a percentile than those of unseen ones.

    Parameters
    ----------
    seen, unseen, reference
        Values and the image of each. Images of the reference may be the unseen ones: a draw of
        the bootstrap takes an image in both or in neither.

    Returns
    -------
    ``training``, ``held_out`` and ``difference``, each an estimate with its interval over images.
    """
    (a, ours), (b, theirs), (r, names) = ((np.asarray(v, float), list(g)) for v, g in
                                          (seen, unseen, reference))  # fmt: skip

    def shares(
        at: NDArray[np.int64], beside: NDArray[np.int64], among: NDArray[np.int64]
    ) -> tuple[float, float]:
        limit = np.percentile(r[among], percentile)
        return float((a[at] > limit).mean()), float((b[beside] > limit).mean())

    values = shares(np.arange(len(a)), np.arange(len(b)), np.arange(len(r)))
    pool = sorted({*theirs, *names})
    of_theirs = {name: np.flatnonzero(np.array(theirs) == name) for name in pool}
    of_names = {name: np.flatnonzero(np.array(names) == name) for name in pool}
    parts, drawn = members(ours), []
    for _ in range(draws if len(parts) > 1 and len(set(theirs)) > 1 else 0):
        chosen = [pool[i] for i in rng.integers(0, len(pool), len(pool))]
        beside = np.concatenate([of_theirs[name] for name in chosen])
        among = np.concatenate([of_names[name] for name in chosen])
        if len(beside) and len(among):
            drawn.append(shares(resample(parts, rng), beside, among))

    def estimate(
        value: float, draws: NDArray[np.float64], count: int, groups: int
    ) -> dict[str, Any]:
        interval = None
        if len(draws):
            low, high = np.percentile(draws, [2.5, 97.5])
            interval = (float(low), float(high))
        return Estimate(value, interval, count, groups).to_dict()

    x, y = np.array(drawn, float).reshape(-1, 2).T
    return {
        "training": estimate(values[0], x, len(a), len(set(ours))),
        "held_out": estimate(values[1], y, len(b), len(set(theirs))),
        "difference": estimate(
            values[0] - values[1], x - y, len(a) + len(b), len(set(ours)) + len(set(theirs))
        ),
    }
