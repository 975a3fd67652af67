from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes import open_scene
from napari_ssldiff.viewer import told as limits
from napari_ssldiff.viewer import workbench as module
from napari_ssldiff.viewer.messages import JobCancelled, JobDone, JobFailed, JobPainted, JobPreview
from napari_ssldiff.viewer.session import Parameters
from napari_ssldiff.viewer.workbench import Workbench

BOX = Box(100, 200, 200, 150)


@pytest.fixture
def viewer(add_slide: Callable[..., Any]) -> ViewerModel:
    viewer = ViewerModel()
    add_slide(viewer)
    return viewer


@pytest.fixture
def bench(viewer: ViewerModel, backend: Any, post: Any) -> Iterator[Workbench]:
    bench = Workbench(viewer, post.deliver, backend)
    yield bench
    assert bench.close()
    assert not [t for t in threading.enumerate() if t.name == "napari-ssldiff-worker"]


def test_the_first_image_and_its_nearest_model_are_chosen(bench: Workbench) -> None:
    assert bench.source is bench.viewer.layers["slide"]
    assert bench.session.model_id == "demo-histology"


def test_another_scene_chooses_another_model_and_keeps_regions_apart(
    bench: Workbench, add_slide: Callable[..., Any]
) -> None:
    bench.regions.add(Region.from_box(BOX), "rectangle")
    ground = add_slide(bench.viewer, name="ground", units=("meter", "meter"))
    bench.choose_source(ground)
    assert bench.session.model_id == "demo-naip"
    assert bench.regions.rows() == []
    bench.choose_source(bench.viewer.layers["slide"])
    assert len(bench.regions.rows()) == 1


def test_generate_fills_the_region_and_nothing_else(
    bench: Workbench, post: Any, backend: Any
) -> None:
    bench.regions.add(Region.from_box(BOX), "rectangle")
    bench.session.parameters = Parameters(seed=9)
    assert bench.generate()
    assert bench.session.busy
    assert isinstance(post.end(bench.handle), JobDone)
    assert not bench.session.busy
    assert bench.session.status.severity == "success"
    layer = bench.viewer.layers["slide · synthetic"]
    assert layer.metadata["napari_ssldiff"]["seed"] == 9
    finest = np.asarray(layer.data[0])
    assert (finest[BOX.slices] == [*backend.colour(9), 255]).all()
    assert (finest[..., 3] > 0).sum() == BOX.area
    assert "slide · preview" not in bench.viewer.layers


def test_without_a_region_one_clear_line_says_so(bench: Workbench) -> None:
    assert not bench.generate()
    assert bench.session.status.severity == "error"
    assert "draw one on the image" in bench.session.status.text
    assert not bench.session.busy


def test_without_a_scene_one_clear_line_says_so(post: Any, backend: Any) -> None:
    bench = Workbench(ViewerModel(), post.deliver, backend)
    for action in (bench.generate, lambda: bench.draw("rectangle")):
        assert not action()
        assert "open an image" in bench.session.status.text.lower()
    bench.close()


def test_a_huge_region_needs_a_yes(
    post: Any, backend: Any, monkeypatch: pytest.MonkeyPatch, viewer: ViewerModel
) -> None:
    monkeypatch.setattr(limits, "LARGE", 1000)
    asked: list[str] = []
    bench = Workbench(viewer, post.deliver, backend, lambda text: bool(asked.append(text)))
    bench.regions.add(Region.from_box(BOX), "rectangle")
    assert not bench.generate()
    assert "150 × 200 px" in asked[0]
    assert "draw one of at most" in bench.session.status.text
    bench.confirm = lambda text: True
    assert bench.generate()
    post.end(bench.handle)
    bench.close()


def test_several_regions_and_a_second_press_wait_in_a_queue(bench: Workbench, post: Any) -> None:
    for shift in (0, 220):
        bench.regions.add(Region.from_box(BOX.shift(shift, 0)), "rectangle")
    bench.regions.select(set())
    bench.generate()
    bench.generate()
    assert bench.session.waiting == 3
    for _ in range(3):
        assert isinstance(post.end(bench.handle), JobDone)
        assert bench.session.busy
    post.end(bench.handle)
    assert not bench.session.busy
    finest = np.asarray(bench.viewer.layers["slide · synthetic"].data[0])
    assert (finest[..., 3] > 0).sum() == 2 * BOX.area


