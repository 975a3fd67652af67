from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_ssldiff.errors import InputError, OutputError
from napari_ssldiff.export import side_by_side

Picture = Callable[..., np.ndarray]


def test_both_pictures_are_in_it_pixel_for_pixel_under_their_captions(
    picture: Picture, tmp_path: Path
) -> None:
    left, right = picture(120, 100), picture(90, 140)[::-1]
    path = side_by_side(tmp_path / "a.png", left, right)
    with Image.open(path) as image:
        sheet = np.asarray(image)
        assert "diffusion model" in image.info["Comment"]
        assert "Right: synthetic" in image.info["Comment"]
    top = sheet.shape[0] - 120 - 8
    assert 10 < top < 60
    np.testing.assert_array_equal(sheet[top : top + 120, 8:108], left)
    np.testing.assert_array_equal(sheet[top : top + 90, 116:256], right)
    captions = sheet[:top].min(-1)
    assert (captions[:, :110] < 100).any()
    assert (captions[:, 116:] < 100).any()
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_caption_wider_than_its_picture_is_not_cut(picture: Picture, tmp_path: Path) -> None:
    path = side_by_side(tmp_path / "a.png", picture(9, 9), picture(9, 9), ("a long caption", "b"))
    with Image.open(path) as image:
        assert image.width > 90


def test_an_existing_picture_and_a_wrong_ending_are_refused(
    picture: Picture, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    side_by_side(path, picture(9, 9), picture(9, 9))
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        side_by_side(path, picture(20, 20), picture(20, 20))
    assert path.read_bytes() == before
    side_by_side(path, picture(20, 20), picture(20, 20), overwrite=True)
    assert path.read_bytes() != before
    with pytest.raises(OutputError, match=r"ends in \.png"):
        side_by_side(tmp_path / "a.jpg", picture(9, 9), picture(9, 9))
    with pytest.raises(InputError, match="uint8"):
        side_by_side(tmp_path / "b.png", picture(9, 9, 4), picture(9, 9))


def test_a_full_disk_leaves_no_picture(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Image.Image, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="disk is full"):
        side_by_side(tmp_path / "a.png", picture(9, 9), picture(9, 9))
    assert os.listdir(tmp_path) == []
