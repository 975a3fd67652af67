"""The scene: one image, however large, as a lazy pyramid with its place in the world."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.geometry import Box


@dataclass(frozen=True)
class PixelSize:
    """Size of one pixel along y and x, always positive.

    Parameters
    ----------
    y, x
        Length of a pixel's side in ``unit``.
    unit
        ``"micrometer"``, ``"meter"``, ``"degree"`` or, where nothing is known, ``"pixel"``.
    """

    y: float
    x: float
    unit: str = "pixel"

    def __post_init__(self) -> None:
        if not (self.y > 0 and self.x > 0 and np.isfinite([self.y, self.x]).all()):
            raise ValueError(f"a pixel size must be positive and finite, got {self.y} × {self.x}")
        if self.unit not in ("micrometer", "meter", "degree", "pixel"):
            raise ValueError(
                f"unknown unit {self.unit!r}: micrometer, meter, degree and pixel are known"
            )

    def to_list(self) -> list[float | str]:
        """``[y, x, unit]``."""
        return [self.y, self.x, self.unit]


class LevelArray(Protocol):
    """What a pyramid level offers: a read-only Zarr array, or something that reads like one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def chunks(self) -> Any: ...
    @property
    def ndim(self) -> int: ...
    @property
    def size(self) -> int: ...
    def __getitem__(self, index: Any) -> Any: ...
    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True)
class Display:
    """How a scene's samples become 8-bit RGB, and back.

    ``rgb = clip((value - low) / (high - low)) * 255`` on three chosen bands.

    Parameters
    ----------
    bands
        Indices of the bands shown as red, green and blue (the same index three times for grey).
    low, high
        Value per shown band that becomes 0 and 255.
    """

    bands: tuple[int, int, int] = (0, 1, 2)
    low: tuple[float, float, float] = (0.0, 0.0, 0.0)
    high: tuple[float, float, float] = (255.0, 255.0, 255.0)

    @property
    def is_identity(self) -> bool:
        """Whether 8-bit samples pass unchanged."""
        return self.low == (0.0, 0.0, 0.0) and self.high == (255.0, 255.0, 255.0)

    def to_rgb(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        """``(h, w, bands)`` of any dtype → ``(h, w, 3)`` uint8. NaN becomes 0."""
        chosen = samples[..., list(self.bands)]
        if chosen.dtype == np.uint8 and self.is_identity:
            return np.ascontiguousarray(chosen)
        low, high = np.asarray(self.low), np.asarray(self.high)
        scaled = (chosen.astype(np.float64) - low) / (high - low)
        rgb: NDArray[np.uint8] = np.round(np.clip(np.nan_to_num(scaled), 0, 1) * 255).astype(
            np.uint8
        )
        return rgb

    def from_rgb(self, rgb: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
        """``(h, w, 3)`` uint8 → the three shown bands in ``dtype``, the stretch inverted."""
        if dtype == np.uint8 and self.is_identity:
            return rgb
        low, high = np.asarray(self.low), np.asarray(self.high)
        values: NDArray[Any] = rgb.astype(np.float64) / 255 * (high - low) + low
        if np.issubdtype(dtype, np.integer):
            info = np.iinfo(dtype)
            values = np.clip(np.round(values), info.min, info.max)
        return values.astype(dtype)


@dataclass
class Scene:
    """One image as a lazy pyramid. Make one with :func:`napari_ssldiff.scenes.open_scene`.

    Levels are ``(y, x, band)`` arrays, finest first, that read only what is indexed and are
    safe to read from several threads. The scene keeps its files open until :meth:`close`.

    Parameters
    ----------
    path
        Where it came from (a path or URL).
    name
        Short name for layers and messages.
    levels
        Pyramid, finest first.
    pixel_size
        Of level 0, in the scene's own frame (map units where there is a projection).
    ground_pixel_size
        Of level 0 on the ground; differs from ``pixel_size`` for projections that stretch,
        such as Web Mercator. ``None`` where there is no projection.
    origin
        Physical position ``(y, x)`` of the outer corner of pixel (0, 0), in ``pixel_size.unit``.
        Both axes grow with the pixel index, so for maps y is the *negated* northing or latitude:
        scenes of one CRS then lie beside each other as they do on the ground.
    crs
        Authority code such as ``"EPSG:3857"``, or WKT where there is none; ``None`` without.
    affine
        ``(a, b, c, d, e, f)``: map x = a·col + b·row + c, map y = d·col + e·row + f.
    band_names
        One per band.
    display
        Band choice and stretch.
    background
        RGB, 0…255, of what is not tissue or ground.
    nodata
        Value of pixels that hold nothing, if any.
    facts
        What the source says of itself: format, objective, compression, vendor…
    problems
        What could not be read so far, one line each. It grows while the scene is read: a bad
        tile leaves a marked hole in the pixels and a line here.
    scales
        Level-0 pixels per pixel of each level, ``(y, x)``, where the shapes alone would round
        it; ``None`` takes the ratio of the shapes.
    closers
        Called once by :meth:`close`.
    inside
        The part of level 0 that holds the source's own pixels, of a scene that was extended
        (:func:`napari_ssldiff.scenes.extend.extend`); ``None``: all of it.
    """

    path: str
    name: str
    levels: Sequence[LevelArray]
    pixel_size: PixelSize
    ground_pixel_size: PixelSize | None = None
    origin: tuple[float, float] = (0.0, 0.0)
    crs: str | None = None
    affine: tuple[float, float, float, float, float, float] | None = None
    band_names: tuple[str, ...] = ("red", "green", "blue")
    display: Display = field(default_factory=Display)
    background: tuple[int, int, int] = (255, 255, 255)
    nodata: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[str] = field(default_factory=list)
    scales: Sequence[tuple[float, float]] | None = None
    closers: Sequence[Callable[[], None]] = ()
    inside: Box | None = None

    def __post_init__(self) -> None:
        self._closed = False
        self._lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)`` of level 0."""
        return self.levels[0].shape[0], self.levels[0].shape[1]

    @property
    def box(self) -> Box:
        """All of level 0."""
        return Box(0, 0, *self.shape)

    @property
    def held(self) -> Box:
        """Level-0 pixels that are the source's own."""
        return self.box if self.inside is None else self.inside

    @property
    def dtype(self) -> np.dtype[Any]:
        """Sample type."""
        return np.dtype(self.levels[0].dtype)

    @property
    def encoder_pixel_size(self) -> PixelSize:
        """What a model must compare its resolution with: the ground size where there is one."""
        return self.ground_pixel_size or self.pixel_size

    def downsample(self, level: int) -> tuple[float, float]:
        """Level-0 pixels per pixel of ``level``, ``(y, x)``."""
        if self.scales is not None:
            return self.scales[level]
        h, w = self.levels[level].shape[:2]
        return self.shape[0] / h, self.shape[1] / w

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """Samples ``(h, w, bands)`` of ``box``, in pixels of ``level``.

        Raises
        ------
        ValueError
            If the box leaves the level.
        """
        h, w = self.levels[level].shape[:2]
        if not Box(0, 0, h, w).contains(box):
            raise ValueError(f"{box} leaves level {level} of {self.name}, which is {w} × {h} px")
        return np.asarray(self.levels[level][box.slices])

    def read_rgb(self, box: Box, level: int = 0) -> NDArray[np.uint8]:
        """Like :meth:`read`, as ``(h, w, 3)`` uint8 through :attr:`display`."""
        return self.display.to_rgb(self.read(box, level))

    def close(self) -> None:
        """Release the files. Safe to call twice."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            for close in self.closers:
                close()

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
