"""Guides, given fields and inversion by the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_ssldiff.cli import main
from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.embeddings.field import history_of

BOX = ["--region", "64,64,96,64"]
Vary = Callable[..., int]


@pytest.fixture
def slide(write_scene: Callable[..., Path], textured: Any) -> str:
    return str(write_scene(textured(256, 256)))


@pytest.fixture
def vary(slide: str, tiny_folder: Path, tmp_path: Path) -> Vary:
    """The exit code of ``vary`` with options, written to ``out.ome.zarr``."""

    def run(*options: str) -> int:
        out = str(tmp_path / "out.ome.zarr")
        words = ["vary", slide, *BOX, "--model", str(tiny_folder), "--steps", "2", "-o", out]
        return main([*words, *options])

    return run


def request_in(folder: Path) -> dict[str, Any]:
    facts = json.loads((folder / "zarr.json").read_text())["attributes"]["napari_ssldiff"]
    found: dict[str, Any] = facts["request"]
    return found


def test_a_variation_is_guided_by_the_source_or_by_a_picture(vary: Vary, tmp_path: Path) -> None:
    assert vary("--guide", "8um", "--guide-strength", "0.5") == 0
    guide = request_in(tmp_path / "out.ome.zarr")["guide"]
    assert guide["strength"] == 0.5
    assert guide["shape"] == [-(-64 // 16), -(-96 // 16)]
    picture = tmp_path / "coarse.png"
    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(picture)
    (tmp_path / "out.ome.zarr").rename(tmp_path / "first.ome.zarr")
    assert vary("--guide", str(picture)) == 0
    assert request_in(tmp_path / "out.ome.zarr")["guide"]["strength"] == 1.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--guide", "nothing.png"], "there is no file 'nothing.png'"),
        (["--guide", "0.5um"], "coarser than what it guides"),
        (["--guide", "3m"], "in meters"),
        (["--guide", "8um", "--guide-strength", "2"], "between 0 and 1"),
        (["--guide", "8um", "--preset", "lazy"], "leave guide out"),
        (["--resolution", "12"], "size of a pixel, such as 8um"),
        (["--resolution", "2m"], "--resolution is in meters"),
    ],
)
def test_what_cannot_guide_is_refused(
    vary: Vary, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vary(*options) == 2
    assert said in capsys.readouterr().err


def test_a_field_is_inverted_and_painted(
    vary: Vary, slide: str, tiny_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "field.json"
    words = ["invert", slide, *BOX, "--model", str(tiny_folder), "--steps", "2", "-o", str(file)]
    assert main(words) == 0
    assert EmbeddingField.load(file).shape == (2, 3)
    assert json.loads(history_of(file)[0])["op"] == "invert"
    assert vary("--field", str(file)) == 0
    request = request_in(tmp_path / "out.ome.zarr")
    assert request["history"][0]["op"] == "invert"
    assert main([*words[:-3], "0", "-o", str(file)]) == 2
