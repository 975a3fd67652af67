"""Fields without bounds: embeddings at any place, from something finite.

They are what :class:`~napari_ssldiff.embeddings.field.EmbeddingField` is to a region: ``sample``
gives unit vectors at any points. None of them holds more than what it was made from, and what a
budget of bytes allows.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_ssldiff.embeddings.control_points import ControlPoints
from napari_ssldiff.embeddings.field import EmbeddingField, Vectors, normalise
from napari_ssldiff.errors import InputError


class Places(Protocol):
    """Embeddings by place."""

    @property
    def width(self) -> int:
        """Length of a vector."""
        ...

    @property
    def encoder(self) -> str:
        """Identifier of the encoder that made them."""
        ...

    @property
    def digest(self) -> str:
        """sha256 over all that the vectors depend on."""
        ...

    def sample(self, y: ArrayLike, x: ArrayLike) -> Vectors:
        """float32 unit vectors at points that broadcast together, plus ``(d,)``."""
        ...

    def glance(self, y: ArrayLike, x: ArrayLike) -> Vectors:
        """As ``sample``, at once: where a vector takes long to find, the one to be expected."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible form; :func:`places_from_dict` restores equal places."""
        ...


def places_from_dict(data: Mapping[str, Any]) -> Places:
    """The places that a ``to_dict`` described, those that need no network.

    Those of a prior are read by :func:`napari_ssldiff.synthesis.places.read_places`.

    Raises
    ------
    InputError
        If they are of no known kind.
    """
    kinds: dict[str, Callable[[Mapping[str, Any]], Places]] = {
        "mirrored": MirroredField.from_dict,
        "territories": Territories.from_dict,
        "control points": ControlPoints.from_dict,
    }
    read = kinds.get(data.get("kind", ""))
    if read is None:
        raise InputError(
            f"places of the kind {data.get('kind')!r} are not known: {', '.join(kinds)}"
        )
    return read(data)


