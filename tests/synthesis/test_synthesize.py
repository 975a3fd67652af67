"""The one door: a request goes in, events come out, and the pixels are where they belong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.embeddings.extract import read_grid
from napari_ssldiff.errors import Cancelled, InputError, ModelError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes import PixelSize, Scene, to_source
from napari_ssldiff.synthesis import (
    CancelToken,
    Event,
    Finished,
    Preview,
    Progress,
    Sampler,
    Started,
    SynthesisRequest,
    TileDone,
    make_request,
    synthesize,
)
from napari_ssldiff.synthesis.prepare import frame_of
from napari_ssldiff.synthesis.run import canvas_task, from_uint8, to_uint8

Pixels = NDArray[np.uint8]
Open = Callable[..., Scene]
Texture = Callable[[int, int], Pixels]
FAST = Sampler(steps=2, seed=5)


def collect(events: Iterable[Event]) -> tuple[Box, Pixels]:
    """The output box and its RGBA pixels."""
    box, image = None, None
    for event in events:
        if isinstance(event, Started):
            box = event.output_box
            image = np.zeros((*box.shape, 4), np.uint8)
        elif isinstance(event, TileDone):
            assert box is not None
            assert image is not None
            image[event.box.shift(-box.y, -box.x).slices] = event.pixels
    assert box is not None
    assert image is not None
    return box, image


def sampler_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if "sampler" in t.name]


def psnr(a: NDArray[Any], b: NDArray[Any]) -> float:
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def test_events_come_in_order_and_add_up(scene_of: Open, textured: Texture, bundle: Any) -> None:
    scene = scene_of(textured(300, 400))
    request = make_request(scene, Region.from_box(Box(10, 20, 270, 300)), bundle, FAST)
    events = list(synthesize(request, bundle=bundle, scene=scene))
    start, end = events[0], events[-1]
    assert isinstance(start, Started)
    assert isinstance(end, Finished)
    assert sum(isinstance(e, Started | Finished) for e in events) == 2
    kinds = [type(e).__name__ for e in events]
    assert kinds.index("TileDone") > max(i for i, k in enumerate(kinds) if k == "Preview")
    previews = [e for e in events if isinstance(e, Preview)]
    assert [(p.step, p.steps) for p in previews] == [(1, 2), (2, 2)]
    assert all(p.pixels.shape == (34, 38, 3) for p in previews)
    assert previews[0].box == Box(8, 16, 272, 304)  # the canvas: the region on the lattice
    done = [e.done for e in events if isinstance(e, Progress) and e.stage == "denoising"]
    assert done == sorted(done)
    assert done[-1] == start.evaluations == end.evaluations > 0
    assert end.seconds >= end.network_seconds > 0


@pytest.mark.parametrize(
    "box", [Box(0, 0, 300, 400), Box(10, 20, 270, 300), Box(299, 399, 1, 1), Box(3, 250, 9, 12)]
)
def test_tiles_cover_the_region_exactly_once(
    box: Box, scene_of: Open, textured: Texture, painter: Any
) -> None:
    scene = scene_of(textured(300, 400))
    request = make_request(scene, Region.from_box(box), painter, FAST)
    count = np.zeros(box.shape, int)
    for event in synthesize(request, bundle=painter, scene=scene):
        if isinstance(event, Started):
            assert event.output_box == box
        if isinstance(event, TileDone):
            assert event.pixels.shape == (*event.box.shape, 4)
            assert (event.pixels[..., 3] == 255).all()
            count[event.box.shift(-box.y, -box.x).slices] += 1
    assert (count == 1).all()


def test_alpha_is_the_polygons_mask(scene_of: Open, textured: Texture, painter: Any) -> None:
    scene = scene_of(textured(300, 400))
    region = Region(((20, 30), (280, 90), (150, 370), (60, 200)))
    request = make_request(scene, region, painter, FAST)
    box, image = collect(synthesize(request, bundle=painter, scene=scene))
    assert box == region.bounds
    assert np.array_equal(image[..., 3], region.mask(box) * np.uint8(255))


def test_a_feathered_mask_rises_inside_the_region_and_is_seamless_across_tiles(
    scene_of: Open, textured: Texture, painter: Any
) -> None:
    scene = scene_of(textured(300, 400))
    inner = Box(20, 30, 260, 300)
    request = make_request(scene, Region.from_box(inner), painter, FAST, feather=10)
    _, image = collect(synthesize(request, bundle=painter, scene=scene))
    alpha = image[..., 3].astype(int)
    row = alpha[130]
    assert 0 < row[0] < 10
    assert (np.diff(row[:12]) >= 0).all()
    assert (row[11:-11] == 255).all()
    assert np.array_equal(row, row[::-1])
    # Tiles meet at x = 256, which is column 226 of the region.
    assert (alpha[11:-11, 220:232] == 255).all()


def test_strength_zero_is_the_autoencoders_round_trip(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = scene_of(textured(300, 400))
    region = Region.from_box(Box(13, 21, 200, 270))
    request = make_request(scene, region, bundle, Sampler(strength=0))
    events = list(synthesize(request, bundle=bundle, scene=scene))
    assert isinstance(events[0], Started)
    assert events[0].evaluations == 0
    box, image = collect(events)
    canvas = frame_of(scene, region, bundle, "source").canvas
    pixels = read_grid(scene, canvas, bundle.encoder.spec)
    auto = bundle.denoiser.autoencoder
    with torch.inference_mode():
        trip = to_uint8(auto.decode(auto.encode(from_uint8(pixels)[None]))[0])
    expected = trip[box.shift(-canvas.y, -canvas.x).slices]
    assert psnr(image[..., :3], expected) >= 50


def test_with_a_lossless_autoencoder_strength_zero_is_the_source(
    scene_of: Open, textured: Texture, painter: Any
) -> None:
    scene = scene_of(textured(300, 400))
    request = make_request(scene, Region.from_box(scene.box), painter, Sampler(strength=0))
    box, image = collect(synthesize(request, bundle=painter, scene=scene))
    assert box == scene.box
    assert np.array_equal(image[..., :3], textured(300, 400))


def smooth(h: int, w: int) -> Pixels:
    y, x = np.mgrid[:h, :w] + 0.5
    waves = [np.sin(x / 31) * np.cos(y / 27), np.sin((x + y) / 33), np.cos(x / 41 - y / 23)]
    return np.round(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


@pytest.mark.parametrize("microns", [0.25, 0.37, 0.5, 0.8])
@pytest.mark.parametrize("box", [Box(0, 0, 420, 520), Box(31, 57, 301, 277)])
def test_on_the_source_grid_a_scene_of_any_resolution_comes_back_in_place(
    microns: float, box: Box, scene_of: Open, painter: Any
) -> None:
    scene = scene_of(smooth(420, 520), microns)
    request = make_request(scene, Region.from_box(box), painter, Sampler(strength=0))
    out, image = collect(synthesize(request, bundle=painter, scene=scene))
    assert out == box
    source = scene.read_rgb(box)
    assert psnr(image[..., :3], source) > 38
    # Half a pixel of displacement would show: the best of all shifts is none.
    core = image[4:-4, 4:-4, :3]
    h, w = core.shape[:2]
    errors = {
        (dy, dx): psnr(core, source[4 + dy : 4 + dy + h, 4 + dx : 4 + dx + w])
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    assert max(errors, key=lambda shift: errors[shift]) == (0, 0)


def test_on_the_models_grid_output_has_the_models_resolution(scene_of: Open, painter: Any) -> None:
    scene = scene_of(smooth(400, 500), 0.25)
    region = Region.from_box(Box(100, 60, 200, 300))
    request = make_request(scene, region, painter, Sampler(strength=0), grid="model")
    box, image = collect(synthesize(request, bundle=painter, scene=scene))
    assert box == Box(50, 30, 100, 150)
    assert (image[..., 3] == 255).all()
    expected = read_grid(scene, box, painter.encoder.spec)
    assert psnr(image[..., :3], expected) > 50


def quadrants(shape: tuple[int, int]) -> EmbeddingField:
    """Four different vectors; top left, top right, bottom left, bottom right."""
    vectors = np.zeros((2, 2, 12), np.float32)
    for i in range(4):
        vectors[i // 2, i % 2, i] = 1
    cell = shape[0] / 2, shape[1] / 2
    return EmbeddingField(vectors, (0, 0), cell, "replaced below", 0.5, "micrometer")


def paint(scene: Scene, model: Any, grid: str = "source") -> SynthesisRequest:
    field = replace(quadrants(scene.shape), encoder=model.encoder.spec.id)
    sampler = Sampler(steps=3, guidance=1.0)
    return make_request(
        scene, Region.from_box(scene.box), model, sampler, field=field,
        grid=grid,  # type: ignore[arg-type]
    )  # fmt: skip


def test_tokens_of_a_window_are_row_major_and_of_its_own_place(scene_of: Open, bundle: Any) -> None:
    scene = scene_of(smooth(128, 192))
    request = paint(scene, bundle)
    frame = frame_of(scene, request.region, bundle, "source")
    task = canvas_task(request, bundle, scene, frame)
    assert task.box == Box(0, 0, 16, 24)
    v = request.field.vectors
    corners = {(0, 0): v[0, 0], (0, 16): v[0, 1], (8, 0): v[1, 0], (8, 16): v[1, 1]}
    for (y, x), vector in corners.items():
        tokens = task.tokens(Box(y, x, 8, 8)).numpy()
        assert tokens.shape == (4, 12)
        outer = (2 if y else 0) + (1 if x else 0)  # the token in the canvas's corner
        np.testing.assert_allclose(tokens[outer], vector, atol=1e-5)
    # A window across the vertical border: left tokens left, right tokens right, both rows.
    middle = task.tokens(Box(0, 8, 8, 8)).numpy()
    assert (middle[[0, 2], 0] > middle[[0, 2], 1]).all()
    assert (middle[[1, 3], 1] > middle[[1, 3], 0]).all()


@pytest.mark.parametrize("microns", [0.25, 0.5])
def test_a_field_of_four_quadrants_paints_them_where_they_are_and_not_transposed(
    microns: float, scene_of: Open, painter: Any
) -> None:
    scene = scene_of(smooth(256, 384), microns)
    request = paint(scene, painter)
    _, image = collect(synthesize(request, bundle=painter, scene=scene))
    h, w = image.shape[0] // 4, image.shape[1] // 4
    for i, expected in enumerate([(242, 128, 128), (128, 242, 128), (128, 128, 242)]):
        y, x = (i // 2) * 3 * h, (i % 2) * 3 * w
        corner = image[y : y + h, x : x + w, :3].reshape(-1, 3)
        np.testing.assert_allclose(corner.mean(0), expected, atol=12)


def test_pixels_do_not_depend_on_the_source_at_full_strength(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene, other = scene_of(textured(128, 128)), scene_of(255 - textured(128, 128))
    request = make_request(scene, Region.from_box(scene.box), bundle, FAST)
    a = collect(synthesize(request, bundle=bundle, scene=scene))[1]
    b = collect(synthesize(request, bundle=bundle, scene=other))[1]
    assert np.array_equal(a, b)


def test_the_same_request_twice_is_the_same_image_and_another_seed_another(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = scene_of(textured(128, 160))
    region = Region.from_box(Box(8, 8, 100, 140))
    images = []
    for sampler in (FAST, FAST, replace(FAST, seed=6), replace(FAST, strength=0.5)):
        request = make_request(scene, region, bundle, sampler)
        images.append(collect(synthesize(request, bundle=bundle, scene=scene))[1])
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    assert not np.array_equal(images[0], images[3])


def test_a_request_in_another_part_of_the_slide_gets_other_noise(
    scene_of: Open, painter: Any, bundle: Any
) -> None:
    scene = scene_of(np.full((128, 256, 3), 128, np.uint8))
    images = []
    for x in (0, 128):
        request = make_request(scene, Region.from_box(Box(0, x, 128, 128)), bundle, FAST)
        images.append(collect(synthesize(request, bundle=bundle, scene=scene))[1][..., :3])
    assert not np.array_equal(*images)


def test_a_request_survives_json_with_its_digest(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = scene_of(textured(128, 128))
    region = Region(((1.5, 2), (100, 7.25), (60, 120)))
    request = make_request(scene, region, bundle, FAST, grid="model", feather=4)
    back = SynthesisRequest.from_dict(json.loads(json.dumps(request.to_dict())))
    assert back == request
    assert back.digest == request.digest
    changed = [
        request.with_(feather=5),
        request.with_(grid="source"),
        request.with_(sampler=replace(request.sampler, seed=6)),
        request.with_(model_hash="0"),
        request.with_(region=Region.from_box(Box(0, 0, 5, 5))),
        request.with_(field=replace(request.field, origin=(1, 1))),
    ]
    assert len({r.digest for r in [request, *changed]}) == 7


def test_defaults_are_written_into_the_request(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = scene_of(textured(128, 128))
    region = Region.from_box(scene.box)
    bulk = make_request(scene, region, bundle).sampler
    assert (bulk.steps, bulk.guidance, bulk.strength) == (20, 1.5, 1.0)
    paper = make_request(scene, region, bundle, Sampler(preset="paper")).sampler
    assert (paper.steps, paper.guidance) == (50, 4.0)
    own = make_request(scene, region, bundle, Sampler(steps=3, guidance=0.0)).sampler
    assert (own.steps, own.guidance) == (3, 0.0)


def test_a_request_for_other_weights_or_another_encoder_is_refused(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = scene_of(textured(128, 128))
    request = make_request(scene, Region.from_box(scene.box), bundle, FAST)
    narrow = replace(request.field, vectors=request.field.vectors[..., :5])
    for wrong, words in (
        (request.with_(model_hash="0" * 64), "other weights"),
        (request.with_(field=replace(request.field, encoder="other@1")), "made by other@1"),
        (request.with_(field=narrow), "have 5 numbers"),
    ):
        with pytest.raises(ModelError, match=words):
            next(synthesize(wrong, bundle=bundle, scene=scene))


def test_a_region_that_leaves_the_image_is_refused(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = scene_of(textured(128, 128))
    for box in (Box(-1, 0, 10, 10), Box(100, 100, 29, 5)):
        with pytest.raises(InputError, match="leaves the image, which is 128 × 128"):
            make_request(scene, Region.from_box(box), bundle)


def test_a_scene_of_another_domain_is_refused(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = replace(scene_of(textured(128, 128)), pixel_size=PixelSize(0.6, 0.6, "meter"))
    with pytest.raises(InputError, match="same domain"):
        make_request(scene, Region.from_box(scene.box), bundle)


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "best"}, {"steps": 0}, {"steps": 1001}, {"guidance": -1.0},
        {"guidance": float("nan")}, {"strength": 1.01}, {"strength": float("nan")},
        {"seed": -1}, {"seed": 2**63},
    ],
)  # fmt: skip
def test_sampler_values_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        Sampler(**changes)
    assert str(next(iter(changes.values()))) in str(error.value)


def test_cancelling_raises_and_leaves_no_thread(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = scene_of(textured(256, 256))
    sampler = Sampler(steps=200)
    request = make_request(scene, Region.from_box(scene.box), bundle, sampler)
    cancel = CancelToken()
    events = synthesize(request, bundle=bundle, scene=scene, cancel=cancel)
    for event in events:
        if isinstance(event, Progress):
            break
    cancel.cancel()
    rest: list[Event] = []
    with pytest.raises(Cancelled):
        rest.extend(events)
    assert not any(isinstance(e, TileDone | Finished) for e in rest)
    assert sampler_threads() == []


def test_a_run_cancelled_before_it_begins_does_nothing(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = scene_of(textured(128, 128))
    request = make_request(scene, Region.from_box(scene.box), bundle, FAST)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        next(synthesize(request, bundle=bundle, scene=scene, cancel=cancel))


def test_abandoning_the_events_stops_the_sampler(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = scene_of(textured(256, 256))
    request = make_request(scene, Region.from_box(scene.box), bundle, Sampler(steps=500))
    events = synthesize(request, bundle=bundle, scene=scene)
    for event in events:
        if isinstance(event, Progress):
            break
    assert sampler_threads() == ["napari-ssldiff-sampler"]
    events.close()  # type: ignore[attr-defined]
    assert sampler_threads() == []


def test_a_fault_inside_the_network_reaches_the_caller(
    scene_of: Open, textured: Texture, painter: Any
) -> None:
    scene = scene_of(textured(128, 128))
    request = make_request(scene, Region.from_box(scene.box), painter, FAST)

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    painter.denoiser.network.forward = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        list(synthesize(request, bundle=painter, scene=scene))
    assert sampler_threads() == []


def test_a_context_grows_the_canvas_and_keeps_the_source_around_the_region(
    scene_of: Open, textured: Texture, painter: Any
) -> None:
    scene = scene_of(textured(256, 256))
    region = Region.from_box(Box(101, 90, 60, 70))
    request = make_request(scene, region, painter, FAST, context=31)
    frame = frame_of(scene, region, painter, "source", request.context)
    assert frame.output == region.bounds
    assert frame.canvas.contains(region.bounds.grow(31))
    task = canvas_task(request, painter, scene, frame)
    assert task.mask is not None
    assert task.known is not None
    # Latents of two pixels: row 101 shares its latent with row 100.
    expected = np.zeros(task.box.shape, np.float32)
    expected[Box(50, 45, 31, 35).shift(-task.box.y, -task.box.x).slices] = 1
    assert np.array_equal(task.mask.numpy(), expected)
    pixels = to_uint8(painter.denoiser.autoencoder.decode(task.known[None])[0])
    assert np.array_equal(pixels, scene.read_rgb(frame.canvas))


def test_with_a_context_only_what_lies_around_the_region_matters(
    scene_of: Open, textured: Texture, painter: Any
) -> None:
    from types import SimpleNamespace

    def averaging(x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        z = x[:, :12]
        return SimpleNamespace(sample=0.9 * z.mean(dim=(2, 3), keepdim=True).expand_as(z))

    painter.denoiser.network.forward = averaging
    box = Box(100, 100, 40, 40)
    first = textured(256, 256)
    inside, around = first.copy(), first.copy()
    inside[box.slices] = 255
    around[80:100] = 255
    field, images = None, []
    for pixels in (first, inside, around):
        scene = scene_of(pixels)
        request = make_request(
            scene, Region.from_box(box), painter, FAST, field=field, context=32
        )  # fmt: skip
        field = request.field
        images.append(collect(synthesize(request, bundle=painter, scene=scene))[1])
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_tiles_meet_without_a_seam_where_the_image_is_resampled(
    scene_of: Open, textured: Texture, painter: Any
) -> None:
    scene = scene_of(textured(400, 420), 0.25)
    request = make_request(scene, Region.from_box(scene.box), painter, Sampler(strength=0))
    _, image = collect(synthesize(request, bundle=painter, scene=scene))
    canvas = frame_of(scene, request.region, painter, "source").canvas
    whole = to_source(read_grid(scene, canvas, painter.encoder.spec), canvas, scene.box, 2.0)
    assert np.abs(image[..., :3].astype(int) - whole.astype(int)).max() <= 1


def test_a_region_smaller_than_a_window_lies_in_its_middle(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = scene_of(textured(256, 256))
    frame = frame_of(scene, Region.from_box(Box(100, 120, 16, 90)), bundle, "source")
    assert frame.canvas == Box(80, 120, 64, 96)
