"""Boxes, regions and window plans: pure integer arithmetic.

Every coordinate is ordered ``(y, x)`` and counts pixels from the top left corner.
A box is half open: ``Box(0, 0, 2, 3)`` covers rows 0 and 1, columns 0, 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, order=True)
class Box:
    """A half-open axis-aligned rectangle of whole pixels.

    Parameters
    ----------
    y, x
        First row and column; negative values lie outside an image's top left.
    h, w
        Height and width in pixels, at least 0.
    """

    y: int
    x: int
    h: int
    w: int

    def __post_init__(self) -> None:
        for name in ("y", "x", "h", "w"):
            object.__setattr__(self, name, int(getattr(self, name)))
        if self.h < 0 or self.w < 0:
            raise ValueError(f"a box cannot have a negative size: height {self.h}, width {self.w}")

    @property
    def y1(self) -> int:
        """One past the last row."""
        return self.y + self.h

    @property
    def x1(self) -> int:
        """One past the last column."""
        return self.x + self.w

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.h, self.w

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.h * self.w

    @property
    def centre(self) -> tuple[float, float]:
        """``(y, x)`` of the middle."""
        return self.y + self.h / 2, self.x + self.w / 2

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index that selects this box from an array whose first two axes are y, x."""
        return slice(self.y, self.y1), slice(self.x, self.x1)

    def shift(self, dy: int, dx: int) -> Box:
        """The same box moved by ``(dy, dx)``."""
        return Box(self.y + dy, self.x + dx, self.h, self.w)

    def grow(self, margin: int) -> Box:
        """The box enlarged by ``margin`` pixels on every side (shrunk where negative)."""
        return Box(
            self.y - margin,
            self.x - margin,
            max(0, self.h + 2 * margin),
            max(0, self.w + 2 * margin),
        )

    def intersect(self, other: Box) -> Box:
        """The common part; a box of no area where there is none."""
        y, x = max(self.y, other.y), max(self.x, other.x)
        return Box(y, x, max(0, min(self.y1, other.y1) - y), max(0, min(self.x1, other.x1) - x))

    def union(self, other: Box) -> Box:
        """The smallest box that holds both."""
        y, x = min(self.y, other.y), min(self.x, other.x)
        return Box(y, x, max(self.y1, other.y1) - y, max(self.x1, other.x1) - x)

    def contains(self, other: Box) -> bool:
        """Whether ``other`` lies wholly inside."""
        return (
            self.y <= other.y and self.x <= other.x and other.y1 <= self.y1 and other.x1 <= self.x1
        )

    def scaled_outward(self, scale: tuple[float, float], multiple: int = 1) -> Box:
        """The box in a grid of ``scale`` pixels per pixel, snapped outward to ``multiple``.

        Parameters
        ----------
        scale
            Target pixels per pixel of this box, ``(y, x)``.
        multiple
            Lattice of the target grid, anchored at 0.
        """
        # A nanopixel of slack: 768 * 0.499 / 0.499 must not snap one lattice step too far.
        eps = 1e-6
        y0 = math.floor(self.y * scale[0] / multiple + eps) * multiple
        x0 = math.floor(self.x * scale[1] / multiple + eps) * multiple
        y1 = math.ceil(self.y1 * scale[0] / multiple - eps) * multiple
        x1 = math.ceil(self.x1 * scale[1] / multiple - eps) * multiple
        return Box(y0, x0, y1 - y0, x1 - x0)

    def tiles(self, size: int) -> Iterator[Box]:
        """The cells of a lattice of ``size`` anchored at 0, cut to this box, row by row."""
        for ty in range(self.y // size * size, self.y1, size):
            for tx in range(self.x // size * size, self.x1, size):
                tile = self.intersect(Box(ty, tx, size, size))
                if tile.area:
                    yield tile

    def to_list(self) -> list[int]:
        """``[y, x, h, w]``."""
        return [self.y, self.x, self.h, self.w]


@dataclass(frozen=True)
class Region:
    """A polygon in level-0 pixels of a scene.

    Parameters
    ----------
    vertices
        ``((y, x), …)``, at least three, implicitly closed. Floats are allowed; pixel
        ``(i, j)`` covers ``[i, i+1) × [j, j+1)`` and is inside when its centre is.
    """

    vertices: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        points = np.asarray(self.vertices, dtype=float)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
            raise ValueError(
                "a region needs at least three (y, x) vertices, got an array of shape "
                f"{points.shape}"
            )
        if not np.isfinite(points).all():
            raise ValueError("a region's vertices must be finite numbers")
        object.__setattr__(self, "vertices", tuple((float(y), float(x)) for y, x in points))
        if not self.bounds.area:
            raise ValueError(f"a region must have a size, got the bounds {self.bounds}")

    @classmethod
    def from_box(cls, box: Box) -> Region:
        """The rectangle of ``box``."""
        return cls(((box.y, box.x), (box.y, box.x1), (box.y1, box.x1), (box.y1, box.x)))

    @classmethod
    def from_vertices(cls, vertices: ArrayLike) -> Region:
        """A region from any ``(N, 2)`` array-like of ``(y, x)``."""
        return cls(tuple(map(tuple, np.asarray(vertices, dtype=float).tolist())))

    @classmethod
    def from_rings(cls, rings: Sequence[ArrayLike]) -> Region:
        """Several polygons, each ``(N, 2)`` of ``(y, x)``, as one region.

        They hang on the first corner of the first by edges that go there and back. Going along the
        axes these cancel out exactly in :meth:`mask`, which is the only way to tell the inside.
        """
        first, *others = (np.asarray(ring, dtype=float).tolist() for ring in rings)
        y, x = first[0]
        points = [*first]
        for ring in others:
            corner = [y, ring[0][1]]
            points += [[y, x], corner, *ring, ring[0], corner]
        return cls.from_vertices(points)

    @property
    def bounds(self) -> Box:
        """The smallest box of whole pixels that holds the polygon."""
        points = np.asarray(self.vertices)
        low, high = np.floor(points.min(0) + 1e-6), np.ceil(points.max(0) - 1e-6)
        return Box(*low.astype(int).tolist(), *np.maximum(high - low, 0).astype(int).tolist())

    @property
    def is_box(self) -> bool:
        """Whether the polygon is an axis-aligned rectangle on whole pixels."""
        b = self.bounds
        corners = {(b.y, b.x), (b.y, b.x1), (b.y1, b.x1), (b.y1, b.x)}
        return len(self.vertices) == 4 and set(self.vertices) == corners

    def mask(self, box: Box, scale: tuple[float, float] = (1.0, 1.0)) -> NDArray[np.bool_]:
        """Which pixel centres of ``box`` are inside, by the even-odd rule.

        Parameters
        ----------
        box
            Pixels of the grid to rasterise on.
        scale
            Pixels of that grid per level-0 pixel, ``(y, x)``.

        Returns
        -------
        bool array of shape ``box.shape``.
        """
        points = np.asarray(self.vertices) * np.asarray(scale)
        ys = np.arange(box.y, box.y1) + 0.5
        xs = np.arange(box.x, box.x1) + 0.5
        inside = np.zeros(box.shape, dtype=bool)
        for (ya, xa), (yb, xb) in zip(points, np.roll(points, -1, axis=0), strict=True):
            rows = np.nonzero((ya > ys) != (yb > ys))[0]
            if not len(rows):
                continue
            cross = xa + (ys[rows] - ya) * (xb - xa) / (yb - ya)
            inside[rows] ^= xs[None, :] < cross[:, None]
        return inside

    def to_list(self) -> list[list[float]]:
        """``[[y, x], …]``."""
        return [list(v) for v in self.vertices]


def parse_box(text: str) -> Box:
    """``"X,Y,W,H"`` as the command line takes it → :class:`Box`.

    Raises
    ------
    ValueError
        If it is not four whole numbers or has no area.
    """
    try:
        x, y, w, h = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"a region is four whole numbers X,Y,W,H in level-0 pixels, got {text!r}"
        ) from None
    if w <= 0 or h <= 0:
        raise ValueError(f"a region needs a width and a height above 0, got {w} × {h}")
    return Box(y, x, h, w)


def window_starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """Starts of windows that cover ``[0, length)`` to the last pixel.

    A regular grid of ``stride``, its last window snapped to the border, so there are
    ``ceil((length - window) / stride) + 1`` of them.

    Raises
    ------
    ValueError
        If the window is longer than the line or the stride is not in ``1…window``.
    """
    if length < window:
        raise ValueError(f"a line of {length} cannot hold a window of {window}")
    if not 1 <= stride <= window:
        raise ValueError(f"the stride must be between 1 and the window {window}, got {stride}")
    count = -(-(length - window) // stride) + 1
    return tuple(min(i * stride, length - window) for i in range(count))


def plan_windows(shape: tuple[int, int], window: int, stride: int) -> tuple[Box, ...]:
    """Square windows, row by row, that cover a canvas of ``shape`` completely."""
    return tuple(
        Box(y, x, window, window)
        for y in window_starts(shape[0], window, stride)
        for x in window_starts(shape[1], window, stride)
    )


def centre_out(boxes: Iterable[Box], centre: tuple[float, float]) -> list[Box]:
    """Boxes ordered by the distance of their middle to ``centre``; ties keep their order."""

    def distance(box: Box) -> float:
        y, x = box.centre
        return (y - centre[0]) ** 2 + (x - centre[1]) ** 2

    return sorted(boxes, key=distance)


def as_region(value: Region | Box | Sequence[Any]) -> Region:
    """A :class:`Region` from a region, a box or ``(y, x)`` vertices."""
    if isinstance(value, Region):
        return value
    if isinstance(value, Box):
        return Region.from_box(value)
    return Region.from_vertices(value)
