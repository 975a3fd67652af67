"""What a scene is, as plain data."""

from __future__ import annotations

from typing import Any

from napari_ssldiff.scenes.scene import Scene


def describe(scene: Scene) -> dict[str, Any]:
    """Facts of a scene, JSON-ready: what ``napari-ssldiff inspect`` prints.

    Shapes are ``[height, width]``; pixel sizes are ``{"y", "x", "unit"}`` or ``None``.
    """

    def size(value: Any) -> dict[str, Any] | None:
        return None if value is None else {"y": value.y, "x": value.x, "unit": value.unit}

    display = scene.display
    return {
        "path": scene.path,
        "name": scene.name,
        "width": scene.shape[1],
        "height": scene.shape[0],
        "shape": list(scene.shape),
        "levels": [
            {
                "shape": [int(n) for n in level.shape[:2]],
                "downsample": list(scene.downsample(i)),
                "chunks": [int(n) for n in level.chunks],
                "stored": bool(getattr(level, "stored", True)),
            }
            for i, level in enumerate(scene.levels)
        ],
        "dtype": str(scene.dtype),
        "bands": list(scene.band_names),
        "pixel_size": size(scene.pixel_size),
        "ground_pixel_size": size(scene.ground_pixel_size),
        "unit": scene.pixel_size.unit,
        "origin": list(scene.origin),
        "crs": scene.crs,
        "affine": None if scene.affine is None else list(scene.affine),
        "display": {
            "bands": list(display.bands),
            "low": list(display.low),
            "high": list(display.high),
        },
        "background": list(scene.background),
        "nodata": None if scene.nodata is None else _number(scene.nodata),
        "facts": dict(scene.facts),
        "problems": list(scene.problems),
    }


def _number(value: float) -> float | str:
    """JSON has no NaN: such values go as text."""
    return value if value - value == 0 else str(value)
