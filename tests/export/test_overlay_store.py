from __future__ import annotations

import errno
import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_ssldiff.errors import OutputError
from napari_ssldiff.export import OverlayStore
from napari_ssldiff.export.downsample import halve_rgba
from napari_ssldiff.geometry import Box


def random_rgba(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    rgba = rng.integers(0, 256, (*shape, 4), dtype=np.uint8)
    rgba[..., 3] = rng.choice([0, 255, 255, 90], shape)
    return rgba


def test_levels_halve_until_small_and_the_coarsest_is_numpy() -> None:
    with OverlayStore(Box(0, 0, 3001, 1500), max_coarse=512, in_memory=0) as store:
        assert [level.shape for level in store.levels] == [
            (3001, 1500, 4),
            (1501, 750, 4),
            (751, 375, 4),
            (376, 188, 4),
        ]
        assert [type(level) for level in store.levels[:-1]] == [zarr.Array] * 3
        assert isinstance(store.levels[-1], np.ndarray)
        with OverlayStore(Box(0, 0, 3001, 1500)) as usual:
            kinds = [type(level) for level in usual.levels]
            assert kinds == [zarr.Array, np.ndarray, np.ndarray, np.ndarray]
        assert all(level.shards is None and level.chunks[0] == 512 for level in store.levels[:-1])


def test_a_small_store_is_one_numpy_level_and_works_all_the_same(rng: np.random.Generator) -> None:
    with OverlayStore(Box(-5, 9, 7, 1)) as store:
        tile = random_rgba(rng, (7, 1))
        assert store.write(Box(-5, 9, 7, 1), tile) == Box(0, 0, 7, 1)
        assert len(store.levels) == 1
        np.testing.assert_array_equal(store.levels[0], tile)


@pytest.mark.parametrize("in_memory", [0, 700])
@pytest.mark.parametrize(("origin", "shape"), [((0, 0), (1300, 1100)), ((-37, 911), (1301, 1023))])
def test_after_ragged_writes_every_level_equals_a_full_downsample(
    in_memory: int, origin: tuple[int, int], shape: tuple[int, int], rng: np.random.Generator
) -> None:
    with OverlayStore(Box(*origin, *shape), tile=256, max_coarse=100, in_memory=in_memory) as store:
        truth = np.zeros((*shape, 4), np.uint8)
        for _ in range(12):
            h, w = rng.integers(1, 400, 2)
            y, x = rng.integers(-50, np.array(shape) - 1)
            tile = random_rgba(rng, (h, w))
            store.write(Box(y + origin[0], x + origin[1], h, w), tile)
            inside = Box(0, 0, *shape).intersect(Box(y, x, h, w))
            truth[inside.slices] = tile[inside.shift(-y, -x).slices]
        for level in store.levels:
            np.testing.assert_array_equal(level[:], truth)
            truth = halve_rgba(truth)


def test_what_lies_outside_is_dropped_and_the_dirty_box_is_local() -> None:
    with OverlayStore(Box(100, 200, 50, 60)) as store:
        white = np.full((40, 40, 4), 255, np.uint8)
        assert store.write(Box(130, 180, 40, 40), white) == Box(30, 0, 20, 20)
        assert store.write(Box(0, 0, 40, 40), white).area == 0
        read = store.read(Box(120, 190, 60, 40))
        expected = np.zeros((60, 40, 4), np.uint8)
        expected[10:30, 10:30] = 255
        np.testing.assert_array_equal(read, expected)


def test_the_edge_of_the_filled_part_has_no_dark_fringe() -> None:
    with OverlayStore(Box(0, 0, 1024, 1024), max_coarse=64) as store:
        pink = np.empty((301, 333, 4), np.uint8)
        pink[:] = (230, 150, 200, 255)
        store.write(Box(101, 203, 301, 333), pink)
        for level in store.levels:
            pixels = level[:]
            shown = pixels[..., 3] > 0
            assert shown.any()
            assert (pixels[shown][:, :3] == (230, 150, 200)).all()


def test_one_faint_pixel_does_not_round_away() -> None:
    quad = np.zeros((2, 2, 4), np.uint8)
    quad[1, 0] = (10, 20, 30, 1)
    assert halve_rgba(quad).tolist() == [[[10, 20, 30, 1]]]


def test_the_coarsest_level_is_the_same_object_before_and_after_a_write() -> None:
    with OverlayStore(Box(0, 0, 1200, 1200)) as store:
        before = np.asarray(store.levels[-1])
        store.write(Box(0, 0, 600, 600), np.full((600, 600, 4), 200, np.uint8))
        assert np.asarray(store.levels[-1]) is before
        assert before[0, 0, 3] == 200


def test_filled_says_what_was_written_even_where_alpha_is_zero() -> None:
    with OverlayStore(Box(0, 0, 256, 256)) as store:
        assert not store.filled.any()
        store.write(Box(64, 128, 64, 65), np.zeros((64, 65, 4), np.uint8))
        expected = np.zeros((4, 4), bool)
        expected[1, 2:4] = True
        np.testing.assert_array_equal(store.filled, expected)
        assert store.touched(Box(64, 128, 1, 1))
        assert not store.touched(Box(0, 0, 64, 64))
        assert not store.touched(Box(5000, 5000, 64, 64))


def test_paint_keeps_a_neighbour_under_the_transparent_part_and_write_replaces_it() -> None:
    box = Box(0, 0, 32, 32)
    red, half_blue = np.zeros((32, 32, 4), np.uint8), np.zeros((32, 32, 4), np.uint8)
    red[:] = (255, 0, 0, 255)
    half_blue[:, 16:] = (0, 0, 255, 255)
    with OverlayStore(box) as store:
        store.write(box, red)
        store.paint(box, half_blue)
        assert store.read(box)[0, 0].tolist() == [255, 0, 0, 255]
        assert store.read(box)[0, 31].tolist() == [0, 0, 255, 255]
        store.write(box, half_blue)
        assert store.read(box)[0, 0, 3] == 0


def test_erase_makes_a_part_transparent_in_all_levels_and_the_map() -> None:
    with OverlayStore(Box(3, 5, 3000, 700), max_coarse=128) as store:
        store.write(Box(3, 5, 3000, 700), np.full((3000, 700, 4), 99, np.uint8))
        assert store.erase(Box(3, 5, 2560, 700)) == Box(0, 0, 2560, 700)
        assert not store.read(Box(3, 5, 2560, 700)).any()
        assert (store.read(Box(2563, 5, 440, 700)) == 99).all()
        assert not store.levels[-1][: 2560 // 32].any()
        assert not store.filled[:40].any()
        assert store.filled[40:].all()


@pytest.mark.parametrize("in_memory", [0, 2048])
def test_readers_in_other_threads_see_each_chunk_before_or_after_a_write(in_memory: int) -> None:
    box = Box(0, 0, 1024, 1024)
    stop = threading.Event()
    faults: list[object] = []

    def look(store: OverlayStore) -> None:
        try:
            while not stop.is_set():
                seen = store.read(Box(0, 0, 512, 512))
                coarse = store.levels[1][:256, :256]
                if len(np.unique(seen)) != 1 or not isinstance(coarse, np.ndarray):
                    faults.append(np.unique(seen))
        except Exception as error:
            faults.append(error)

    with OverlayStore(box, max_coarse=256, in_memory=in_memory) as store:
        readers = [threading.Thread(target=look, args=(store,)) for _ in range(2)]
        for reader in readers:
            reader.start()
        for value in range(1, 31):
            store.write(Box(0, 0, 512, 512), np.full((512, 512, 4), value, np.uint8))
        stop.set()
        for reader in readers:
            reader.join()
        assert not faults
        assert (store.read(Box(0, 0, 512, 512)) == 30).all()


def test_concurrent_writers_lose_nothing() -> None:
    with OverlayStore(Box(0, 0, 512, 512), tile=512, max_coarse=64, in_memory=0) as store:
        tiles = list(Box(0, 0, 512, 512).tiles(64))

        def work(part: list[Box]) -> None:
            for tile in part:
                store.write(tile, np.full((64, 64, 4), 255, np.uint8))

        threads = [threading.Thread(target=work, args=(tiles[i::4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all((level[:] == 255).all() for level in store.levels)


def test_the_temporary_folder_goes_with_the_store() -> None:
    store = OverlayStore(Box(0, 0, 3000, 2000))
    folder = store.directory
    assert folder.is_dir()
    store.close()
    store.close()
    assert not folder.exists()
    with pytest.raises(ValueError, match="closed"):
        store.write(Box(0, 0, 1, 1), np.zeros((1, 1, 4), np.uint8))
    with pytest.raises(ValueError, match="closed"):
        store.read(Box(0, 0, 1, 1))

    forgotten = OverlayStore(Box(0, 0, 3000, 2000))
    folder = forgotten.directory
    del forgotten
    gc.collect()
    assert not folder.exists()


def test_a_given_folder_is_kept_and_must_be_empty(tmp_path: Path) -> None:
    with OverlayStore(Box(0, 0, 3000, 2000), tmp_path / "live") as store:
        store.write(Box(0, 0, 9, 9), np.full((9, 9, 4), 9, np.uint8))
    assert any((tmp_path / "live").iterdir())
    with pytest.raises(OutputError, match="not empty"):
        OverlayStore(Box(0, 0, 3000, 2000), tmp_path / "live")


def test_wrong_shapes_and_types_are_refused() -> None:
    with OverlayStore(Box(0, 0, 20, 20)) as store:
        with pytest.raises(ValueError, match=r"\(5, 5, 4\)"):
            store.write(Box(0, 0, 5, 5), np.zeros((5, 5, 3), np.uint8))
        with pytest.raises(ValueError, match="uint8"):
            store.write(Box(0, 0, 5, 5), np.zeros((5, 5, 4), np.float32))
    with pytest.raises(ValueError, match="must cover"):
        OverlayStore(Box(0, 0, 0, 20))


def test_a_full_disk_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with OverlayStore(Box(0, 0, 3000, 2000)) as store:

        def full(*args: object, **kwargs: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("zarr.storage._local._put", full)
        with pytest.raises(OutputError, match="disk is full") as caught:
            store.write(Box(0, 0, 9, 9), np.full((9, 9, 4), 9, np.uint8))
        assert "\n" not in str(caught.value)
        assert caught.value.errno == errno.ENOSPC
