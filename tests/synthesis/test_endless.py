"""A slide without bounds: what reading gives, what working makes, and that it stays the same."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.diffusion.offload import Limits
from napari_ssldiff.embeddings.endless import MirroredField, Territories, territories_of
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import Cancelled, InputError, ModelError
from napari_ssldiff.geometry import Box
from napari_ssldiff.synthesis.endless import (
    TILES_PER_VIEW,
    LazyScene,
)
from napari_ssldiff.synthesis.means import Means
from napari_ssldiff.synthesis.palette import APPROXIMATE, Palette, fit_palette
from napari_ssldiff.synthesis.request import Sampler

SHAPE = (1_000_000, 1_000_000)


@pytest.fixture
def field(bundle: Any) -> EmbeddingField:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, 5, bundle.spec.token_width)).astype(np.float32)
    cell = bundle.spec.cell
    return EmbeddingField(vectors, (0, 0), (cell, cell), bundle.encoder.spec.id, 1.0, "pixel")


@pytest.fixture
def palette(bundle: Any) -> Palette:
    d = bundle.spec.token_width
    return Palette(np.ones((d, 3), np.float32) * 20, np.full(3, 128, np.float32))


@pytest.fixture
def slide(bundle: Any, field: EmbeddingField, palette: Palette) -> Callable[..., LazyScene]:
    def build(shape: tuple[int, int] = SHAPE, **options: Any) -> LazyScene:
        sampler = Sampler("lazy", steps=3, guidance=1.0, seed=5, batch=16, threads=1)
        return LazyScene(bundle, MirroredField(field), palette, shape, sampler, **options)

    return build


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_slide_is_computed_in_belongs_to_it(
    precision: Any, slide: Callable[..., LazyScene], bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = bundle.denoiser, set[Any]()
    predict, before = model.predict_x0, model.precision

    def noted(*args: Any) -> Any:
        asked.add(args[4])
        return predict(*args)

    monkeypatch.setattr(model, "predict_x0", noted)
    try:
        model.compute_in(precision)  # as the machine where it is described does
        described = slide().to_dict()
        pixels = slide().rendered[:256, :256]
        model.compute_in("bf16" if precision == "fp32" else "fp32")  # and another one does not
        again = LazyScene.from_dict(bundle, described)
        assert again.sampler.precision == described["sampler"]["precision"] == precision
        assert np.array_equal(again.rendered[:256, :256], pixels)
        assert asked == {precision}
        assert slide().digest != again.digest
    finally:
        model.compute_in(before)


def test_a_mirrored_field_is_the_field_inside_and_its_mirror_image_outside(
    field: EmbeddingField,
) -> None:
    places, cell = MirroredField(field), field.cell[0]
    y, x = np.array([0.2, 1.7, 2.9]) * cell, np.array([0.1, 3.3, 4.9]) * cell
    assert np.array_equal(places.sample(y, x), field.sample(y, x))
    np.testing.assert_allclose(places.sample(-y, x), field.sample(y, x), atol=1e-6)
    np.testing.assert_allclose(places.sample(y, 10 * cell - x), field.sample(y, x), atol=1e-6)
    np.testing.assert_allclose(places.sample(y + 6000 * cell, x), field.sample(y, x), atol=1e-4)
    near = places.sample([-0.01, 0.01], 0.0)
    assert float(near[0] @ near[1]) > 0.999


def test_territories_are_a_function_of_place_and_made_of_their_prototypes() -> None:
    prototypes = np.eye(4, dtype=np.float32)
    places = Territories(prototypes, scale=1000, sharpness=6, seed=1, encoder="e")
    grid = np.arange(-30_000, 30_000, 500)
    made = places.sample(grid[:, None], grid[None, :])
    np.testing.assert_allclose(np.linalg.norm(made, axis=-1), 1, atol=1e-5)
    assert set(np.unique(made.argmax(-1))) == {0, 1, 2, 3}
    part = places.sample(grid[40:43][:, None], grid[7])
    assert np.array_equal(part[:, 0], made[40:43, 7])
    step = places.sample([0.0, 1.0], 123.0)
    assert float(step[0] @ step[1]) > 0.99
    far = replace(places, seed=2).sample(grid[:, None], grid[None, :])
    assert abs(np.corrcoef(far[..., 0].ravel(), made[..., 0].ravel())[0, 1]) < 0.1
    assert places.digest != replace(places, seed=2).digest
    with pytest.raises(InputError, match="need a scale above 0"):
        replace(places, scale=0)


def test_a_palette_finds_colours_that_are_linear_in_the_embedding(field: EmbeddingField) -> None:
    rng = np.random.default_rng(1)
    many = replace(field, vectors=rng.normal(size=(30, 40, field.width)).astype(np.float32))
    wanted = 128 + many.vectors @ rng.normal(size=(field.width, 3)) * 10
    np.testing.assert_allclose(fit_palette(many, wanted, 1e-6)(many.vectors), wanted, atol=0.5)
    with pytest.raises(InputError, match="1200 cells, 3 colours"):
        fit_palette(many, wanted.reshape(-1, 3)[:3])


def test_levels_halve_down_to_a_plain_array(slide: Callable[..., LazyScene]) -> None:
    levels = slide().levels
    assert levels[0].shape == (*SHAPE, 4)
    for finer, coarser in itertools.pairwise(levels):
        assert [-(-n // 2) for n in finer.shape[:2]] == list(coarser.shape[:2])
    assert type(levels[-1]) is np.ndarray
    assert max(levels[-1].shape) <= 256
    assert (levels[-1][..., 3] == APPROXIMATE).all()
    with pytest.raises(InputError, match="does not fit into memory"):
        np.asarray(levels[0])


def test_reading_makes_nothing_and_asks_for_what_is_missing(
    slide: Callable[..., LazyScene],
) -> None:
    scene = slide()
    view = scene.levels[0][500_000:500_300, 700_000:700_400]
    assert view.shape == (300, 400, 4)
    assert not view.any()
    assert scene.counters.evaluations == 0
    assert scene.waiting == 4
    assert scene.levels[0][3, 4].tolist() == [0, 0, 0, 0]  # pointing at a pixel is no view
    assert scene.waiting == 4
    assert scene.wait(0.01)


def test_what_was_asked_for_is_made_the_middle_first_and_then_read(
    slide: Callable[..., LazyScene],
) -> None:
    scene = slide()
    where = (slice(500_000, 500_300), slice(700_000, 700_300))
    scene.levels[0][where]
    boxes = list(scene.work())
    assert boxes[0].contains(Box(500_150, 700_150, 1, 1))
    assert len(boxes) == len(set(boxes)) == 4
    made = scene.levels[0][where]
    assert (made[..., 3] == 255).all()
    assert made[..., :3].std() > 1
    assert scene.waiting == 0
    # The same pixels, averaged, a level up.
    half = scene.levels[1][250_000:250_150, 350_000:350_150]
    mean = made[..., :3].reshape(150, 2, 150, 2, 3).mean((1, 3))
    assert np.abs(half[..., :3] - mean).max() <= 1
    assert (half[..., 3] == 255).all()


def test_it_is_the_same_tissue_when_one_comes_back_and_in_another_slide(
    slide: Callable[..., LazyScene],
) -> None:
    scene, other = slide(cache_bytes=400_000), slide()
    there = (slice(1024, 1224), slice(2048, 2148))
    scene.levels[0][there]
    list(scene.work())
    first = scene.levels[0][there]
    for x in (10_240, 90_112):
        scene.levels[0][5120:5376, x : x + 256]
        list(scene.work())
    assert not scene.levels[0][there].any()  # it was dropped
    list(scene.work())
    assert np.array_equal(scene.levels[0][there], first)
    other.levels[0][1024:1280, 2048:2304]
    list(other.work())
    assert np.array_equal(other.levels[0][there], first)
    assert other.digest == scene.digest


def test_memory_is_bounded_by_the_budget(slide: Callable[..., LazyScene]) -> None:
    scene = slide(cache_bytes=500_000)
    for x in range(0, 1024, 256):
        scene.levels[0][0:256, x : x + 256]
        list(scene.work())
        assert scene._tiles.used <= 500_000


def test_a_view_of_too_many_tiles_shows_the_map_and_asks_for_nothing(
    slide: Callable[..., LazyScene],
) -> None:
    scene = slide()
    side = int(TILES_PER_VIEW**0.5 + 1) * 256 // 4
    view = scene.levels[2][0:side, 0:side]
    assert scene.waiting == 0
    assert (view[..., 3] == APPROXIMATE).all()


def test_a_view_of_the_whole_slide_is_read_at_once_and_shows_what_was_made(
    slide: Callable[..., LazyScene],
) -> None:
    scene = slide()
    scene.make((2000, 2000))
    wide = scene.levels[8][:]  # a pixel per tile, fifteen million of them
    assert wide.shape == (3907, 3907, 4)
    assert wide[2000, 2000, 3] == 255
    assert (wide[..., 3] == 255).sum() == 1
    assert scene.waiting == 0


def test_the_map_does_not_change_when_the_view_is_panned(slide: Callable[..., LazyScene]) -> None:
    level = slide().levels[6]
    one, two = level[1000:1100, 2000:2100], level[1010:1110, 2030:2130]
    assert np.abs(one[10:, 30:].astype(int) - two[:-10, :-30]).max() <= 1
    assert one[..., :3].std() > 1


def test_levels_are_read_like_arrays(slide: Callable[..., LazyScene]) -> None:
    level = slide((1000, 1500)).levels[1]
    whole = level[:]
    assert whole.shape == level.shape == (500, 750, 4)
    assert np.array_equal(level[3], whole[3])
    assert np.array_equal(level[..., 3], whole[..., 3])
    assert np.array_equal(level[-5, ::3, 1], whole[-5, ::3, 1])
    assert np.array_equal(np.asarray(level), whole)
    assert np.array_equal(level[::-1], whole[::-1])
    with pytest.raises(IndexError, match="outside an axis of 500"):
        level[500]


def test_the_coarsest_level_turns_true_where_all_was_made(slide: Callable[..., LazyScene]) -> None:
    scene = slide((300, 200))
    coarsest = scene.levels[-1]
    assert coarsest.shape == (150, 100, 4)
    scene.levels[0][:]
    list(scene.work())
    assert scene.levels[-1] is coarsest
    assert (coarsest[..., 3] == 255).all()


@pytest.mark.parametrize("shape", [(256, 200), (1, 1)])
def test_a_slide_of_one_tile_is_made_as_any_other(
    slide: Callable[..., LazyScene], shape: tuple[int, int]
) -> None:
    scene = slide(shape)
    assert scene.levels[0].shape == (*shape, 4)
    assert not scene.levels[0][:].any()
    if shape == (1, 1):
        scene.make((0, 0))  # pointing at a pixel asks for nothing
    assert len(list(scene.work())) == (shape != (1, 1))
    assert (scene.levels[0][:, :, 3] == 255).all()
    assert (scene.levels[-1][..., 3] == 255).all()


def _paint(scene: LazyScene, keys: Iterable[tuple[int, int]], colour: float) -> None:
    """Say that tiles of one colour were made."""
    for key in keys:
        scene._means.put(key, np.full(3, colour, np.float32))
        scene._coarsest.paint(key, [], scene._means)


def test_levels_where_tiles_are_parts_of_pixels_show_their_means(
    slide: Callable[..., LazyScene],
) -> None:
    scene = slide()
    scene.make((2000, 3001))
    made = scene._tiles.get((0, (2000, 3001)))
    assert made is not None
    mean = made[..., :3].reshape(-1, 3).mean(0)
    assert np.abs(scene.levels[8][2000, 3001, :3] - mean).max() <= 1
    fresh = slide()
    for level in range(9, len(scene.levels)):
        y, x = 2000 >> level - 8, 3001 >> level - 8
        share, pixel = 4.0 ** (8 - level), scene.levels[level][y, x].astype(float)
        # The same view, because how finely the map is taken depends on its extent.
        before = np.asarray(fresh.levels[level][y : y + 1, x : x + 1])[0, 0].astype(float)
        assert np.abs(pixel[:3] - before[:3] * (1 - share) - mean * share).max() <= 1
        assert pixel[3] == APPROXIMATE + int((255 - APPROXIMATE) * share)
    wide = scene.levels[9][:]
    assert (wide[..., 3] > APPROXIMATE).sum() == 1
    assert wide[1000, 1500, 3] > APPROXIMATE


def test_a_coarse_pixel_is_opaque_when_all_of_it_exists_and_forgets_nothing(
    slide: Callable[..., LazyScene],
) -> None:
    scene, other = slide(), slide()
    keys = [(i, j) for i in range(16) for j in range(16)]
    _paint(scene, keys[:-1], 77)
    assert APPROXIMATE < scene.levels[-1][0, 0, 3] < 255
    _paint(scene, keys[:-1], 77)  # once more: nothing counts twice
    assert APPROXIMATE < scene.levels[-1][0, 0, 3] < 255
    _paint(scene, keys[-1:], 77)
    assert scene.levels[-1][0, 0].tolist() == [77, 77, 77, 255]
    assert scene.levels[-1][0, 1, 3] == APPROXIMATE
    for level in range(8, 12):
        n = 16 >> level - 8
        assert (scene.levels[level][0:n, 0:n] == [77, 77, 77, 255]).all()
        assert (scene.levels[level][0:n, n, 3] == APPROXIMATE).all()
    _paint(other, reversed(keys), 77)
    assert np.array_equal(other.levels[-1], scene.levels[-1])
    # Tiles at the far edge are all there is of their pixels: 3907 = 244 * 16 + 3 tiles a side.
    corner = [(i, j) for i in range(3904, 3907) for j in range(3904, 3907)]
    _paint(scene, corner, 10)
    assert scene.levels[-1][244, 244].tolist() == [10, 10, 10, 255]


def test_the_memory_of_means_is_bounded() -> None:
    block = 32 * 32 * 16
    means = Means(8, 12, (4000, 4000), budget=10 * block)
    for i in range(0, 4000, 100):
        means.put((i, i), np.full(3, 200, np.float32))
        assert means.used <= 10 * block
    out = np.zeros((1, 1, 4), np.uint8)
    means.lay(out, 8, Box(3900, 3900, 1, 1))
    assert out[0, 0].tolist() == [200, 200, 200, 255]
    out = np.zeros((1, 1, 4), np.uint8)
    means.lay(out, 8, Box(0, 0, 1, 1))
    assert not out.any()


def test_tiles_that_were_dropped_stay_in_the_coarse_levels(
    slide: Callable[..., LazyScene],
) -> None:
    scene = slide(cache_bytes=1000)
    scene.make((5, 6))
    assert not scene.levels[0][1280:1290, 1536:1540].any()
    assert scene.levels[8][5, 6, 3] == 255


def test_memory_is_the_models_plan_where_nobody_says(
    slide: Callable[..., LazyScene], bundle: Any, field: EmbeddingField, palette: Palette
) -> None:
    assert slide()._tiles.budget == bundle.denoiser.limits.canvas // 2
    denoiser = copy.copy(bundle.denoiser)
    denoiser.limits = Limits(canvas=3_000_000)
    small = replace(bundle, denoiser=denoiser)
    places, sampler = MirroredField(field), Sampler("lazy", steps=2, guidance=1.0, batch=4)
    scene = LazyScene(small, places, palette, SHAPE, sampler)
    assert scene._tiles.budget == scene._canvas._windows.budget == 1_500_000
    assert LazyScene.from_dict(small, scene.to_dict())._tiles.budget == 1_500_000
    scene = LazyScene(small, places, palette, SHAPE, sampler, cache_bytes=7)
    assert scene._tiles.budget == scene._canvas._windows.budget == 7


def test_a_tile_that_goes_out_of_view_is_left_for_the_new_view(
    slide: Callable[..., LazyScene],
) -> None:
    scene = slide()
    scene.levels[0][0:200, 0:200]
    calls = 0

    def pan() -> None:
        nonlocal calls
        calls += 1
        if calls == 8:
            scene.levels[0][5120:5200, 5120:5200]

    assert scene.step(pan) == Box(5120, 5120, 256, 256)
    assert scene.step() is None
    assert not scene.levels[0][0:200, 0:200].any()
    spent = scene.counters.evaluations
    assert scene.step() == Box(0, 0, 256, 256)
    resumed = scene.counters.evaluations - spent
    fresh = slide()
    fresh.make((0, 0))
    # What was begun is not begun again.
    assert resumed < fresh.counters.evaluations
    assert np.array_equal(scene.levels[0][0:256, 0:256], fresh.levels[0][0:256, 0:256])


def test_work_stops_when_asked_and_nothing_is_asked_for_when_all_is_there_or_forgotten(
    slide: Callable[..., LazyScene],
) -> None:
    scene = slide()
    asked: list[int] = []
    scene.on_wanted = lambda: asked.append(scene.waiting)
    scene.levels[0][0:256, 0:512]

    def stop() -> None:
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        scene.step(stop)
    assert asked == [2]
    assert scene.waiting == 2
    scene.step()
    scene.levels[0][0:256, 0:256]  # that one is there: the other is not in view any more
    assert scene.waiting == 0
    assert asked == [2]
    scene.levels[0][0:256, 0:512]
    scene.forget()
    assert scene.step() is None


def test_an_export_reads_made_pixels_and_a_copy_of_the_layer_the_same_slide(
    slide: Callable[..., LazyScene],
) -> None:
    scene, told = slide(), []
    part = Box(520, 1000, 30, 40)
    scene.prepare(part, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    spent = scene.counters.evaluations
    made = scene.rendered[part.slices]
    assert scene.counters.evaluations == spent
    assert np.array_equal(made, scene.levels[0][part.slices][..., :3])
    assert scene.rendered[520, 1000].tolist() == made[0, 0].tolist()
    # Not even one tile fits: it is made where it is read.
    small = slide(cache_bytes=1000)
    small.prepare(part)
    assert small.counters.evaluations == 0
    assert np.array_equal(small.rendered[part.slices], made)
    assert copy.deepcopy(scene) is scene


@pytest.mark.parametrize("kind", ["mirrored", "territories"])
def test_a_slide_is_made_again_from_what_its_pixels_carry(
    slide: Callable[..., LazyScene], bundle: Any, field: EmbeddingField, kind: str
) -> None:
    scene = slide((3000, 2000))
    if kind == "territories":
        places = territories_of(field, 100.0, count=4, seed=3)
        assert len(places.prototypes) == 4
        scene = LazyScene(bundle, places, scene.palette, scene.shape, scene.sampler)
    data = json.loads(json.dumps(scene.to_dict()))
    again = LazyScene.from_dict(bundle, data)
    assert again.digest == scene.digest
    part = Box(1030, 1030, 20, 20).slices
    assert np.array_equal(again.rendered[part], scene.rendered[part])
    assert np.array_equal(again.levels[-1], scene.levels[-1])
    with pytest.raises(ModelError, match="install that version"):
        LazyScene.from_dict(bundle, {**data, "model_hash": "0" * 64})
    with pytest.raises(InputError, match="'spiral' are not known"):
        LazyScene.from_dict(bundle, {**data, "places": {"kind": "spiral"}})
    with pytest.raises(InputError, match="not an endless slide"):
        LazyScene.from_dict(bundle, {})


def test_cells_are_drawn_from_those_that_hold_something(field: EmbeddingField) -> None:
    valid = np.zeros(field.shape, bool)
    valid[1, 2:4] = True
    places = territories_of(replace(field, valid=valid), 100.0)
    wanted = {tuple(v) for v in field.vectors[1, 2:4].tolist()}
    assert {tuple(v) for v in places.prototypes.tolist()} == wanted
    nothing = territories_of(replace(field, valid=np.zeros(field.shape, bool)), 100.0)
    assert len(nothing.prototypes) == valid.size


def test_what_does_not_fit_is_refused(
    bundle: Any, field: EmbeddingField, palette: Palette, tmp_path: Path
) -> None:
    places = MirroredField(field)
    with pytest.raises(InputError, match="needs the preset lazy, not bulk"):
        LazyScene(bundle, places, palette, SHAPE, Sampler("bulk"))
    lazy = Sampler("lazy", steps=2, guidance=1.0, batch=4)
    with pytest.raises(ModelError, match="embed them with this model"):
        LazyScene(bundle, MirroredField(replace(field, encoder="x")), palette, SHAPE, lazy)
    with pytest.raises(InputError, match="at least one pixel"):
        LazyScene(bundle, places, palette, (0, 5), lazy)
