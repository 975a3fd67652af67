"""PNG, JPEG and other single images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import open_scene


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_png_is_a_pyramid_in_pixels(
    tmp_path: Path, smooth: Any, monkeypatch: pytest.MonkeyPatch, on_disk: bool
) -> None:
    if on_disk:
        monkeypatch.setattr("napari_ssldiff.scenes.raster_image._IN_MEMORY", 1000)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    image = smooth(1500, 1300)
    Image.fromarray(image).save(tmp_path / "a.png")
    with open_scene(tmp_path / "a.png") as scene:
        assert scene.pixel_size.to_list() == [1, 1, "pixel"]
        assert [level.shape[0] for level in scene.levels] == [1500, 750]
        np.testing.assert_array_equal(scene.read(Box(700, 600, 90, 80)), image[700:790, 600:680])
        assert len(list(tmp_path.glob("napari-ssldiff-*"))) == on_disk
    assert not list(tmp_path.glob("napari-ssldiff-*"))


def test_a_photograph_opens(tmp_path: Path) -> None:
    from skimage.data import immunohistochemistry

    image = immunohistochemistry()
    Image.fromarray(image).save(tmp_path / "ihc.jpg", quality=95)
    with open_scene(tmp_path / "ihc.jpg") as scene:
        assert np.abs(scene.read(scene.box).astype(int) - image).mean() < 4


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[:20] = (200, 100, 50, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with open_scene(tmp_path / "a.png") as scene:
        pixels = scene.read_rgb(scene.box)
    assert pixels[0, 0].tolist() == [200, 100, 50]
    assert pixels[30, 0].tolist() == [255, 255, 255]


def test_sixteen_bits_are_stretched(tmp_path: Path) -> None:
    data = np.linspace(100, 900, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(data).save(tmp_path / "a.png")
    with open_scene(tmp_path / "a.png") as scene:
        assert scene.dtype == np.uint16
        np.testing.assert_array_equal(scene.read(scene.box)[..., 0], data)
        assert scene.read_rgb(scene.box).max() == 255


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_truncated_image_is_refused(tmp_path: Path, smooth: Any, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    Image.fromarray(smooth(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="damaged or truncated"):
        open_scene(path)
