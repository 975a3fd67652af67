"""Regions as GeoJSON, in pixels, as QuPath writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Region


@dataclass(frozen=True)
class Feature:
    """A polygon and what is written beside it.

    Parameters
    ----------
    region
        Its outer ring, in level-0 pixels.
    text
        The property ``prompt``, else ``name``, else the name of the ``classification``; ``""``
        without any.
    """

    region: Region
    text: str = ""


def read_features(path: Path) -> list[Feature]:
    """The polygons of a file.

    A ``FeatureCollection``, a list of features (both are written by QuPath) or one feature. The
    parts of a multipolygon become features of their own; holes are filled.

    Raises
    ------
    InputError
        If it is missing, is no GeoJSON, or holds no polygon.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read the regions {path}: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path} is not GeoJSON: it cannot be read as JSON") from None
    if isinstance(data, dict):
        data = data.get("features", [data])
    found: list[Feature] = []
    number = 0
    try:
        for feature in data:
            number += 1
            if feature["geometry"] is None:
                text = _text(feature.get("properties") or {})
                raise ValueError(f"{text!r} has no region; draw one, or leave it out")
            for ring in _rings(feature["geometry"]):
                corners = ring[:-1] if len(ring) > 3 and ring[0] == ring[-1] else ring
                region = Region.from_vertices([(float(c[1]), float(c[0])) for c in corners])
                found.append(Feature(region, _text(feature.get("properties") or {})))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, KeyError):
            said = f"it lacks {error}"
        elif isinstance(error, ValueError):
            said = " ".join(str(error).split())
        else:
            said = "its coordinates are no rings of [x, y] pairs"
        raise InputError(f"feature {number or 1} of {path} is no polygon: {said}") from None
    if not found:
        raise InputError(f"{path} holds no polygon: draw regions and export them as GeoJSON")
    return found


def _rings(geometry: dict[str, Any]) -> Iterator[list[Any]]:
    kind = geometry["type"]
    if kind == "Polygon":
        yield geometry["coordinates"][0]
    elif kind == "MultiPolygon":
        for polygon in geometry["coordinates"]:
            yield polygon[0]
    else:
        raise ValueError(f"its geometry is a {kind}")


def _text(properties: dict[str, Any]) -> str:
    group = properties.get("classification")
    names = [properties.get("prompt"), properties.get("name")]
    names.append(group.get("name") if isinstance(group, dict) else None)
    return next((str(name) for name in names if name), "")