def test_cancel_keeps_tiles_and_frees_the_widget(bench: Workbench, post: Any, backend: Any) -> None:
    backend.tile_delay = 0.05
    bench.regions.add(Region.from_box(BOX), "rectangle")
    bench.generate()
    post.until(JobPainted, bench.handle)
    bench.cancel()
    assert bench.session.cancelling
    assert isinstance(post.end(bench.handle), JobCancelled)
    assert not bench.session.busy
    assert not bench.session.cancelling
    painted = (np.asarray(bench.viewer.layers["slide · synthetic"].data[0])[..., 3] > 0).sum()
    assert 0 < painted < BOX.area
    assert bench.viewer.layers["slide · synthetic"].metadata["napari_ssldiff"]["request"]


def test_an_engine_error_is_a_line_and_a_notification_not_a_crash(
    bench: Workbench, post: Any, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(module, "notify", told.append)
    backend.sample_error = ValueError("a tensor of the wrong shape")
    bench.regions.add(Region.from_box(BOX), "rectangle")
    bench.generate()
    assert isinstance(post.end(bench.handle), JobFailed)
    assert bench.session.status.severity == "error"
    assert told == ["ValueError: a tensor of the wrong shape"]
    assert "slide · preview" not in bench.viewer.layers


def test_removing_the_overlay_stops_its_job_and_the_next_one_starts_afresh(
    bench: Workbench, post: Any, backend: Any
) -> None:
    backend.delay = 0.3  # long enough for a busy machine to come to the next line in time
    bench.regions.add(Region.from_box(BOX), "rectangle")
    bench.generate()
    post.until(JobPreview, bench.handle)
    bench.tick()
    bench.viewer.layers.remove("slide · synthetic")
    assert isinstance(post.end(bench.handle), JobCancelled)
    assert [layer.name for layer in bench.viewer.layers] == ["slide", "Regions"]
    backend.delay = 0
    bench.generate()
    assert isinstance(post.end(bench.handle), JobDone)
    assert "slide · synthetic" in bench.viewer.layers


def test_removing_the_preview_or_the_regions_hurts_nothing(
    bench: Workbench, post: Any, backend: Any
) -> None:
    backend.delay = 0.02
    bench.regions.add(Region.from_box(BOX), "rectangle")
    bench.generate()
    post.until(JobPreview, bench.handle)
    bench.tick()
    bench.viewer.layers.remove("slide · preview")
    bench.viewer.layers.remove("Regions")
    post.until(JobPreview, bench.handle)
    bench.tick()
    assert "slide · preview" in bench.viewer.layers
    assert isinstance(post.end(bench.handle), JobDone)
    assert bench.regions.rows() == []


def test_removing_the_scene_stops_its_job_and_turns_to_another(
    bench: Workbench, post: Any, backend: Any, add_slide: Callable[..., Any]
) -> None:
    other = add_slide(bench.viewer, name="other")
    backend.delay = 0.02
    bench.regions.add(Region.from_box(BOX), "rectangle")
    bench.generate()
    post.until(JobPreview, bench.handle)
    bench.viewer.layers.remove("slide")
    assert bench.source is other
    assert isinstance(post.end(bench.handle), JobCancelled)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_an_export_lies_where_the_region_lay_and_is_marked(
    version: Any, bench: Workbench, post: Any, backend: Any, tmp_path: Path,
    slide_pixels: np.ndarray,
) -> None:  # fmt: skip
    triangle = Region.from_vertices([(100, 200), (100, 360), (260, 360)])
    bench.regions.add(triangle)
    bench.generate()
    post.end(bench.handle)
    path = tmp_path / "out.ome.zarr"
    assert bench.export(path, version)
    assert isinstance(post.end(bench.handle), JobDone)
    assert str(path) in bench.session.status.text
    with open_scene(path) as scene:
        assert scene.origin == pytest.approx((100 + 100 * 0.5, 50 + 200 * 0.5))
        assert scene.pixel_size.y == 0.5
        pixels = scene.read(scene.box)
    box = triangle.bounds
    inside = triangle.mask(box)
    assert (pixels[inside] == backend.colour(0)).all()
    assert np.array_equal(pixels[~inside], slide_pixels[box.slices][~inside])
    name = "zarr.json" if version == "0.5" else ".zattrs"
    root = json.loads((path / name).read_text())
    ours = root.get("attributes", root)["napari_ssldiff"]
    assert ours["synthetic"] is True
    assert ours["request"]["model"] == "demo-histology"


def test_a_place_that_cannot_be_written_is_named_before_any_work(
    bench: Workbench, tmp_path: Path
) -> None:
    bench.regions.add(Region.from_box(BOX), "rectangle")
    assert not bench.export(tmp_path / "no folder" / "out.ome.zarr")
    assert "does not exist" in bench.session.status.text
    assert not bench.session.busy


def test_a_scene_without_synthetic_pixels_is_exported_as_such(
    bench: Workbench, post: Any, tmp_path: Path
) -> None:
    assert bench.export(tmp_path / "all.ome.zarr", extent="scene")
    assert isinstance(post.end(bench.handle), JobDone)
    root = json.loads((tmp_path / "all.ome.zarr" / "zarr.json").read_text())
    assert root["attributes"]["napari_ssldiff"]["synthetic"] is False


def test_an_unusable_layer_says_why(bench: Workbench) -> None:
    turned = bench.viewer.add_image(np.zeros((9, 9), np.uint8), rotate=30, name="turned")
    assert not bench.choose_source(turned)
    assert "'turned' is rotated" in bench.session.status.text
    assert not bench.generate()
    assert "'turned' is rotated" in bench.session.status.text


def test_a_paused_job_waits_and_another_generate_lets_all_go_on(
    bench: Workbench, post: Any, backend: Any
) -> None:
    backend.tile_delay = 0.02
    bench.regions.add(Region.from_box(BOX), "rectangle")
    assert bench.generate()
    post.until(JobPainted, bench.handle)
    bench.hold(True)
    assert bench.session.held
    time.sleep(0.2)
    while not post._queue.empty():
        bench.handle(post.next())
    time.sleep(0.2)
    assert post._queue.empty()
    assert bench.session.busy
    bench.hold(False)
    post.until(JobPainted, bench.handle)
    bench.hold(True)
    assert bench.generate()
    assert not bench.session.held
    for _ in range(2):
        assert isinstance(post.end(bench.handle), JobDone)
    bench.hold(True)
    assert not bench.session.held  # there is nothing to hold


def test_a_paused_job_can_be_cancelled(bench: Workbench, post: Any, backend: Any) -> None:
    backend.delay = 0.05
    bench.regions.add(Region.from_box(BOX), "rectangle")
    assert bench.generate()
    post.until(JobPreview, bench.handle)
    bench.hold(True)
    bench.cancel()
    assert isinstance(post.end(bench.handle), JobCancelled)
    assert not bench.session.held


def test_a_variation_over_the_overlay_takes_what_is_shown_for_the_source(
    bench: Workbench, post: Any, backend: Any
) -> None:
    bench.regions.add(Region.from_box(BOX), "rectangle")
    for seed, over in ((9, False), (10, True), (11, True)):
        bench.session.parameters = Parameters(seed=seed, over=over)
        assert bench.generate()
        assert isinstance(post.end(bench.handle), JobDone)
    plain, first, second = backend.scenes
    assert plain is bench.scene
    wider = BOX.grow(3)
    shown = second.read_rgb(wider)
    # Pixels are read when they are asked for, and by now all three runs have painted.
    assert (shown[3:-3, 3:-3] == backend.colour(11)).all()
    assert np.array_equal(shown[:3], plain.read_rgb(wider)[:3])
    assert (first.path, first.shape) != (plain.path, None)
    assert first.shape == plain.shape
    last = bench.viewer.layers["slide · synthetic"].metadata["napari_ssldiff"]
    assert last["over_the_overlay"] is True
    assert [run["over_the_overlay"] for run in last["earlier_runs"]] == [False, True]


def test_an_extended_scene_is_a_layer_around_its_source_that_can_be_drawn_on(
    bench: Workbench, post: Any, backend: Any
) -> None:
    source = bench.viewer.layers["slide"]
    assert bench.extend(256)
    layer = bench.viewer.layers["slide · extended"]
    assert bench.source is layer
    assert bench.scene is not None
    assert bench.scene.inside == Box(256, 256, 700, 900)
    # The same place in the world.
    assert np.allclose(layer.data_to_world((256, 256)), source.data_to_world((0, 0)))
    beyond = Box(300, 100, 200, 120)  # left of the old edge
    bench.regions.add(Region.from_box(beyond), "rectangle")
    assert bench.generate()
    assert isinstance(post.end(bench.handle), JobDone)
    overlay = bench.viewer.layers["slide · extended · synthetic"]
    painted = np.asarray(overlay.data[0])[..., 3]
    assert (painted[beyond.slices] == 255).all()
    assert (painted > 0).sum() == beyond.area
    assert not bench.extend(5000)
    assert "extended by 1 to" in bench.session.status.text
