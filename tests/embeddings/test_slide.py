"""A whole scene by a sample of its cells: where they lie, what is left out, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from napari_ssldiff.embeddings import slide as slide_module
from napari_ssldiff.embeddings.encoder import EncoderSpec
from napari_ssldiff.embeddings.look import nearest, of_kind, prototypes, similarity
from napari_ssldiff.embeddings.slide import not_background, sample_scene
from napari_ssldiff.errors import Cancelled, InputError
from napari_ssldiff.scenes import PixelSize, Scene, open_scene

CELL = 8
SPEC = EncoderSpec("mean@1", 0.5, "micrometer", CELL, CELL, (0, 0, 0), (1, 1, 1), 3)
RED, BLUE, GLASS = (200, 40, 60), (40, 60, 200), (255, 255, 255)


class MeanEncoder:
    """A cell's embedding is its mean colour; what it was shown is counted."""

    spec = SPEC

    def __init__(self) -> None:
        self.seen = 0

    def embed(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen += len(cells)
        means = cells.reshape(len(cells), -1, 3).mean(1).astype(np.float32)
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


def slide(tmp_path: Path, rows: int = 40, columns: int = 60) -> Scene:
    """Glass with tissue from the 10th to the 30th row of cells: red left of the 20th column, blue
    right of the 40th.
    """
    pixels = np.full((rows * CELL, columns * CELL, 3), 255, np.uint8)
    band = slice(10 * CELL, 30 * CELL)
    pixels[band, : 20 * CELL] = RED
    pixels[band, 40 * CELL :] = BLUE
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, pixels, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    return open_scene(path)


def test_the_sample_is_even_and_background_takes_no_part_of_it(tmp_path: Path) -> None:
    encoder = MeanEncoder()
    with slide(tmp_path) as scene:
        assert scene.pixel_size == PixelSize(0.5, 0.5, "micrometer")
        sampled = sample_scene(scene, encoder, 100)
        held = not_background(scene, SPEC, sampled.grid)
    assert held.sum() == 800  # the band of tissue, exactly
    # 800 cells by blocks of 3 × 3 are about 90; by 2 × 2 they would be 200.
    assert sampled.step == 3
    assert 60 <= sampled.count <= 100
    assert encoder.seen == sampled.count
    rows, columns = np.nonzero(sampled.field.valid)
    corners = np.array([sampled.corner(r, c) for r, c in zip(rows, columns, strict=True)])
    assert set(np.unique(np.diff(np.unique(corners[:, 0])))) == {3 * CELL}
    assert corners[:, 0].min() >= 10 * CELL
    assert corners[:, 0].max() < 30 * CELL
    # Every cell has the colour of where it says that it lies.
    left = corners[:, 1] < 20 * CELL
    assert left.any()
    assert (~left).any()
    red, blue = (np.array(c) / np.linalg.norm(c) for c in (RED, BLUE))
    vectors = sampled.field.vectors[rows, columns]
    np.testing.assert_allclose(vectors[left], np.tile(red, (left.sum(), 1)), atol=0.01)
    np.testing.assert_allclose(vectors[~left], np.tile(blue, ((~left).sum(), 1)), atol=0.01)


def test_a_little_tissue_on_a_large_slide_is_no_large_sample() -> None:
    held = np.zeros((800, 600), bool)
    held[400:430, 300:330] = True
    step = slide_module._step(held, 1024)
    assert -(-800 // step) * -(-600 // step) <= slide_module.MOST * 1024
    assert slide_module._step(held[380:450, 280:350], 1024) == 1


def test_a_small_scene_is_sampled_whole(tmp_path: Path) -> None:
    with slide(tmp_path) as scene:
        sampled = sample_scene(scene, MeanEncoder(), 800)
    assert (sampled.step, sampled.count) == (1, 800)
    assert sampled.corner(12, 7) == (12 * CELL, 7 * CELL)


def test_a_sample_sorts_into_kinds_each_with_the_nearest_of_its_own(tmp_path: Path) -> None:
    with slide(tmp_path) as scene:
        field = sample_scene(scene, MeanEncoder(), 100).field
    found = prototypes(field, 2)
    assert len(found.vectors) == 2
    for kind in range(2):
        near = of_kind(field, found, kind, 1000)
        cells = {(n.row, n.column) for n in near}
        # All of the kind's cells, of one side of the slide, and no other and no glass.
        assert len({c < field.shape[1] / 2 for _, c in cells}) == 1
        assert len(cells) == ((found.labels == kind) & field.valid).sum() > 10
        assert len(nearest(field, found.vectors[kind], 1000)) > len(cells)
    heat = similarity(field, found.vectors[0])
    assert heat.shape == field.shape
    with pytest.raises(InputError, match="there is no kind 2"):
        of_kind(field, found, 2)


def test_a_sample_is_kept_and_another_count_is_another_sample(tmp_path: Path) -> None:
    encoder, cache = MeanEncoder(), tmp_path / "cache"
    with slide(tmp_path) as scene:
        first = sample_scene(scene, encoder, 100, cache=cache)
        seen = encoder.seen
        again = sample_scene(scene, encoder, 100, cache=cache)
        assert encoder.seen == seen
        assert again.field.digest == first.field.digest
        assert again.step == first.step
        assert sample_scene(scene, encoder, 50, cache=cache).step > first.step
        assert encoder.seen > seen


def test_a_sample_is_cancelled_between_reads_and_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[float, float]] = []

    def check() -> None:
        if told:
            raise Cancelled("enough")

    encoder = MeanEncoder()
    with slide(tmp_path) as scene:
        with pytest.raises(Cancelled):
            sample_scene(scene, encoder, 100, check=check, progress=lambda *done: told.append(done))
        assert len(told) == 1
        assert 0 < encoder.seen < 60
        sample_scene(scene, encoder, 100, progress=lambda *done: told.append(done))
    assert told[-1][0] == told[-1][1] == encoder.seen - told[0][0]


def test_glass_alone_has_nothing_to_sort(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "glass.tif", np.full((160, 160, 3), 255, np.uint8))
    with (
        open_scene(tmp_path / "glass.tif") as scene,
        pytest.raises(InputError, match=r"glass.* holds no tissue or ground"),
    ):
        sample_scene(scene, MeanEncoder())
    with slide(tmp_path) as scene, pytest.raises(InputError, match="at least 1 cell, got 0"):
        sample_scene(scene, MeanEncoder(), 0)


def test_glass_is_not_read_at_full_resolution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_ssldiff.embeddings import slide as room

    read: list[Any] = []
    real = room.read_grid
    monkeypatch.setattr(room, "read_grid", lambda *a: read.append(a[1]) or real(*a))
    with slide(tmp_path) as scene:
        sampled = sample_scene(scene, MeanEncoder(), 100)
    assert len(read) == sampled.count  # of 2400 cells
    assert all((box.h, box.w) == (CELL, CELL) for box in read)
