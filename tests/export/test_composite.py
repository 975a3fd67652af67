from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from napari_ssldiff.errors import InputError
from napari_ssldiff.export import Composite, LazyImage, OverlayImage, OverlayStore
from napari_ssldiff.export.composite import composite_scene
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.scene import Display, PixelSize, Scene

Picture = Callable[..., np.ndarray]


def scene_of(pixels: np.ndarray, **options: object) -> Scene:
    return Scene("memory", "memory", [pixels], PixelSize(0.5, 0.5, "micrometer"), **options)


def painted(box: Box, rgba: np.ndarray) -> OverlayStore:
    store = OverlayStore(box, max_coarse=64)
    store.write(box, rgba)
    return store


def test_outside_the_mask_every_bit_is_the_sources_and_inside_it_is_synthetic(
    picture: Picture, rng: np.random.Generator
) -> None:
    pixels = picture(300, 400)
    place = Box(50, 60, 130, 170)
    rgba = rng.integers(0, 256, (130, 170, 4), dtype=np.uint8)
    rgba[..., 3] = rng.choice([0, 255], (130, 170))
    with painted(place, rgba) as store:
        composite = Composite(scene_of(pixels), Box(10, 20, 250, 300), store)
        expected = pixels.copy()
        opaque = rgba[..., 3] == 255
        expected[place.slices][opaque] = rgba[opaque][:, :3]
        np.testing.assert_array_equal(composite[...], expected[10:260, 20:320])
        mask = np.zeros((300, 400), np.uint8)
        mask[place.slices] = opaque
        np.testing.assert_array_equal(composite.synthetic[...], mask[10:260, 20:320])
        assert composite.synthetic.shape == (250, 300)


def test_without_an_overlay_it_is_the_source_alone(picture: Picture) -> None:
    pixels = picture(30, 40)
    composite = Composite(scene_of(pixels), Box(0, 0, 30, 40), None)
    np.testing.assert_array_equal(composite, pixels)
    assert not composite.synthetic[...].any()


def test_deep_bands_pass_bit_for_bit_and_the_stretch_is_inverted(picture: Picture) -> None:
    pixels = picture(90, 80, 5, "uint16")
    display = Display((3, 1, 0), (100.0, 200.0, 300.0), (5200.0, 10400.0, 30900.0))
    rgba = np.zeros((90, 80, 4), np.uint8)
    rgba[20:40, 10:50] = (0, 51, 255, 255)
    with painted(Box(0, 0, 90, 80), rgba) as store:
        composite = Composite(scene_of(pixels, display=display), Box(0, 0, 90, 80), store)
        assert composite.dtype == np.uint16
        assert composite.shape == (90, 80, 3)
        result = composite[...]
        outside = rgba[..., 3] == 0
        np.testing.assert_array_equal(result[outside], pixels[..., [3, 1, 0]][outside])
        assert (result[~outside] == (100, 2240, 30900)).all()


def test_a_feathered_edge_is_blended_in_the_scenes_values() -> None:
    pixels = np.full((10, 10, 3), 1000, np.int16)
    display = Display((0, 1, 2), (-500.0,) * 3, (4500.0,) * 3)
    rgba = np.full((10, 10, 4), 255, np.uint8)
    rgba[..., 3] = 51
    with painted(Box(0, 0, 10, 10), rgba) as store:
        result = Composite(scene_of(pixels, display=display), Box(0, 0, 10, 10), store)[...]
    assert (result == round(1000 * 0.8 + 4500 * 0.2)).all()


def test_where_the_source_holds_nothing_a_feathered_edge_is_synthetic_alone() -> None:
    pixels = np.full((4, 4, 3), np.nan, np.float32)
    pixels[:2] = 0.5
    pixels[0, 0] = -9999
    display = Display((0, 1, 2), (0.0,) * 3, (1.0,) * 3)
    rgba = np.full((4, 4, 4), 255, np.uint8)
    rgba[..., 3] = 128
    with painted(Box(0, 0, 4, 4), rgba) as store:
        scene = scene_of(pixels, display=display, nodata=-9999.0)
        result = Composite(scene, Box(0, 0, 4, 4), store)[...]
    assert result.dtype == np.float32
    assert (result[2:] == 1).all()
    assert (result[0, 0] == 1).all()
    np.testing.assert_allclose(result[1], 0.5 + 0.5 * 128 / 255, rtol=1e-6)


