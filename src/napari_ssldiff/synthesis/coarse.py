"""Coarse pictures that a variation keeps to, as part of a request."""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes.lengths import Length


@dataclass(frozen=True, eq=False)
class CoarsePicture:
    """What the canvas of a request is to look like from afar.

    Parameters
    ----------
    pixels
        ``(h, w, 3)`` uint8: the whole canvas, in fewer pixels.
    strength
        How much it is kept to, in [0, 1]: the share of what is missing that is put back at pure
        noise (:mod:`napari_ssldiff.diffusion.steer`).
    """

    pixels: NDArray[np.uint8]
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise InputError(
                f"a coarse picture is RGB of 8 bits, not {self.pixels.dtype} {self.pixels.shape}"
            )
        if not 0 <= self.strength <= 1:
            raise InputError(f"the guide's strength is between 0 and 1, got {self.strength}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CoarsePicture) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.pixels.tobytes(), self.strength))

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible form; :meth:`from_dict` restores an equal picture."""
        packed = zlib.compress(np.ascontiguousarray(self.pixels).tobytes(), 9)
        return {
            "shape": list(self.pixels.shape[:2]),
            "pixels": base64.b64encode(packed).decode(),
            "strength": self.strength,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CoarsePicture:
        """The picture that :meth:`to_dict` described; KeyError or ValueError if it is none."""
        h, w = (int(n) for n in data["shape"])
        if not (0 < h <= 65536 and 0 < w <= 65536):
            raise ValueError(f"a coarse picture of {h} × {w} pixels")
        # No more is unpacked than the shape allows, whatever the file says.
        raw = zlib.decompressobj().decompress(base64.b64decode(data["pixels"]), h * w * 3 + 1)
        pixels = np.frombuffer(raw, np.uint8).reshape(h, w, 3)
        return cls(pixels, float(data["strength"]))


def coarse_shape(canvas: tuple[int, int], ratio: float) -> tuple[int, int]:
    """``(h, w)`` of a coarse picture of a canvas, ``ratio`` of its pixels to one of the picture's.

    Raises
    ------
    InputError
        If the picture would not be coarser.
    """
    if ratio <= 1:
        raise InputError(
            f"a guide has to be coarser than what it guides: its pixels are {ratio:.3g} times as "
            "long as the model's"
        )
    return max(1, math.ceil(canvas[0] / ratio)), max(1, math.ceil(canvas[1] / ratio))


def guide_resolution(pixel: Length, resolution: float, unit: str, model: str) -> float:
    """The length of a guide's pixel in the model's unit.

    Parameters
    ----------
    pixel
        As somebody gave it; in pixels it counts those of the model.
    resolution, unit, model
        Of the model: the length of its pixels, and its id.

    Raises
    ------
    InputError
        If it is in another unit than the model's.
    """
    if pixel.unit == "pixel":
        return pixel.value * resolution
    if pixel.unit != unit:
        raise InputError(f"the guide is in {pixel.unit}s, {model} in {unit}s: give it in pixels")
    return pixel.value


def averaged(pixels: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """``(H, W, 3)`` → ``(h, w, 3)``: the mean over each of ``h × w`` equal parts."""
    import torch

    from napari_ssldiff.diffusion.steer import coarse

    values = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float()
    mean = coarse(values, shape).round().to(torch.uint8)
    return np.ascontiguousarray(mean.permute(1, 2, 0).numpy())
