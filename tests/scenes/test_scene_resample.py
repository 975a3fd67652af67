"""Positions survive resampling, down and up and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import PixelSize, Scene, open_scene, read_at, to_source
from napari_ssldiff.scenes.resample import grid_scale

PERIOD = 64  # level-0 pixels


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """1200 × 2200 px at 0.25 µm: red is a wave along x, green the same along y."""
    y, x = 2 * np.pi / PERIOD * (np.mgrid[:1200, :2200] + 0.5)
    image = 127 + 110 * np.stack([np.cos(x), np.cos(y), np.zeros_like(x)], -1)
    path = tmp_path_factory.mktemp("waves") / "waves.tif"
    tifffile.imwrite(
        path, image.round().astype(np.uint8), photometric="rgb", tile=(256, 256),
        resolution=(40000, 40000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    with open_scene(path) as scene:
        yield scene


def shift(profile: Any, places: Any) -> float:
    """How far a wave, sampled at ``places`` in level-0 pixels, lies from where it should."""
    window = np.hanning(len(profile))
    phase = np.angle((window * (profile - 127) * np.exp(-2j * np.pi / PERIOD * places)).sum())
    return float(phase) * PERIOD / (2 * np.pi)


@pytest.mark.parametrize("size", [0.1, 0.2, 0.25, 0.31, 0.5, 0.687, 1.0, 1.37, 2.3])
def test_read_at_puts_every_pixel_where_it_belongs(waves: Scene, size: float) -> None:
    scale = size / 0.25
    box = Box(int(400 / scale), int(700 / scale), int(500 / scale), int(600 / scale))
    pixels = read_at(waves, box, size).astype(float)
    assert pixels.shape == (*box.shape, 3)
    x, y = (np.arange(box.x, box.x1) + 0.5) * scale, (np.arange(box.y, box.y1) + 0.5) * scale
    assert abs(shift(pixels[..., 0].mean(0), x)) < 0.1
    assert abs(shift(pixels[..., 1].mean(1), y)) < 0.1


def test_neighbouring_boxes_fit_together(waves: Scene) -> None:
    whole = read_at(waves, Box(10, 20, 80, 96), 0.6)
    left, right = read_at(waves, Box(10, 20, 80, 40), 0.6), read_at(waves, Box(10, 60, 80, 56), 0.6)
    joined = np.concatenate([left, right], 1).astype(int)
    assert np.abs(joined - whole).max() <= 1


def test_the_scenes_own_resolution_is_a_plain_copy(waves: Scene) -> None:
    box = Box(100, 200, 64, 80)
    np.testing.assert_array_equal(read_at(waves, box, 0.25), waves.read_rgb(box))
    np.testing.assert_array_equal(
        read_at(waves, Box(50, 100, 32, 40), 0.5), waves.read_rgb(Box(50, 100, 32, 40), 1)
    )


def test_the_level_just_finer_is_read(waves: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    read = Scene.read

    def spy(self: Scene, box: Box, level: int = 0) -> Any:
        used.append(level)
        return read(self, box, level)

    monkeypatch.setattr(Scene, "read", spy)
    for size in (0.25, 0.4, 0.5, 0.9, 1.0, 3.0):
        read_at(waves, Box(5, 5, 8, 8), size)
    assert used == [0, 0, 1, 1, 2, 2]


def test_outside_the_image_its_border_is_mirrored(waves: Scene) -> None:
    pixels = read_at(waves, Box(-6, -4, 12, 10), 0.25)
    inside = waves.read_rgb(Box(0, 0, 6, 6))
    np.testing.assert_array_equal(pixels[6:, 4:], inside)
    np.testing.assert_array_equal(pixels[:6][::-1], pixels[6:])
    np.testing.assert_array_equal(pixels[:, :4][:, ::-1], pixels[:, 4:8])
    corner = read_at(waves, Box(590, 1090, 30, 30), 0.5)
    assert corner.shape == (30, 30, 3)
    assert corner.min() > 0


def test_a_size_in_another_unit_is_refused(waves: Scene) -> None:
    with pytest.raises(InputError, match="micrometer, not in meter"):
        read_at(waves, Box(0, 0, 8, 8), PixelSize(1, 1, "meter"))
    with pytest.raises(InputError, match="positive"):
        read_at(waves, Box(0, 0, 8, 8), 0)


def test_map_projections_are_read_by_their_size_on_the_ground(data_dir: Path) -> None:
    with open_scene(data_dir / "samples/cogeo.tif") as scene:
        scale = grid_scale(scene, PixelSize(0.6, 0.6, "meter"))
        assert scale == (pytest.approx(0.6 / 0.47269), pytest.approx(0.6 / 0.47269))


def test_to_source_is_the_identity_at_scale_one(smooth: Any) -> None:
    pixels = smooth(64, 80)
    box = Box(10, 20, 64, 80)
    np.testing.assert_array_equal(to_source(pixels, box, box, 1), pixels)
    np.testing.assert_array_equal(
        to_source(pixels, box, Box(15, 30, 8, 9), 1.0), pixels[5:13, 10:19]
    )


@pytest.mark.parametrize("size", [0.2, 0.25, 0.4, 0.5, 0.8])
def test_there_and_back_is_nearly_the_identity(tmp_path: Path, smooth: Any, size: float) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, smooth(900, 1000), photometric="rgb", tile=(128, 128),
        resolution=(40000, 40000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    with open_scene(path) as scene:
        out = Box(203, 301, 256, 311)
        scale = grid_scale(scene, size)
        model_box = out.scaled_outward((1 / scale[0], 1 / scale[1]), 8)
        back = to_source(read_at(scene, model_box, size), model_box, out, scale)
        error = back.astype(float) - scene.read_rgb(out)
    assert back.shape == (*out.shape, 3)
    assert np.sqrt((error**2).mean()) < 1.5


def test_to_source_keeps_positions(smooth: Any) -> None:
    y, x = np.mgrid[:100, :100] + 0.5
    model = np.stack([2 * x, 2 * y, x], -1).round().astype(np.uint8)
    out = to_source(model, Box(40, 60, 100, 100), Box(110, 160, 120, 130), 2.5).astype(float)
    x_model = (np.arange(160, 290) + 0.5) / 2.5 - 60
    y_model = (np.arange(110, 230) + 0.5) / 2.5 - 40
    assert np.abs(out[..., 0].mean(0) - 2 * x_model).max() < 0.6
    assert np.abs(out[..., 1].mean(1) - 2 * y_model).max() < 0.6
    assert abs((out[..., 0].mean(0) / 2 - x_model).mean()) < 0.05
