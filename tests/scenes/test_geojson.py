"""GeoJSON as QuPath writes it, and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.geojson import read_features

SQUARE = [[10, 20], [40, 20], [40, 60], [10, 60], [10, 20]]


def feature(coordinates: Any = None, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    coordinates = [SQUARE] if coordinates is None else coordinates
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": properties,
    }


def write(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: [f], lambda f: {"features": [f]}])
def test_collections_lists_and_single_features_are_read(wrap: Any, tmp_path: Path) -> None:
    (one,) = read_features(write(tmp_path / "a.geojson", wrap(feature(prompt="fat"))))
    assert one.region.bounds == Box(20, 10, 40, 30)  # x comes first in GeoJSON
    assert one.text == "fat"


def test_the_text_is_the_prompt_else_the_name_else_the_class(tmp_path: Path) -> None:
    cases = [
        ({"prompt": "a", "name": "b", "classification": {"name": "c"}}, "a"),
        ({"name": "b", "classification": {"name": "c"}}, "b"),
        ({"classification": {"name": "c", "color": [1, 2, 3]}}, "c"),
        ({"objectType": "annotation"}, ""),
    ]
    found = read_features(write(tmp_path / "a.geojson", [feature(**p) for p, _ in cases]))
    assert [f.text for f in found] == [text for _, text in cases]


def test_parts_of_a_multipolygon_are_features(tmp_path: Path) -> None:
    other = [[x + 100, y] for x, y in SQUARE]
    data = [feature([[SQUARE], [other]], "MultiPolygon", name="two")]
    found = read_features(write(tmp_path / "a.geojson", data))
    assert [f.region.bounds.x for f in found] == [10, 110]
    assert {f.text for f in found} == {"two"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"features": []}, "holds no polygon"),
        ([feature([10, 20], "Point")], "feature 1 of .* its geometry is a Point"),
        ([feature(), {"type": "Feature"}], "feature 2 of .* is no polygon: it lacks 'geometry'"),
        ([None], "feature 1 of .* no rings of"),
        ([feature([[[0, 0], [1], [2, 2]]])], "feature 1 of .* no rings of"),
        ([feature([[[0, 0], [1, 1]]])], "feature 1 of .* at least three"),
        (5, "feature 1 of .* is no polygon"),
    ],
)
def test_what_holds_no_polygon_is_refused(data: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read_features(write(tmp_path / "a.geojson", data))


def test_a_missing_file_and_one_that_is_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the regions"):
        read_features(tmp_path / "none.geojson")
    (tmp_path / "a.geojson").write_text("<xml>")
    with pytest.raises(InputError, match="not GeoJSON"):
        read_features(tmp_path / "a.geojson")


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path: Path) -> None:
    path = tmp_path / "windows.geojson"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([feature()]).encode())
    assert len(read_features(path)) == 1
