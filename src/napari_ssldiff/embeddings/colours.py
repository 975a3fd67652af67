"""Colours of one encoder that stay: fitted once, kept in the user's cache folder.

Cells of like content then have like colours in every field and every session. The first field of
an encoder that is looked at decides; a prior's own axes would need no fit, but most encoders have
no prior.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from napari_ssldiff.cache import cache_dir
from napari_ssldiff.embeddings.field import EmbeddingField, Vectors, normalise
from napari_ssldiff.embeddings.look import TAIL, Colours, cells_of, fit_colours
from napari_ssldiff.errors import InputError

Method = Literal["pca", "umap"]
#: Cells that UMAP is fitted to at most.
REFERENCE = 2000
#: Reference cells that a cell takes its colour from.
NEIGHBOURS = 8
_CHUNK = 4096


class Palette(Protocol):
    """Colours of embeddings."""

    def __call__(self, vectors: ArrayLike) -> NDArray[np.uint8]:
        """``(…, d)`` → ``(…, 3)`` uint8."""
        ...


@dataclass(frozen=True)
class Placed:
    """Colours of reference cells; others take theirs from the nearest of these.

    Parameters
    ----------
    reference
        ``(n, d)`` unit vectors.
    colours
        ``(n, 3)`` in [0, 1].
    """

    reference: Vectors
    colours: Vectors

    def __call__(self, vectors: ArrayLike) -> NDArray[np.uint8]:
        """``(…, d)`` → ``(…, 3)`` uint8: means weighted by how near, so that a reference cell has
        its own."""
        v = normalise(vectors)
        flat, count = v.reshape(-1, v.shape[-1]), min(NEIGHBOURS, len(self.reference))
        out = np.empty((len(flat), 3), np.float32)
        for first in range(0, len(flat), _CHUNK):
            part = slice(first, first + _CHUNK)
            away = 1 - flat[part] @ self.reference.T
            at = np.argpartition(away, count - 1, axis=1)[:, :count]
            near = 1 / (np.maximum(np.take_along_axis(away, at, 1), 0) + 1e-5)
            out[part] = (self.colours[at] * near[..., None]).sum(1) / near.sum(1, keepdims=True)
        return np.asarray(out.reshape(*v.shape[:-1], 3) * 255 + 0.5, np.uint8)


def fit_umap(field: EmbeddingField, seed: int = 0) -> Placed:
    """Colours by UMAP (McInnes et al. 2018) to three dimensions, by cosine; background left out.

    Raises
    ------
    InputError
        If umap-learn is not installed, or the field has fewer than eight cells.
    """
    need_umap()
    from umap import UMAP

    cells = cells_of(field)
    if len(cells) < 8:
        raise InputError(f"UMAP needs 8 cells or more, got {len(cells)}: open a larger region")
    if len(cells) > REFERENCE:
        rng = np.random.default_rng(seed)
        cells = cells[np.sort(rng.choice(len(cells), REFERENCE, replace=False))]
    fitted = UMAP(
        n_components=3, n_neighbors=min(15, len(cells) - 1), metric="cosine", random_state=seed
    ).fit_transform(cells)
    made = np.asarray(fitted, np.float32)
    low, high = np.quantile(made, (TAIL, 1 - TAIL), axis=0)
    scaled = (made - low) / np.maximum(high - low, 1e-6)
    return Placed(cells, np.clip(scaled, 0, 1).astype(np.float32))


def need_umap() -> None:
    """Raise where UMAP cannot be had.

    Raises
    ------
    InputError
        Which says how to install it.
    """
    if importlib.util.find_spec("umap") is None:
        raise InputError(
            "colours by UMAP need the package umap-learn: pip install 'napari-ssldiff[umap]', or "
            "take PCA"
        )


def kept_colours(encoder: str, width: int, method: Method = "pca") -> Palette | None:
    """The colours of an encoder that were kept; ``None`` where there are none of use."""
    path = _file(encoder, method)
    try:
        tensors = load_file(path)
        first, *others = (tensors[name] for name in _TENSORS[method])
    except (OSError, SafetensorError, KeyError):
        return None
    if first.ndim != 2 or first.shape[1] != width:
        return None
    return Placed(first, others[0]) if method == "umap" else Colours(first, *others)


def colours_for(field: EmbeddingField, method: Method = "pca", anew: bool = False) -> Palette:
    """The colours of a field's encoder: those that were kept, or else fitted to it and kept.

    Parameters
    ----------
    anew
        Fit them to this field, whatever was kept.

    Raises
    ------
    InputError
        As :func:`fit_umap`.
    """
    known = None if anew else kept_colours(field.encoder, field.width, method)
    if known is not None:
        return known
    made = fit_umap(field) if method == "umap" else fit_colours(field)
    _keep(made, field.encoder, method)
    return made


_TENSORS: dict[Method, tuple[str, ...]] = {
    "pca": ("axes", "low", "high"),
    "umap": ("reference", "colours"),
}


def _file(encoder: str, method: Method) -> Path:
    # An encoder's name may hold anything; the digest tells apart what looks alike without it.
    plain = re.sub(r"[^\w.@-]+", "-", encoder)[:80]
    digest = hashlib.sha256(encoder.encode()).hexdigest()[:8]
    return cache_dir() / "colours" / f"{plain}-{digest}-{method}.safetensors"


def _keep(made: Colours | Placed, encoder: str, method: Method) -> None:
    path = _file(encoder, method)
    tensors = {name: np.ascontiguousarray(getattr(made, name)) for name in _TENSORS[method]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        save_file(tensors, partial)
        partial.replace(path)
    except OSError:
        pass  # a cache that cannot be written only costs the colours' staying
