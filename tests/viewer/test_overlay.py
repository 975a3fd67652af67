from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zarr
from napari.components import ViewerModel

from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.scene import PixelSize, Scene
from napari_ssldiff.viewer.overlay import OverlayController
from napari_ssldiff.viewer.reader import layer_data

TILE = Box(100, 200, 256, 256)


def rgba(box: Box, colour: tuple[int, int, int] = (9, 8, 7)) -> np.ndarray:
    return np.full((*box.shape, 4), (*colour, 255), np.uint8)


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def scene() -> Scene:
    levels = [zarr.full((3000 // k, 4000 // k, 3), 90, dtype="uint8") for k in (1, 2, 4)]
    size = PixelSize(0.5, 0.25, "micrometer")
    return Scene("a.tif", "a.tif", levels, size, origin=(1000.0, 500.0))


@pytest.fixture
def overlay(viewer: ViewerModel, scene: Scene) -> OverlayController:
    data, attributes, _ = layer_data(scene)
    return OverlayController(viewer, viewer.add_image(data, **attributes), scene)


@pytest.fixture
def refreshes(overlay: OverlayController, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    refresh = overlay.layer.refresh
    monkeypatch.setattr(
        overlay.layer, "refresh", lambda *a, **k: (calls.append(k), refresh(*a, **k))
    )
    return calls


def test_the_overlay_lies_on_its_scene_and_says_what_it_is(
    overlay: OverlayController, viewer: ViewerModel, scene: Scene
) -> None:
    source, layer = viewer.layers
    assert layer.name == "a.tif · synthetic"
    assert layer.multiscale
    assert layer.rgb
    for key in ("scale", "translate", "units"):
        assert np.array_equal(getattr(layer, key), getattr(source, key))
    assert tuple(layer.level_shapes[0][:2]) == scene.shape
    assert isinstance(layer.data[-1], np.ndarray)
    assert layer.metadata["napari_ssldiff"]["synthetic"] is True
    assert (np.asarray(layer.data[-1]) == 0).all()


def test_painted_pixels_are_seen_at_every_level_even_the_frozen_one(
    overlay: OverlayController,
) -> None:
    changed = overlay.paint(TILE, rgba(TILE))
    overlay.painted(1, changed)
    overlay.flush()
    for level in range(len(overlay.layer.data)):
        overlay.layer.locked_data_level = level
        factor = overlay.layer.downsample_factors[level][0]
        y, x = (int(v / factor) for v in TILE.centre)
        assert overlay.layer.get_value((228 * 0.5 + 1000.25, 328 * 0.25 + 500.125), world=True)
        shown = np.asarray(overlay.layer.data[level][y, x])
        assert shown.tolist() == [9, 8, 7, 255]


def test_many_tiles_are_one_cheap_refresh(
    overlay: OverlayController, refreshes: list[dict[str, Any]]
) -> None:
    for tile in Box(0, 0, 512, 512).tiles(128):
        overlay.painted(1, overlay.paint(tile, rgba(tile)))
    assert refreshes == []
    assert overlay.flush()
    assert refreshes == [{"thumbnail": False, "extent": False, "highlight": False}]
    assert not overlay.flush(), "nothing new, nothing drawn"


def test_tiles_out_of_the_loaded_view_cost_no_refresh(
    overlay: OverlayController, refreshes: list[dict[str, Any]]
) -> None:
    layer = overlay.layer
    layer._data_level = 0
    layer.corner_pixels = np.array([[1500, 2000], [2500, 3000]])
    overlay.painted(1, TILE)
    assert not overlay.flush()
    overlay.painted(1, Box(2400, 2900, 256, 256))
    assert overlay.flush()
    layer._data_level = 1
    layer.corner_pixels = np.array([[0, 0], [200, 200]])
    overlay.painted(1, Box(390, 390, 20, 20))
    assert overlay.flush(), "corners count in pixels of the shown level"
    layer.visible = False
    refreshes.clear()
    overlay.painted(1, Box(0, 0, 20, 20))
    assert not overlay.flush()
    assert refreshes == []


def test_the_preview_lies_over_its_region_and_only_there(
    overlay: OverlayController, viewer: ViewerModel
) -> None:
    region = Region.from_vertices([(100, 200), (100, 360), (260, 360)])
    overlay.preview(region.bounds, np.full((20, 20, 3), 77, np.uint8), region)
    overlay.flush()
    source, preview, layer = viewer.layers
    assert preview.name == "a.tif · preview"
    assert layer is overlay.layer, "finished tiles cover the preview"
    # Outer corners of the preview's first and last pixel are those of the region's bounds.
    low = source.world_to_data(preview.data_to_world((-0.5, -0.5)))
    high = source.world_to_data(preview.data_to_world((19.5, 19.5)))
    assert np.allclose(low, (99.5, 199.5))
    assert np.allclose(high, (259.5, 359.5))
    alpha = preview.data[..., 3]
    assert alpha[2, 17] == 255
    assert alpha[17, 2] == 0


def test_a_preview_that_grows_stays_one_layer(
    overlay: OverlayController, viewer: ViewerModel
) -> None:
    """A new layer takes half a second to be laid into a window."""
    region, first = Region.from_box(Box(100, 200, 256, 2048)), None
    for width in (64, 640, 2048):
        box = Box(100, 200, 256, width)
        overlay.preview(box, np.full((64, width // 4, 3), 77, np.uint8), region)
        overlay.flush()
        layer = viewer.layers["a.tif · preview"]
        first = first or layer
        assert layer is first
        assert layer.data.shape == (64, width // 4, 4)
        source = viewer.layers[0]
        high = source.world_to_data(layer.data_to_world((63.5, width / 4 - 0.5)))
        np.testing.assert_allclose(high, (box.y1 - 0.5, box.x1 - 0.5))
        assert viewer.layers.extent.world.shape == (2, 2)


def test_the_preview_is_reused_moved_and_gone_when_the_job_has_ended(
    overlay: OverlayController, viewer: ViewerModel
) -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    overlay.preview(TILE, pixels, Region.from_box(TILE))
    overlay.flush()
    first = viewer.layers["a.tif · preview"]
    other = TILE.shift(500, 0)
    overlay.preview(other, pixels + 5, Region.from_box(other))
    overlay.flush()
    assert viewer.layers["a.tif · preview"] is first
    assert first.data[0, 0, 0] == 5
    assert np.allclose(
        overlay.source.world_to_data(first.data_to_world((-0.5, -0.5))), (599.5, 199.5)
    )
    overlay.settle(1)
    assert [layer.name for layer in viewer.layers] == ["a.tif", "a.tif · synthetic"]


def test_the_thumbnail_follows_at_the_end(overlay: OverlayController) -> None:
    overlay.painted(1, overlay.paint(overlay.scene.box, rgba(overlay.scene.box, (250, 0, 0))))
    overlay.flush()
    before = overlay.layer.thumbnail.copy()
    overlay.settle(1)
    assert overlay.layer.thumbnail[16, 16, 0] > 200
    assert before[16, 16, 0] < 50


def test_new_layers_leave_the_users_choice_alone(
    overlay: OverlayController, viewer: ViewerModel
) -> None:
    shapes = viewer.add_shapes(name="Regions")
    shapes.mode = "add_rectangle"
    overlay.preview(TILE, np.zeros((8, 8, 3), np.uint8), Region.from_box(TILE))
    overlay.flush()
    assert viewer.layers.selection.active is shapes
    assert shapes.mode == "add_rectangle"
    assert viewer.layers[-1] is shapes


def test_every_run_that_has_painted_is_in_the_provenance(overlay: OverlayController) -> None:
    for job, seed in ((1, 11), (2, 22), (3, 33)):
        overlay.start_run(job, {"seed": seed, "synthetic": True})
        if job != 2:  # cancelled before its first tile
            overlay.painted(job, overlay.paint(TILE, rgba(TILE)))
            overlay.painted(job, TILE)
        overlay.settle(job)
    ours = overlay.layer.metadata["napari_ssldiff"]
    assert ours["seed"] == 33
    assert [run["seed"] for run in ours["earlier_runs"]] == [11]
    assert ours["synthetic"] is True


def test_a_tile_that_arrives_after_the_layer_is_gone_is_dropped(
    overlay: OverlayController, viewer: ViewerModel
) -> None:
    viewer.layers.remove(overlay.layer)
    overlay.close()
    assert overlay.paint(TILE, rgba(TILE)).area == 0
    overlay.painted(1, TILE)
    assert not overlay.flush()
    overlay.settle(1)


def test_a_second_dock_widget_goes_on_with_the_same_overlay(
    overlay: OverlayController, viewer: ViewerModel, add_slide: Callable[..., Any]
) -> None:
    overlay.start_run(1, {"seed": 4})
    overlay.painted(1, overlay.paint(TILE, rgba(TILE)))
    other = OverlayController(viewer, overlay.source, overlay.scene)
    assert other.layer is overlay.layer
    assert (other.store.read(TILE) == rgba(TILE)).all()
    assert other.provenance["seed"] == 4
    assert len(viewer.layers) == 2
