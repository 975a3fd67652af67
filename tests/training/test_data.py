"""Training images: found by fold, read at one resolution, cropped by step."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from napari_ssldiff.errors import InputError
from napari_ssldiff.training import augment
from napari_ssldiff.training.data import (
    ImageSet,
    draw_crops,
    list_files,
    load_image,
    load_sets,
    tissue_tiles,
)
from napari_ssldiff.training.pipeline import DEFAULT_CONFIG, read_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, two of which are held out."""
    rng = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for name in "abcd":
        pixels = rng.integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / f"{name}.png")
    rows = [
        "path,name,fold",
        *(
            f"set/{n}.png,{n},{f}"
            for n, f in zip("abcd", ("train", "heldout", "train", "heldout"), strict=True)
        ),
    ]
    (tmp_path / "folds.csv").write_text("\n".join(rows))
    return tmp_path


@pytest.mark.parametrize("key", ["path", "name"])
def test_only_files_of_the_fold_are_listed(key: str, folder: Path) -> None:
    entry = {"glob": "set/*.png", "folds": {"table": "folds.csv", "key": key, "fold": "train"}}
    assert [p.stem for p in list_files(folder, entry)] == ["a", "c"]


def test_a_file_that_the_table_does_not_name_is_left_out(folder: Path) -> None:
    Image.new("RGB", (9, 9)).save(folder / "set" / "unlisted.png")
    entry = {"glob": "set/*", "folds": {"table": "folds.csv", "key": "name", "fold": "train"}}
    assert [p.stem for p in list_files(folder, entry)] == ["a", "c"]


def test_missing_data_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no image matches 'none/\*'"):
        list_files(folder, {"glob": "none/*"})
    (folder / "bad.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cannot read the image .*bad\.png"):
        load_image(folder / "bad.png", 1, 1)
    Image.new("RGB", (600, 600), "white").save(folder / "white.png")
    with pytest.raises(InputError, match="no usable tissue"):
        load_sets(
            folder, [{"name": "x", "glob": "white.png", "pixel_size": 1, "tissue": True}], 1.0
        )


def test_images_are_brought_to_the_models_resolution(folder: Path) -> None:
    assert load_image(folder / "set" / "a.png", 0.5, 0.5).shape == (40, 60, 3)
    assert load_image(folder / "set" / "a.png", 0.5, 1.0).shape == (20, 30, 3)
    entry = {"name": "x", "glob": "set/a.png", "pixel_size": 1.0, "aspect": 2.0}
    assert load_sets(folder, [entry], 1.0)[0].images[0].shape == (40, 80, 3)


def test_tiles_of_bare_glass_are_dropped() -> None:
    rng = np.random.default_rng(0)
    slide = np.full((1024, 1024, 3), 245, np.uint8)
    slide[512:, :512] = np.clip(rng.normal(150, 30, (512, 512, 3)), 0, 255)
    (tile,) = tissue_tiles(slide)
    assert np.array_equal(tile, slide[512:, :512])


def test_crops_are_a_function_of_the_generator_and_come_from_the_images() -> None:
    flat = [ImageSet(n, (np.full((30, 50, 3), v, np.uint8),), w)
            for n, v, w in (("a", 10, 3.0), ("b", 200, 1.0))]  # fmt: skip
    a, b = (draw_crops(flat, 16, 400, np.random.default_rng([3, 7])) for _ in range(2))
    assert torch.equal(a, b)
    assert (a.shape, a.dtype) == ((400, 3, 16, 16), torch.uint8)
    assert set(a.unique().tolist()) == {10, 200}
    assert float((a[:, 0, 0, 0] == 10).float().mean()) == pytest.approx(0.75, abs=0.07)
    assert draw_crops(flat, 64, 2, np.random.default_rng(0)).shape == (2, 3, 64, 64)  # reflected


