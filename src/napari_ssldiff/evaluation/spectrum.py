"""Sharpness by the radial power spectrum: what an eye calls blur or grain, in dB per ring."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_ssldiff.evaluation.stats import Estimate, bootstrap

Images = NDArray[Any]

#: Rings between 0 and Nyquist (0.5 cycles per pixel).
RINGS = 16


def ring_power(images: Images, rings: int = RINGS) -> NDArray[np.float64]:
    """Mean power of every image in rings of equal width up to Nyquist.

    Parameters
    ----------
    images
        ``(n, h, w)`` or ``(n, h, w, 3)`` (channels averaged), any number type. A Hann window
        after the mean is taken off keeps the borders' jump out of the spectrum.

    Returns
    -------
    ``(n, rings)``; ring i covers ``[i, i + 1) / (2 * rings)`` cycles per pixel, without the
    mean's own term.
    """
    grey = np.asarray(images, np.float32)
    if grey.ndim == 4:
        grey = grey.mean(-1)
    h, w = grey.shape[1:]
    window = (np.hanning(h)[:, None] * np.hanning(w)[None, :]).astype(np.float32)
    radius = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None, :])
    ring = np.digitize(radius.ravel(), np.linspace(0, 0.5, rings + 1)) - 1
    ring[0] = rings  # the mean's own term, and the corners beyond Nyquist, are in no ring
    counts = np.bincount(ring, minlength=rings + 1)[:rings]
    out = np.empty((len(grey), rings))
    for i, image in enumerate(grey):
        power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
        out[i] = np.bincount(ring, power.ravel(), minlength=rings + 1)[:rings] / counts
    return out


def ring_centres(rings: int = RINGS) -> NDArray[np.float64]:
    """Middle frequency of every ring in cycles per pixel."""
    return np.asarray((np.arange(rings) + 0.5) / (2 * rings))


def power_ratio(made: NDArray[np.float64], real: NDArray[np.float64]) -> NDArray[np.float64]:
    """``10 log10`` of the mean power of ``made`` over that of ``real``, per ring, in dB."""
    tiny = np.finfo(float).tiny
    return np.asarray(10 * np.log10((made.mean(0) + tiny) / (real.mean(0) + tiny)))


def worst(ratio: NDArray[np.float64], limit: float = 0.25) -> float:
    """Largest ``|dB|`` of the rings that lie wholly below ``limit`` cycles per pixel."""
    rings = len(ratio)
    inside = (np.arange(rings) + 1) / (2 * rings) <= limit + 1e-9
    return float(np.abs(ratio[inside]).max())


def compare_power(
    made: Images, real: Images, groups: ArrayLike, rng: np.random.Generator, draws: int = 500
) -> dict[str, Any]:
    """Ring powers of ``made`` over ``real``: per ring, worst up to half Nyquist, mean |dB|.

    Parameters
    ----------
    made, real
        ``(n, h, w, 3)``, pairwise of the same places.
    groups
        Image of every tile; the interval draws images.

    Returns
    -------
    ``frequency`` (cycles/px) and ``ratio_db`` per ring with ``low_db`` and ``high_db``,
    ``worst_db`` to 0.25 cycles/px and ``mean_db`` (mean |dB| up to Nyquist) as estimates.
    """
    a, b = ring_power(made), ring_power(real)
    drawn: list[NDArray[np.float64]] = []

    def far(index: NDArray[np.int64]) -> float:
        drawn.append(power_ratio(a[index], b[index]))
        return worst(drawn[-1])

    most: Estimate = bootstrap(far, groups, rng, draws)
    ratios = np.stack(drawn)
    low, high = np.percentile(ratios, [2.5, 97.5], axis=0)
    mean = np.abs(ratios).mean(1)
    interval = None
    if most.interval is not None:
        interval = (float(np.percentile(mean[1:], 2.5)), float(np.percentile(mean[1:], 97.5)))
    return {
        "frequency": ring_centres().tolist(),
        "ratio_db": ratios[0].tolist(),
        "low_db": low.tolist(),
        "high_db": high.tolist(),
        "worst_db": most.to_dict(),
        "mean_db": Estimate(float(mean[0]), interval, most.count, most.groups).to_dict(),
    }


def psnr(made: Images, real: Images) -> NDArray[np.float64]:
    """PSNR in dB of every uint8 image against its real one: ``(n,)``.

    Identical images would have none; they are given 99 dB.
    """
    out = np.empty(len(made))
    for i, (a, b) in enumerate(zip(made, real, strict=True)):
        error = float(np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2))
        out[i] = 10 * np.log10(255**2 / max(error, 255**2 / 10**9.9))
    return out


def pooled_psnr(each: NDArray[np.float64]) -> float:
    """PSNR in dB of all pixels of images of one size, from each image's own."""
    return float(-10 * np.log10(np.mean(10 ** (-each / 10))))
