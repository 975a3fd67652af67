"""``index`` and ``nearest``: a data set's cells, and which of them a field's are like."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_ssldiff.cli import main
from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.embeddings.index import Index
from napari_ssldiff.embeddings.indexing import index_images, index_scene
from napari_ssldiff.errors import Cancelled, InputError, OutputError
from napari_ssldiff.scenes import open_scene


@pytest.fixture
def slides(write_scene: Callable[..., Path], textured: Any) -> list[Path]:
    """Two images of 3 × 4 cells of 32 px, the second with a row of glass."""
    pixels = textured(96, 256)
    second = pixels[:, 128:].copy()
    second[:32] = 240
    return [
        write_scene(pixels[:, :128].copy(), name="a.tif"),
        write_scene(second, name="b.tif"),
    ]


@pytest.fixture
def index(slides: list[Path], tiny_folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "all.index"
    words = ["index", *map(str, slides), f"--model={tiny_folder}", "--device=cpu"]
    assert main([*words, "-o", str(out)]) == 0
    return out


@pytest.fixture
def field(slides: list[Path], tiny_folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "field.json"
    words = ["embed", str(slides[1]), "--region=0,0,128,96", f"--model={tiny_folder}"]
    assert main([*words, "--device=cpu", "-o", str(out)]) == 0
    return out


def test_a_cell_of_the_data_finds_itself_where_it_lies(
    index: Path, field: Path, slides: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = Index.open(index)
    assert [image.name for image in found.images] == ["a.tif", "b.tif"]
    assert [image.cells for image in found.images] == [12, 8]  # no glass
    capsys.readouterr()
    assert main(["nearest", str(field), str(index), "--cells=2,1,1,2", "-k", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [cell["cell"] for cell in told["cells"]] == [[2, 1], [2, 2]]
    for cell in told["cells"]:
        first, *others = cell["nearest"]
        assert (first["name"], Path(first["path"])) == ("b.tif", slides[1])
        assert first["box"] == [cell["cell"][0] * 32, cell["cell"][1] * 32, 32, 32]
        assert first["pixel_size"] == [0.5, 0.5, "micrometer"]
        assert first["cosine"] == pytest.approx(1, abs=2e-3)
        assert len(others) == 2
        assert all(first["cosine"] >= other["cosine"] for other in others)


def test_the_nearest_are_those_of_the_whole_data_in_however_many_files_they_lie(
    slides: list[Path], bundle: Any, tmp_path: Path
) -> None:
    parts, whole = (Index.at(tmp_path / n, bundle.encoder.spec) for n in ("parts", "whole"))
    for made, size in ((parts, 5), (whole, 100)):
        for path in slides:
            with open_scene(path) as scene:
                index_scene(made, scene, path.name, bundle.encoder, part=size)
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    sought = np.random.default_rng(0).normal(size=(4, 12))
    first, second = (i.nearest(sought, 6) for i in (parts, whole))
    assert [[c.corner for c in near] for near in first] == [
        [c.corner for c in near] for near in second
    ]
    cosines = [c.cosine for c in first[0]]
    assert cosines == sorted(cosines, reverse=True)
    with pytest.raises(InputError, match="vectors of 12 numbers"):
        parts.nearest(np.ones(3))


def test_a_run_that_was_stopped_goes_on_with_the_image_that_it_was_at(
    slides: list[Path], bundle: Any, tmp_path: Path
) -> None:
    made = Index.at(tmp_path / "i", bundle.encoder.spec)
    images = [(path, path.name) for path in slides]

    def stop() -> None:
        if made.images:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        index_images(made, images, bundle.encoder, check=stop)
    assert [i.name for i in Index.open(made.folder).images] == ["a.tif"]
    # What a killed run has left behind goes.
    (made.folder / "000099.safetensors").write_bytes(b"half")
    again = Index.at(made.folder, bundle.encoder.spec)
    names: list[str] = []
    index_images(again, images, bundle.encoder, progress=lambda name, *_: names.append(name))
    assert set(names) == {"b.tif"}
    assert len(list(made.folder.glob("*.safetensors"))) == 2
    # An image that has changed is taken in again, and is there once.
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(slides[0])
    assert not again.known(slides[0])
    index_images(again, images, bundle.encoder)
    assert sorted(i.name for i in again.images) == ["a.tif", "b.tif"]
    assert len(list(made.folder.glob("*.safetensors"))) == 2


def test_images_that_have_moved_are_named(
    index: Path, field: Path, slides: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.png"
    slides[0].unlink()
    words = ["nearest", str(field), str(index), f"--png={sheet}", "-k", "2", "--cells=0,1,3,1"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert f"moved or removed since they were indexed: {slides[0]}" in said.err
    assert said.out.splitlines()[-1].startswith("2,1: 1.000 b.tif at 64,32  ")
    with Image.open(sheet) as picture:
        assert picture.size == (3 * 96, 3 * (96 + 28))
        pixels = np.asarray(picture)
    with open_scene(slides[1]) as scene:
        real = scene.read_rgb(scene.box)[32:64, 64:96]
    shown = pixels[2 * 124 : 2 * 124 + 94, 96 : 96 + 94]
    np.testing.assert_allclose(shown.mean((0, 1)), real.mean((0, 1)), atol=4)


def test_an_index_and_its_images_can_move_together(
    index: Path, slides: list[Path], tmp_path: Path
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    for path in (*slides, index):
        path.rename(new / path.name)
    moved = Index.open(new / index.name)
    assert moved.missing() == []
    assert moved.where(moved.images[0]) == new / index.name / ".." / "a.tif"


def test_an_index_of_another_encoder_is_refused(
    index: Path, field: Path, bundle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    replace(EmbeddingField.load(field), encoder="other@1").save(other)
    assert main(["nearest", str(other), str(index)]) == 2
    assert "holds embeddings of tiny-encoder@" in capsys.readouterr().err
    with pytest.raises(InputError, match="not of other"):
        Index.at(index, replace(bundle.encoder.spec, id="other@1"))
    assert main(["nearest", str(field), str(tmp_path)]) == 2
    assert "is no index: make one with 'napari-ssldiff index" in capsys.readouterr().err
    with pytest.raises(OutputError, match="exists and is no index"):
        Index.at(tmp_path, bundle.encoder.spec)
    next(index.glob("*.safetensors")).write_bytes(b"x")
    assert main(["nearest", str(field), str(index)]) == 2
    assert "make the index again" in capsys.readouterr().err


def test_images_of_no_use_are_told_of_and_the_others_serve(
    slides: list[Path], bundle: Any, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no image")
    made, told = Index.at(tmp_path / "i", bundle.encoder.spec), list[str]()
    images = [(bad, "bad.tif"), (slides[0], "a.tif")]
    index_images(made, images, bundle.encoder, told=told.append)
    assert len(told) == 1
    assert told[0].startswith("bad.tif is left out: ")
    assert [i.name for i in made.images] == ["a.tif"]
    with pytest.raises(InputError, match="none of the images"):
        index_images(made, images[:1], bundle.encoder)
