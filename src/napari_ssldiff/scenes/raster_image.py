"""PNG, JPEG and other single images through Pillow, decoded once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes.build import Found, build_scene
from napari_ssldiff.scenes.levels import ArrayLevel, Problems, one_line
from napari_ssldiff.scenes.scene import PixelSize, Scene
from napari_ssldiff.scenes.spool import temporary_array

_IN_MEMORY = 32 * 10**6  # pixels; larger ones wait on disk
_STRIP = 512
_PLAUSIBLE = (0.01, 20.0)  # µm; anything else is the resolution of a print or a screen
_limit_lock = threading.Lock()


def open_raster_image(path: Path, bands: tuple[int, int, int] | None = None) -> Scene:
    """Open a single image as a scene.

    These formats can only be decoded as a whole. Images above 32 megapixels are moved to a
    temporary Zarr array, which the scene's close removes.

    Raises
    ------
    InputError
        If Pillow does not know the format, or the file is damaged.
    """
    image = _decode(path)
    problems = Problems()
    closers: list[Callable[[], None]] = []
    facts: dict[str, Any] = {
        "format": image.format,
        "mode": image.mode,
        "file_bytes": path.stat().st_size,
    }
    pixel_size = _pixel_size(image) or PixelSize(1, 1)
    image = _plain(image)
    if image.width * image.height > _IN_MEMORY:
        source, remove = _to_disk(image)
        closers.append(remove)
    else:
        source = _pixels(image)
    image.close()
    try:
        level = ArrayLevel(source, "YXC", "C", (_STRIP, _STRIP), problems, path.name)
        return build_scene(
            Found(
                path=str(path),
                name=path.name,
                levels=[level],
                problems=problems,
                pixel_size=pixel_size,
                facts=facts,
                closers=closers,
            ),
            bands,
        )
    except BaseException:
        for close in closers:
            close()
        raise


def _decode(path: Path) -> Image.Image:
    # Pillow refuses large images as attacks; here they are what users come with.
    with _limit_lock:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path)
            image.load()
        except UnidentifiedImageError as error:
            raise InputError(
                f"{path} is no image that can be opened: TIFF, SVS, GeoTIFF, PNG, JPEG and "
                "OME-Zarr can, and other slides with napari-ssldiff[openslide]"
            ) from error
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise InputError(f"{path} is damaged or truncated: {one_line(error)}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = before
    return image


def _plain(image: Image.Image) -> Image.Image:
    """Grey, RGB or numeric; transparency over white."""
    if image.mode in ("L", "RGB", "I", "F", "I;16", "I;16B", "I;16L"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _pixels(image: Image.Image) -> NDArray[Any]:
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _to_disk(image: Image.Image) -> tuple[Any, Callable[[], None]]:
    first = _pixels(image.crop((0, 0, 1, 1)))
    shape = (image.height, image.width, first.shape[2])
    array, remove = temporary_array(shape, first.dtype, "YXC")
    try:
        for y in range(0, image.height, _STRIP):
            strip = image.crop((0, y, image.width, min(y + _STRIP, image.height)))
            array[y : y + strip.height] = _pixels(strip)
    except BaseException:
        remove()
        raise
    return array, remove


def _pixel_size(image: Image.Image) -> PixelSize | None:
    try:
        dpi_x, dpi_y = (float(v) for v in image.info.get("dpi", (0, 0)))
    except (TypeError, ValueError):
        return None
    if not (dpi_x > 0 and dpi_y > 0):
        return None
    y, x = 25400 / dpi_y, 25400 / dpi_x
    if not all(_PLAUSIBLE[0] <= v <= _PLAUSIBLE[1] for v in (y, x)):
        return None
    return PixelSize(y, x, "micrometer")
