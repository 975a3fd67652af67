"""OpenSlide sees what tifffile sees."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import open_scene
from napari_ssldiff.scenes.openslide import open_slide, over

openslide = pytest.importorskip("openslide")


def test_openslide_and_tifffile_agree_on_the_slide(data_dir: Path) -> None:
    path = data_dir / "samples/cmu_small_region.svs"
    box = Box(900, 600, 400, 500)
    with open_scene(path) as ours, open_slide(path) as theirs:
        assert theirs.shape == ours.shape
        assert theirs.pixel_size.to_list() == pytest.approx([0.499, 0.499, "micrometer"])
        difference = ours.read(box).astype(int) - theirs.read(box)
        assert np.abs(difference).mean() < 1.5
        assert theirs.facts["objective"] == 20


def test_each_thread_reads_through_its_own_handle(data_dir: Path) -> None:
    path = data_dir / "samples/cmu_small_region.svs"
    boxes = [Box(100 * i, 50 * i, 200, 200) for i in range(16)]
    with open_slide(path) as scene:
        one = [scene.read(box) for box in boxes]
        with ThreadPoolExecutor(8) as pool:
            for a, b in zip(one, pool.map(scene.read, boxes), strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_failed_read_is_tried_again_on_a_fresh_handle(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failures = openslide.OpenSlide.read_region, [1]

    def flaky(self: Any, *args: Any) -> Any:
        if failures:
            failures.pop()
            raise openslide.OpenSlideError("a hiccup of the network disk")
        return read(self, *args)

    with open_slide(data_dir / "samples/cmu_small_region.svs") as scene:
        monkeypatch.setattr(openslide.OpenSlide, "read_region", flaky)
        scene.read(Box(0, 0, 64, 64))
        assert not failures
        assert not scene.problems


def test_a_block_that_never_reads_becomes_a_hole(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *args: Any) -> Any:
        raise openslide.OpenSlideError("bad block")

    with open_slide(data_dir / "samples/cmu_small_region.svs") as scene:
        monkeypatch.setattr(openslide.OpenSlide, "read_region", broken)
        assert (scene.read(Box(0, 0, 64, 64)) == [255, 0, 255]).all()
        assert len(scene.problems) == 1


def test_what_was_not_scanned_takes_the_background() -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    assert over(rgba, (255, 240, 200))[0].tolist() == [
        [10, 20, 30],
        [255, 240, 200],
        [127, 120, 100],
    ]
