"""Masks of cells that a variation keeps to, as part of a request."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CellMask:
    """Where cells lie on the canvas of a request.

    Parameters
    ----------
    mask
        ``(h, w)`` bool, the whole canvas in pixels of the model: true inside cells.
    """

    mask: Mask

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise InputError(
                f"a mask of cells is (h, w) bool, not {self.mask.dtype} {self.mask.shape}"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CellMask) and np.array_equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash((self.mask.shape, self.mask.tobytes()))

    def picture(self, box: Box) -> NDArray[np.float32]:
        """``(3, h, w)`` in [-1, 1] of a box of the canvas: cells white on black."""
        part = np.where(self.mask[box.slices], np.float32(1), np.float32(-1))
        return np.broadcast_to(part, (3, *part.shape)).copy()

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible form; :meth:`from_dict` restores an equal mask."""
        packed = zlib.compress(np.packbits(self.mask).tobytes(), 9)
        return {"shape": list(self.mask.shape), "bits": base64.b64encode(packed).decode()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CellMask:
        """The mask that :meth:`to_dict` described; KeyError or ValueError if it is none."""
        h, w = (int(n) for n in data["shape"])
        if not (0 < h <= 2**20 and 0 < w <= 2**20):
            raise ValueError(f"a mask of {h} × {w} pixels")
        size = (h * w + 7) // 8
        # No more is unpacked than the shape allows, whatever the file says.
        raw = zlib.decompressobj().decompress(base64.b64decode(data["bits"]), size + 1)
        if len(raw) != size:
            raise ValueError(f"a mask of {h} × {w} pixels in {len(raw)} bytes")
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=h * w)
        return cls(bits.reshape(h, w).astype(bool))
