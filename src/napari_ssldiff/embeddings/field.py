"""A grid of SSL embeddings with its place in a scene."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_ssldiff.errors import InputError, OutputError

Vectors = NDArray[np.float32]


def normalise(vectors: ArrayLike) -> Vectors:
    """Project ``(…, d)`` vectors onto the unit sphere. A zero vector stays zero.

    Vectors that are of unit length to float32 precision come back bit for bit, so that a field
    read from a file has the digest of the field that was written.
    """
    v = np.asarray(vectors, dtype=np.float32)
    norm = np.linalg.norm(v, axis=-1, keepdims=True)
    norm = np.where((norm == 0) | (np.abs(norm - 1) < 1e-6), 1, norm)
    return np.asarray(v / norm, dtype=np.float32)


def slerp(a: Vectors, b: Vectors, t: ArrayLike) -> Vectors:
    """Spherical interpolation of unit vectors (Shoemake 1985).

    Parameters
    ----------
    a, b
        ``(…, d)`` float32 unit vectors.
    t
        0 gives ``a``, 1 gives ``b``; broadcasts against the leading axes.

    Returns
    -------
    ``(…, d)`` float32 unit vectors. Nearly parallel pairs are interpolated linearly, where
    the sine in the denominator would lose all digits; opposite pairs have no unique arc and
    get the same treatment, falling back to ``a`` at their midpoint.
    """
    w = np.asarray(t, dtype=np.float32)[..., None]
    dot = np.clip(np.sum(a * b, axis=-1, keepdims=True), -1, 1)
    angle = np.arccos(dot)
    sine = np.sin(angle)
    curved = np.abs(dot) < 0.9995
    safe = np.where(curved, sine, 1)
    wa = np.where(curved, np.sin((1 - w) * angle) / safe, 1 - w)
    wb = np.where(curved, np.sin(w * angle) / safe, w)
    mixed = wa * a + wb * b
    vanished = np.linalg.norm(mixed, axis=-1, keepdims=True) < 1e-6
    return normalise(np.where(vanished, a, mixed))


@dataclass(frozen=True, eq=False)
class EmbeddingField:
    """Unit embeddings on a row-major grid of square cells.

    Parameters
    ----------
    vectors
        ``(rows, columns, d)`` float32 on the unit sphere; row index grows downward, as in the
        image. Normalised on construction.
    origin
        ``(y, x)`` of the grid's top left corner, in level-0 pixels of the scene.
    cell
        ``(height, width)`` of a cell, in level-0 pixels.
    encoder
        Identifier of the encoder that made them, weights hash included.
    resolution
        Length of one encoder-input pixel, in ``unit``.
    unit
        ``"micrometer"``, ``"meter"`` or ``"pixel"``.
    valid
        ``(rows, columns)`` bool: cells that hold tissue or ground rather than background;
        ``None`` means all.
    """

    vectors: Vectors
    origin: tuple[float, float]
    cell: tuple[float, float]
    encoder: str
    resolution: float
    unit: str
    valid: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        vectors = normalise(self.vectors)
        if vectors.ndim != 3 or not vectors.size:
            raise InputError(
                f"a field needs vectors of shape (rows, columns, d), got {vectors.shape}"
            )
        if not np.isfinite(vectors).all():
            raise InputError("a field's vectors must be finite numbers")
        vectors.flags.writeable = False
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "origin", (float(self.origin[0]), float(self.origin[1])))
        object.__setattr__(self, "cell", (float(self.cell[0]), float(self.cell[1])))
        if min(self.cell) <= 0:
            raise InputError(f"a field's cells must have a size above 0, got {self.cell}")
        if self.valid is not None and self.valid.shape != vectors.shape[:2]:
            raise InputError(
                f"the valid mask {self.valid.shape} does not fit the grid {vectors.shape[:2]}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return self.vectors.shape[0], self.vectors.shape[1]

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[2])

    def sample(self, y: ArrayLike, x: ArrayLike) -> Vectors:
        """Embeddings at any points, by bilinear slerp of the four nearest cell centres.

        This is the conditioning of Graikos et al. (2024): along x within the upper and the
        lower pair, then along y. Beyond the outermost centres the border cell holds.

        Parameters
        ----------
        y, x
            Level-0 pixel coordinates; broadcast together.

        Returns
        -------
        float32 of the broadcast shape plus ``(d,)``, on the unit sphere.
        """
        rows, columns = self.shape
        gy = (np.asarray(y, dtype=np.float64) - self.origin[0]) / self.cell[0] - 0.5
        gx = (np.asarray(x, dtype=np.float64) - self.origin[1]) / self.cell[1] - 0.5
        gy, gx = np.broadcast_arrays(np.clip(gy, 0, rows - 1), np.clip(gx, 0, columns - 1))
        r0, c0 = np.floor(gy).astype(int), np.floor(gx).astype(int)
        r1, c1 = np.minimum(r0 + 1, rows - 1), np.minimum(c0 + 1, columns - 1)
        ty, tx = gy - r0, gx - c0
        v = self.vectors
        upper = slerp(v[r0, c0], v[r0, c1], tx)
        lower = slerp(v[r1, c0], v[r1, c1], tx)
        return slerp(upper, lower, ty)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EmbeddingField) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def _header(self) -> dict[str, Any]:
        return {
            "format": "napari-ssldiff-field-1",
            "shape": list(self.vectors.shape),
            "origin": list(self.origin),
            "cell": list(self.cell),
            "encoder": self.encoder,
            "resolution": self.resolution,
            "unit": self.unit,
        }

    @cached_property
    def digest(self) -> str:
        """sha256 over the frame, the mask and the vectors."""
        h = hashlib.sha256(json.dumps(self._header(), sort_keys=True).encode())
        h.update(self.vectors.astype("<f4").tobytes())
        h.update(b"" if self.valid is None else np.packbits(self.valid).tobytes())
        return h.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible form, vectors as base64 of little-endian float32."""
        data = self._header()
        data["vectors"] = base64.b64encode(self.vectors.astype("<f4").tobytes()).decode()
        if self.valid is not None:
            data["valid"] = base64.b64encode(np.packbits(self.valid).tobytes()).decode()
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EmbeddingField:
        """The field that :meth:`to_dict` described.

        Raises
        ------
        InputError
            If it is not a field or its parts do not fit together.
        """
        try:
            if data["format"] != "napari-ssldiff-field-1":
                raise ValueError(f"format {data['format']!r}")
            rows, columns, d = (int(n) for n in data["shape"])
            raw = np.frombuffer(base64.b64decode(data["vectors"]), dtype="<f4")
            valid = None
            if "valid" in data:
                bits = np.frombuffer(base64.b64decode(data["valid"]), dtype=np.uint8)
                if bits.size != -(-rows * columns // 8):
                    raise ValueError(f"a mask of {bits.size} bytes for {rows} × {columns} cells")
                valid = np.unpackbits(bits, count=rows * columns).reshape(rows, columns) > 0
            return cls(
                vectors=raw.reshape(rows, columns, d).astype(np.float32),
                origin=tuple(data["origin"]),
                cell=tuple(data["cell"]),
                encoder=data["encoder"],
                resolution=float(data["resolution"]),
                unit=data["unit"],
                valid=valid,
            )
        except InputError:
            raise
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"not an embedding field: {error}") from None

    def save(self, path: str | Path, history: Sequence[str] = ()) -> Path:
        """Write one JSON file; the file appears whole or not at all.

        Parameters
        ----------
        history
            How the field came about: JSON objects, the oldest first; see :func:`history_of`.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        try:
            story = {"history": [json.loads(step) for step in history]} if history else {}
            partial.write_text(json.dumps({**self.to_dict(), **story}))
            partial.replace(path)
        except OSError as error:
            if partial.is_file():
                partial.unlink()
            raise OutputError(
                f"cannot write the field {path}: {error.strerror}; choose another place"
            ) from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> EmbeddingField:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file is missing or is not a field.
        """
        try:
            data = json.loads(Path(path).read_text())
        except FileNotFoundError:
            raise InputError(f"no embedding field at {path}") from None
        except (UnicodeDecodeError, json.JSONDecodeError):
            raise InputError(f"{path} is not an embedding field (expected JSON)") from None
        except OSError as error:
            raise InputError(f"cannot read the field {path}: {error.strerror}") from None
        return cls.from_dict(data)


def history_of(path: str | Path) -> tuple[str, ...]:
    """How the field of a file came about, as :meth:`EmbeddingField.save` was told.

    Raises
    ------
    InputError
        If the file is missing or is not a field's.
    """
    EmbeddingField.load(path)  # says what is wrong
    steps = json.loads(Path(path).read_text()).get("history", [])
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise InputError(f"the history in {path} is no list of objects: remove it from the file")
    return tuple(json.dumps(step, sort_keys=True) for step in steps)
