"""A whole evaluation on a tiny model, from images to JSON and report; and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.cli import main
from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation import crops, runner
from napari_ssldiff.evaluation import source as source_module
from napari_ssldiff.evaluation.runner import METRICS, Plan
from napari_ssldiff.synthesis import Sampler


@pytest.fixture
def images(tmp_path: Path, textured: Callable[..., Any]) -> Path:
    """Three held-out and three training images of 256 pixels, with a table of folds."""
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    big = textured(700, 700)
    rows = ["name,fold"]
    for i in range(6):
        y, x = 71 * i, 401 - 67 * i
        Image.fromarray(big[y : y + 256, x : x + 256]).save(folder / f"{i}.png")
        rows.append(f"{i},{'heldout' if i < 3 else 'train'}")
    (tmp_path / "folds.csv").write_text("\n".join(rows) + "\n")
    labels = ["path,label,fold"]
    labels += [f"images/{i}.png,{'ab'[i % 2]},{'train' if i < 4 else 'test'}" for i in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(labels) + "\n")
    return folder


@pytest.fixture
def command(images: Path, tiny_folder: Path, tmp_path: Path) -> list[str]:
    """``evaluate`` at its smallest."""
    return [
        "evaluate", str(tiny_folder), str(images), f"--folds={tmp_path / 'folds.csv'}",
        "--window=128", "--cells=24", "--samples=4", "--large=1", "--steps=1", "--seed=5",
    ]  # fmt: skip


def test_an_evaluation_writes_every_figure_with_its_counts(
    command: list[str],
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A real Fréchet distance needs 600 cells; here it only has to go its way.
    for module in (source_module, runner, crops):
        monkeypatch.setattr(module, "LEAST", 24)
    out, page = tmp_path / "figures.json", tmp_path / "report.html"
    options = [
        f"--json={out}", f"--report={page}", f"--labels={tmp_path / 'labels.csv'}",
        "--out-of-distribution", f"other={images / '0.png'}",
    ]  # fmt: skip
    assert main([*command, *options]) == 0
    assert capsys.readouterr().out.split() == [str(out), str(page)]
    report = json.loads(out.read_text(), parse_constant=lambda text: pytest.fail(text))
    assert report["model"] == "tiny"
    assert {"model_hash", "command", "machine", "date", "versions", "notes"} <= set(report)
    assert str(tmp_path) not in json.dumps(report["command"])
    assert report["sampler"]["strength"] == 1
    assert report["sampler"]["seed"] == 5

    figures = report["figures"]
    for space in ("conditioning", "encoder-eval"):
        part = figures["fidelity"][space]["similarity"]
        assert (part["n"], part["images"]) == (32, 2)
        assert part["interval"][0] <= part["value"] <= part["interval"][1]
    assert figures["autoencoder"]["psnr"]["n"] == 5  # 72 cells are five tiles of 16
    assert len(figures["autoencoder"]["power"]["ratio_db"]) == 16
    distances = figures["distances"]
    assert distances["space"] == "encoder-eval"
    assert distances["n"] == 32
    assert distances["kernel"]["std"] > 0
    found = distances["frechet"]
    assert found["ratio"]["value"] == pytest.approx(
        found["distance"]["value"] / found["real_halves_by_cell"]["value"], rel=1e-3
    )
    assert found["real_halves_by_cell"]["n"] == 32
    assert found["variance_ratio"]["dimensions"] == 12
    assert set(figures["manifold"]) >= {"precision", "recall", "diversity"}
    assert set(figures["colour"]) == set(figures["spectrum"]) == {"made", "autoencoder"}
    assert report["crops"]["large_edge"] == 256
    assert report["crops"]["n"] == 24
    memorised = report["memorisation"]
    assert memorised["share"]["n"] <= 4
    assert memorised["training_images"] == 3
    own = memorised["own_place"]
    assert own["training"]["n"] <= 4
    assert own["held_out"]["n"] <= 4
    assert own["difference"]["value"] == pytest.approx(
        own["training"]["value"] - own["held_out"]["value"], abs=1e-4
    )
    assert report["encoder"]["test"] == 2
    other = report["out_of_distribution"]["other"]
    assert other["images"] == 1
    assert any("other: fidelity" in note for note in report["notes"])  # of one image only
    assert report["timing"]["default"]["n"] == 5

    html = page.read_text()
    assert "Not for diagnosis" in html
    assert not re.findall(r'(?:src|href)="(?!data:image/jpeg;base64,)', html)
    for words in (
        "The worst cases",
        "Memorisation",
        "Another source: other",
        "<svg",
        "autoencoder",
    ):
        assert words in html


def test_without_training_images_what_needs_them_is_left_out_and_said_so(
    images: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "evaluate", str(tiny_folder), str(images), "--window=128", "--cells=20", "--steps=1",
        "--metrics=frechet,memorisation",
    ]  # fmt: skip
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert "frechet" not in report["figures"]["distances"]
    assert report["figures"]["distances"]["kernel"]["n"] > 8
    assert report["memorisation"] == {}
    assert "fidelity" not in report["figures"]
    said = " ".join(report["notes"])
    assert "Fréchet distance is left out: it needs training images" in said
    assert "memorisation is left out: it needs training images" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--space=dino"], "unknown feature space 'dino'"),
        (["--space=uni"], "the feature space uni needs its weights"),
        (["--metrics=fid"], "unknown metrics fid"),
        (["--metrics="], "unknown metrics none"),
        (["--out-of-distribution", "other"], "NAME=PATH, got 'other'"),
        (["--out-of-distribution", "=x"], "NAME=PATH, got '=x'"),
        (["--out-of-distribution", "a=IMAGES", "a=IMAGES"], "two sources are named 'a'"),
        (["--out-of-distribution", "a=IMAGES/none"], "no image or folder"),
        (["--strength=0.9"], "strength 1, got 0.9"),
        (["--cells=0"], "cells must be at least 1"),
        (["--threads=0"], "threads must be at least 1"),
        (["--window=100"], "multiple of the model's cell of 32"),
        (["--folds=IMAGES/none.csv"], "cannot read the folds"),
        (["--fold=third"], "no image of the fold 'third'"),
        (["--training", "IMAGES/0.png"], "0.png is measured and named as training"),
        (["--labels=IMAGES/none.csv"], "cannot read the labels"),
        (["--report=IMAGES/page.txt"], "ends in .html"),
        (["--json=IMAGES/none/out.json"], "does not exist"),
        (["--preset=fast"], "unknown preset 'fast'"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    options: list[str], words: str, command: list[str], images: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options = [option.replace("IMAGES", str(images)) for option in options]
    assert main([*command, *options]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert said.out == ""


def test_a_plan_knows_its_metrics() -> None:
    assert Plan([]).metrics == frozenset(METRICS)
    with pytest.raises(InputError, match="unknown metrics"):
        Plan([], metrics=frozenset({"beauty"}))
    with pytest.raises(InputError, match="strength 1"):
        Plan([], sampler=Sampler(strength=0.5))


def test_cells_decide_their_content_by_the_real_picture(bundle: Any, images: Path) -> None:
    from napari_ssldiff.evaluation.regions import read_tiles

    (tile,) = read_tiles([images / "0.png"], bundle.encoder.spec, 128, count=1)
    white = np.full_like(tile.pixels, 255)
    cells = source_module.CellSet.of([tile], 32, [white])
    assert len(cells.groups) == len(cells.pictures) == int(tile.content.sum())


def test_crops_of_what_is_like_the_real_are_near_and_of_what_is_not_are_far(
    bundle: Any, images: Path
) -> None:
    from napari_ssldiff.evaluation.fidelity import Piece
    from napari_ssldiff.evaluation.frechet import fit_projection
    from napari_ssldiff.evaluation.regions import read_tiles
    from napari_ssldiff.evaluation.spaces import FeatureSpace

    space = FeatureSpace("tone", "", lambda p: p.reshape(len(p), -1, 3).mean(1).astype(np.float32))
    tiles = read_tiles([images / f"{i}.png" for i in range(3)], bundle.encoder.spec, 256)
    train = read_tiles([images / f"{i}.png" for i in range(3, 6)], bundle.encoder.spec, 256)
    projection = fit_projection(space.features(crops.windows_of(train, 32)))

    def ratio(change: Callable[[Any], Any]) -> float:
        pieces = [Piece(t, t.pixels, change(t.pixels), t.pixels) for t in tiles]
        rng = np.random.default_rng(0)
        found = crops.crop_figures(space, pieces, projection, 32, 600, rng)
        assert (found["large_images"], found["disjoint_crops"], found["n"]) == (3, 192, 600)
        return float(found["frechet"]["ratio"])

    assert ratio(lambda p: np.ascontiguousarray(p[::-1, ::-1])) < 10
    assert ratio(lambda p: p // 2) > 100
