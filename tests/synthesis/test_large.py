"""Requests beyond the memory budget, and many requests that are stopped."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_ssldiff.diffusion.bands import canvas_bytes, sampling_bytes
from napari_ssldiff.diffusion.canvas import CanvasTask, plan
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.errors import Cancelled
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes import Scene
from napari_ssldiff.synthesis import (
    CancelToken,
    Finished,
    Preview,
    Progress,
    Sampler,
    Started,
    TileDone,
    make_request,
    synthesize,
)
from napari_ssldiff.synthesis import ways as synthesis_ways

Pixels = NDArray[np.uint8]
Open = Callable[..., Scene]
Texture = Callable[[int, int], Pixels]


def run(scene: Scene, model: Any, request: Any, **options: Any) -> tuple[Pixels, list[Any]]:
    events = list(synthesize(request, bundle=model, scene=scene, **options))
    image = np.zeros((*scene.shape, 4), np.uint8)
    seen = np.zeros(scene.shape, int)
    for event in events:
        if isinstance(event, TileDone):
            image[event.box.slices] = event.pixels
            seen[event.box.slices] += 1
    assert seen.max() == 1
    return image, events


@pytest.mark.parametrize(
    ("microns", "sampler", "context"),
    [
        (0.5, Sampler(steps=3), 0),
        (0.5, Sampler(preset="draft"), 0),
        (0.5, Sampler(steps=4, strength=0.6), 0),
        (0.5, Sampler(steps=2), 24),
        (0.37, Sampler(steps=2), 0),
    ],
)
def test_beyond_the_budget_the_result_is_the_same(
    microns: float, sampler: Sampler, context: int, scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = scene_of(textured(700, 300), microns)
    region = Region(((20, 10), (690, 40), (650, 290), (40, 270)))
    request = make_request(scene, region, bundle, sampler, feather=3, context=context)
    whole, events = run(scene, bundle, request)
    banded, steps = run(scene, bundle, request, budget=10_000)
    assert np.array_equal(banded[..., 3], whole[..., 3])
    assert np.abs(banded.astype(int) - whole).max() <= 1
    assert not any(isinstance(e, Preview) for e in steps)
    assert any(isinstance(e, Preview) for e in events)
    assert isinstance(steps[0], Started)
    assert isinstance(steps[-1], Finished)
    done = [e.done for e in steps if isinstance(e, Progress) and e.stage == "denoising"]
    assert done == sorted(done)
    assert done[-1] == steps[0].evaluations == steps[-1].evaluations == events[-1].evaluations


def test_beyond_the_budget_tiles_come_from_the_top_before_the_work_is_done(
    scene_of: Open, textured: Texture, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_ssldiff.diffusion import decode as room

    monkeypatch.setattr(room, "WINDOW", 32)
    monkeypatch.setattr(room, "OVERLAP", 8)
    scene = scene_of(textured(2000, 200))
    request = make_request(scene, Region.from_box(scene.box), bundle, Sampler(steps=3))
    _, events = run(scene, bundle, request, budget=0)
    tiles = [e.box.y for e in events if isinstance(e, TileDone)]
    assert tiles == sorted(tiles)
    first = next(n for n, e in enumerate(events) if isinstance(e, TileDone))
    before = [e.done for e in events[:first] if isinstance(e, Progress)]
    assert before[-1] < 0.7 * events[0].evaluations


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("below", [False, True])
def test_a_long_canvas_that_memory_holds_comes_early_too_from_the_end_that_is_looked_at(
    below: bool,
    wide: bool,
    scene_of: Open,
    textured: Texture,
    painter: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from napari_ssldiff.diffusion import decode as room

    monkeypatch.setattr(room, "WINDOW", 64)
    monkeypatch.setattr(room, "OVERLAP", 16)
    scene = scene_of(textured(*((200, 2600) if wide else (2600, 200))))
    request = make_request(scene, Region.from_box(scene.box), painter, Sampler(steps=3))
    along = 2000.0 if below else 600.0
    focus = lambda: (100.0, along) if wide else (along, 100.0)  # noqa: E731
    image, events = run(scene, painter, request, focus=focus)

    def spans(box: Box) -> tuple[int, int]:
        return (box.x, box.x1) if wide else (box.y, box.y1)

    tiles = [spans(e.box)[0] for e in events if isinstance(e, TileDone)]
    assert tiles == sorted(tiles, reverse=below)
    first = next(n for n, e in enumerate(events) if isinstance(e, TileDone))
    before = [e.done for e in events[:first] if isinstance(e, Progress)]
    assert before[-1] <= 0.6 * events[0].evaluations
    previews = [e for e in events if isinstance(e, Preview)]
    assert 1 <= len(previews) <= 3
    lengths = [end - begin for begin, end in (spans(e.box) for e in previews)]
    assert lengths == sorted(lengths)
    assert all((2 * e.pixels.shape[0], 2 * e.pixels.shape[1]) == e.box.shape for e in previews)
    assert {spans(e.box)[below] for e in previews} == {2600 if below else 0}
    monkeypatch.setattr("napari_ssldiff.synthesis.ways.early", lambda *a, **k: None)
    whole, _ = run(scene, painter, request, focus=focus)
    assert np.abs(image.astype(int) - whole).max() <= 1


def test_abandoning_a_large_request_stops_it_and_removes_its_scratch(
    scene_of: Open, textured: Texture, bundle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scene = scene_of(textured(1500, 200))
    request = make_request(scene, Region.from_box(scene.box), bundle, Sampler(steps=3))
    here = set(tmp_path.iterdir())
    events = synthesize(request, bundle=bundle, scene=scene, budget=0)
    for event in events:
        if isinstance(event, Progress) and set(tmp_path.iterdir()) - here:
            break
    else:
        pytest.fail("nothing was ever put on disk")
    events.close()  # type: ignore[attr-defined]
    assert set(tmp_path.iterdir()) == here


def test_the_source_is_read_in_windows_and_never_whole(
    scene_of: Open, textured: Texture, painter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_ssldiff.diffusion import decode as room
    from napari_ssldiff.synthesis import run as engine

    monkeypatch.setattr(room, "WINDOW", 32)
    monkeypatch.setattr(room, "OVERLAP", 8)
    read, largest = engine.read_grid, [0]

    def watched(scene: Scene, box: Box, spec: Any) -> Pixels:
        largest[0] = max(largest[0], box.area)
        return read(scene, box, spec)

    monkeypatch.setattr(engine, "read_grid", watched)
    scene = scene_of(textured(300, 200))
    request = make_request(scene, Region.from_box(scene.box), painter, Sampler(strength=0.0))
    image, _ = run(scene, painter, request)
    assert largest[0] == 64 * 62
    assert np.array_equal(image[..., :3], textured(300, 200))


def test_the_time_in_both_networks_is_reported(
    scene_of: Open, textured: Texture, bundle: Any
) -> None:
    scene = scene_of(textured(128, 128))
    for sampler in (Sampler(steps=2), Sampler(strength=0.0)):
        request = make_request(scene, Region.from_box(scene.box), bundle, sampler)
        _, events = run(scene, bundle, request)
        end = events[-1]
        assert end.decode_seconds > 0
        assert (end.network_seconds > 0) == (sampler.strength > 0)
        assert end.network_seconds + end.decode_seconds <= end.seconds


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.filterwarnings("ignore")  # pytest keeps every warning: that would be growth
@pytest.mark.parametrize(("preset", "budget"), [("bulk", 2**31), ("bulk", 0), ("lazy", 2**31)])
def test_two_hundred_cancelled_runs_leave_nothing_behind(
    preset: str, budget: int, scene_of: Open, textured: Texture, painter: Any
) -> None:
    scene = scene_of(textured(160, 128))
    sampler = Sampler(preset=preset, steps=50)
    request = make_request(scene, Region.from_box(scene.box), painter, sampler)
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    painter.denoiser.network.register_forward_pre_hook(count)

    def cycle(after: int, abandon: bool) -> None:
        cancel = CancelToken()
        events = synthesize(request, bundle=painter, scene=scene, cancel=cancel, budget=budget)
        progress = 0
        for event in events:
            progress += isinstance(event, Progress)
            if progress == after:
                break
        at = calls[0]
        if abandon:
            events.close()  # type: ignore[attr-defined]
        else:
            cancel.cancel()
            with pytest.raises(Cancelled):
                list(events)
        # The call that was running, and none after it; the one thread may have begun another
        # between the look at the counter and the cancel.
        assert calls[0] <= at + 2

    for n in range(5):
        cycle(1 + n % 3, bool(n % 2))
    before = threading.active_count(), tensors()
    for n in range(150):
        cycle(1 + n % 3, bool(n % 2))
    tracemalloc.start()  # it slows down everything: the last fifty show what a cycle leaves
    traced = 0
    for n in range(50):
        if n == 5:  # by now what the first cycles replaced has been traced, too
            traced = tracemalloc.get_traced_memory()[0]
        cycle(1 + n % 3, bool(n % 2))
    assert threading.active_count() == before[0]
    assert tensors() <= before[1]
    grown = tracemalloc.get_traced_memory()[0] - traced
    tracemalloc.stop()
    assert grown < 50_000


def test_a_round_trip_beyond_the_budget_is_decoded_row_by_row_to_the_same(
    scene_of: Open, textured: Texture, painter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scene_of(textured(700, 200))
    request = make_request(scene, Region.from_box(scene.box), painter, Sampler(strength=0))
    plain, _ = run(scene, painter, request)
    budgets: list[Any] = []
    decoder = synthesis_ways.Decoder
    monkeypatch.setattr(
        synthesis_ways, "Decoder",
        lambda *args, **options: budgets.append(options["budget"]) or decoder(*args, **options),
    )  # fmt: skip
    image, _ = run(scene, painter, request, budget=1000)
    assert budgets == [250]
    assert np.array_equal(image, plain)


def test_the_conditions_of_all_windows_count(painter: Any) -> None:
    model, preset = painter.denoiser, PRESETS["bulk"]
    work = CanvasTask(
        box=Box(0, 0, 400, 600), tokens=lambda w: torch.zeros(4, 3), steps=2, guidance=1.0,
        strength=1.0, seed=0,
    )  # fmt: skip
    windows = plan(work, preset, model.spec).windows
    held = model.null_condition(len(windows))
    nbytes = held.context.nbytes + (0 if held.spatial is None else held.spatial.nbytes)
    counted = sampling_bytes(model, work, preset) - canvas_bytes(work, model.spec)
    assert nbytes <= counted <= 1.1 * nbytes + 10_000


@pytest.mark.parametrize("budget", [0, 2**30])
def test_a_finished_canvas_is_not_lost_where_its_colours_are_compared(
    budget: int, scene_of: Open, textured: Texture, painter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scene_of(textured(300, 400))
    region = Region.from_box(Box(100, 100, 128, 128))
    request = make_request(scene, region, painter, Sampler(steps=2), match=48)

    def image() -> Pixels:
        return run(scene, painter, request, budget=budget)[0]

    plain, autoencoder, failed = image(), painter.denoiser.autoencoder, [0]
    preview = autoencoder.preview

    def moody(z: torch.Tensor) -> torch.Tensor:
        failed[0] += 1
        if failed[0] % 2:  # every picture needs a second try
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return preview(z)

    monkeypatch.setattr(autoencoder, "preview", moody)
    assert np.array_equal(image(), plain)
    assert failed[0] > 4


@pytest.mark.parametrize(
    ("shape", "strength"), [((2600, 200), 0.5), ((2600, 200), 1.0), ((200, 2600), 1.0)]
)
def test_previews_in_early_bands_count_the_steps_that_are_taken(
    shape: tuple[int, int],
    strength: float,
    scene_of: Open,
    textured: Texture,
    painter: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = scene_of(textured(*shape))
    sampler = Sampler(steps=8, strength=strength)
    request = make_request(scene, Region.from_box(scene.box), painter, sampler)

    def steps() -> list[int]:
        events = synthesize(request, bundle=painter, scene=scene)
        return [event.step for event in events if isinstance(event, Preview)]

    banded = steps()
    monkeypatch.setattr(synthesis_ways, "early", lambda *a, **k: None)
    whole = steps()
    assert whole == list(range(5 if strength < 1 else 1, 9))
    assert banded == whole[: len(banded)]
    assert len(banded) >= len(whole) - 1