def _reflect(at: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Fold a line onto [low, high], back and forth."""
    span = high - low
    t = np.mod(at - low, 2 * span)
    return np.asarray(low + np.where(t > span, 2 * span - t, t))


@dataclass(frozen=True)
class MirroredField:
    """A field that goes on as its own mirror image, again and again, without an edge.

    Parameters
    ----------
    field
        What is repeated; coordinates are its own, so that within its bounds it is the field.
    """

    field: EmbeddingField

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self.field.width

    @property
    def encoder(self) -> str:
        """Identifier of the encoder that made them."""
        return self.field.encoder

    @property
    def digest(self) -> str:
        """sha256 over all that the vectors depend on."""
        return hashlib.sha256(f"mirrored {self.field.digest}".encode()).hexdigest()

    def sample(self, y: ArrayLike, x: ArrayLike) -> Vectors:
        """float32 unit vectors at points in the field's pixels, plus ``(d,)``."""
        at = []
        for values, first, cell, count in zip(
            (y, x), self.field.origin, self.field.cell, self.field.shape, strict=True
        ):
            places = np.asarray(values, np.float64)
            at.append(_reflect(places, first, first + cell * count))
        return self.field.sample(*at)

    def glance(self, y: ArrayLike, x: ArrayLike) -> Vectors:
        """As :meth:`sample`, which never takes long."""
        return self.sample(y, x)

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible form."""
        return {"kind": "mirrored", "field": self.field.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MirroredField:
        """The places that :meth:`to_dict` described."""
        return cls(EmbeddingField.from_dict(data["field"]))


@dataclass(frozen=True, eq=False)
class Territories:
    """Prototypes that share the plane out among them, with soft borders.

    Every prototype has a smooth random height over the plane; the softmax of the heights mixes
    the prototypes, and the mixture is brought back to the unit sphere. Heights are value noise:
    standard normal numbers at the points of a square lattice, keyed by (seed, prototype, row,
    column), with a smooth transition in between. So the vector at a place depends on the place
    alone.

    Parameters
    ----------
    prototypes
        ``(n, d)`` unit vectors, n >= 1.
    scale
        Distance of the lattice's points, in pixels: how large territories are.
    sharpness
        How sudden borders are; 0 mixes all prototypes everywhere.
    seed
        0 … 2**63 - 1.
    encoder
        Identifier of the encoder that made the prototypes.

    Raises
    ------
    InputError
        If there are no prototypes, or scale or sharpness cannot be.
    """

    prototypes: Vectors
    scale: float
    sharpness: float
    seed: int
    encoder: str

    def __post_init__(self) -> None:
        vectors = normalise(self.prototypes)
        if vectors.ndim != 2 or not len(vectors):
            raise InputError(f"territories need prototypes of shape (n, d), got {vectors.shape}")
        if not self.scale > 0 or not self.sharpness >= 0:
            raise InputError(
                f"territories need a scale above 0 and a sharpness of at least 0, got "
                f"{self.scale} and {self.sharpness}"
            )
        vectors.flags.writeable = False
        object.__setattr__(self, "prototypes", vectors)

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self.prototypes.shape[1])

    @cached_property
    def digest(self) -> str:
        """sha256 over all that the vectors depend on."""
        head = f"territories {self.scale} {self.sharpness} {self.seed} {self.encoder}"
        return hashlib.sha256(head.encode() + self.prototypes.astype("<f4").tobytes()).hexdigest()

    def sample(self, y: ArrayLike, x: ArrayLike) -> Vectors:
        """float32 unit vectors at points in pixels, plus ``(d,)``."""
        gy, gx = np.broadcast_arrays(
            np.asarray(y, np.float64) / self.scale, np.asarray(x, np.float64) / self.scale
        )
        r, c = np.floor(gy).astype(np.int64), np.floor(gx).astype(np.int64)
        ty, tx = (t * t * (3 - 2 * t) for t in (gy - r, gx - c))
        corners = [
            ((1 - ty if i == 0 else ty) * (1 - tx if j == 0 else tx))[..., None]
            * _heights(self.seed, len(self.prototypes), r + i, c + j)
            for i in (0, 1)
            for j in (0, 1)
        ]
        heights = np.sum(corners, axis=0) * self.sharpness
        weights = np.exp(heights - heights.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return normalise(weights.astype(np.float32) @ self.prototypes)

    def glance(self, y: ArrayLike, x: ArrayLike) -> Vectors:
        """As :meth:`sample`, which never takes long."""
        return self.sample(y, x)

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible form, prototypes as base64 of little-endian float32."""
        return {
            "kind": "territories",
            "shape": list(self.prototypes.shape),
            "prototypes": base64.b64encode(self.prototypes.astype("<f4").tobytes()).decode(),
            "scale": self.scale,
            "sharpness": self.sharpness,
            "seed": self.seed,
            "encoder": self.encoder,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Territories:
        """The places that :meth:`to_dict` described."""
        raw = np.frombuffer(base64.b64decode(data["prototypes"]), dtype="<f4")
        vectors = raw.reshape(data["shape"]).astype(np.float32)
        scale, sharpness = float(data["scale"]), float(data["sharpness"])
        return cls(vectors, scale, sharpness, int(data["seed"]), str(data["encoder"]))


def territories_of(
    field: EmbeddingField, scale: float, *, count: int = 48, sharpness: float = 6.0, seed: int = 0
) -> Territories:
    """Territories whose prototypes are cells of a field, drawn by chance from those that hold
    something (all, where none does), so that tissues are as frequent as they were.

    Parameters
    ----------
    count
        Prototypes at most.
    scale, sharpness, seed
        As for :class:`Territories`; the seed also draws the cells.
    """
    vectors = field.vectors.reshape(-1, field.width)
    if field.valid is not None and field.valid.any():
        vectors = vectors[field.valid.ravel()]
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(vectors), min(count, len(vectors)), replace=False)
    return Territories(vectors[chosen], scale, sharpness, seed, field.encoder)


def _heights(
    seed: int, count: int, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``(…, count)`` standard normal numbers of lattice points."""
    from napari_ssldiff.diffusion.noise import place_normals

    return place_normals(seed, rows, columns, count)
