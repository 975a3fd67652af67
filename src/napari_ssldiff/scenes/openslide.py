"""Vendor slides through OpenSlide (extra ``openslide``): NDPI, MRXS, SCN, BIF, DICOM and more."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.build import Found, build_scene
from napari_ssldiff.scenes.levels import Level, Problems, one_line
from napari_ssldiff.scenes.scene import PixelSize, Scene

_BLOCK = 512


class Handles:
    """One OpenSlide handle per thread, all closed together.

    A handle that met an error answers every later call with it, so it is replaced, and with
    one handle per thread nobody else is reading from it at that moment.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._open: list[Any] = []
        self._lock = threading.Lock()

    def get(self) -> Any:
        """This thread's handle."""
        import openslide

        handle = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._local.handle = openslide.OpenSlide(str(self._path))
            with self._lock:
                self._open.append(handle)
        return handle

    def drop(self) -> None:
        """Close this thread's handle; the next :meth:`get` opens the file again."""
        handle = getattr(self._local, "handle", None)
        self._local.handle = None
        if handle is not None:
            with self._lock:
                self._open.remove(handle)
            handle.close()

    def close(self) -> None:
        """Close the handles of all threads."""
        with self._lock:
            handles, self._open = self._open, []
        for handle in handles:
            handle.close()


class OpenSlideLevel(Level):
    """One level as ``(h, w, 3)`` uint8; what was not scanned shows the background."""

    def __init__(
        self,
        handles: Handles,
        index: int,
        shape: tuple[int, int],
        scale: tuple[float, float],
        background: tuple[int, int, int],
        problems: Problems,
        name: str,
    ) -> None:
        super().__init__((*shape, 3), np.dtype(np.uint8), (_BLOCK, _BLOCK), problems, name)
        self._handles = handles
        self._index = index
        self._scale = scale
        self._background = background

    def fetch(self, box: Box) -> NDArray[Any]:
        import openslide

        # OpenSlide takes the corner in level-0 pixels, whatever the level.
        corner = (round(box.x * self._scale[1]), round(box.y * self._scale[0]))
        try:
            image = self._handles.get().read_region(corner, self._index, (box.w, box.h))
        except openslide.OpenSlideError:
            self._handles.drop()
            try:
                image = self._handles.get().read_region(corner, self._index, (box.w, box.h))
            except openslide.OpenSlideError:
                self._handles.drop()
                raise
        return over(np.asarray(image), self._background)


def over(rgba: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """``(h, w, 4)`` uint8 with straight alpha over a colour → ``(h, w, 3)`` uint8."""
    alpha = rgba[..., 3:]
    if (alpha == 255).all():
        return np.ascontiguousarray(rgba[..., :3])
    weight = alpha.astype(np.uint32)
    mixed = rgba[..., :3] * weight + np.asarray(background, np.uint32) * (255 - weight)
    return ((mixed + 127) // 255).astype(np.uint8)


def open_slide(path: Path, bands: tuple[int, int, int] | None = None) -> Scene:
    """Open a slide that OpenSlide knows.

    Raises
    ------
    InputError
        If the extra is not installed, or the file is not a slide that OpenSlide can read.
    """
    try:
        import openslide
    except ImportError as error:
        raise InputError(f"{path} needs OpenSlide: install napari-ssldiff[openslide]") from error
    handles = Handles(path)
    try:
        slide = handles.get()
    except (openslide.OpenSlideError, OSError) as error:
        raise InputError(f"{path} cannot be opened by OpenSlide: {one_line(error)}") from error
    try:
        return _scene(slide, handles, path, bands)
    except BaseException:
        handles.close()
        raise


def _scene(slide: Any, handles: Handles, path: Path, bands: tuple[int, int, int] | None) -> Scene:
    problems = Problems()
    properties = slide.properties
    stated = properties.get("openslide.background-color")
    background = (
        (int(stated[:2], 16), int(stated[2:4], 16), int(stated[4:6], 16)) if stated else None
    )
    levels, scales = [], []
    for i, (w, h) in enumerate(slide.level_dimensions):
        exact = (slide.level_downsamples[i],) * 2 if i else (1.0, 1.0)
        scales.append(exact)
        label = path.name if i == 0 else f"{path.name} (level {i})"
        levels.append(
            OpenSlideLevel(
                handles, i, (h, w), exact, background or (255, 255, 255), problems, label
            )
        )
    facts: dict[str, Any] = {
        "format": f"OpenSlide {properties.get('openslide.vendor', 'slide')}",
        "vendor": properties.get("openslide.vendor"),
        "associated_images": sorted(slide.associated_images),
        "file_bytes": path.stat().st_size,
    }
    power = _number(properties.get("openslide.objective-power"))
    if power is not None:
        facts["objective"] = power
    mpp = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "yx"]
    pixel_size = PixelSize(1, 1)
    if mpp[0] and mpp[1]:
        pixel_size = PixelSize(mpp[0], mpp[1], "micrometer")
    return build_scene(
        Found(
            path=str(path),
            name=path.name,
            levels=levels,
            problems=problems,
            pixel_size=pixel_size,
            scales=scales,
            background=background,
            facts=facts,
            closers=[handles.close],
        ),
        bands,
    )


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else 0.0
    except ValueError:
        return None
    return value if value > 0 and math.isfinite(value) else None
