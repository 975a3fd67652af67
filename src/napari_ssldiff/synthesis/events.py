"""What :func:`napari_ssldiff.synthesis.synthesize` reports while it works.

Boxes are in pixels of the request's *output grid*, anchored at the scene's origin: level-0
pixels for ``grid="source"``, pixels of the model's resolution for ``grid="model"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.geometry import Box


@dataclass(frozen=True)
class Started:
    """Sent once, before the first network call.

    ``output_box`` is all that will be filled, ``evaluations`` the U-Net window evaluations
    that the run will take (conditional and unconditional counted apart).
    """

    output_box: Box
    steps: int
    evaluations: int


@dataclass(frozen=True)
class Progress:
    """Work done so far: ``done`` of ``total`` in [0, total], with the stage in words."""

    stage: str
    done: float
    total: float
    evaluations: int = 0


@dataclass(frozen=True)
class Preview:
    """The whole region as the sampler sees it now (predicted x0 through a linear map).

    ``pixels`` is ``(h, w, 3)`` uint8 at one pixel per latent; ``box`` is where it lies.
    """

    box: Box
    pixels: NDArray[np.uint8]
    step: int
    steps: int


@dataclass(frozen=True)
class TileDone:
    """Finished pixels: ``(h, w, 4)`` uint8 RGBA, alpha 0 outside the mask."""

    box: Box
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Finished:
    """Sent once, after the last tile, with what was counted and measured.

    ``seconds`` is the whole run, ``network_seconds`` the part inside the denoising network and
    ``decode_seconds`` the part inside the autoencoder.
    """

    seconds: float
    evaluations: int
    network_seconds: float
    decode_seconds: float = 0.0


Event: TypeAlias = Started | Progress | Preview | TileDone | Finished
