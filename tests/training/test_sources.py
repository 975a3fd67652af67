"""Slides, scenes and tiles become training images at one resolution, without background."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from napari_ssldiff.errors import InputError
from napari_ssldiff.export import write_ome_zarr
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import PixelSize, open_scene, read_at
from napari_ssldiff.training.reading import load_set
from napari_ssldiff.training.sources import (
    Source,
    common_size,
    find_images,
    open_sized,
    read_tiles,
    tile_grid,
)

HALF = PixelSize(0.5, 0.5, "micrometer")
METRE = PixelSize(0.6, 0.6, "meter")
WriteScene = Callable[..., Path]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def slide(textured: Any, side: int, seen: int) -> NDArray[np.uint8]:
    """Tissue in the top left corner of bare glass; no two of its parts are alike."""
    pixels = np.full((side, side, 3), 245, np.uint8)
    pixels[:seen, :seen] = textured(seen, seen)
    return pixels


def load(paths: list[Path], entry: dict[str, Any] | None = None, **options: Any) -> Any:
    sources = [Source(path, path.name) for path in paths]
    return load_set(sources, {"name": "x", **(entry or {})}, HALF, **options)


def test_folders_are_searched_to_the_bottom_and_a_zarr_counts_once(tmp_path: Path) -> None:
    inner = tmp_path / "b" / "c"
    (inner / "made.ome.zarr" / "0").mkdir(parents=True)
    (inner / "made.ome.zarr" / "zarr.json").write_text("{}")
    (inner / "made.ome.zarr" / "0" / "inside.png").touch()
    for name in ("b/slide.svs", "b/c/tile.PNG", "notes.txt", ".hidden.png", "b/scene.tif"):
        (tmp_path / name).touch()
    found = find_images([tmp_path])
    assert [s.name for s in found] == [
        "b/c/made.ome.zarr", "b/c/tile.PNG", "b/scene.tif", "b/slide.svs"
    ]  # fmt: skip


def test_files_and_folders_are_joined_and_nothing_counts_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    found = find_images([tmp_path / "a", tmp_path / "b", tmp_path / "a" / "1.png"])
    assert [s.name for s in found] == ["a/1.png", "b/1.png"]


def test_pictures_in_the_folder_of_a_run_are_no_training_images(tmp_path: Path) -> None:
    (tmp_path / "out" / "encoder").mkdir(parents=True)
    (tmp_path / "out" / "commands.json").write_text("{}")
    for name in ("a.png", "out/encoder/samples-2.png", "out/curves.png"):
        (tmp_path / name).touch()
    assert [s.name for s in find_images([tmp_path])] == ["a.png"]


def test_no_images_or_no_such_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="no image in"):
        find_images([tmp_path])
    with pytest.raises(InputError, match="no folder of images, and no image, at"):
        find_images([tmp_path / "none"])


@pytest.mark.parametrize("shape", [(512, 512), (1024, 1536), (700, 90), (3000, 1111), (1, 1)])
def test_tiles_cover_an_image_without_overlap_and_near_their_size(shape: tuple[int, int]) -> None:
    seen = np.zeros(shape, int)
    boxes = tile_grid(*shape)
    for box in boxes:
        seen[box.slices] += 1
        for edge, whole in zip(box.shape, shape, strict=True):
            assert 341 <= edge <= 768 or edge == whole
    assert (seen == 1).all()


def test_a_slide_is_read_at_the_models_resolution_without_its_glass(
    write_scene: WriteScene, textured: Any
) -> None:
    path = write_scene(slide(textured, 512, 256), microns=0.25)
    with open_scene(path) as scene:
        tiles = read_tiles(scene, HALF, 10**9, rng(), tile=128)
        (image,) = tiles.images
        assert (tiles.total, tiles.background, tiles.left_out) == (4, 3, 0)
        assert image.shape == (128, 128, 3)
        assert np.array_equal(image, read_at(scene, Box(0, 0, 128, 128), HALF))


def test_a_pixel_size_within_a_hundredth_is_not_resampled(
    write_scene: WriteScene, textured: Any
) -> None:
    pixels = textured(300, 200)
    with open_scene(write_scene(pixels, microns=0.499)) as scene:
        (image,) = read_tiles(scene, HALF, 10**9, rng()).images
    assert np.array_equal(image, pixels)


def test_beyond_the_budget_a_seeded_choice_of_tissue_is_kept(
    write_scene: WriteScene, textured: Any
) -> None:
    path = write_scene(slide(textured, 768, 384))
    room = 2 * 3 * 128**2
    with open_scene(path) as scene:
        whole = read_tiles(scene, HALF, 10**9, rng(), tile=128)
        some = read_tiles(scene, HALF, room, rng(), tile=128)
        again = read_tiles(scene, HALF, room, rng(), tile=128)
        other = read_tiles(scene, HALF, room, np.random.default_rng(1), tile=128)
    assert (len(whole.images), len(some.images), some.total) == (9, 2, 36)
    assert some.background == 27
    assert some.left_out == 7
    every = [image.tobytes() for image in whole.images]
    assert all(image.tobytes() in every for image in some.images)
    assert [i.tobytes() for i in some.images] == [i.tobytes() for i in again.images]
    assert [i.tobytes() for i in some.images] != [i.tobytes() for i in other.images]


def test_the_budget_is_shared_by_the_slides_and_the_log_says_what_is_left_out(
    write_scene: WriteScene, textured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_tiles, "__defaults__", (128,))
    paths = [write_scene(textured(512, 512), name=f"{i}.tif") for i in range(2)]
    small = write_scene(textured(60, 60), name="small.tif")
    said: list[str] = []
    megabytes = 4.3 * 3 * 128**2 / 1e6
    found = load([*paths, small], {"budget_mb": megabytes}, log=said.append)
    # The small one leaves most of its share to the slides.
    assert found.sources == ("0.tif", "0.tif", "1.tif", "1.tif", "small.tif")
    assert sum(image.nbytes for image in found.images) <= megabytes * 1e6
    assert sum("2 of 16 tiles fit the budget" in line for line in said) == 2


def test_an_ome_zarr_is_read_at_the_models_resolution(tmp_path: Path, textured: Any) -> None:
    pixels = textured(400, 300)
    path = write_ome_zarr(
        tmp_path / "a.ome.zarr", pixels, pixel_size=PixelSize(0.25, 0.25, "micrometer")
    )
    (image,) = load([path]).images
    assert image.shape == (200, 150, 3)
    halved = pixels.reshape(200, 2, 150, 2, 3).mean((1, 3))
    assert np.abs(image.astype(float) - halved).mean() < 6


def test_real_slides_and_scenes_are_read_in_their_own_units(data_dir: Path) -> None:
    samples = data_dir / "samples"
    found = load([samples / "cmu_small_region.svs"])
    pixels = sum(image.shape[0] * image.shape[1] for image in found.images)
    assert 0.2 * 2220 * 2967 < pixels <= 2220 * 2967
    scenes = find_images([samples / "cogeo.tif", samples / "naip_riverside_2020_83_rgbn_utm.tif"])
    ground = load_set(scenes, {"name": "ground"}, METRE)
    by_name = dict(zip(ground.sources, ground.images, strict=True))
    assert by_name["naip_riverside_2020_83_rgbn_utm.tif"].shape == (256, 256, 3)
    # 1024 pixels of 0.473 m on the ground, not of the 0.597 m of the map, in two by two tiles
    side = round(1024 * 0.473 / 0.6 / 2)
    assert by_name["cogeo.tif"].shape == pytest.approx((side, side, 3), abs=3)
    with pytest.raises(InputError, match="measures pixels in meter, the model in micrometer"):
        load([samples / "cogeo.tif"])


def test_a_pixel_size_is_the_files_the_fallback_or_the_entrys_in_that_order_of_knowing(
    write_scene: WriteScene, textured: Any, tmp_path: Path
) -> None:
    sized = write_scene(textured(64, 64), microns=0.25)
    bare = tmp_path / "bare.png"
    Image.fromarray(textured(64, 64)).save(bare)
    one = PixelSize(1, 1, "micrometer")

    def size(path: Path, exact: PixelSize | None, fallback: PixelSize | None) -> float:
        with open_sized(path, exact, fallback) as scene:
            return scene.encoder_pixel_size.y

    assert size(sized, None, one) == pytest.approx(0.25)
    assert size(sized, one, None) == 1
    assert size(bare, None, HALF) == 0.5
    with pytest.raises(InputError, match=r"bare\.png does not say how large its pixels are"):
        open_sized(bare, None, None)


def test_the_resolution_of_the_data_is_the_median_of_its_images(
    write_scene: WriteScene, textured: Any
) -> None:
    sources = [
        Source(write_scene(textured(32, 32), microns=size, name=f"{i}.tif"), f"{i}.tif")
        for i, size in enumerate((0.25, 0.5, 0.5, 0.5, 2.0))
    ]
    assert common_size(sources, None) == HALF


def test_slides_and_scenes_are_not_mixed(
    tmp_path: Path, write_scene: WriteScene, textured: Any
) -> None:
    ground = write_ome_zarr(tmp_path / "g.ome.zarr", textured(64, 64), pixel_size=METRE)
    both = [write_scene(textured(64, 64)), ground]
    with pytest.raises(InputError, match=r"in micrometer, .* in meter: train slides and scenes"):
        common_size([Source(p, p.name) for p in both], None)


def test_a_damaged_slide_loses_its_damaged_tiles_only(tmp_path: Path, textured: Any) -> None:
    path, pixels = tmp_path / "cut.tif", textured(1024, 512)
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(512, 512), compression="zlib",
                     resolution=(20000, 20000), resolutionunit="CENTIMETER")  # fmt: skip
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        start, count = page.dataoffsets[1], page.databytecounts[1]
    raw = bytearray(path.read_bytes())
    raw[start + 20 : start + count] = bytes(count - 20)
    path.write_bytes(raw)
    said: list[str] = []
    (image,) = load([path], log=said.append).images
    assert np.array_equal(image, pixels[:512])
    assert "warning: cut.tif is damaged: 1 of its tiles are skipped" in said


def test_images_that_cannot_be_read_are_named_and_skipped(
    tmp_path: Path, write_scene: WriteScene, textured: Any
) -> None:
    good = write_scene(textured(64, 64))
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"II*\0 nothing more")
    said: list[str] = []
    assert load([good, bad], log=said.append).sources == ("scene.tif",)
    assert any(line.startswith("warning: 1 of 2 images") and "bad.tif" in line for line in said)
    with pytest.raises(InputError, match="none of the 1 images in 'x' can be read"):
        load([bad])


def test_images_coarser_than_the_model_are_told_of(write_scene: WriteScene, textured: Any) -> None:
    said: list[str] = []
    load([write_scene(textured(64, 64), microns=1.0)], log=said.append)
    assert any("1 of 1 images in 'x' are coarser than the model's 0.5" in line for line in said)
    said.clear()
    load([write_scene(textured(64, 64), microns=0.6)], log=said.append)
    assert not said


def test_bare_glass_is_no_training_image(write_scene: WriteScene) -> None:
    glass = write_scene(np.full((600, 600, 3), 240, np.uint8))
    with pytest.raises(InputError, match="no usable tissue in 'x'"):
        load([glass])
