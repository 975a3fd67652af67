"""Bad files: one line on opening, a marked hole while reading."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import open_scene

MAGENTA = [255, 0, 255]


def spoil_tile(path: Path, index: int) -> None:
    """Overwrite the bytes of one tile of the first page."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        start, count = page.dataoffsets[index], page.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\x5a" * count)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "deflate", "lzw"])
def test_a_corrupt_tile_is_a_magenta_hole_and_one_message(
    write_pyramid: Callable[..., Path],
    smooth: Any,
    caplog: pytest.LogCaptureFixture,
    compression: str,
) -> None:
    image = smooth(512, 768)
    path = write_pyramid([image, image[::2, ::2]], compression=compression)
    spoil_tile(path, 1)  # rows 0…255, columns 256…511
    with open_scene(path) as scene, caplog.at_level(logging.WARNING):
        for _ in range(2):
            pixels = scene.read(scene.box)
        assert (pixels[:256, 256:512] == MAGENTA).all()
        assert np.abs(pixels[256:].astype(int) - image[256:]).mean() < 4
        assert np.abs(pixels[:256, :256].astype(int) - image[:256, :256]).mean() < 4
        assert len(scene.problems) == 1
        assert "x 256, y 0" in scene.problems[0]
        assert "\n" not in scene.problems[0]
    ours = [r for r in caplog.records if r.name.startswith("napari_ssldiff")]
    assert len(ours) == 1


def test_a_corrupt_tile_of_wide_samples_holds_the_largest_value(tmp_path: Path) -> None:
    path = tmp_path / "u16.tif"
    tifffile.imwrite(
        path, np.full((256, 512), 700, np.uint16), tile=(256, 256), compression="deflate"
    )
    spoil_tile(path, 0)
    with open_scene(path) as scene:
        pixels = scene.read(scene.box)
    assert (pixels[:, :256] == 65535).all()
    assert (pixels[:, 256:] == 700).all()


def test_a_corrupt_tile_shows_in_the_levels_made_on_the_fly(tmp_path: Path, smooth: Any) -> None:
    path = tmp_path / "single.tif"
    tifffile.imwrite(
        path, smooth(1536, 1536), tile=(256, 256), compression="deflate", photometric="rgb"
    )
    spoil_tile(path, 0)
    with open_scene(path) as scene:
        assert (np.asarray(scene.levels[-1])[:128, :128] == MAGENTA).all()


def test_a_broken_zarr_chunk_is_a_hole_too(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    data = np.full((3, 64, 64), 90, np.uint8)
    root.create_array("0", data=data, chunks=(3, 32, 32))
    axes = [{"name": n, "type": "space" if n in "yx" else "channel"} for n in "cyx"]
    root.attrs["multiscales"] = [
        {"version": "0.4", "axes": axes, "datasets": [{"path": "0"}], "name": "a"}
    ]
    chunk = next(p for p in (tmp_path / "a.zarr/0").rglob("*1*") if p.is_file())
    chunk.write_bytes(b"nonsense")
    with open_scene(tmp_path / "a.zarr") as scene:
        pixels = scene.read(scene.box)
        assert len(scene.problems) == 1
    assert (pixels == 90).mean() > 0.7
    assert (pixels == MAGENTA).all(-1).sum() == 32 * 32


def test_a_closed_scene_says_so_instead_of_filling_with_holes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    scene = open_scene(tmp_path / "a.tif")
    scene.close()
    scene.close()
    with pytest.raises(ValueError, match="closed"):
        scene.read(Box(0, 0, 8, 8))


def refused(path: Any) -> str:
    with pytest.raises(InputError) as caught:
        open_scene(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "nowhere.svs does not exist" in refused(tmp_path / "nowhere.svs")


def test_text_renamed_to_svs_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "notes.svs"
    path.write_text("Dear diary,\n" * 100)
    assert "no image" in refused(path)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    assert "empty" in refused(tmp_path / "a.tif")


def test_a_folder_that_is_no_zarr_is_refused(tmp_path: Path) -> None:
    assert "no OME-Zarr" in refused(tmp_path)


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_tiff_is_refused(tmp_path: Path, smooth: Any, fraction: float) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(600, 600), tile=(128, 128), compression="lzw", photometric="rgb")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    assert str(path) in refused(path)


def test_the_truncated_slide_is_refused(tmp_path: Path, data_dir: Path) -> None:
    whole = (data_dir / "samples/cmu_small_region.svs").read_bytes()
    path = tmp_path / "half.svs"
    path.write_bytes(whole[: len(whole) // 2])
    refused(path)


def test_a_tiff_header_followed_by_noise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "noise.tif"
    path.write_bytes(b"II*\0\x08\0\0\0" + np.random.default_rng(0).bytes(5000))
    refused(path)


def test_complex_samples_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "c.tif", np.ones((32, 32), np.complex64))
    assert "complex64" in refused(tmp_path / "c.tif")


def test_a_slide_format_without_openslide_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"\xff\xd8\xff\xe0 something")
    assert "napari-ssldiff[openslide]" in refused(path)
