"""A sheet of cells: rows of small pictures with a line or two below each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Edge of a cell in the picture, and the room for a line of text below it.
EDGE, LINE = 96, 14


class Shown(NamedTuple):
    """One cell: ``(EDGE, EDGE, 3)`` uint8, or ``None`` where its image is gone, and what it is."""

    pixels: NDArray[np.uint8] | None
    lines: tuple[str, ...]


def draw_sheet(path: Path, rows: Sequence[tuple[str, Sequence[Shown]]]) -> None:
    """Write a PNG of cells, a row for each name; grey where there are no pixels."""
    from PIL import Image, ImageDraw

    columns = max((len(cells) for _, cells in rows), default=0)
    high = EDGE + LINE * max((len(c.lines) for _, cells in rows for c in cells), default=0)
    sheet = Image.new("RGB", (EDGE * (columns + 1), high * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (name, cells) in enumerate(rows):
        y = i * high
        pen.text((4, y + EDGE // 2), name, fill="black")
        for j, (pixels, lines) in enumerate(cells):
            x = (j + 1) * EDGE
            shown = np.full((EDGE, EDGE, 3), 200, np.uint8) if pixels is None else pixels
            sheet.paste(Image.fromarray(shown).resize((EDGE - 2, EDGE - 2)), (x, y))
            for n, line in enumerate(lines):
                pen.text((x, y + EDGE + n * LINE), line, fill="black")
    sheet.save(path)
