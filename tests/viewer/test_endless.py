"""Endless slides by the worker, in a viewer: a tiny real model makes them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from napari.components import ViewerModel

from napari_ssldiff.errors import ModelError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.viewer.backend import EngineBackend
from napari_ssldiff.viewer.endless import EndlessSlide, slide_of
from napari_ssldiff.viewer.messages import ChoreFailed, JobDone, SlideOpened, TileMade
from napari_ssldiff.viewer.session import Parameters, Wording
from napari_ssldiff.viewer.workbench import Workbench
from napari_ssldiff.viewer.writer import write_image

BOX = Box(100, 200, 200, 150)
EDGE = 2**20


@pytest.fixture(autouse=True)
def _no_user_cache(own_cache: Path) -> None:
    """Every test gets a cache folder of its own."""


@pytest.fixture
def bench(add_slide: Callable[..., Any], tiny: EngineBackend, post: Any) -> Iterator[Workbench]:
    viewer = ViewerModel()
    add_slide(viewer)
    bench = Workbench(viewer, post.deliver, tiny)
    bench.session.parameters = Parameters(steps=1, guidance=1.0, seed=4)
    bench.regions.add(Region.from_box(BOX), "rectangle")
    yield bench
    assert bench.close()


@pytest.fixture
def slide(bench: Workbench, post: Any) -> EndlessSlide:
    assert bench.open_endless("mirror", EDGE)
    done = post.end(bench.handle)
    assert isinstance(done, JobDone), done
    made = slide_of(bench.viewer.layers[f"{bench.scene.name} · endless"])
    assert made is not None
    made.lazy.forget()  # the view that the opening asked for
    bench.worker.wake()
    return made


def test_it_opens_beside_its_source_in_the_sources_unit_and_marked(
    bench: Workbench, slide: EndlessSlide
) -> None:
    source, layer = bench.viewer.layers["slide"], bench.viewer.layers["slide · endless"]
    assert layer.multiscale
    assert layer.level_shapes[0].tolist() == [EDGE, EDGE]
    assert np.allclose(layer.scale, source.scale)
    right = source.translate[1] + source.data.shape[1] * source.scale[1]
    assert layer.translate[1] > right
    assert layer.units == source.units
    assert layer.metadata["napari_ssldiff"]["synthetic"] is True
    assert layer in bench.sources()
    assert bench.session.slides == 1
    assert copy.deepcopy(layer.data)[0].scene is slide.lazy  # napari duplicates a layer's data
    centre = np.asarray(bench.viewer.camera.center)[1:]
    assert np.allclose(layer.world_to_data(centre), EDGE / 2, atol=1)


def test_the_worker_makes_what_a_view_lacks_and_says_so(
    bench: Workbench, slide: EndlessSlide, post: Any
) -> None:
    where = (slice(5120, 5300), slice(9216, 9300))
    assert not slide.lazy.levels[0][where].any()
    bench.tick()
    assert bench.session.missing == 1
    made = post.until(TileMade, bench.handle)
    assert made.box == Box(5120, 9216, 256, 256)
    assert (slide.lazy.levels[0][where][..., 3] == 255).all()
    bench.tick()
    assert bench.session.missing == 0


def test_a_job_goes_before_the_tiles_and_pausing_stops_them(
    bench: Workbench, slide: EndlessSlide, post: Any, tmp_path: Path
) -> None:
    slide.lazy.levels[0][0:1024, 0:1024]
    post.until(TileMade, bench.handle)
    bench.choose_source(bench.viewer.layers["slide"])
    before = slide.lazy.waiting
    assert bench.export(tmp_path / "out.ome.zarr")
    seen: list[Any] = []

    def handle(message: Any) -> None:
        seen.append(message)
        bench.handle(message)

    assert isinstance(post.end(handle), JobDone)
    assert sum(isinstance(m, TileMade) for m in seen) <= 1  # what was under way may end
    assert before - slide.lazy.waiting <= 2
    bench.slides.pause(True)
    assert bench.session.slides_paused
    time.sleep(0.05)
    waiting = slide.lazy.waiting
    time.sleep(0.2)
    assert slide.lazy.waiting == waiting > 0
    bench.slides.pause(False)
    while slide.lazy.waiting:
        post.until(TileMade, bench.handle)


def test_regions_of_it_are_exported_whole_and_marked_as_synthetic(
    bench: Workbench, slide: EndlessSlide, post: Any, tmp_path: Path
) -> None:
    layer = bench.viewer.layers["slide · endless"]
    assert bench.choose_source(layer)
    assert bench.scene is slide.scene
    box = Box(300_000, 400_000, 60, 300)
    bench.regions.add(Region.from_box(box), "rectangle")
    assert bench.export(tmp_path / "out.ome.zarr"), bench.session.status.text
    assert isinstance(post.end(bench.handle), JobDone), bench.session.status.text
    group = zarr.open_group(tmp_path / "out.ome.zarr", mode="r")
    pixels = np.moveaxis(np.asarray(group["0"]), 0, -1)
    assert np.array_equal(pixels, slide.lazy.rendered[box.slices])
    assert pixels.std() > 1
    assert np.asarray(group["labels/synthetic/0"]).min() == 1
    ours = group.attrs["napari_ssldiff"]
    assert ours["synthetic"] is True
    again = type(slide.lazy).from_dict(bench.backend.bundle, ours["endless"])
    assert np.array_equal(again.rendered[box.slices], pixels)


def test_a_variation_on_it_keeps_the_definition_of_what_lies_under_it(
    bench: Workbench, slide: EndlessSlide, post: Any, tmp_path: Path
) -> None:
    assert bench.choose_source(bench.viewer.layers["slide · endless"])
    bench.regions.add(Region.from_box(Box(300_000, 400_000, 60, 70)), "rectangle")
    assert bench.generate(), bench.session.status.text
    assert isinstance(post.end(bench.handle), JobDone), bench.session.status.text
    assert bench.export(tmp_path / "out.ome.zarr"), bench.session.status.text
    assert isinstance(post.end(bench.handle), JobDone), bench.session.status.text
    ours = zarr.open_group(tmp_path / "out.ome.zarr", mode="r").attrs["napari_ssldiff"]
    assert ours["synthetic"] is True
    assert ours["request"]["source"]["path"] == slide.scene.path
    assert ours["source_provenance"]["endless_digest"] == slide.lazy.digest
    # There is no edge to go past, and no way to its pixels without their mark.
    assert not bench.extend(256)
    assert "is endless" in bench.session.status.text


def test_saving_all_of_it_is_refused(slide: EndlessSlide, bench: Workbench, tmp_path: Path) -> None:
    data, meta, _ = bench.viewer.layers["slide · endless"].as_layer_data_tuple()
    with pytest.raises(ValueError, match="endless slide: draw a region"):
        write_image(str(tmp_path / "all.zarr"), data, meta)


def test_a_slide_that_breaks_is_left_alone_and_the_worker_goes_on(
    bench: Workbench,
    slide: EndlessSlide,
    post: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("napari_ssldiff.viewer.workbench.notify", shown.append)

    def broken(check: Any) -> None:
        raise ModelError("the network's answer is not finite")

    monkeypatch.setattr(slide.lazy, "step", broken)
    slide.lazy.levels[0][0:200, 0:200]
    post.until(ChoreFailed, bench.handle)
    assert bench.session.status.severity == "error"
    assert shown == ["slide · endless: the network's answer is not finite"]
    assert shown[0][1:] in bench.session.status.text
    assert slide.lazy.waiting == 0
    bench.choose_source(bench.viewer.layers["slide"])
    assert bench.export(tmp_path / "out.ome.zarr")
    assert isinstance(post.end(bench.handle), JobDone)


def test_a_removed_layer_is_not_served_and_another_bench_serves_those_that_stay(
    bench: Workbench, slide: EndlessSlide, post: Any, tiny: EngineBackend
) -> None:
    layer = bench.viewer.layers["slide · endless"]
    assert bench.close()
    slide.lazy.levels[0][0:200, 0:200]
    again = Workbench(bench.viewer, post.deliver, tiny)
    try:
        assert again.session.slides == 1
        post.until(TileMade, again.handle)
        again.viewer.layers.remove(layer)
        assert again.session.slides == 0
        slide.lazy.levels[0][9000:9200, 0:200]
        time.sleep(0.2)
        assert slide.lazy.waiting > 0
    finally:
        assert again.close()


def test_words_make_a_slide_without_a_region_which_tells_what_it_did_not_understand(
    bench: Workbench, tiny: EngineBackend, tiny_words: Any, post: Any
) -> None:
    key = tiny_words.prior.facts.encoder, "text", "cpu"
    tiny._words = {key: tiny_words}
    bench.regions.remove_selected()
    assert not bench.open_endless("words", EDGE)
    assert "The prompt is empty" in bench.session.status.text
    bench.session.wording = Wording("odd stroma")
    assert bench.open_endless("words", EDGE), bench.session.status.text
    assert isinstance(post.end(bench.handle), JobDone), bench.session.status.text
    assert "Ignores 'odd'." in bench.session.status.text
    layer = bench.viewer.layers["words · endless"]
    slide = slide_of(layer)
    assert slide is not None
    carried = layer.metadata["napari_ssldiff"]
    assert carried["synthetic"] is True
    assert carried["endless"]["places"]["record"]["text"] == "odd stroma"
    assert "derived_from" not in carried  # no pixel of the scene beside it is in it
    slide.lazy.levels[0][5120:5300, 9216:9300]
    deadline = time.monotonic() + 240  # two networks, and nothing of either is there yet
    while slide.lazy.waiting and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (slide.lazy.levels[0][5120:5300, 9216:9300, 3] == 255).all()


def test_shuffled_slides_differ_by_seed_and_need_a_region(bench: Workbench, post: Any) -> None:
    maps = []
    for seed in (1, 2):
        bench.session.parameters = Parameters(seed=seed, preset="draft", steps=4, guidance=1.0)
        assert bench.open_endless("shuffle", 2**14)
        opened = post.until(SlideOpened, bench.handle)
        post.end(bench.handle)
        maps.append(opened.slide.lazy.levels[-1][..., :3].astype(int))
        # The steps of a draft are its student's, which has no tiles.
        assert opened.slide.lazy.sampler.steps == 20
    assert np.abs(maps[0] - maps[1]).mean() > 1
    bench.regions.remove_selected()
    bench.choose_source(bench.viewer.layers["slide · endless"])
    assert not bench.open_endless()
    assert "region" in bench.session.status.text
