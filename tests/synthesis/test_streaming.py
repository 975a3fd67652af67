"""Tiles come where the viewer looks, and the work waits when it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.diffusion import decode as decoding
from napari_ssldiff.errors import Cancelled
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.synthesis import (
    CancelToken,
    Preview,
    Sampler,
    TileDone,
    make_request,
    synthesize,
    tiles,
)
from napari_ssldiff.synthesis.frame import plan_frame


@pytest.fixture
def job(
    scene_of: Callable[..., Any],
    textured: Callable[[int, int], Any],
    painter: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """Events of varying 1100 × 800 px of a scene, whole where memory allows."""
    monkeypatch.setattr("napari_ssldiff.synthesis.ways.early", lambda *a, **k: None)
    scene = scene_of(textured(1100, 800))

    def start(preset: str = "bulk", **options: Any) -> Any:
        sampler = Sampler(preset, steps=1, seed=5, guidance=1.0)
        request = make_request(scene, Region.from_box(scene.box), painter, sampler)
        return synthesize(request, bundle=painter, scene=scene, **options)

    return start


@pytest.mark.parametrize("preset", ["bulk", "lazy"])
def test_tiles_come_where_the_viewer_looks_and_are_the_same_pixels(
    job: Callable[..., Any], preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small windows, so that decoding has an order to keep.
    monkeypatch.setattr(decoding, "WINDOW", 64)
    monkeypatch.setattr(decoding, "OVERLAP", 16)
    plain = {e.box: e.pixels for e in job(preset) if isinstance(e, TileDone)}
    where: list[tuple[float, float] | None] = [(1000.0, 100.0)]
    tiles = []
    for event in job(preset, focus=lambda: where[0]):
        if isinstance(event, TileDone):
            tiles.append(event)
            where[0] = (10.0, 700.0)  # the viewer has moved on
    assert tiles[0].box.contains(Box(1030, 100, 1, 1))
    far = [n for n, tile in enumerate(tiles) if tile.box.y >= 512 and tile.box.x < 256]
    near = [n for n, tile in enumerate(tiles) if tile.box.y < 256 and tile.box.x >= 512]
    assert np.mean(near) < np.mean([n for n in far if n > 2])
    assert len(tiles) == len(plain) == 20
    # Whatever came first, the same request gives the same pixels.
    assert all(np.array_equal(tile.pixels, plain[tile.box]) for tile in tiles)


@pytest.mark.parametrize("budget", [2**30, 200_000])
def test_a_paused_run_waits_and_goes_on_to_the_same_end(
    job: Callable[..., Any], budget: int
) -> None:
    plain = {e.box: e.pixels for e in job(budget=budget) if isinstance(e, TileDone)}
    token = CancelToken()
    seen: list[Any] = []
    held = threading.Event()

    def run() -> None:
        for event in job(cancel=token, budget=budget):
            seen.append(event)
            if len(seen) == 3:
                token.pause()
                held.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert held.wait(20)
    time.sleep(0.3)
    count = len(seen)
    assert token.paused
    time.sleep(0.3)
    assert len(seen) == count
    assert thread.is_alive()
    token.resume()
    thread.join(60)
    assert not thread.is_alive()
    tiles = [e for e in seen if isinstance(e, TileDone)]
    assert len(tiles) == len(plain)
    assert all(np.array_equal(tile.pixels, plain[tile.box]) for tile in tiles)


def test_a_paused_run_is_cancelled_or_left_at_once(job: Callable[..., Any]) -> None:
    token = CancelToken()
    events = job(cancel=token)
    next(events)
    token.pause()
    threading.Timer(0.2, token.cancel).start()
    begin = time.perf_counter()
    with pytest.raises(Cancelled):
        list(events)
    assert time.perf_counter() - begin < 5
    token.pause()  # too late to hold anything
    assert not token.paused

    token = CancelToken()
    with closing(job(cancel=token)) as events:
        while not isinstance(next(events), Preview):
            pass
        token.pause()
    assert not [t for t in threading.enumerate() if "sampler" in t.name]


def test_a_pause_in_the_middle_of_a_cancel_holds_nothing() -> None:
    token = CancelToken()
    token.cancel()
    token._go.clear()  # what a pause does that looked before the cancel and acts after it
    begin = time.perf_counter()
    with pytest.raises(Cancelled):
        token.hold()
    assert time.perf_counter() - begin < 2


def test_tiles_are_sorted_anew_only_where_the_focus_has_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = plan_frame(
        Region.from_box(Box(0, 0, 2000, 2500)), (2000, 2500), (1, 1), 64, 8, "source"
    )
    laid = tiles.Tiles(frame, 0)
    sorted_, order = [0], tiles.centre_out

    def counted(*args: Any) -> Any:
        sorted_[0] += 1
        return order(*args)

    monkeypatch.setattr(tiles, "centre_out", counted)
    at = [(0.0, 0.0)]
    first = []
    for n in laid.outwards(lambda: at[0]):
        first.append(n)
        if len(first) == 30:
            at[0] = (2000.0, 2500.0)
    assert sorted(first) == list(range(len(laid)))
    assert sorted_[0] == 2
    assert first[0] == 0
    assert first[30] == len(laid) - 1
