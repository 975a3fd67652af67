from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Shapes

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.viewer.layer_scene import scene_of
from napari_ssldiff.viewer.region_book import RegionBook
from napari_ssldiff.viewer.regions import foreign_shapes, region_of_shape, to_scene_pixels

BOX = Box(0, 0, 700, 900)
# A rectangle of whole pixels as napari counts: from the centres of pixels.
RECTANGLE = np.array([[99.5, 199.5], [99.5, 349.5], [299.5, 349.5], [299.5, 199.5]])


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def book(viewer: ViewerModel, add_slide: Callable[..., Any]) -> RegionBook:
    layer = add_slide(viewer)
    book = RegionBook(viewer)
    book.attach(layer, scene_of(layer))
    return book


def test_a_rectangle_around_pixels_is_the_box_of_these_pixels(book: RegionBook) -> None:
    book.ensure().add_rectangles(RECTANGLE)
    (row,) = book.rows()
    assert row.region is not None
    assert row.region.is_box
    assert row.region.bounds == Box(100, 200, 200, 150)
    assert row.text == "Rectangle · 150 × 200 px at x 200, y 100"


def test_a_sloppy_rectangle_is_rounded_and_cut_to_the_scene() -> None:
    points = [(-30.2, 800.4), (-30.2, 950), (50.3, 950), (50.3, 800.4)]
    region = region_of_shape(points, "rectangle", BOX)
    assert region.bounds == Box(0, 800, 50, 100)


def test_a_turned_rectangle_stays_a_polygon() -> None:
    region = region_of_shape([(100, 200), (150, 250), (200, 200), (150, 150)], "rectangle", BOX)
    assert not region.is_box
    assert region.mask(region.bounds).sum() == pytest.approx(5000, rel=0.02)


def test_an_ellipse_has_the_area_of_an_ellipse() -> None:
    corners = [(100, 200), (180, 200), (180, 320), (100, 320)]
    region = region_of_shape(corners, "ellipse", BOX)
    assert region.bounds == Box(100, 200, 80, 120)
    assert region.mask(region.bounds).sum() == pytest.approx(np.pi * 40 * 60, rel=0.01)


def test_a_path_is_closed_and_a_line_is_refused() -> None:
    assert region_of_shape([(0, 0), (0, 10), (10, 10)], "path", BOX).bounds.area == 100
    with pytest.raises(InputError, match="line encloses nothing"):
        region_of_shape([(0, 0), (10, 10)], "line", BOX)


def test_a_polygon_is_cut_where_it_leaves_the_scene() -> None:
    region = region_of_shape([(600, 800), (600, 1000), (800, 1000), (800, 800)], "polygon", BOX)
    assert region.bounds == Box(600, 800, 100, 100)
    with pytest.raises(InputError, match="no area inside the scene of 900 × 700 px"):
        region_of_shape([(800, 800), (800, 1000), (900, 1000)], "polygon", BOX)


def test_the_layer_is_made_in_the_scenes_own_place_and_unit(book: RegionBook) -> None:
    layer = book.ensure()
    assert np.allclose(layer.scale, 0.5)
    assert np.allclose(layer.translate, (100.25, 50.25))
    assert str(layer.units[0]) == "micrometer"
    assert book.ensure() is layer


def test_millimetres_over_micrometres_are_converted(
    viewer: ViewerModel, add_slide: Callable[..., Any]
) -> None:
    slide = add_slide(viewer, translate=(0, 0))
    shapes = Shapes(
        [np.array([[0.05, 0.1], [0.05, 0.175], [0.15, 0.175], [0.15, 0.1]])],
        shape_type="rectangle",
        units=("mm", "mm"),
    )
    ((points, kind),) = foreign_shapes(shapes, slide)
    assert kind == "rectangle"
    # 0.25 mm are 500 px here; data_to_world alone would say half a pixel.
    assert np.allclose(points.min(0), (100.5, 200.5))
    assert np.allclose(points.max(0), (300.5, 350.5))


def test_shapes_in_pixels_over_a_scene_in_micrometres_are_refused(
    viewer: ViewerModel, add_slide: Callable[..., Any]
) -> None:
    slide = add_slide(viewer)
    shapes = Shapes([RECTANGLE], shape_type="rectangle", name="Mine")
    with pytest.raises(InputError, match="'Mine' is in pixel, the scene 'slide' in micrometer"):
        to_scene_pixels(RECTANGLE, shapes, slide)


def test_scale_rotation_and_translation_of_a_foreign_layer_count(
    book: RegionBook, viewer: ViewerModel
) -> None:
    turned = Shapes(
        [np.array([[0.0, 0.0], [0.0, 50.0], [100.0, 50.0], [100.0, 0.0]])],
        shape_type="rectangle",
        scale=(1, 1),
        rotate=90,
        translate=(200.0, 150.0),
        units=("micrometer", "micrometer"),
        name="Turned",
    )
    assert book.adopt(turned) == 1
    (row,) = book.rows()
    assert row.region is not None
    linear = np.asarray(turned.rotate)
    world = np.asarray(turned.data[0]) @ linear.T + (200, 150)
    expected = (world - (100, 50)) / 0.5
    assert row.region.bounds == Region.from_vertices(np.round(expected)).bounds
    assert book.selected == {0}


def test_a_region_put_in_comes_out_the_same(book: RegionBook) -> None:
    region = Region.from_vertices([(10.0, 20.0), (400.0, 60.0), (300.0, 500.0)])
    book.add(region)
    (row,) = book.rows()
    assert row.region is not None
    assert np.allclose(row.region.vertices, region.vertices, atol=1e-3)


def test_list_and_layer_tell_each_other_of_every_change(book: RegionBook) -> None:
    heard = []
    book.changed.connect(lambda: heard.append(len(book.rows())))
    layer = book.ensure()
    layer.add_rectangles(RECTANGLE)
    layer.add_rectangles(RECTANGLE + 20)
    layer.selected_data = {0}
    assert book.selected == {0}
    book.select({1})
    assert set(layer.selected_data) == {1}
    book.remove_selected()
    assert heard[-1] == 1
    assert len(layer.data) == 1


def test_without_a_selection_all_regions_are_meant_and_without_any_one_is_asked_for(
    book: RegionBook,
) -> None:
    with pytest.raises(InputError, match="no region yet: press Rectangle or Polygon"):
        book.chosen()
    layer = book.ensure()
    layer.add_rectangles(RECTANGLE)
    layer.add_rectangles(RECTANGLE + 20)
    layer.selected_data = set()
    assert len(book.chosen()) == 2
    layer.selected_data = {1}
    assert [r.bounds for r in book.chosen()] == [Box(120, 220, 200, 150)]


def test_a_removed_layer_empties_the_list_and_the_next_one_is_new(
    book: RegionBook, viewer: ViewerModel
) -> None:
    first = book.ensure()
    first.add_rectangles(RECTANGLE)
    viewer.layers.remove(first)
    book.layer_removed(first)
    assert book.rows() == []
    second = book.ensure()
    assert second is not first
    assert second in viewer.layers


def test_another_widget_finds_the_layer_of_the_first(book: RegionBook, viewer: ViewerModel) -> None:
    layer = book.ensure()
    other = RegionBook(viewer)
    source = viewer.layers["slide"]
    scene: Scene = scene_of(source)
    other.attach(source, scene)
    assert other.layer is layer
