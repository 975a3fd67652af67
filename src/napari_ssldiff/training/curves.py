"""Loss curves as a PNG, drawn with Pillow: a panel for the loss and a small one per term."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_INK, _GREY, _GRID = (30, 30, 30), (110, 110, 110), (228, 228, 228)
_TRAIN, _VALID = (31, 96, 169), (203, 78, 28)
_NO_LOSS = ("step", "minutes", "lr", "steps_per_second", "eta_minutes")
_SMALL, _WIDE, _ROW = 420, 3, 270

Points = tuple[list[float], list[float]]


def series(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    """``{term: {"training": (steps, values), "validation": …}}``, the loss first."""
    out: dict[str, dict[str, Points]] = {"loss": {}}
    for row in rows:
        for key, value in row.items():
            if key in _NO_LOSS or not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            held = key.startswith("validation")
            term = key.removeprefix("validation").removeprefix("_") or "loss" if held else key
            kind = out.setdefault(term, {}).setdefault(
                "validation" if held else "training", ([], [])
            )
            kind[0].append(float(row["step"]))
            kind[1].append(float(value))
    return {term: kinds for term, kinds in out.items() if kinds}


def ticks(low: float, high: float, count: int) -> list[float]:
    """At most ``count + 1`` round numbers (1, 2 or 5 times a power of ten) in [low, high]."""
    span = max(high - low, 1e-12)
    base = 10.0 ** math.floor(math.log10(span / count))
    step = next(base * m for m in (1, 2, 5, 10) if span / (base * m) <= count)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten in [low, high]; powers alone over two decades and more."""
    mantissas = (1.0,) if high / low > 100 else (1.0, 2.0, 5.0)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [m * 10.0**p for p in powers for m in mantissas]
    return [t for t in marks if low * 0.999 <= t <= high * 1.001]


def _label(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value / 1000:.4g}k"
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.0e}"


def _panel(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], title: str, data: dict[str, Points]
) -> None:
    """One chart in ``(left, top, right, bottom)`` pixels, titles and labels included."""
    small, bold = ImageFont.load_default(12), ImageFont.load_default(15)
    left, top, right, bottom = box[0] + 58, box[1] + 34, box[2] - 16, box[3] - 30
    ys = np.concatenate([np.asarray(v) for _, v in data.values()])
    xs = np.concatenate([np.asarray(s) for s, _ in data.values()])
    # The first steps are far off; let them leave the frame rather than flatten all the rest.
    low, high = float(ys.min()), float(np.quantile(ys, 0.99))
    log = low > 0 and high / low > 5
    if high - low < 1e-9 * max(1.0, abs(low)):
        low, high = low - 0.5 * abs(low) - 1e-6, high + 0.5 * abs(high) + 1e-6
    place = (lambda v: math.log(max(v, 1e-30))) if log else (lambda v: v)
    bottom_v, top_v = place(low), place(high)
    margin = 0.04 * (top_v - bottom_v)
    bottom_v, top_v = bottom_v - margin, top_v + margin
    end = max(float(xs.max()), 1.0)

    def at(step: float, value: float) -> tuple[float, float]:
        y = bottom - (place(value) - bottom_v) / (top_v - bottom_v) * (bottom - top)
        return left + step / end * (right - left), min(max(y, top), bottom)

    draw.text((left, box[1] + 8), title + (" (log)" if log else ""), _INK, bold)
    marks = log_ticks(low, high) if log else []
    for value in marks if len(marks) > 1 else ticks(low, high, 6):
        y = at(0, value)[1]
        draw.line([(left, y), (right, y)], _GRID)
        draw.text((left - 7, y), _label(value), _GREY, small, anchor="rm")
    for step in ticks(0, end, 5):
        x = at(step, high)[0]
        draw.line([(x, bottom), (x, bottom + 4)], _GREY)
        draw.text((x, bottom + 7), _label(step), _GREY, small, anchor="ma")
    draw.line([(left, top), (left, bottom), (right, bottom)], _GREY)
    draw.text((left - 7, bottom + 7), "step", _GREY, small, anchor="ra")
    x = float(right)
    for kind in ("validation", "training"):
        if kind in data:
            colour = _VALID if kind == "validation" else _TRAIN
            points = [at(s, v) for s, v in zip(*data[kind], strict=True)]
            if len(points) > 1:
                draw.line(points, colour, 2 if kind == "validation" else 1, joint="curve")
            for px, py in points if len(points) <= 40 else []:
                draw.ellipse([px - 2, py - 2, px + 2, py + 2], colour)
            draw.text((x, box[1] + 10), f"{kind} {_label(data[kind][1][-1])}", colour, small, "ra")
            x -= draw.textlength(f"{kind} {_label(data[kind][1][-1])}", small) + 14


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw rows of metrics into a PNG; without rows there is none.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    terms = series(rows)
    if not terms:
        return
    loss, rest = next(iter(terms.items())), list(terms.items())[1:]
    height = 360 + math.ceil(len(rest) / _WIDE) * _ROW
    image = Image.new("RGB", (_SMALL * _WIDE, height), "white")
    draw = ImageDraw.Draw(image)
    _panel(draw, (0, 0, _SMALL * _WIDE, 360), loss[0], loss[1])
    for i, (term, data) in enumerate(rest):
        x, y = i % _WIDE * _SMALL, 360 + i // _WIDE * _ROW
        _panel(draw, (x, y, x + _SMALL, y + _ROW), term, data)
    partial = path.with_name(f".{path.name}.partial")
    image.save(partial, "PNG")
    partial.replace(path)