def test_a_region_outside_the_scene_is_refused_by_name_and_number(picture: Picture) -> None:
    for box in (Box(0, 0, 31, 40), Box(-1, 0, 5, 5), Box(3, 3, 0, 5)):
        with pytest.raises(InputError, match="memory, which is 40 × 30 px"):
            Composite(scene_of(picture(30, 40)), box)


def test_pixels_that_were_never_filled_become_background_and_never_black() -> None:
    with OverlayStore(Box(-8, 4, 700, 600), max_coarse=64) as store:
        red = np.zeros((50, 60, 4), np.uint8)
        red[:] = (255, 0, 0, 255)
        red[0] = (255, 0, 0, 51)
        red[1] = 0
        store.write(Box(100, 100, 50, 60), red)
        image = OverlayImage(store, (240, 230, 220))
        result, mask = image[...], image.synthetic[...]
    expected = np.empty((700, 600, 3), np.uint8)
    expected[:] = (240, 230, 220)
    expected[110:158, 96:156] = (255, 0, 0)
    expected[108, 96:156] = (243, 184, 176)
    np.testing.assert_array_equal(result, expected)
    assert mask.sum() == 49 * 60
    assert not mask[109].any()


@pytest.mark.parametrize(
    "index",
    [
        ...,
        3,
        -1,
        slice(2, 9),
        (slice(None), slice(None, None, 3)),
        (slice(None, None, -1), slice(8, 2, -2), 1),
        (..., 0),
        (4, 5),
        (4, ..., slice(1, 3)),
        (slice(5, 5), slice(None)),
        (slice(2, 400), 7, [2, 0]),
    ],
)
def test_a_lazy_image_is_indexed_like_an_array(picture: Picture, index: object) -> None:
    pixels = picture(13, 17)
    lazy = LazyImage(pixels.shape, pixels.dtype, lambda box: pixels[box.slices])
    np.testing.assert_array_equal(lazy[index], pixels[index])


def test_a_lazy_image_reads_only_what_is_asked_for() -> None:
    asked: list[Box] = []

    def read(box: Box) -> np.ndarray:
        asked.append(box)
        return np.zeros(box.shape, np.uint8)

    lazy = LazyImage((10**6, 10**6), np.uint8, read)
    lazy[999_990:, 5]
    assert asked == [Box(999_990, 5, 10, 1)]
    with pytest.raises(IndexError):
        lazy[10**6]
    with pytest.raises(IndexError):
        lazy[0, 0, 0]
    with pytest.raises(IndexError):
        lazy[np.array([1, 2])]


def test_a_scene_with_its_overlay_shows_both_as_one(picture: Picture) -> None:
    pixels = picture(90, 80, 5, "uint16")
    display = Display((3, 1, 0), (100.0, 200.0, 300.0), (5200.0, 10400.0, 30900.0))
    rgba = np.zeros((90, 80, 4), np.uint8)
    rgba[20:40, 10:50] = (0, 51, 255, 255)
    source = scene_of(pixels, display=display, band_names=("a", "b", "c", "d", "e"))
    with painted(Box(0, 0, 90, 80), rgba) as store:
        both = composite_scene(source, store)
        assert both.band_names == ("d", "b", "a")
        shown = both.read_rgb(both.box)
        assert (shown[20:40, 10:50] == (0, 51, 255)).all()
        outside = rgba[..., 3] == 0
        np.testing.assert_array_equal(shown[outside], source.read_rgb(source.box)[outside])
        assert both.path != source.path
        assert (both.pixel_size, both.shape) == (source.pixel_size, source.shape)
