"""Of several magnifications the one that suits the view is taken, without loading anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from napari.components import ViewerModel

from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.viewer.magnification import fits
from napari_ssldiff.viewer.messages import JobDone
from napari_ssldiff.viewer.view import camera_of, pixels_on_screen
from napari_ssldiff.viewer.workbench import Workbench

BOX = Box(100, 200, 200, 150)


@pytest.fixture
def viewer(add_slide: Callable[..., Any]) -> ViewerModel:
    viewer = ViewerModel()
    add_slide(viewer)  # 0.5 µm per pixel
    camera_of(viewer).zoom = 2.0  # screen pixels per µm: one of the slide's fills one of the screen
    return viewer


@pytest.fixture
def bench(viewer: ViewerModel, zooming: Any, post: Any) -> Iterator[Workbench]:
    bench = Workbench(viewer, post.deliver, zooming)
    yield bench
    assert bench.close()


@pytest.mark.parametrize(
    ("zoom", "variant", "looked"),
    [
        (8.0, "20x", 0.5),  # the scene has no finer pixels than its own
        (2.0, "20x", 0.5),
        (1.0, "10x", 1.0),
        (0.3, "5x", 3.33),
        (0.01, "1.25x", 100),
    ],
)
def test_the_variant_nearest_to_the_view_is_taken(
    bench: Workbench, zoom: float, variant: str, looked: float
) -> None:
    camera_of(bench.viewer).zoom = zoom
    bench.choice.look()
    assert bench.session.model_id == f"zoom@abc:{variant}"
    assert bench.session.looked is not None
    assert (bench.session.looked.resolution, bench.session.looked.unit) == (looked, "micrometer")


def test_what_is_seen_when_generate_is_pressed_stands_in_the_request(
    bench: Workbench, zooming: Any, post: Any
) -> None:
    bench.regions.add(Region.from_box(BOX), "rectangle")
    camera_of(bench.viewer).zoom = 0.25  # nobody has looked since
    assert bench.session.model_id == "zoom@abc:20x"
    assert bench.generate()
    camera_of(bench.viewer).zoom = 2.0
    bench.choice.look()
    assert isinstance(post.end(bench.handle), JobDone)
    assert [request.model for request in zooming.requests] == ["zoom@abc:5x"]
    assert zooming.loads == [("zoom@abc:5x", "auto")]


def test_a_fixed_variant_stays_through_zooms_and_scenes_until_another_model_is_chosen(
    bench: Workbench, add_slide: Callable[..., Any]
) -> None:
    bench.choice.fix("5x")
    camera_of(bench.viewer).zoom = 2.0
    bench.choice.look()
    assert bench.session.model_id == "zoom@abc:5x"
    bench.choose_source(add_slide(bench.viewer, name="second"))
    assert bench.session.model_id == "zoom@abc:5x"
    bench.choice.take("demo-naip")
    assert (bench.session.model_id, bench.session.variant) == ("demo-naip", "")
    bench.choice.take("zoom@abc")
    assert bench.session.model_id == "zoom@abc:20x"


def test_a_scene_without_a_pixel_size_takes_the_finest(
    bench: Workbench, add_slide: Callable[..., Any]
) -> None:
    plain = add_slide(bench.viewer, name="plain", units=("pixel", "pixel"))
    camera_of(bench.viewer).zoom = 0.01
    bench.choose_source(plain)
    assert bench.session.looked is None
    assert bench.session.model_id == "zoom@abc:20x"


def test_a_model_of_one_magnification_is_left_alone(bench: Workbench) -> None:
    bench.choice.take("demo-histology")
    for zoom in (4.0, 0.01):
        camera_of(bench.viewer).zoom = zoom
        bench.choice.look()
        assert bench.session.model_id == "demo-histology"


def test_a_new_canvas_is_filled_by_the_variant_that_it_was_made_for(
    bench: Workbench, zooming: Any, post: Any
) -> None:
    from dataclasses import replace

    from napari_ssldiff.scenes.lengths import Length

    camera_of(bench.viewer).zoom = 0.5
    bench.session.wording = replace(bench.session.wording, prompt="nuclei")
    assert bench.synthesise("canvas", Length(256), Length(256))
    # From so far away the canvas itself would be seen at 5x.
    camera_of(bench.viewer).zoom = 0.2
    post.end(bench.handle)
    assert zooming.requests[-1].model == "zoom@abc:10x"
    assert zooming.requests[-1].source.pixel_size == (1.0, 1.0)


def test_embeddings_that_are_open_can_be_edited_at_any_zoom_but_not_by_another_variant(
    bench: Workbench,
) -> None:
    bench.choice.look()
    assert fits(bench.session, "zoom@abc:5x")
    assert not fits(bench.session, "demo-histology")
    bench.choice.fix("20x")
    assert not fits(bench.session, "zoom@abc:5x")
    assert fits(bench.session, "zoom@abc:20x")


def test_pixels_on_screen_count_scale_and_turns_of_the_layer(
    viewer: ViewerModel, add_slide: Callable[..., Any]
) -> None:
    camera_of(viewer).zoom = 4.0
    assert pixels_on_screen(viewer, viewer.layers["slide"]) == pytest.approx((0.5, 0.5))
    turned = add_slide(viewer, name="turned", scale=(1.0, 0.25), rotate=30)
    assert pixels_on_screen(viewer, turned) == pytest.approx((0.25, 1.0))
