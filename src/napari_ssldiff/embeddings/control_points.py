"""Embeddings that are fixed at a few points and go over into one another in between."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_ssldiff.embeddings.field import Vectors, normalise
from napari_ssldiff.errors import InputError


@dataclass(frozen=True, eq=False)
class ControlPoints:
    """Vectors at points of the plane, interpolated by inverse distance.

    At a place the points' vectors are averaged with the weights ``d**-power``, d being the
    distance from the place to each point, and the mean is brought back to the unit sphere
    (D. Shepard, *A two-dimensional interpolation function for irregularly-spaced data*, Proc.
    23rd ACM National Conference, 1968, pp. 517-524). A point has its own vector exactly; far from
    all of them every point counts alike. Where vectors cancel out, the nearest point's holds.

    Parameters
    ----------
    points
        ``(k, 2)``: ``(y, x)`` in pixels, k >= 1, no two alike.
    vectors
        ``(k, d)`` unit vectors.
    encoder
        Identifier of the encoder that made them.
    power
        Above 0: how far a point holds before it gives way to the others; at 1 all of them are
        heard everywhere, at 8 the plane is nearly cut into the points' own parts.

    Raises
    ------
    InputError
        If there are no points, two are alike, or numbers do not fit or are not finite.
    """

    points: NDArray[np.float64]
    vectors: Vectors
    encoder: str
    power: float = 2.0

    def __post_init__(self) -> None:
        points, vectors = np.array(self.points, np.float64), normalise(self.vectors)
        if points.ndim != 2 or points.shape[-1] != 2 or not len(points):
            raise InputError(f"control points need a shape of (k, 2), got {points.shape}")
        if vectors.ndim != 2 or len(vectors) != len(points) or not vectors.size:
            raise InputError(
                f"{len(points)} control points need vectors of shape ({len(points)}, d), got "
                f"{vectors.shape}"
            )
        if not (np.isfinite(points).all() and np.isfinite(vectors).all()):
            raise InputError("control points and their vectors must be finite numbers")
        if len(np.unique(points, axis=0)) < len(points):
            raise InputError("two control points lie at the same place: which one holds there?")
        if not 0 < self.power <= 64:
            raise InputError(f"the power must be above 0 and at most 64, got {self.power}")
        points.flags.writeable = vectors.flags.writeable = False
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "vectors", vectors)

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def digest(self) -> str:
        """sha256 over all that the vectors depend on."""
        head = f"control points {self.power} {self.encoder} {self.vectors.shape}".encode()
        numbers = self.points.astype("<f8").tobytes() + self.vectors.astype("<f4").tobytes()
        return hashlib.sha256(head + numbers).hexdigest()

    def sample(self, y: ArrayLike, x: ArrayLike) -> Vectors:
        """float32 unit vectors at points in pixels, plus ``(d,)``."""
        y, x = np.broadcast_arrays(np.asarray(y, np.float64), np.asarray(x, np.float64))
        distance = np.hypot(y[..., None] - self.points[:, 0], x[..., None] - self.points[:, 1])
        # Relative to the nearest point, whose weight is 1 before all are divided by their sum: no
        # power overflows, and at a point itself 0 / 0 is that point's own weight.
        least = distance.min(-1, keepdims=True)
        ratio = np.where(distance == least, 1.0, least / np.where(distance == 0, 1, distance))
        weights = ratio**self.power
        weights /= weights.sum(-1, keepdims=True)
        mean = weights.astype(np.float32) @ self.vectors
        vanished = np.linalg.norm(mean, axis=-1, keepdims=True) < 1e-6
        return normalise(np.where(vanished, self.vectors[distance.argmin(-1)], mean))

    def glance(self, y: ArrayLike, x: ArrayLike) -> Vectors:
        """As :meth:`sample`, which never takes long."""
        return self.sample(y, x)

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible form, vectors as base64 of little-endian float32."""
        return {
            "kind": "control points",
            "points": self.points.tolist(),
            "shape": list(self.vectors.shape),
            "vectors": base64.b64encode(self.vectors.astype("<f4").tobytes()).decode(),
            "encoder": self.encoder,
            "power": self.power,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ControlPoints:
        """The places that :meth:`to_dict` described."""
        raw = np.frombuffer(base64.b64decode(data["vectors"]), dtype="<f4")
        vectors = raw.reshape(data["shape"]).astype(np.float32)
        points = np.asarray(data["points"], np.float64)
        return cls(points, vectors, str(data["encoder"]), float(data["power"]))
