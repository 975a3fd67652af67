"""The colours of one source of images given to another: more tissue in the stain that is wanted.

Laboratories stain alike in kind and unlike in amount. A linear map of optical densities that
makes their second moments those of other images keeps white white, and every structure.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Moments = NDArray[np.float64]

#: Brightness of light that passes nothing, as a share of the pixels of a channel.
_WHITE = 99.5
#: Mean optical density of the channels from which a pixel is tissue.
_TISSUE = 0.1
#: Tissue pixels without which an image says nothing about its stain.
_LEAST = 500
#: Added to moments, as a share of their trace: noise of an unstained direction is not amplified.
_FLOOR = 1e-2


def densities(picture: Picture) -> NDArray[np.float32]:
    """``(h, w, 3)`` uint8 → optical densities -ln(I / I0), float32 in [0, 5.6].

    I0 is the 99.5th percentile of each channel, so a tinted lamp becomes white.
    """
    white = np.maximum(np.percentile(picture.reshape(-1, 3), _WHITE, axis=0), 1)
    return -np.log(np.clip(picture / white.astype(np.float32), 1 / 255, 1)).astype(np.float32)


def moments(density: NDArray[np.float32]) -> Moments | None:
    """``(3, 3)`` mean outer product of the tissue's densities, float64; ``None`` without tissue."""
    pixels = density.reshape(-1, 3)
    tissue = pixels[pixels.mean(1) > _TISSUE].astype(np.float64)
    if len(tissue) < _LEAST:
        return None
    out = tissue.T @ tissue / len(tissue)
    return np.asarray(out + _FLOOR * np.trace(out) * np.eye(3))


def palette(pictures: Iterable[Picture]) -> Moments | None:
    """The :func:`moments` usual in several pictures; ``None`` if none shows tissue.

    Of each picture's moments as shares of their trace the mean, times the median trace: one very
    dense picture, of bone or ink, does not decide what is usual.
    """
    found = [m for m in (moments(densities(p)) for p in pictures) if m is not None]
    if not found:
        return None
    amounts = [float(np.trace(m)) for m in found]
    shares = [m / amount for m, amount in zip(found, amounts, strict=True)]
    return np.asarray(np.mean(shares, axis=0) * np.median(amounts))


def recolour(picture: Picture, wanted: Moments) -> Picture:
    """A picture in the stain of others.

    Parameters
    ----------
    picture
        ``(h, w, 3)`` uint8, transmitted light.
    wanted
        :func:`palette` of the others.

    Returns
    -------
    ``(h, w, 3)`` uint8, its densities mapped by the linear optimal transport between centred
    Gaussians of the two second moments, ``A⁻¹ (A W A)^½ A⁻¹`` with ``A`` the root of the
    picture's own (Peyré and Cuturi, *Computational Optimal Transport*, 2019, remark 2.31). One
    without tissue as it was.
    """
    density = densities(picture)
    own = moments(density)
    if own is None:
        return picture
    root = _power(own, 0.5)
    inverse = _power(own, -0.5)
    mapped = density @ (inverse @ _power(root @ wanted @ root, 0.5) @ inverse).astype(np.float32)
    return np.asarray(np.rint(255 * np.exp(-np.maximum(mapped, 0))), np.uint8)


def _power(symmetric: Moments, exponent: float) -> Moments:
    values, vectors = np.linalg.eigh(symmetric)
    return np.asarray(vectors * np.maximum(values, 1e-9) ** exponent @ vectors.T)
