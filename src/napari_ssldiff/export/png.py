"""Pictures as PNG that say what they are: one alone, or two side by side with captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from napari_ssldiff.errors import InputError
from napari_ssldiff.export.files import check_output, whole_output, writing

_GAP = 8
_NOTE = "This picture holds pixels made by a diffusion model; not for diagnosis or as evidence."
_PAPER, _INK = (255, 255, 255), (32, 32, 32)


def side_by_side(
    path: str | Path,
    left: NDArray[np.uint8],
    right: NDArray[np.uint8],
    labels: tuple[str, str] = ("source", "synthetic"),
    *,
    overwrite: bool = False,
) -> Path:
    """Write a PNG of two RGB images under small captions; pixels are copied, not resized.

    Parameters
    ----------
    path
        Ends in ``.png``.
    left, right
        ``(h, w, 3)`` uint8; sizes may differ.
    labels
        Captions; the PNG's text also says that synthetic pixels are in it.
    overwrite
        Whether an existing file is replaced.

    Returns
    -------
    The absolute path.

    Raises
    ------
    OutputError
        If the file exists or cannot be written; nothing half-written is left.
    InputError
        If an image is not ``(h, w, 3)`` uint8.
    """
    target = check_output(path, overwrite, ".png")
    for image in (left, right):
        _check(image)
    font = _font(max(12, min(28, left.shape[1] // 24)))
    line = int(font.getbbox("Ag")[3]) + 2 * _GAP
    # A narrow picture still gets its caption whole.
    columns = [
        max(image.shape[1], int(font.getlength(label)))
        for image, label in zip((left, right), labels, strict=True)
    ]
    height = max(left.shape[0], right.shape[0])
    sheet = Image.new("RGB", (sum(columns) + 3 * _GAP, height + line + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    x = _GAP
    for image, label, width in zip((left, right), labels, columns, strict=True):
        draw.text((x, _GAP), label, fill=_INK, font=font)
        sheet.paste(Image.fromarray(np.ascontiguousarray(image)), (x, line))
        x += width + _GAP
    _save(target, sheet, f"Left: {labels[0]}. Right: {labels[1]}. {_NOTE}", overwrite)
    return target


def synthetic_png(path: str | Path, pixels: NDArray[np.uint8], *, overwrite: bool = False) -> Path:
    """Write ``(h, w, 3)`` uint8 synthetic pixels as a PNG whose text says that they are.

    The path and the errors are those of :func:`side_by_side`.
    """
    target = check_output(path, overwrite, ".png")
    _check(pixels)
    _save(target, Image.fromarray(np.ascontiguousarray(pixels)), _NOTE, overwrite)
    return target


def _check(image: NDArray[np.uint8]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or not image.size or image.dtype != np.uint8:
        raise InputError(
            f"a picture must be (height, width, 3) uint8, got {image.dtype} of shape {image.shape}"
        )


def _save(target: Path, image: Image.Image, comment: str, overwrite: bool) -> None:
    text = PngInfo()
    text.add_text("Software", "napari-ssldiff")
    text.add_text("Comment", comment)
    with whole_output(target, overwrite) as partial, writing(target):
        image.save(partial, format="PNG", pnginfo=text)


def _font(size: int) -> Any:
    """Pillow's own font, in ``size`` where FreeType is there."""
    return ImageFont.load_default(size)
