"""Coarse pictures in the dock: what the worker reads, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.lengths import Length
from napari_ssldiff.synthesis.coarse import CoarsePicture
from napari_ssldiff.viewer.guides import Coarse, offered
from napari_ssldiff.viewer.layer_scene import scene_of
from napari_ssldiff.viewer.messages import JobDone, JobFailed
from napari_ssldiff.viewer.session import Guide, Parameters
from napari_ssldiff.viewer.workbench import Workbench

BOX = Box(128, 256, 128, 192)
REGION = Region.from_box(BOX)
Read = Callable[[Coarse], CoarsePicture]


@pytest.fixture
def viewer(add_slide: Callable[..., Any]) -> ViewerModel:
    viewer = ViewerModel()
    add_slide(viewer)
    return viewer


@pytest.fixture
def bench(viewer: ViewerModel, zooming: Any, post: Any) -> Iterator[Workbench]:
    bench = Workbench(viewer, post.deliver, zooming)
    bench.regions.add(REGION, "rectangle")
    bench.choice.fix("20x")
    yield bench
    assert bench.close()


@pytest.fixture
def read(bench: Workbench, bundle: Any) -> Read:
    """What the worker reads for a model of 0.5 µm/px, which are the slide's."""
    assert bench.scene is not None
    scene = bench.scene
    return lambda coarse: coarse.picture(scene, REGION, bundle, around=0, grow=0)


def guided(bench: Workbench, post: Any, zooming: Any, **changes: Any) -> Coarse:
    """What the engine was given when Generate was pressed."""
    bench.session.guide = replace(bench.session.guide, **changes)
    assert bench.generate(), bench.session.status.text
    assert isinstance(post.end(bench.handle), JobDone)
    found: Coarse = zooming.guides[-1]
    return found


def picture(layer_pixels: np.ndarray, **place: Any) -> Image:
    return Image(layer_pixels, rgb=True, units=("micrometer", "micrometer"), **place)


def test_nothing_is_kept_unless_it_is_asked_for(bench: Workbench, post: Any, zooming: Any) -> None:
    assert bench.generate()
    post.end(bench.handle)
    assert zooming.guides == [None]


def test_the_source_is_kept_in_pixels_of_the_model_or_of_a_length(
    bench: Workbench, post: Any, zooming: Any, read: Read, slide_pixels: np.ndarray
) -> None:
    coarse = guided(bench, post, zooming, of="source", pixel=Length(16), strength=0.4)
    found = read(coarse)
    assert found.strength == 0.4
    assert found.pixels.shape == (8, 12, 3)
    block = slide_pixels[BOX.y : BOX.y + 16, BOX.x : BOX.x + 16].reshape(-1, 3).mean(0)
    assert np.abs(found.pixels[0, 0] - block).max() <= 0.5
    same = replace(coarse, pixel=Length(8, "micrometer"))
    assert np.array_equal(read(same).pixels, found.pixels)
    with pytest.raises(InputError, match="coarser than what it guides"):
        read(replace(coarse, pixel=Length(1)))
    with pytest.raises(InputError, match="in meters, tiny in micrometers"):
        read(replace(coarse, pixel=Length(1, "meter")))


def test_an_overlay_of_lower_magnification_is_kept_in_the_pixels_it_was_made_in(
    bench: Workbench, post: Any, zooming: Any, read: Read
) -> None:
    bench.choice.fix("1.25x")
    bench.session.parameters = Parameters(seed=30)
    assert bench.generate()
    # Queued behind it: what it keeps is not painted yet, and is read when its turn comes.
    bench.choice.fix("20x")
    bench.session.parameters = Parameters(seed=31)
    overlay = bench.viewer.layers["slide · synthetic"]
    bench.session.guide = Guide("layer", overlay)
    assert bench.generate(), bench.session.status.text
    post.end(bench.handle)
    assert np.asarray(overlay.data[0])[BOX.slices][0, 0, 1] == zooming.colour(30)[1]
    post.end(bench.handle)
    coarse = zooming.guides[-1]
    assert (coarse.pixel.unit, coarse.pixel.value, coarse.corners) == ("micrometer", 8.0, None)
    # Both jobs have run; the overlay shows the second by now.
    found = read(coarse).pixels
    assert found.shape == (8, 12, 3)
    assert (found == zooming.colour(31)).all()


def test_what_a_run_has_painted_tells_the_pixels_and_the_last_one_counts(
    bench: Workbench, post: Any, zooming: Any
) -> None:
    assert bench.generate()
    post.end(bench.handle)
    overlay = next(iter(bench._overlays))
    run = overlay._painting.runs[-1]
    coarser = {**run["request"], "field": {**run["request"]["field"], "resolution": 3.0}}
    away = {**coarser, "region": Region.from_box(Box(0, 0, 9, 9)).to_list()}
    away["field"] = {**away["field"], "resolution": 99.0}
    overlay._painting.runs += [{"request": coarser}, {"request": away}]
    coarse = guided(bench, post, zooming, of="layer", layer=overlay.layer)
    assert coarse.pixel.value == 3.0
    told = guided(bench, post, zooming, of="layer", layer=overlay.layer, pixel=Length(20))
    assert told.pixel == Length(20)


def test_an_overlay_that_shows_nothing_there_is_refused(
    bench: Workbench, post: Any, zooming: Any
) -> None:
    bench.generate()
    post.end(bench.handle)
    layer = bench.viewer.layers["slide · synthetic"]
    bench.session.guide = Guide("layer", layer)
    bench.regions.add(Region.from_box(Box(500, 20, 100, 100)), "rectangle")
    bench.regions.select({1})
    assert not bench.generate()
    assert "Nothing is painted in slide · synthetic there" in bench.session.status.text


