"""Training images: found by fold, read at one resolution, cropped by step."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes import PixelSize
from napari_ssldiff.training import augment
from napari_ssldiff.training import samples as samples_of
from napari_ssldiff.training.data import (
    ImageSet,
    draw_crops,
    list_files,
    list_sources,
    split_share,
)
from napari_ssldiff.training.images import Images
from napari_ssldiff.training.pipeline import DEFAULT_CONFIG, read_config
from napari_ssldiff.training.reading import load_image, load_set, tissue_tiles
from napari_ssldiff.training.sources import Source
from napari_ssldiff.training.specification import ENTRIES

MICRON = PixelSize(1, 1, "micrometer")


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


def read(folder: Path, entry: dict[str, Any]) -> ImageSet:
    """The training images of an entry, at 1 µm."""
    return load_set(list_sources([folder], entry), entry, MICRON)


def test_missing_data_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no image matches 'none/\*' in .* relative to"):
        list_files(folder, {"glob": "none/*"})
    (folder / "bad.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cannot read the image .*bad\.png"):
        load_image(folder / "bad.png", 1, 1)
    Image.new("RGB", (600, 600), "white").save(folder / "white.png")
    with pytest.raises(InputError, match="no usable tissue"):
        read(folder, {"name": "x", "glob": "white.png", "pixel_size": 1, "tissue": True})


def test_images_are_brought_to_the_models_resolution(folder: Path) -> None:
    assert load_image(folder / "set" / "a.png", 0.5, 0.5).shape == (40, 60, 3)
    assert load_image(folder / "set" / "a.png", 0.5, 1.0).shape == (20, 30, 3)
    entry = {"name": "x", "glob": "set/a.png", "pixel_size": 1.0, "aspect": 2.0}
    assert read(folder, entry).images[0].shape == (40, 80, 3)


def test_images_at_the_models_resolution_come_as_they_are_whole_and_in_order(folder: Path) -> None:
    found = read(folder, {"name": "x", "glob": "set/*.png", "pixel_size": 1.0, "weight": 2})
    assert found.sources == tuple(f"set/{n}.png" for n in "abcd")
    assert found.weight == 2
    for name, image in zip("abcd", found.images, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(folder / "set" / f"{name}.png")))


def test_a_limit_draws_the_same_few_images_every_time(folder: Path) -> None:
    entry = {"name": "x", "glob": "set/*.png", "pixel_size": 1.0, "limit": 2}
    once, again = read(folder, entry), read(folder, entry)
    assert len(once.images) == 2
    assert once.sources == again.sources
    assert list(once.sources) == sorted(once.sources)


def test_a_fold_for_validation_takes_the_place_of_the_entrys_own(folder: Path) -> None:
    folds = {"table": "folds.csv", "key": "path", "fold": "train"}
    entry = {"name": "x", "glob": "set/*.png", "folds": folds}

    def names(part: str, entry: dict[str, Any] = entry) -> list[str]:
        found = list_sources([folder], entry, validation="heldout", part=part)
        return [source.path.stem for source in found]

    assert (names("train"), names("validation")) == (["a", "c"], ["b", "d"])
    with pytest.raises(InputError, match="names a fold, but the entry 'x' has no folds"):
        names("validation", {"name": "x", "glob": "set/*.png"})


def test_a_share_parts_images_and_they_stay_on_their_side() -> None:
    sources = [Source(Path(f"{i}.png"), f"{i}.png") for i in range(200)]
    aside = split_share(sources, 0.1, seed=3)
    assert 8 <= len(aside) <= 35
    assert split_share(sources[::-1], 0.1, seed=3) == aside
    assert split_share(sources[:150], 0.1, seed=3) == {s.name for s in sources[:150]} & aside
    assert split_share(sources, 0.1, seed=4) != aside
    # However small the share or the set: something is set aside, and something is left.
    assert len(split_share(sources[:2], 0.0001, seed=0)) == 1
    assert len(split_share(sources[:2], 0.9999, seed=0)) == 1


def test_the_parts_of_a_share_are_disjoint_and_complete(folder: Path) -> None:
    parts = [list_sources([folder / "set"], {"name": "x"}, validation=0.3, part=part)
             for part in ("train", "validation")]  # fmt: skip
    names = [{source.name for source in part} for part in parts]
    assert all(names)
    assert not names[0] & names[1]
    assert names[0] | names[1] == {f"{n}.png" for n in "abcd"}
    (only,) = list_sources([folder / "set" / "a.png"], {"name": "x"}, validation=0.3)
    assert only.name == "a.png"


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


def test_an_image_is_turned_about_its_middle_and_nothing_beside_it_shows() -> None:
    _, x = torch.meshgrid(torch.arange(101.0), torch.arange(141.0), indexing="ij")
    ramp = (x - 70)[None, None] / 100  # the place to the right of the middle
    for degrees in (0.0, 30.0, -45.0, 90.0):
        out = augment.turn(ramp, degrees)
        edge = out.shape[-1]
        assert out.shape == (1, 1, edge, edge)
        assert edge >= int(101 / 2**0.5)
        at = torch.arange(edge) - (edge - 1) / 2
        angle = math.radians(degrees)
        wanted = (math.cos(angle) * at[None, :] - math.sin(angle) * at[:, None]) / 100
        torch.testing.assert_close(out[0, 0], wanted, atol=2e-3, rtol=0)


def test_jitter_of_no_amount_changes_nothing() -> None:
    images = torch.rand(2, 3, 8, 8) * 0.9 + 0.05
    rng = np.random.default_rng(0)
    torch.testing.assert_close(augment.jitter_stain(images, 0.0, rng), images, atol=1e-3, rtol=0)
    torch.testing.assert_close(augment.jitter_light(images, 0.0, rng), images, atol=1e-5, rtol=0)
    assert not torch.allclose(augment.jitter_stain(images, 0.3, rng), images, atol=1e-2)


def test_denser_sections_are_darker_and_what_is_white_stays_white() -> None:
    rng = np.random.default_rng(0)
    image = torch.tensor([1.0, 0.6, 0.2])[:, None, None].expand(1, 3, 4, 4)
    made = torch.cat([augment.jitter_density(image, 0.4, rng) for _ in range(400)])
    density = torch.log(made[:, :, 0, 0]) / torch.log(torch.tensor([1.0, 0.6, 0.2]))
    assert float(made[:, 0].min()) == 1
    # One factor for all stains, and both ways alike.
    torch.testing.assert_close(density[:, 1], density[:, 2], atol=1e-4, rtol=0)
    assert math.exp(-0.4) <= float(density[:, 1].min()) < 0.7
    assert 1.4 < float(density[:, 1].max()) <= math.exp(0.4)
    assert abs(float(density[:, 1].log().mean())) < 0.04
    torch.testing.assert_close(augment.jitter_density(image, 0.0, rng), image, atol=1e-5, rtol=0)


def test_a_shrunk_image_is_smaller_and_its_stripes_do_not_alias() -> None:
    y, _ = torch.meshgrid(torch.arange(200.0), torch.arange(120.0), indexing="ij")
    stripes = 0.5 + 0.4 * torch.cos(2 * math.pi * 0.5 * y)  # too fine for 3/4 of the size
    made = augment.shrink(stripes[None, None], 0.75)
    assert made.shape == (1, 1, 150, 90)
    assert float(made[..., 10:-10, :].std()) < 0.35 * float(stripes.std())
    slow = 0.5 + 0.4 * torch.cos(2 * math.pi * 0.05 * y)
    assert float(augment.shrink(slow[None, None], 0.75).std()) > 0.95 * float(slow.std())


@pytest.mark.parametrize("edge", [128, 150, 176, 192, 200, 256, 400])
def test_a_window_fits_into_every_form_of_an_image_that_it_fits_into(edge: int) -> None:
    rng, amounts = np.random.default_rng(edge), {"turn": 45.0, "shrink": 0.25, "density": 0.3}
    edges = set()
    for _ in range(40):
        bent = samples_of._bend(torch.rand(1, 3, edge, edge + 16), amounts, 128, rng)
        form, _ = samples_of._vary(bent, amounts, 64, rng)
        edges.add(min(form.shape[-2:]))
    assert min(edges) >= 128
    assert edge < 256 or len(edges) > 3  # and larger ones are bent


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
        entry for domain in config["domains"].values() for kind in ENTRIES for entry in domain[kind]
    ]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def training_files(root: Path) -> set[str]:
    """Every file that a stage of the demo models is trained on, relative to the data."""
    images = Images(read_config(DEFAULT_CONFIG), (root,))
    return {
        source.path.relative_to(root).as_posix()
        for domain in images.config["domains"]
        for kind in ENTRIES
        for entry in images.sources(domain, kind)
        for source in entry
    }


def leaks(used: set[str], table: list[dict[str, str]], key: str, group: str) -> set[str]:
    """Groups (patients, places) of which some rows are used and others held out.

    Where a source does not tell the group, each image stands for itself.
    """
    of = {row[key]: row[group] or row[key] for row in table}
    heldout = {of[row[key]] for row in table if row["fold"] != "train"}
    assert heldout
    return {of[name] for name in used} & heldout


def test_every_configured_set_is_cut_to_its_training_fold() -> None:
    assert all(entry["folds"]["fold"] == "train" for entry in entries())
    assert read_config(DEFAULT_CONFIG)["validation"] == "heldout"


def test_pixel_targets_are_near_the_models_resolution() -> None:
    for domain in read_config(DEFAULT_CONFIG)["domains"].values():
        assert all(e["pixel_size"] <= 1.5 * domain["resolution"] for e in domain["pixels"])


def write_demo_layout(root: Path, patient_of_b: str) -> None:
    """The demo models' data in miniature; image a is for training, b held out."""
    tables = {"histology/folds.csv": ["path,patient,fold"],
              "satellite/naip_60cm/tiles.csv": ["name,place,fold"]}  # fmt: skip
    for place in ("histology/osteosarcoma_1024", "histology/her2st_breast",
                  "histology/oral_224/400x", "satellite/naip_60cm"):  # fmt: skip
        (root / place).mkdir(parents=True)
        for name, group, fold in (("a", "P1", "train"), ("b", patient_of_b, "heldout")):
            (root / place / f"{name}.jpg").touch()
            histology = place.startswith("histology")
            table = tables["histology/folds.csv" if histology else "satellite/naip_60cm/tiles.csv"]
            table.append(f"{place}/{name}.jpg,{group},{fold}" if histology
                         else f"{name},{group},{fold}")  # fmt: skip
    for name, lines in tables.items():
        (root / name).write_text("\n".join(lines))