def test_the_eight_symmetries_are_different_and_lose_nothing() -> None:
    image = torch.arange(27.0).reshape(1, 3, 3, 3)
    turned = [augment.symmetry(image, k) for k in range(8)]
    assert len({tuple(t.flatten().tolist()) for t in turned}) == 8
    assert all(torch.equal(t.flatten().sort()[0], image.flatten()) for t in turned)


def test_jitter_of_no_amount_changes_nothing() -> None:
    images = torch.rand(2, 3, 8, 8) * 0.9 + 0.05
    rng = np.random.default_rng(0)
    torch.testing.assert_close(augment.jitter_stain(images, 0.0, rng), images, atol=1e-3, rtol=0)
    torch.testing.assert_close(augment.jitter_light(images, 0.0, rng), images, atol=1e-5, rtol=0)
    assert not torch.allclose(augment.jitter_stain(images, 0.3, rng), images, atol=1e-2)


def test_views_of_a_crop_differ_and_stay_in_range() -> None:
    crops = torch.randint(0, 255, (3, 3, 48, 48), dtype=torch.uint8)
    rng = np.random.default_rng(0)
    a, b = (augment.view(crops, 32, rng, stain=0.2) for _ in range(2))
    assert a.shape == (3, 3, 32, 32)
    assert not torch.allclose(a, b)
    assert 0 <= float(a.min()) <= float(a.max()) <= 1


@pytest.mark.parametrize("content", [b"a: [\n b: }", b"- 1", b"domains: {}", b""])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match="configuration"):
        read_config(path)
    with pytest.raises(InputError, match="cannot read the configuration"):
        read_config(tmp_path / "none.yaml")


def entries() -> list[dict[str, Any]]:
    config = read_config(DEFAULT_CONFIG)
    return [
        entry
        for domain in config["domains"].values()
        for kind in ("pixels", "encoder")
        for entry in domain[kind]
    ]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_configured_set_is_cut_to_its_training_fold() -> None:
    assert all(entry["folds"]["fold"] == "train" for entry in entries())


def test_pixel_targets_are_at_or_finer_than_the_models_resolution() -> None:
    for domain in read_config(DEFAULT_CONFIG)["domains"].values():
        assert all(e["pixel_size"] <= domain["resolution"] for e in domain["pixels"])


def test_no_training_image_is_of_a_held_out_patient(data_dir: Path) -> None:
    table = rows(data_dir / "histology" / "folds.csv")
    # Where the source does not tell the patient (the oral set), each image stands for itself.
    patient = {row["path"]: row["patient"] or row["path"] for row in table}
    heldout = {patient[row["path"]] for row in table if row["fold"] != "train"}
    used = [
        path.relative_to(data_dir).as_posix()
        for entry in entries()
        if entry["glob"].startswith("histology")
        for path in list_files(data_dir, entry)
    ]
    assert used
    assert heldout
    assert not {patient[name] for name in used} & heldout


def test_no_training_tile_is_of_a_held_out_place_or_overlaps_one(data_dir: Path) -> None:
    table = rows(data_dir / "satellite" / "naip_60cm" / "tiles.csv")
    by_name = {row["name"]: row for row in table}
    used = {
        path.stem
        for entry in entries()
        if entry["glob"].startswith("satellite")
        for path in list_files(data_dir, entry)
    }
    assert used
    heldout = [row for row in table if row["fold"] != "train"]
    assert heldout
    assert not {by_name[n]["place"] for n in used} & {row["place"] for row in heldout}
    side = 256 * 0.6  # metres
    kept = [by_name[n] for n in sorted(used)]
    for epsg in {row["epsg"] for row in heldout}:
        a, b = (
            np.array([[float(r["utm_easting"]), float(r["utm_northing"])] for r in part
                      if r["epsg"] == epsg]).reshape(-1, 2)
            for part in (kept, heldout)
        )  # fmt: skip
        apart = np.abs(a[:, None] - b[None]).max(-1)
        assert not (apart < side - 0.6).any(), f"{int((apart < side - 0.6).sum())} in EPSG:{epsg}"