def test_another_layer_is_read_where_the_region_lies_on_it(
    bench: Workbench, post: Any, zooming: Any, read: Read
) -> None:
    # Pixels of 8 µm, half a pixel of the slide's off its corner.
    size = (44, 58)
    values = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    corner = (100.0 - 16.0 + 4, 50.0 - 8.0 + 4)  # of the first pixel's middle, in µm
    layer = picture(values, name="coarse", scale=(8.0, 8.0), translate=corner)
    bench.viewer.add_layer(layer)
    coarse = guided(bench, post, zooming, of="layer", layer=layer)
    assert coarse.corners is not None
    # (128, 256) at 0.5 µm/px is 64 and 128 µm from the slide's corner.
    assert np.allclose(coarse.corners, [[10, 17], [18, 29]])
    found = read(coarse)
    assert np.array_equal(found.pixels, values[10:18, 17:29])
    rough = read(replace(coarse, pixel=Length(16, "micrometer")))
    assert rough.pixels.shape == (4, 6, 3)
    assert abs(rough.pixels.mean() - values[10:18, 17:29].mean()) < 3


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ({"translate": (200.0, 120.0)}, "does not cover the region"),
        ({"rotate": 30.0}, "is turned or mirrored"),
        ({"scale": (-8.0, 8.0)}, "is turned or mirrored"),
        ({"units": ("pixel", "pixel")}, "give both the same kind of unit"),
    ],
)
def test_a_layer_that_cannot_lie_under_the_region_is_refused(
    bench: Workbench, place: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_ssldiff.viewer import guides

    own = {"scale": (8.0, 8.0), "units": ("micrometer", "micrometer"), "name": "coarse", **place}
    layer = Image(np.zeros((60, 60, 3), np.uint8), rgb=True, **own)
    # As a file of our own reader's would be, whose layer may lie any way.
    shown = SimpleNamespace(shape=(60, 60))
    monkeypatch.setattr(guides, "scene_of", lambda layer: shown)
    bench.viewer.add_layer(layer)
    bench.session.guide = Guide("layer", layer)
    assert not bench.generate()
    assert said in bench.session.status.text


def test_a_fine_layer_is_refused_before_it_is_read(bench: Workbench, read: Read) -> None:
    class Unread:
        shape, dtype, ndim = (100_000, 100_000, 3), np.dtype(np.uint8), 3

    fine = SimpleNamespace(levels=[Unread()], shape=(100_000, 100_000))
    coarse = Coarse(fine, Length(0), 1.0, np.array([[0.0, 0.0], [90_000, 90_000]]))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="coarser than what it guides"):
        read(coarse)


def test_overlays_and_other_images_are_offered_but_neither_the_source_nor_maps(
    bench: Workbench, post: Any
) -> None:
    bench.generate()
    post.end(bench.handle)
    other = picture(np.zeros((9, 9, 3), np.uint8), name="other")
    marked = picture(np.zeros((9, 9, 3), np.uint8), metadata={"napari_ssldiff_field": 1})
    for layer in (other, marked):
        bench.viewer.add_layer(layer)
    names = [layer.name for layer in offered(bench.viewer.layers, bench.source)]
    assert names == ["other", "slide · synthetic"]


def test_a_new_canvas_has_no_source_to_keep(bench: Workbench) -> None:
    bench.session.guide = Guide("source", pixel=Length(16))
    bench.session.wording = replace(bench.session.wording, prompt="nuclei")
    assert not bench.synthesise("canvas", Length(256), Length(256))
    assert "a new canvas is empty" in bench.session.status.text.lower()
    assert "Canvas 1" not in bench.viewer.layers


def test_the_engines_own_refusals_reach_the_user(
    viewer: ViewerModel, post: Any, tiny: Any, own_cache: Any
) -> None:
    bench = Workbench(viewer, post.deliver, tiny)
    bench.regions.add(Region.from_box(Box(100, 200, 96, 96)), "rectangle")
    bench.session.parameters = Parameters(preset="lazy", steps=2)
    bench.session.guide = Guide("source", pixel=Length(16))
    assert bench.generate()
    assert isinstance(post.end(bench.handle), JobFailed)
    assert "not with the preset lazy: leave guide out" in bench.session.status.text
    bench.session.parameters = Parameters(steps=2)
    bench.session.guide = Guide("source", pixel=Length(1))
    bench.generate()
    assert isinstance(post.end(bench.handle), JobFailed)
    assert "A guide has to be coarser" in bench.session.status.text
    # And one that is coarser steers.
    bench.session.guide = Guide("source", pixel=Length(16), strength=0.5)
    bench.generate()
    assert isinstance(post.end(bench.handle), JobDone), bench.session.status.text
    facts = viewer.layers["slide · synthetic"].metadata["napari_ssldiff"]["request"]
    assert facts["guide"]["strength"] == 0.5
    assert facts["guide"]["shape"] == [7, 6]  # a canvas of whole latents
    assert bench.close()


def test_a_span_is_read_wherever_its_edges_lie(add_slide: Callable[..., Any]) -> None:
    from napari_ssldiff.scenes.resample import read_at, read_span

    scene = scene_of(add_slide(ViewerModel()))
    whole = read_span(scene, (32, 64), (64, 112), (16, 24))
    assert np.array_equal(whole, read_at(scene, Box(16, 32, 16, 24), 1.0))
    moved = read_span(scene, (32.5, 64.5), (64.5, 112.5), (16, 24))
    assert not np.array_equal(moved, whole)
    with pytest.raises(ValueError, match="no area"):
        read_span(scene, (5, 5), (0, 9), (3, 3))