@pytest.mark.parametrize(("patient", "leaked"), [("P2", set()), ("P1", {"P1"})])
def test_a_patient_on_both_sides_would_be_found(
    patient: str, leaked: set[str], tmp_path: Path
) -> None:
    write_demo_layout(tmp_path, patient)
    used = training_files(tmp_path)
    assert {Path(name).stem for name in used} == {"a"}
    assert len(used) == 4
    histology = {name for name in used if name.startswith("histology")}
    table = rows(tmp_path / "histology" / "folds.csv")
    assert leaks(histology, table, "path", "patient") == leaked
    tiles = rows(tmp_path / "satellite" / "naip_60cm" / "tiles.csv")
    assert leaks({Path(n).stem for n in used - histology}, tiles, "name", "place") == leaked


def test_no_training_image_is_of_a_held_out_patient(data_dir: Path) -> None:
    used = {name for name in training_files(data_dir) if name.startswith("histology")}
    assert len(used) > 100
    assert not leaks(used, rows(data_dir / "histology" / "folds.csv"), "path", "patient")


def test_no_training_tile_is_of_a_held_out_place_or_overlaps_one(data_dir: Path) -> None:
    table = rows(data_dir / "satellite" / "naip_60cm" / "tiles.csv")
    by_name = {row["name"]: row for row in table}
    used = {Path(n).stem for n in training_files(data_dir) if n.startswith("satellite")}
    assert len(used) > 100
    assert not leaks(used, table, "name", "place")
    heldout = [row for row in table if row["fold"] != "train"]
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
