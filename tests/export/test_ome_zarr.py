from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models import open_ome_zarr

from napari_ssldiff.errors import Cancelled, InputError, OutputError
from napari_ssldiff.export import LazyImage, check_output, write_ome_zarr
from napari_ssldiff.export.downsample import halve_max, halve_mean
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.scene import PixelSize

Picture = Callable[..., np.ndarray]

HALF_MICRON = PixelSize(0.5, 0.25, "micrometer")
VERSIONS = ["0.5", "0.4"]
SIZES = [(1, 1), (255, 257), (1000, 37), (3000, 2500)]


def image_attributes(path: Path, version: str) -> dict[str, Any]:
    attributes = dict(zarr.open_group(path, mode="r").attrs)
    return attributes if version == "0.4" else attributes["ome"]


def left_behind(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_and_mask_come_back_at_every_level_through_two_independent_readers(
    picture: Picture, size: tuple[int, int], version: str, tmp_path: Path
) -> None:
    pixels = picture(*size)
    mask = (np.add.outer(np.arange(size[0]), np.arange(size[1])) % 97 == 0).astype(np.uint8)
    path = write_ome_zarr(
        tmp_path / "out.ome.zarr",
        pixels,
        pixel_size=HALF_MICRON,
        synthetic=mask,
        provenance={"seed": 3},
        version=version,
    )

    group = zarr.open_group(path, mode="r")
    model = open_ome_zarr(group)
    assert type(model).__name__ == "Image"
    assert type(model).__module__.startswith(f"ome_zarr_models.v{version.replace('.', '')}")
    label = open_ome_zarr(group["labels/synthetic"])
    assert type(label).__name__ == "ImageLabel"
    assert type(open_ome_zarr(group["labels"])).__name__ == "Labels"

    nodes = {node.zarr.basename(): node for node in Reader(parse_url(path))()}
    image, marks = nodes["out.ome.zarr"].data, nodes["synthetic"].data
    assert len(image) == len(marks)
    assert max(image[-1].shape[-2:]) <= 512
    for level, labels in zip(image, marks, strict=True):
        np.testing.assert_array_equal(np.moveaxis(np.asarray(level), 0, -1), pixels)
        np.testing.assert_array_equal(np.asarray(labels), mask)
        pixels, mask = halve_mean(pixels), halve_max(mask)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_level_has_the_same_outer_corner_and_true_units(
    picture: Picture, version: str, tmp_path: Path
) -> None:
    corner = (100.0, -7.0)
    path = write_ome_zarr(
        tmp_path / "a.zarr",
        picture(1500, 1100),
        pixel_size=HALF_MICRON,
        translation=corner,
        synthetic=np.ones((1500, 1100)),
        version=version,
    )
    for place, lead in ((path, 1), (path / "labels" / "synthetic", 0)):
        entry = image_attributes(place, version)["multiscales"][0]
        assert [axis["name"] for axis in entry["axes"]] == ["c", "y", "x"][1 - lead :]
        assert [axis.get("unit") for axis in entry["axes"]][lead:] == ["micrometer"] * 2
        assert len(entry["datasets"]) == 3
        for k, dataset in enumerate(entry["datasets"]):
            scale, move = dataset["coordinateTransformations"]
            assert scale["scale"] == [1.0] * lead + [0.5 * 2**k, 0.25 * 2**k]
            half = [0.25 * 2**k, 0.125 * 2**k]
            assert move["translation"] == [0.0] * lead + [100.0 + half[0], -7.0 + half[1]]


def test_a_pixel_size_without_a_unit_claims_none(picture: Picture, tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", picture(4, 4), pixel_size=PixelSize(1, 1))
    assert "unit" not in image_attributes(path, "0.5")["multiscales"][0]["axes"][1]
    assert open_ome_zarr(zarr.open_group(path, mode="r"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_deep_samples_keep_their_type_and_say_what_range_to_show(
    picture: Picture, dtype: str, version: str, tmp_path: Path
) -> None:
    pixels = picture(700, 300, 4, dtype)
    path = write_ome_zarr(
        tmp_path / "a.zarr", pixels, pixel_size=PixelSize(1, 1, "meter"), version=version
    )
    group = zarr.open_group(path, mode="r")
    assert open_ome_zarr(group)
    assert group["0"].dtype == dtype
    np.testing.assert_array_equal(np.moveaxis(group["0"][:], 0, -1), pixels)
    mean = pixels[:2, :2].astype(float).mean((0, 1))
    np.testing.assert_allclose(group["1"][:, 0, 0], mean, atol=0.51)
    channels = image_attributes(path, version)["omero"]["channels"]
    assert [c["active"] for c in channels] == [True, True, True, False]
    for c, channel in enumerate(channels):
        assert channel["window"]["start"] == pytest.approx(float(pixels[..., c].min()))
        assert channel["window"]["end"] == pytest.approx(float(pixels[..., c].max()))


@pytest.mark.parametrize("version", VERSIONS)
def test_three_channels_are_red_green_and_blue_in_colour(
    picture: Picture, version: str, tmp_path: Path
) -> None:
    path = write_ome_zarr(
        tmp_path / "a.zarr", picture(5, 6), pixel_size=HALF_MICRON, version=version
    )
    omero = image_attributes(path, version)["omero"]
    assert [c["color"] for c in omero["channels"]] == ["FF0000", "00FF00", "0000FF"]
    assert [c["label"] for c in omero["channels"]] == ["red", "green", "blue"]
    assert omero["channels"][0]["window"] == {"min": 0, "max": 255, "start": 0, "end": 255}
    assert omero["rdefs"]["model"] == "color"


@pytest.mark.parametrize("version", VERSIONS)
def test_provenance_survives_in_the_root_beside_the_standard_metadata(
    picture: Picture, version: str, tmp_path: Path
) -> None:
    given = {
        "request": {"model": "demo", "region": ((0, 0), (1, 1))},
        "seed": np.int64(2**53 + 1),
        "model_hash": "ab" * 32,
        "loss": float("nan"),
        "synthetic": True,
    }
    path = write_ome_zarr(
        tmp_path / "a.zarr",
        picture(9, 9),
        pixel_size=HALF_MICRON,
        provenance=given,
        version=version,
    )
    stamp = dict(zarr.open_group(path, mode="r").attrs)["napari_ssldiff"]
    assert stamp["request"] == {"model": "demo", "region": [[0, 0], [1, 1]]}
    assert stamp["seed"] == 2**53 + 1
    assert stamp["model_hash"] == "ab" * 32
    assert stamp["loss"] is None
    assert stamp["synthetic"] is True
    assert "synthetic" in stamp["note"]
    assert stamp["versions"]["zarr"] == zarr.__version__
    assert stamp["created"].endswith("+00:00")
    for file in path.rglob("*"):
        if file.name in ("zarr.json", ".zattrs"):
            assert "NaN" not in file.read_text()


def test_a_mask_marks_the_image_whatever_the_provenance_says(
    picture: Picture, tmp_path: Path
) -> None:
    def stamp(name: str, **options: Any) -> dict[str, Any]:
        path = write_ome_zarr(tmp_path / name, picture(9, 9), pixel_size=HALF_MICRON, **options)
        return dict(zarr.open_group(path, mode="r").attrs)["napari_ssldiff"]

    one = np.zeros((9, 9), bool)
    one[4, 4] = True
    denied = stamp("a.zarr", synthetic=one, provenance={"synthetic": False, "note": "all real"})
    assert denied["synthetic"] is True
    assert denied["synthetic_pixels"] == 1
    assert denied["note"] != "all real"
    assert stamp("b.zarr")["synthetic"] is False
    assert stamp("c.zarr", synthetic=np.zeros((9, 9)))["synthetic"] is False
    assert stamp("d.zarr", provenance={"synthetic": True})["synthetic"] is True


def test_each_shard_is_written_once_and_whole(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: Counter[tuple[str, int, int]] = Counter()
    original = zarr.Array.__setitem__

    def counted(array: zarr.Array, index: Any, value: Any) -> None:
        rows, columns = index[-2:]
        edges = array.shards[-2:]
        for part, edge, length in zip((rows, columns), edges, array.shape[-2:], strict=True):
            assert part.start % edge == 0
            assert part.stop % edge == 0 or part.stop == length
            assert part.stop - part.start <= edge
        writes[array.name, rows.start // edges[0], columns.start // edges[1]] += 1
        original(array, index, value)

    monkeypatch.setattr(zarr.Array, "__setitem__", counted)
    write_ome_zarr(
        tmp_path / "a.zarr",
        picture(700, 1100),
        pixel_size=HALF_MICRON,
        synthetic=np.ones((700, 1100)),
        chunk=64,
        shard=256,
    )
    assert set(writes.values()) == {1}
    assert len([name for name, *_ in writes if name == "/0"]) == 3 * 5
    assert len([name for name, *_ in writes if name == "/labels/synthetic/0"]) == 3 * 5


def test_the_source_is_read_in_blocks_and_never_whole(tmp_path: Path) -> None:
    largest = 0

    def read(box: Box) -> np.ndarray:
        nonlocal largest
        largest = max(largest, box.area)
        return np.full((*box.shape, 3), 9, np.uint8)

    steps: list[tuple[int, int]] = []
    path = write_ome_zarr(
        tmp_path / "a.zarr",
        LazyImage((2500, 2000, 3), np.uint8, read),
        pixel_size=HALF_MICRON,
        chunk=128,
        shard=512,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert largest == 512 * 512
    total = 5 * 4 + 3 * 2 + 2 * 1 + 1
    assert steps == [(i, total) for i in range(1, total + 1)]
    assert (zarr.open_group(path, mode="r")["3"][:] == 9).all()


def test_a_full_disk_leaves_nothing_and_says_so_in_one_line(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr.storage._local as local

    calls = 0
    original = local._put

    def fills_up(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*args, **kwargs)

    monkeypatch.setattr(local, "_put", fills_up)
    with pytest.raises(OutputError, match=r"disk is full while writing .*a\.ome\.zarr") as caught:
        write_ome_zarr(
            tmp_path / "a.ome.zarr",
            picture(900, 900),
            pixel_size=HALF_MICRON,
            chunk=64,
            shard=128,
        )
    assert calls > 20
    assert "\n" not in str(caught.value)
    assert left_behind(tmp_path) == []


def test_cancel_leaves_nothing(picture: Picture, tmp_path: Path) -> None:
    done: list[int] = []
    with pytest.raises(Cancelled):
        write_ome_zarr(
            tmp_path / "a.zarr",
            picture(900, 900),
            pixel_size=HALF_MICRON,
            chunk=64,
            shard=256,
            progress=lambda i, n: done.append(i),
            cancel=lambda: len(done) == 5,
        )
    assert done == [1, 2, 3, 4, 5]
    assert left_behind(tmp_path) == []


def test_an_error_of_the_source_passes_unchanged_and_leaves_nothing(tmp_path: Path) -> None:
    def broken(box: Box) -> np.ndarray:
        raise OSError("the slide has gone away")

    with pytest.raises(OSError, match="gone away") as caught:
        write_ome_zarr(
            tmp_path / "a.zarr", LazyImage((9, 9, 3), np.uint8, broken), pixel_size=HALF_MICRON
        )
    assert not isinstance(caught.value, OutputError)
    assert left_behind(tmp_path) == []


def test_an_existing_output_is_refused_and_untouched_unless_overwritten(
    picture: Picture, tmp_path: Path
) -> None:
    path = tmp_path / "a.ome.zarr"
    write_ome_zarr(path, picture(9, 9), pixel_size=HALF_MICRON)
    with pytest.raises(OutputError, match="exists already"):
        write_ome_zarr(path, picture(5, 5), pixel_size=HALF_MICRON)
    assert zarr.open_group(path, mode="r")["0"].shape == (3, 9, 9)

    with pytest.raises(Cancelled):
        write_ome_zarr(
            path, picture(5, 5), pixel_size=HALF_MICRON, overwrite=True, cancel=lambda: True
        )
    assert zarr.open_group(path, mode="r")["0"].shape == (3, 9, 9)

    write_ome_zarr(path, picture(5, 5), pixel_size=HALF_MICRON, overwrite=True)
    assert zarr.open_group(path, mode="r")["0"].shape == (3, 5, 5)
    assert left_behind(tmp_path) == ["a.ome.zarr"]


def test_overwriting_never_deletes_a_folder_that_is_no_zarr(
    picture: Picture, tmp_path: Path
) -> None:
    path = tmp_path / "thesis.zarr"
    path.mkdir()
    (path / "chapter.txt").write_text("years of work")
    with pytest.raises(OutputError, match="will not be overwritten"):
        write_ome_zarr(path, picture(5, 5), pixel_size=HALF_MICRON, overwrite=True)
    assert (path / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.tif", r"\.ome\.zarr"),
        ("missing/out.ome.zarr", "does not exist"),
        ("file/out.ome.zarr", "does not exist"),
        ("s3://bucket/out.ome.zarr", "only local"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=message) as caught:
        check_output(name)
    assert "\n" not in str(caught.value)


def test_a_folder_that_refuses_writing_is_named(tmp_path: Path) -> None:
    locked = Path("/proc") if os.geteuid() == 0 and Path("/proc").is_dir() else tmp_path / "locked"
    locked.mkdir(exist_ok=True)
    if locked.parent == tmp_path:
        locked.chmod(0o500)
    with pytest.raises(OutputError, match=r"cannot write .*out\.ome\.zarr"):
        check_output(locked / "out.ome.zarr")


def test_a_good_place_passes_the_check_and_stays_empty(tmp_path: Path) -> None:
    assert check_output(tmp_path / "a.ome.zarr") == tmp_path / "a.ome.zarr"
    assert left_behind(tmp_path) == []


def test_images_that_cannot_be_written_are_refused_with_nothing_left(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    bad: list[tuple[np.ndarray, dict[str, Any]]] = [
        (np.zeros((5, 5)), {}),
        (np.zeros((0, 5, 3)), {}),
        (np.zeros((5, 5, 3), complex), {}),
        (np.zeros((5, 5, 3)), {"synthetic": np.zeros((5, 6))}),
        (np.zeros((5, 5, 3)), {"version": "0.6"}),
        (np.zeros((5, 5, 3)), {"chunk": 100, "shard": 256}),
        (np.zeros((5, 5, 3)), {"channel_names": ["one"]}),
        (np.zeros((5, 5, 3)), {"windows": [(0, 1)]}),
    ]
    for pixels, options in bad:
        with pytest.raises(InputError):
            write_ome_zarr(path, pixels, pixel_size=HALF_MICRON, **options)
    assert left_behind(tmp_path) == []


def test_a_killed_predecessor_of_the_same_process_number_does_not_stand_in_the_way(
    picture: Picture, tmp_path: Path
) -> None:
    stale = tmp_path / f".a.zarr.partial-{os.getpid()}"
    stale.mkdir()
    (stale / "zarr.json").write_text("{")
    write_ome_zarr(tmp_path / "a.zarr", picture(5, 5), pixel_size=HALF_MICRON)
    assert left_behind(tmp_path) == ["a.zarr"]
