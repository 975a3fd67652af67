from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from napari.layers import Image
from ome_zarr_models import open_ome_zarr

from napari_ssldiff.errors import InputError, OutputError
from napari_ssldiff.export import OverlayStore
from napari_ssldiff.geometry import Box
from napari_ssldiff.viewer.writer import write_image

Picture = Callable[..., np.ndarray]


def save(layer: Image, path: Path) -> zarr.Group:
    data, meta, _ = layer.as_layer_data_tuple()
    assert write_image(str(path), data, meta) == [str(path)]
    group = zarr.open_group(path, mode="r")
    assert open_ome_zarr(group)
    return group


def placed(group: zarr.Group) -> tuple[list[float], list[float], str | None]:
    entry: Any = group.attrs["ome"]["multiscales"][0]
    scale, move = entry["datasets"][0]["coordinateTransformations"]
    return scale["scale"], move["translation"], entry["axes"][-1].get("unit")


def test_an_rgb_pyramid_is_saved_from_its_finest_level_at_its_place(
    picture: Picture, tmp_path: Path
) -> None:
    pixels = picture(1300, 700)
    layer = Image(
        [pixels, pixels[::2, ::2]],
        rgb=True,
        multiscale=True,
        scale=(0.5, 0.25),
        translate=(10, 20),
        units=("um", "um"),
        name="a slide",
    )
    group = save(layer, tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(np.moveaxis(group["0"][:], 0, -1), pixels)
    # napari places pixel centres, and so does OME-Zarr: the numbers must not shift by half.
    assert placed(group) == ([1.0, 0.5, 0.25], [0.0, 10.0, 20.0], "micrometer")
    assert group.attrs["ome"]["multiscales"][0]["name"] == "a slide"
    assert group.attrs["napari_ssldiff"]["synthetic"] is False


def test_units_are_converted_and_not_dropped(picture: Picture, tmp_path: Path) -> None:
    layer = Image(picture(9, 9), rgb=True, scale=(2, 2), translate=(3, 0), units=("mm", "mm"))
    scale, move, unit = placed(save(layer, tmp_path / "a.zarr"))
    assert (scale[1:], move[1:], unit) == ([2000, 2000], [3000, 0], "micrometer")
    bare = save(Image(picture(9, 9), rgb=True), tmp_path / "b.zarr")
    assert placed(bare) == ([1, 1, 1], [0, 0, 0], None)


def test_a_grey_deep_layer_keeps_its_values_and_its_contrast(
    picture: Picture, tmp_path: Path
) -> None:
    pixels = picture(40, 30, 1, "uint16")[..., 0]
    group = save(Image(pixels, contrast_limits=(100, 4000)), tmp_path / "a.zarr")
    np.testing.assert_array_equal(group["0"][0], pixels)
    channel: Any = group.attrs["ome"]["omero"]["channels"][0]
    assert (channel["window"]["start"], channel["window"]["end"]) == (100, 4000)


def test_our_overlay_is_saved_marked_with_its_provenance_and_never_black(tmp_path: Path) -> None:
    with OverlayStore(Box(100, 200, 900, 800), max_coarse=128) as store:
        tile = np.empty((256, 256, 4), np.uint8)
        tile[:] = (200, 40, 120, 255)
        store.write(Box(300, 400, 256, 256), tile)
        layer = Image(
            store.levels,
            rgb=True,
            multiscale=True,
            scale=(0.5, 0.5),
            units=("um", "um"),
            metadata={"napari_ssldiff": {"seed": 4, "background": [250, 240, 230]}},
        )
        group = save(layer, tmp_path / "a.zarr")
    expected = np.empty((900, 800, 3), np.uint8)
    expected[:] = (250, 240, 230)
    expected[200:456, 200:456] = (200, 40, 120)
    np.testing.assert_array_equal(np.moveaxis(group["0"][:], 0, -1), expected)
    mask = np.zeros((900, 800), np.uint8)
    mask[200:456, 200:456] = 1
    np.testing.assert_array_equal(group["labels/synthetic/0"][:], mask)
    stamp: Any = group.attrs["napari_ssldiff"]
    assert stamp["synthetic"] is True
    assert stamp["seed"] == 4


def test_a_flat_synthetic_layer_stays_marked(picture: Picture, tmp_path: Path) -> None:
    layer = Image(
        picture(9, 9), rgb=True, metadata={"napari_ssldiff": {"synthetic": True, "seed": 1}}
    )
    group = save(layer, tmp_path / "a.zarr")
    assert group.attrs["napari_ssldiff"]["synthetic"] is True


def test_a_foreign_alpha_channel_is_kept_and_claims_nothing(
    picture: Picture, tmp_path: Path
) -> None:
    pixels = picture(9, 9, 4)
    group = save(Image(pixels, rgb=True), tmp_path / "a.zarr")
    np.testing.assert_array_equal(np.moveaxis(group["0"][:], 0, -1), pixels)
    assert group.attrs["napari_ssldiff"]["synthetic"] is False
    labels = [channel["label"] for channel in group.attrs["ome"]["omero"]["channels"]]
    assert labels == ["red", "green", "blue", "alpha"]


@pytest.mark.parametrize(
    "options",
    [{"rotate": 30}, {"shear": [0.5]}, {"scale": (-1, 1)}, {"affine": np.diag([2, 2, 1])}],
)
def test_a_layer_that_ome_zarr_cannot_place_is_refused(
    options: dict[str, Any], picture: Picture, tmp_path: Path
) -> None:
    data, meta, _ = Image(picture(9, 9), rgb=True, **options).as_layer_data_tuple()
    with pytest.raises(InputError, match="rotated, sheared, mirrored"):
        write_image(str(tmp_path / "a.zarr"), data, meta)
    assert not list(tmp_path.iterdir())


def test_volumes_odd_units_and_taken_places_are_refused(picture: Picture, tmp_path: Path) -> None:
    data, meta, _ = Image(np.zeros((4, 5, 6))).as_layer_data_tuple()
    with pytest.raises(InputError, match="two-dimensional"):
        write_image(str(tmp_path / "a.zarr"), data, meta)
    data, meta, _ = Image(picture(9, 9), rgb=True, units=("s", "s")).as_layer_data_tuple()
    with pytest.raises(InputError, match="second"):
        write_image(str(tmp_path / "a.zarr"), data, meta)
    (tmp_path / "a.zarr").mkdir()
    data, meta, _ = Image(picture(9, 9), rgb=True).as_layer_data_tuple()
    with pytest.raises(OutputError, match="exists already"):
        write_image(str(tmp_path / "a.zarr"), data, meta)


def test_the_writer_needs_no_qt_and_no_torch() -> None:
    code = (
        "import sys, napari_ssldiff.viewer.writer\n"
        "loaded = {'torch', 'qtpy', 'PyQt5', 'PyQt6', 'napari'} & set(sys.modules)\n"
        "sys.exit(', '.join(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
