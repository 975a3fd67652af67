"""Which places are measured: spread, disjoint, with content; and which files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation import evaluation_scenes
from napari_ssldiff.evaluation.regions import cells_of, place_regions, read_tiles
from napari_ssldiff.geometry import Box


def test_regions_are_disjoint_inside_and_spread() -> None:
    boxes = place_regions((1000, 1500), 256, 5)
    assert len(boxes) == 5
    assert all(Box(0, 0, 1000, 1500).contains(b) for b in boxes)
    assert all(not a.intersect(b).area for a in boxes for b in boxes if a is not b)
    assert (boxes[0], boxes[-1]) == (Box(0, 0, 256, 256), Box(512, 1024, 256, 256))
    assert len(place_regions((300, 600), 256, 99)) == 2
    assert place_regions((200, 200), 256, 3) == []


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of files with image names."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "b.JPG", "deep/c.tif", "notes.txt"):
        (folder / name).touch()
    return folder


def test_images_are_found_below_folders(pictures: Path) -> None:
    assert [p.name for p in evaluation_scenes([pictures])] == ["a.png", "b.JPG", "c.tif"]
    assert evaluation_scenes([pictures / "a.png"]) == [pictures / "a.png"]


@pytest.mark.parametrize(
    "table",
    ["name,fold\na,heldout\nb,train\nc,heldout\n",
     "path,fold\nx/a.png,heldout\nx/b.jpg,train\nx/deep/c.tif,heldout\n"],
)  # fmt: skip
def test_only_images_of_the_fold_are_used(table: str, pictures: Path, tmp_path: Path) -> None:
    folds = tmp_path / "folds.csv"
    folds.write_text(table)
    assert [p.stem for p in evaluation_scenes([pictures], folds)] == ["a", "c"]
    assert [p.stem for p in evaluation_scenes([pictures], folds, "train")] == ["b"]
    with pytest.raises(InputError, match="no image of the fold 'test'"):
        evaluation_scenes([pictures], folds, "test")


@pytest.mark.parametrize("table", ["name,part\na,x\n", "id,fold\na,heldout\n"])
def test_a_table_without_the_columns_is_refused(table: str, pictures: Path, tmp_path: Path) -> None:
    folds = tmp_path / "folds.csv"
    folds.write_text(table)
    with pytest.raises(InputError, match="lack the column"):
        evaluation_scenes([pictures], folds)


def test_missing_places_are_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image or folder"):
        evaluation_scenes([tmp_path / "none"])
    with pytest.raises(InputError, match="cannot read the folds"):
        evaluation_scenes([pictures], tmp_path / "none.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image of the fold"):
        evaluation_scenes([tmp_path / "empty"])


def test_cells_are_cut_row_by_row() -> None:
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    cells = cells_of(picture, 2)
    assert cells.shape == (6, 2, 2, 3)
    assert np.array_equal(cells[1], picture[:2, 2:4])
    assert np.array_equal(cells[3], picture[2:4, :2])


@pytest.fixture
def slides(write_scene: Callable[..., Path], textured: Callable[..., Any]) -> list[Path]:
    """Two images of 2 × 3 and one of 1 × 1 tiles of 64 pixels."""
    big = textured(128, 192)
    return [
        write_scene(big, name="a.tif"),
        write_scene(textured(64, 64), name="b.tif"),
        write_scene(np.ascontiguousarray(big[::-1]), name="c.tif"),
    ]


def test_every_image_gives_a_tile_before_any_gives_two(slides: list[Path], bundle: Any) -> None:
    spec = bundle.encoder.spec
    first = read_tiles(slides, spec, 64, count=3)
    assert sorted(t.path.name for t in first) == ["a.tif", "b.tif", "c.tif"]
    everything = read_tiles(slides, spec, 64)
    assert len(everything) == 13
    assert len({(t.path, t.box) for t in everything}) == 13
    assert len(read_tiles(slides, spec, 64, count=99)) == 13
    assert read_tiles([], spec, 64, count=1) == []


def test_fewer_tiles_are_the_beginning_of_more(slides: list[Path], bundle: Any) -> None:
    spec = bundle.encoder.spec
    places = [(t.path, t.box) for t in read_tiles(slides, spec, 64)]
    for count in (1, 2, 5, 8):
        some = read_tiles(slides, spec, 64, count=count)
        assert [(t.path, t.box) for t in some] == places[:count]
    by_cells = read_tiles(slides, spec, 64, cells=10)  # four cells a tile
    assert [(t.path, t.box) for t in by_cells] == places[:3]


def test_background_is_no_tile_and_no_cell(write_scene: Callable[..., Path], textured: Any,
                                            bundle: Any) -> None:  # fmt: skip
    pixels = np.full((64, 192, 3), 255, np.uint8)
    pixels[:, :64] = textured(64, 64)
    pixels[:32, 64:128] = textured(32, 64)
    tiles = read_tiles([write_scene(pixels)], bundle.encoder.spec, 64)
    assert {t.box.x: t.content.tolist() for t in tiles} == {
        0: [True] * 4,
        64: [True, True, False, False],
    }


def test_tiles_are_read_at_the_model_s_resolution(write_scene: Callable[..., Path], textured: Any,
                                                   bundle: Any) -> None:  # fmt: skip
    coarse = write_scene(textured(96, 96), microns=1.0)  # the tiny model works at 0.5
    tiles = read_tiles([coarse], bundle.encoder.spec, 64)
    assert len(tiles) == 9
    assert all(t.pixels.shape == (64, 64, 3) and t.box.shape == (32, 32) for t in tiles)
