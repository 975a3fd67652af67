"""Reading is lazy and safe from many threads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import open_scene

_SPARSE = """
import resource, sys
import numpy as np
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import open_scene
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
import tifffile, zarr, dask.array, napari_ssldiff.scenes.tiff
before = peak()
with open_scene(sys.argv[1]) as scene:
    assert scene.shape == (40000, 40000), scene.shape
    assert max(scene.levels[-1].shape) <= 1024
    pixels = scene.read(Box(20000, 30000, 512, 512))
    assert (pixels[100:200, 100:200] == 7).all() and pixels.max() == 7
    scene.levels[2][2500 * 2 : 2500 * 2 + 64, 3750 * 2 : 3750 * 2 + 64]
print(peak() - before)
"""


def test_a_box_of_a_40000_pixel_image_costs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"

    filled = {(0, 0), (39, 58), (39, 59), (40, 58), (40, 59)}
    seven = np.full((512, 512, 3), 7, np.uint8)

    def tiles() -> Iterator[Any]:
        for i in range(79 * 79):
            yield seven if divmod(i, 79) in filled else None  # None: a tile of no bytes

    tifffile.imwrite(
        path, tiles(), shape=(40000, 40000, 3), dtype=np.uint8, tile=(512, 512),
        photometric="rgb", compression="deflate", bigtiff=True,
    )  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", _SPARSE, str(path)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 250  # the image itself is 4,578 MiB


def boxes(shape: tuple[int, int], count: int) -> list[Box]:
    rng = np.random.default_rng(5)
    h, w = rng.integers(1, 300, count), rng.integers(1, 300, count)
    return [
        Box(rng.integers(0, shape[0] - a), rng.integers(0, shape[1] - b), a, b)
        for a, b in zip(h.tolist(), w.tolist(), strict=True)
    ]


@pytest.mark.parametrize("kind", ["jpeg", "deflate", "strips"])
def test_eight_threads_read_what_one_reads(tmp_path: Path, smooth: Any, kind: str) -> None:
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"compression": kind, "tile": (128, 128)}
    if kind == "strips":
        options = {"rowsperstrip": 8}
    tifffile.imwrite(path, smooth(1300, 1100), photometric="rgb", **options)

    def digest(scene: Any, job: tuple[int, Box]) -> str:
        return hashlib.sha256(scene.read(job[1], job[0]).tobytes()).hexdigest()

    with open_scene(path) as scene:
        jobs = [(0, b) for b in boxes(scene.shape, 60)]
        jobs += [(1, b) for b in boxes(scene.levels[1].shape[:2], 30)]
        one = [digest(scene, job) for job in jobs]
    with open_scene(path) as scene, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda job: digest(scene, job), jobs)) == one
        assert not scene.problems


def test_levels_made_on_the_fly_halve_to_at_most_1024(tmp_path: Path, smooth: Any) -> None:
    image = smooth(2101, 2503)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(256, 256))
    with open_scene(tmp_path / "a.tif") as scene:
        assert [level.shape[:2] for level in scene.levels] == [
            (2101, 2503), (1051, 1252), (526, 626),
        ]  # fmt: skip
        assert scene.downsample(2) == (4.0, 4.0)
        coarse = np.asarray(scene.levels[2])
        expected = image[:2100, :2500].reshape(525, 4, 625, 4, 3).mean((1, 3))
        assert np.abs(coarse[:525, :625] - expected).max() <= 1


def test_levels_index_like_numpy(tmp_path: Path, smooth: Any) -> None:
    image = smooth(200, 300)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(64, 64))
    with open_scene(tmp_path / "a.tif") as scene:
        level = scene.levels[0]
        assert (level.ndim, level.size, level.shape) == (3, image.size, image.shape)
        for index in [
            np.s_[5], np.s_[-1, 3], np.s_[10:50:3, 20:90:7], np.s_[..., 0], np.s_[3:9, ..., 1:],
            np.s_[50:10:-2, ::-1], np.s_[:, 7], np.s_[10:10, :], np.s_[..., [2, 0]],
            np.s_[150:900, 250:900],
        ]:  # fmt: skip
            np.testing.assert_array_equal(level[index], image[index])
        np.testing.assert_array_equal(np.asarray(level), image)
        with pytest.raises(IndexError):
            level[200]
        with pytest.raises(IndexError):
            level[0, 0, 0, 0]


def test_importing_scenes_imports_no_reader() -> None:
    code = (
        "import sys, napari_ssldiff.scenes;"
        "print(sorted({'torch','napari','openslide','rasterio','zarr','dask','tifffile'}"
        " & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert run.stdout.strip() == "[]", run.stderr
