"""Pictures and curves that an HTML file can hold within itself."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_COLOURS = ("#1f4e9c", "#c05621")


@dataclass(frozen=True)
class Shown:
    """A picture as a data URI, with what it is."""

    source: str
    caption: str


def shown(pixels: NDArray[np.uint8], caption: str) -> Shown:
    """``(h, w, 3)`` uint8 as an inlined JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=90, subsampling=0)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Shown(f"data:image/jpeg;base64,{text}", caption)


def power_curve(curves: Mapping[str, Mapping[str, Any]], limit: float = 12.0) -> str:
    """Inline SVG of ring powers in dB over frequency, with their 95 % bands.

    Parameters
    ----------
    curves
        ``{name: figures of compare_power}``.
    limit
        The axis reaches at least ±3 and at most ±``limit`` dB; what lies beyond is cut.

    Returns
    -------
    Markup; names are escaped, all else is numbers.
    """
    reach = max(float(np.max(np.abs([c["low_db"], c["high_db"]]))) for c in curves.values())
    top = min(limit, max(3.0, float(np.ceil(reach))))
    left, width, height, pad = 52, 560, 220, 12

    def at(frequency: float, db: float) -> str:
        x = left + frequency / 0.5 * width
        y = pad + (1 - (float(np.clip(db, -top, top)) + top) / (2 * top)) * height
        return f"{x:.1f},{y:.1f}"

    def line(a: str, b: str, colour: str) -> str:
        (x1, y1), (x2, y2) = a.split(","), b.split(",")
        return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}"/>'

    parts = []
    step = 1.0 if top <= 4 else 3.0
    for db in np.arange(-(top // step) * step, top + 0.01, step):
        parts.append(line(at(0, db), at(0.5, db), "#9aa5b5" if db == 0 else "#e2e6ec"))
        below = float(at(0, db).split(",")[1]) + 4
        parts.append(
            f'<text x="{left - 8}" y="{below:.1f}" text-anchor="end" font-size="12">'
            f"{db:+.0f}</text>"
        )
    for f in (0.0, 0.125, 0.25, 0.375, 0.5):
        across = float(at(f, 0).split(",")[0])
        label = (
            f'<text x="{across:.1f}" y="{height + pad + 18}" text-anchor="middle" font-size="12">'
        )
        parts.append(f"{label}{f:g}</text>")
    parts.append(line(at(0.25, -top), at(0.25, top), "#9aa5b5"))
    for place, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        f = curve["frequency"]
        upper = [at(x, y) for x, y in zip(f, curve["high_db"], strict=True)]
        lower = [at(x, y) for x, y in zip(f, curve["low_db"], strict=True)]
        parts.append(
            f'<polygon points="{" ".join(upper + lower[::-1])}" fill="{colour}" opacity=".18"/>'
        )
        middle = " ".join(at(x, y) for x, y in zip(f, curve["ratio_db"], strict=True))
        parts.append(
            f'<polyline points="{middle}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(
            f'<text x="{left + width + 8}" y="{pad + 14 + 18 * place}" font-size="12" '
            f'fill="{colour}">{html.escape(name)}</text>'
        )
    parts.append(
        f'<text x="{left + width / 2}" y="{height + pad + 38}" text-anchor="middle" font-size="12">'
        "cycles per pixel (the line at 0.25 is half Nyquist); power over real in dB</text>"
    )
    body = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {left + width + 100} {height + pad + 48}" role="img" '
        f'font-family="system-ui, sans-serif" fill="#4a5568">\n{body}\n</svg>'
    )
