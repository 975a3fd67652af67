"""Unit vectors drawn around others: the distribution of von Mises and Fisher."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.field import Vectors

#: Largest concentration: vectors move by about a millionth. Far beyond it nothing can be drawn any
#: more, because the cosine at the middle of the envelope is 1 to the last digit.
TIGHTEST = 1e12


def drawn_around(vectors: Vectors, concentration: float, rng: np.random.Generator) -> Vectors:
    """``(…, d)``: one vector drawn around each.

    Parameters
    ----------
    vectors
        Of unit length, with at least two numbers.
    concentration
        Kappa, above 0 and at most :data:`TIGHTEST`.
    """
    d = vectors.shape[-1]
    v = vectors.reshape(-1, d).astype(np.float64)
    w = _cosines(rng, concentration, d, len(v))[:, None]
    noise = rng.normal(size=v.shape)
    noise -= (noise * v).sum(1, keepdims=True) * v
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    drawn = w * v + np.sqrt(np.maximum(0, 1 - w * w)) * noise
    return drawn.astype(np.float32).reshape(vectors.shape)


def _cosines(rng: np.random.Generator, kappa: float, d: int, count: int) -> NDArray[np.float64]:
    """``(count,)`` cosines to the mean direction (Wood 1994, rejection from a beta envelope)."""
    b = (d - 1) / (2 * kappa + np.sqrt(4 * kappa**2 + (d - 1) ** 2))
    x = (1 - b) / (1 + b)
    c = kappa * x + (d - 1) * np.log(1 - x * x)
    out = np.empty(0)
    while len(out) < count:
        z = rng.beta((d - 1) / 2, (d - 1) / 2, count)
        w = (1 - (1 + b) * z) / (1 - (1 - b) * z)
        u = rng.random(count)
        kept = kappa * w + (d - 1) * np.log(1 - x * w) - c >= np.log(u)
        out = np.concatenate([out, w[kept]])
    return out[:count]
