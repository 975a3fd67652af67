"""TIFF of many kinds: compressions, pyramids, data types, pixel sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import open_scene

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("compression", "tolerance"),
    [("jpeg", 3), ("jpeg2000", 1), ("lzw", 0), ("deflate", 0), (None, 0)],
)
def test_a_pyramid_reads_back_in_every_compression(
    write_pyramid: Write, smooth: Any, compression: str | None, tolerance: int
) -> None:
    levels = [smooth(700, 900)[::s, ::s] for s in (1, 2, 4)]
    path = write_pyramid(levels, compression=compression)
    with open_scene(path) as scene:
        assert [level.shape for level in scene.levels] == [x.shape for x in levels]
        assert scene.downsample(2) == (4.0, 4.0)
        for i, level in enumerate(levels):
            got = np.asarray(scene.levels[i])
            assert np.abs(got.astype(int) - level).mean() <= tolerance
        assert not scene.problems


def test_an_ome_tiff_takes_its_pixel_size_from_the_xml(write_pyramid: Write, smooth: Any) -> None:
    levels = [smooth(600, 800), smooth(600, 800)[::2, ::2]]
    meta = {"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.26}
    path = write_pyramid(levels, "a.ome.tif", metadata={"axes": "YXS", **meta})
    with open_scene(path) as scene:
        assert scene.facts["format"] == "OME-TIFF"
        assert len(scene.levels) == 2
        assert scene.pixel_size.to_list() == [0.26, 0.25, "micrometer"]
        np.testing.assert_array_equal(scene.read(Box(0, 0, 300, 400), 1), levels[1])


def test_channels_stored_before_space_come_last(tmp_path: Path) -> None:
    data = np.arange(4 * 60 * 50, dtype=np.uint16).reshape(4, 60, 50)
    path = tmp_path / "cyx.ome.tif"
    tifffile.imwrite(path, data, metadata={"axes": "CYX"})
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read(scene.box), np.moveaxis(data, 0, -1))


def test_planar_strips_come_out_as_pixels(tmp_path: Path, smooth: Any) -> None:
    image = smooth(120, 90)
    path = tmp_path / "planar.tif"
    tifffile.imwrite(
        path, np.moveaxis(image, -1, 0), photometric="rgb", planarconfig="separate", rowsperstrip=16
    )
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read(Box(7, 9, 50, 60)), image[7:57, 9:69])


def test_copies_stored_as_plain_pages_count_as_levels(tmp_path: Path, smooth: Any) -> None:
    path = tmp_path / "loose.tif"
    with tifffile.TiffWriter(path) as writer:
        for step in (1, 2, 4):
            writer.write(smooth(512, 640)[::step, ::step], photometric="rgb", metadata=None)
    with open_scene(path) as scene:
        assert [level.shape[0] for level in scene.levels] == [512, 256, 128]


def test_grey_stays_one_band_and_shows_as_grey(tmp_path: Path) -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tifffile.imwrite(tmp_path / "grey.tif", image)
    with open_scene(tmp_path / "grey.tif") as scene:
        assert scene.read(scene.box).shape == (16, 16, 1)
        np.testing.assert_array_equal(scene.read_rgb(scene.box), np.stack([image] * 3, -1))


def test_white_is_zero_shows_inverted(tmp_path: Path) -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tifffile.imwrite(tmp_path / "w.tif", image, photometric="miniswhite")
    with open_scene(tmp_path / "w.tif") as scene:
        np.testing.assert_array_equal(scene.read_rgb(scene.box)[..., 0], 255 - image)


def test_a_palette_shows_its_colours(tmp_path: Path) -> None:
    image = np.array([[0, 1], [2, 1]], np.uint8).repeat(16, 0).repeat(16, 1)
    table = np.zeros((3, 256), np.uint16)
    table[:, 1], table[:, 2] = (65535, 0, 0), (0, 65535, 257 * 10)
    tifffile.imwrite(tmp_path / "p.tif", image, photometric="palette", colormap=table)
    with open_scene(tmp_path / "p.tif") as scene:
        rgb = scene.read_rgb(scene.box)
    assert rgb[0, 16].tolist() == [255, 0, 0]
    assert rgb[16, 0].tolist() == [0, 255, 10]


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((40000, 40000), "CENTIMETER", 0.25),
        ((300, 300), "INCH", None),
        ((50800, 50800), "INCH", 0.5),
    ],
)
def test_resolution_tags_count_only_where_a_microscope_could_have_written_them(
    tmp_path: Path, resolution: tuple[int, int], unit: str, expected: float | None
) -> None:
    path = tmp_path / "r.tif"
    tifffile.imwrite(path, np.zeros((32, 32), np.uint8), resolution=resolution, resolutionunit=unit)
    with open_scene(path) as scene:
        if expected is None:
            assert scene.pixel_size.unit == "pixel"
        else:
            assert scene.pixel_size.unit == "micrometer"
            assert scene.pixel_size.x == pytest.approx(expected)


def test_bands_can_be_chosen_and_a_wrong_choice_is_refused(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 255, (40, 40, 4), np.uint8)
    path = tmp_path / "four.tif"
    tifffile.imwrite(path, data, photometric="rgb", extrasamples=["unspecified"])
    with open_scene(path, bands=(3, 0, 1)) as scene:
        np.testing.assert_array_equal(scene.read_rgb(scene.box), data[..., [3, 0, 1]])
    with pytest.raises(InputError, match="between 0 and 3"):
        open_scene(path, bands=(0, 1, 4))


def test_one_huge_compressed_strip_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smooth: Any
) -> None:
    monkeypatch.setattr("napari_ssldiff.scenes.tiff._BIG_CHUNK", 1000)
    image = smooth(700, 600)
    path = tmp_path / "strip.tif"
    tifffile.imwrite(path, image, photometric="rgb", compression="deflate", rowsperstrip=700)
    with open_scene(path) as scene:
        spool = scene.levels[0].source  # type: ignore[attr-defined]
        np.testing.assert_array_equal(scene.read(Box(100, 50, 33, 44)), image[100:133, 50:94])
        first = spool._array
        scene.read(Box(0, 0, 10, 10))
        assert spool._array is first
    tifffile.imwrite(path, image, photometric="rgb", rowsperstrip=700)
    with open_scene(path) as scene:
        assert isinstance(scene.levels[0].source, np.memmap)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(scene.read(Box(100, 50, 33, 44)), image[100:133, 50:94])
