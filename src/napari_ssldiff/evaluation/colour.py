"""Colour: how far the made intensities and tones are from the real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import wasserstein_distance  # type: ignore[import-untyped]
from skimage.color import deltaE_ciede2000, rgb2lab

from napari_ssldiff.evaluation.stats import bootstrap, mean_estimate

Images = NDArray[np.uint8]
_LEVELS = np.arange(256)


def intensity_histograms(images: Images) -> NDArray[np.int64]:
    """``(n, h, w, 3)`` uint8 → ``(n, 3, 256)`` counts."""
    flat = images.reshape(len(images), -1, 3)
    return np.array(
        [[np.bincount(flat[i, :, c], minlength=256) for c in range(3)] for i in range(len(flat))]
    )


def intensity_distance(made: NDArray[np.int64], real: NDArray[np.int64]) -> NDArray[np.float64]:
    """Wasserstein-1 per channel between pooled histograms ``(n, 3, 256)``, in grey levels."""
    a, b = made.sum(0), real.sum(0)
    return np.array([wasserstein_distance(_LEVELS, _LEVELS, a[c], b[c]) for c in range(3)])


def tone_difference(made: Images, real: Images) -> NDArray[np.float64]:
    """CIEDE2000 between the mean colours of pairs of images ``(n, h, w, 3)``: ``(n,)``.

    About 1 is just visible side by side, 5 is plain to see.
    """
    a, b = (rgb2lab(x.reshape(len(x), -1, 3).mean(1) / 255.0) for x in (made, real))
    return np.asarray(deltaE_ciede2000(a, b), np.float64)


def compare_colour(
    made: Images, real: Images, groups: ArrayLike, rng: np.random.Generator, draws: int = 200
) -> dict[str, Any]:
    """Both distances between made and real pictures of the same places, with intervals.

    Parameters
    ----------
    made, real
        ``(n, h, w, 3)`` uint8, pairwise of the same places.
    groups
        Image of every picture; the interval draws images.
    """
    a, b = intensity_histograms(made), intensity_histograms(real)
    channels = intensity_distance(a, b)
    return {
        "wasserstein": bootstrap(
            lambda index: float(intensity_distance(a[index], b[index]).mean()), groups, rng, draws
        ).to_dict(),
        "wasserstein_rgb": channels.tolist(),
        "delta_e_2000": mean_estimate(tone_difference(made, real), groups, rng).to_dict(),
    }
