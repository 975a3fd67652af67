"""``prototypes``: the kinds of cells that a slide consists of, as fields to paint with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_ssldiff.cli import main
from napari_ssldiff.cli.sheet import EDGE, LINE
from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.embeddings.field import history_of

Run = Callable[..., int]


@pytest.fixture
def slide(write_scene: Callable[..., Path]) -> Path:
    """8 × 8 cells of 32 px: half of one colour, half of another but for some glass."""
    pixels = np.full((256, 256, 3), (180, 40, 90), np.uint8)
    pixels[:, 128:] = (40, 60, 160)
    pixels[:64, 192:] = 240
    return write_scene(pixels, name="halves.tif")


@pytest.fixture
def run(slide: Path, tiny_folder: Path) -> Run:
    def made(folder: Path, *more: str) -> int:
        words = ["prototypes", str(slide), f"--model={tiny_folder}", "--device=cpu"]
        return main([*words, "-o", str(folder), *more])

    return made


def test_each_kind_is_a_field_with_its_share_its_real_cells_and_a_row_of_the_sheet(
    run: Run, slide: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "kinds"
    assert run(folder, "-k", "2") == 0
    out = capsys.readouterr().out.splitlines()
    assert out == ["kind 1: 0.533 of 60 cells", "kind 2: 0.467 of 60 cells", str(folder)]
    told = json.loads((folder / "prototypes.json").read_text())
    assert (told["image"], told["cells"], len(told["kinds"])) == ("halves.tif", 60, 2)
    for n, (kind, left) in enumerate(zip(told["kinds"], (True, False), strict=True), 1):
        assert all((near["x"] < 128) == left for near in kind["nearest"])
        field = EmbeddingField.load(folder / f"kind-{n}.json")
        assert field.shape == (1, 1)
        assert (field.origin[1] < 128) == left
        (story,) = (json.loads(step) for step in history_of(folder / f"kind-{n}.json"))
        assert (story["prototype"], story["image"], story["share"]) == (
            n, "halves.tif", kind["share"],
        )  # fmt: skip
    with Image.open(folder / "prototypes.png") as sheet:
        assert sheet.size == (EDGE * 7, (EDGE + 2 * LINE) * 2)
        first = np.asarray(sheet)[10, EDGE + 10 :: EDGE]
    assert (np.abs(first.astype(int) - (180, 40, 90)) < 4).all()
    # A kind is painted into a region's field as any field is.
    field, painted = tmp_path / "field.json", tmp_path / "painted.json"
    words = ["embed", str(slide), "--region=0,0,128,128", f"--model={tiny_folder}"]
    assert main([*words, "--device=cpu", "-o", str(field)]) == 0
    paint = ["edit", str(field), "--op=paint", f"--with={folder / 'kind-2.json'}"]
    assert main([*paint, "--cells=1,1,1,1", "-o", str(painted)]) == 0
    vectors: Any = EmbeddingField.load(painted).vectors
    wanted = EmbeddingField.load(folder / "kind-2.json").vectors[0, 0]
    np.testing.assert_allclose(vectors[1, 1], wanted, atol=1e-5)


def test_a_smaller_sample_looks_at_fewer_cells(run: Run, tmp_path: Path) -> None:
    assert run(tmp_path / "few", "--sample=20") == 0
    told = json.loads((tmp_path / "few" / "prototypes.json").read_text())
    assert 10 <= told["cells"] <= 20


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["-k", "0"], "-k is at least 1, got 0"),
        (["--sample=-3"], "--sample is at least 1, got -3"),
        (["--seed=-1"], "--seed is between 0 and"),
        (["--resolution=fine"], "--resolution"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    more: list[str], words: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "kinds", *more) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "kinds").exists()


def test_what_is_there_already_stays(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kinds").mkdir()
    assert run(tmp_path / "kinds", "-k", "1") == 0  # an empty folder is taken
    before = {path: path.read_bytes() for path in (tmp_path / "kinds").iterdir()}
    assert run(tmp_path / "kinds") == 2
    assert "is there already: name a new folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "kinds").iterdir()} == before
    assert run(tmp_path / "no" / "such") == 2
    assert "cannot make the folder" in capsys.readouterr().err
