"""Where things lie: level-0 pixels, the model's pixels, latents, the output grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt  # type: ignore[import-untyped]

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region

Scale = tuple[float, float]

#: Rows of a canvas in which distances are measured at once.
STRIP = 1024


@dataclass(frozen=True)
class Frame:
    """The geometry of one synthesis.

    Parameters
    ----------
    region
        In level-0 pixels.
    scale
        Level-0 pixels per model pixel, ``(y, x)``.
    canvas
        What is sampled, in model pixels: the region's bounds snapped outward to the latent
        lattice and grown to a whole window where they are smaller.
    output
        What is delivered, in pixels of the output grid.
    output_scale
        Output pixels per level-0 pixel, ``(y, x)``.
    grow
        Output pixels by which everything reaches beyond the region's edge.
    """

    region: Region
    scale: Scale
    canvas: Box
    output: Box
    output_scale: Scale
    grow: int = 0

    @property
    def model_per_output(self) -> Scale:
        """Model pixels per output pixel, ``(y, x)``."""
        return (
            1 / (self.scale[0] * self.output_scale[0]),
            1 / (self.scale[1] * self.output_scale[1]),
        )

    def alpha(self, box: Box, feather: int) -> NDArray[np.uint8]:
        """The composite mask of a box of the output grid: 0 outside the region, 255 inside.

        The region's edge is moved outwards by :attr:`grow`; with ``feather`` > 0 the mask rises
        smoothly over that many pixels inside that edge.
        """
        if not feather and not self.grow:
            return np.where(self.region.mask(box, self.output_scale), 255, 0).astype(np.uint8)
        around = box.grow(feather + self.grow + 1)
        inside = self.region.mask(around, self.output_scale)
        depth = distance_transform_edt(inside)
        if self.grow:
            away = (
                distance_transform_edt(~inside) if inside.any() else np.full(inside.shape, np.inf)
            )
            depth = np.where(inside, depth + self.grow, self.grow + 1 - away)
        t = np.clip((depth - 0.5) / max(feather, 0.5), 0, 1)
        soft = np.round(255 * t * t * (3 - 2 * t)).astype(np.uint8)
        return np.ascontiguousarray(soft[box.shift(-around.y, -around.x).slices])


def inside_on_canvas(frame: Frame, beyond: float = 0) -> NDArray[np.bool_]:
    """``(h, w)`` of the canvas in model pixels: what is in the grown region.

    Parameters
    ----------
    beyond
        Model pixels by which it is grown further.
    """
    inverse, canvas = (1 / frame.scale[0], 1 / frame.scale[1]), frame.canvas
    reach = frame.grow * min(frame.model_per_output) + beyond
    if not reach:
        return frame.region.mask(canvas, inverse)
    out, halo = np.zeros(canvas.shape, bool), math.ceil(reach)
    # In strips: distances take sixteen times the memory of what is asked for.
    for y in range(0, canvas.h, STRIP):
        strip = Box(canvas.y + y, canvas.x, min(STRIP, canvas.h - y), canvas.w)
        top, bottom = max(strip.y - halo, canvas.y), min(strip.y1 + halo, canvas.y1)
        around = Box(top, canvas.x, bottom - top, canvas.w)
        inside = frame.region.mask(around, inverse)
        if inside.any():
            near = distance_transform_edt(~inside) <= reach
            out[y : y + strip.h] = near[strip.y - top : strip.y1 - top]
    return out


def held_on_canvas(frame: Frame, held: Box) -> NDArray[np.bool_]:
    """``(h, w)`` of the canvas in model pixels: what lies in ``held``, a box of level-0 pixels."""
    canvas = frame.canvas
    place = held.scaled_outward((1 / frame.scale[0], 1 / frame.scale[1])).intersect(canvas)
    there = np.zeros(canvas.shape, bool)
    there[place.shift(-canvas.y, -canvas.x).slices] = True
    return there


def denoise_mask(frame: Frame, factor: int, held: Box) -> NDArray[np.float32]:
    """``(h, w)`` of the canvas in latents: 1 where any pixel of the latent is in the region, or
    outside ``held``, the source's own level-0 pixels, where nothing is known.
    """
    inside = inside_on_canvas(frame) | ~held_on_canvas(frame, held)
    rows, columns = frame.canvas.h // factor, frame.canvas.w // factor
    blocks = inside.reshape(rows, factor, columns, factor)
    return np.asarray(blocks.any(axis=(1, 3)), dtype=np.float32)


def plan_frame(
    region: Region,
    shape: tuple[int, int],
    scale: Scale,
    window: int,
    factor: int,
    grid: str,
    context: int = 0,
    grow: int = 0,
) -> Frame:
    """Lay out a synthesis.

    Parameters
    ----------
    shape
        ``(h, w)`` of the scene's level 0.
    scale
        Level-0 pixels per model pixel.
    window, factor
        Of the model, in pixels.
    grid
        ``"source"`` or ``"model"``.
    context
        Model pixels that the canvas reaches beyond the grown region.
    grow
        Output pixels by which the region is grown, as far as the image goes.

    Raises
    ------
    InputError
        If the region leaves the image or holds no pixel.
    """
    bounds = region.bounds
    if not Box(0, 0, *shape).contains(bounds):
        raise InputError(
            f"the region x {bounds.x}…{bounds.x1}, y {bounds.y}…{bounds.y1} leaves the image, "
            f"which is {shape[1]} × {shape[0]} pixels"
        )
    inverse = 1 / scale[0], 1 / scale[1]
    per_output = (1.0, 1.0) if grid == "source" else scale
    grown = bounds.grow(math.ceil(grow * max(per_output))).intersect(Box(0, 0, *shape))
    canvas = grown.scaled_outward(inverse, factor).grow(-(-context // factor) * factor)
    # A window must fit. The surplus goes to both sides, on the lattice.
    missing = [max(0, window - n) for n in canvas.shape]
    before = [m // 2 // factor * factor for m in missing]
    canvas = Box(
        canvas.y - before[0], canvas.x - before[1], canvas.h + missing[0], canvas.w + missing[1]
    )
    if grid == "source":
        return Frame(region, scale, canvas, grown, (1.0, 1.0), grow)
    return Frame(region, scale, canvas, grown.scaled_outward(inverse), inverse, grow)
