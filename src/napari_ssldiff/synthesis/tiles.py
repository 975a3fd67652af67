"""From pixels of the canvas to the tiles that are delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from napari_ssldiff.geometry import Box, centre_out
from napari_ssldiff.scenes import to_source
from napari_ssldiff.synthesis.events import TileDone
from napari_ssldiff.synthesis.frame import Frame

#: Edge of delivered tiles, on a lattice anchored at the scene's origin.
TILE = 256
#: Model pixels beyond a tile that the resampling filter reads.
MARGIN = 8


def to_uint8(images: torch.Tensor) -> NDArray[np.uint8]:
    """``(3, h, w)`` float in [-1, 1] → ``(h, w, 3)`` uint8."""
    scaled = ((images.permute(1, 2, 0).float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).cpu().numpy()


def from_uint8(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """``(h, w, 3)`` uint8 → ``(3, h, w)`` float32 in [-1, 1]."""
    array = torch.from_numpy(np.ascontiguousarray(pixels))
    return array.permute(2, 0, 1).float() / 127.5 - 1


class Tiles:
    """The tiles of a synthesis.

    Parameters
    ----------
    frame
        Its geometry.
    feather
        As in :class:`napari_ssldiff.synthesis.request.SynthesisRequest`.

    Attributes
    ----------
    boxes
        On the output grid, row by row.
    colour
        Corrects ``(3, h, w)`` pixels before they are delivered.
    """

    def __init__(self, frame: Frame, feather: int) -> None:
        self._frame, self._feather = frame, feather
        self.colour: Callable[[torch.Tensor], torch.Tensor] = lambda pixels: pixels
        self.boxes = list(frame.output.tiles(TILE))

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def needs(self) -> list[Box]:
        """What each tile is made of, in pixels of the canvas."""
        canvas = self._frame.canvas
        return [self._need(tile).shift(-canvas.y, -canvas.x) for tile in self.boxes]

    def outwards(self, focus: Callable[[], tuple[float, float]]) -> Iterator[int]:
        """All tiles, each time the one nearest to where ``focus`` lies by then."""
        left, order, at = {box: n for n, box in enumerate(self.boxes)}, list[Box](), None
        while left:
            # Sorted anew only where the focus has moved: there may be many thousands.
            if (now := focus()) != at:
                order, at = centre_out(left, now)[::-1], now
            yield left.pop(order.pop())

    def finish(self, n: int, pixels: torch.Tensor) -> TileDone:
        """Tile ``n`` from the ``(3, h, w)`` pixels in [-1, 1] that it needs."""
        tile, per = self.boxes[n], self._frame.model_per_output
        rgb = to_source(
            to_uint8(self.colour(pixels)), self._need(tile), tile, (1 / per[0], 1 / per[1])
        )
        return TileDone(tile, np.dstack([rgb, self._frame.alpha(tile, self._feather)]))

    def _need(self, tile: Box) -> Box:
        need = tile.scaled_outward(self._frame.model_per_output).grow(MARGIN)
        return need.intersect(self._frame.canvas)
