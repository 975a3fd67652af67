"""A canvas in bands is the canvas, with little of it in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from napari_ssldiff.diffusion import decode as room
from napari_ssldiff.diffusion.bands import (
    BandStep,
    _Front,
    canvas_bytes,
    early,
    plan_bands,
    sample_bands,
)
from napari_ssldiff.diffusion.batches import call_cost
from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.canvas import CanvasTask, Counters, plan, sample
from napari_ssldiff.diffusion.decode import Decoder, decode
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.diffusion.scratch import Scratch
from napari_ssldiff.diffusion.wave import Edge, Facing, early_bands, effort_of, effort_until
from napari_ssldiff.errors import Cancelled
from napari_ssldiff.geometry import Box, plan_windows

Make = Callable[..., Denoiser]


class Bent(nn.Module):
    """A nonlinear network in which every latent sees its neighbours, condition and time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Conv2d(12, 12, 5, padding=2)
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        self.batches.append(len(x))
        mean = context.mean(dim=(1, 2))[:, None, None, None]
        return SimpleNamespace(
            sample=torch.tanh(self.inner(x) + mean + t[:, None, None, None] / 1e3)
        )


@pytest.fixture
def model(make_denoiser: Make) -> Denoiser:
    """Windows of 8 latents, nonlinear, with a student that is."""
    made = make_denoiser(student=Bent)
    made.network = Bent()
    return made


def task(box: Box, **changes: Any) -> CanvasTask:
    arguments: dict[str, Any] = {
        "box": box,
        "tokens": lambda w: torch.full((4, 3), float(np.sin(w.y * 0.7) + np.cos(w.x * 0.3))),
        "steps": 4,
        "guidance": 1.0,
        "strength": 1.0,
        "seed": 4,
        "batch": 3,
        **changes,
    }
    return CanvasTask(**arguments)


def known(box: Box) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(12, *box.shape))).float()


def rows_of(steps: list[BandStep]) -> list[torch.Tensor]:
    return [step.rows for step in steps if step.rows is not None]


def strips(shape: tuple[int, int], size: int, edge: Edge) -> list[Box]:
    """A canvas in strips from one of its edges."""
    facing = Facing(edge, shape)
    height, width = facing.shape
    ys = range(0, height, size)
    return [facing.real(Box(y, 0, min(size, height - y), width)) for y in ys]


@pytest.mark.parametrize("budget", [0, 2**31])
@pytest.mark.parametrize("preset", ["bulk", "draft", "paper"])
@pytest.mark.parametrize("box", [Box(0, 0, 8, 8), Box(-3, 7, 77, 20), Box(5, -9, 61, 9)])
def test_a_canvas_in_bands_is_the_whole_canvas(
    box: Box, preset: str, budget: int, model: Denoiser
) -> None:
    work = task(box)
    whole = sample(model, work, PRESETS[preset])
    rows = rows_of(list(sample_bands(model, work, PRESETS[preset], budget=budget)))
    assert box.h < 20 or len(rows) > 3
    torch.testing.assert_close(torch.cat(rows, 1), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(61, 20), (20, 61)])
@pytest.mark.parametrize("preset", ["bulk", "paper"])
@pytest.mark.parametrize("edge", get_args(Edge))
def test_a_wave_from_any_edge_is_the_whole_canvas(
    edge: Edge, preset: str, shape: tuple[int, int], model: Denoiser
) -> None:
    box = Box(-3, 7, *shape)
    mask = torch.zeros(box.shape)
    mask[3 : shape[0] - 4, 3 : shape[1] - 4] = 1
    work = task(box, known=known(box), mask=mask)
    whole = sample(model, work, PRESETS[preset])
    counters, made, places = Counters(), torch.full_like(whole, torch.nan), list[Box]()
    steps = sample_bands(
        model, work, PRESETS[preset], edge=edge, budget=0, least=3, counters=counters
    )
    for step in steps:
        if step.place is not None:
            assert (step.rows if step.x0 is None else step.x0).shape[1:] == step.place.shape  # type: ignore[union-attr]
        if step.rows is not None and step.place is not None:
            made[(slice(None), *step.place.slices)] = step.rows
            places.append(step.place)
    torch.testing.assert_close(made, whole, atol=1e-5, rtol=0)
    assert counters.evaluations == plan(work, PRESETS[preset], model.spec).evaluations
    seen = [Facing(edge, shape).seen(place) for place in places]
    assert [s.y for s in seen] == [0, *(s.y1 for s in seen[:-1])]
    assert len(seen) > (3 if Facing(edge, shape).shape[0] == 61 else 1)


@pytest.mark.parametrize("edge", get_args(Edge))
def test_a_canvas_is_seen_from_an_edge_and_back(edge: Edge) -> None:
    facing, box = Facing(edge, (61, 20)), Box(50, 4, 9, 6)
    seen = facing.seen(box)
    assert facing.real(seen) == box
    depth = {"top": 50, "bottom": 2, "left": 4, "right": 10}
    assert seen.y == depth[edge]
    assert Box(0, 0, *facing.shape).contains(seen)
    whole = Box(0, 0, 61, 20)
    assert facing.real(Box(0, 0, *facing.shape)) == whole


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("edge", ["top", "right"])
@pytest.mark.parametrize(("width", "batch"), [(8, 1), (26, 3), (26, 4), (38, 4)])
def test_a_long_canvas_is_as_cheap_in_bands_and_its_first_rows_come_early(
    width: int, batch: int, edge: Edge, model: Denoiser
) -> None:
    shape = Facing(edge, (8 + 6 * 39, width)).shape
    work = task(Box(0, 0, *shape), batch=batch)
    sample(model, work, PRESETS["bulk"])
    batches, cost = model.network.batches, call_cost(model, 1)
    whole = sum(map(cost, batches))
    batches.clear()
    least = early(model, work, PRESETS["bulk"], edge=edge)
    assert least is not None
    first, height = None, 0
    for step in sample_bands(model, work, PRESETS["bulk"], least=least, edge=edge):
        height += 0 if step.rows is None else step.rows.shape[1 if edge == "top" else 2]
        if first is None and height >= room.WINDOW:
            first = sum(map(cost, batches))
    assert sum(map(cost, batches)) <= 1.03 * whole
    assert first is not None
    assert first <= 0.6 * whole


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 16, 32, 64])
def test_rows_of_windows_need_not_divide_by_the_batch(batch: int) -> None:
    """A demo model's canvas of 4,096 px, in calls of any size: rows of 43 windows."""
    shape = (1024, 1024)
    windows = plan_windows(shape, 32, 24)
    assert len(windows) == 43**2

    def cost(count: float) -> float:
        return count + 0.5

    least = early_bands(windows, shape, batch, 20, 123, cost, 0.6, 0.03)
    assert least == 43
    bands = plan_bands(windows, shape, least)
    whole = effort_of(len(windows), batch, cost)
    assert sum(effort_of(len(b.windows), batch, cost) for b in bands) <= 1.03 * whole
    assert effort_until(bands, 20, batch, cost, 123) < 0.4 * 20 * whole
    if batch > 2:  # nothing may be added: then the canvas stays whole
        assert early_bands(windows, shape, batch, 20, 123, cost, 0.6, 0) is None


@pytest.mark.parametrize(
    ("pixels", "edge", "share"),
    [
        ((2048, 2048), "top", None),
        ((2560, 2560), "top", 0.54),
        ((3072, 3072), "top", 0.48),
        ((4096, 4096), "top", 0.36),
        ((4096, 1024), "top", 0.37),
        ((1024, 4096), "left", 0.37),
        ((1024, 4096), "top", None),
    ],
)
def test_the_first_tiles_come_as_early_as_the_docs_say(
    pixels: tuple[int, int], edge: Edge, share: float | None
) -> None:
    """Canvases of the demo models, in calls of 8 windows: docs/engine.md."""
    facing = Facing(edge, (pixels[0] // 4, pixels[1] // 4))
    shape, windows = facing.shape, facing.rows(plan_windows(facing.extent, 32, 24))
    rows = facing.seen(room._cover(facing.extent, None)[0]).h

    def cost(count: float) -> float:
        return count + 0.5

    least = early_bands(windows, shape, 8, 20, rows, cost, 0.6, 0.03)
    assert (least is None) == (share is None)
    if least is not None:
        first = effort_until(plan_bands(windows, shape, least), 20, 8, cost, rows)
        assert round(first / (20 * effort_of(len(windows), 8, cost)), 2) == share


def test_a_call_costs_what_was_measured_of_its_size(model: Denoiser) -> None:
    cost = call_cost(model, 2)
    assert cost(8) / cost(2) < 4  # rows, and what every call costs besides
    model.window_seconds.update({(2, 1): 1.0, (2, 2): 0.75, (2, 4): 0.5, (1, 2): 9.0})
    model.window_seconds[2, 8] = float("inf")  # memory had no room
    measured = call_cost(model, 2)
    assert [measured(n) for n in (1, 2, 3, 4)] == [1.0, 1.5, 1.75, 2.0]


def test_a_canvas_without_much_to_gain_is_sampled_whole(model: Denoiser) -> None:
    bulk = PRESETS["bulk"]
    assert early(model, task(Box(0, 0, 8 + 6 * 15, 8), batch=1), bulk) is None  # 16 windows
    assert early(model, task(Box(0, 0, 8 + 6 * 7, 26), batch=1, steps=20), bulk) is None
    # Bands of so few windows would take more calls.
    assert early(model, task(Box(0, 0, 8 + 6 * 39, 8), batch=256), bulk) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 20, "guidance": 2.5},
        {"steps": 17, "strength": 0.6},
        {"steps": 6, "guidance": 3.0, "guidance_interval": (-1.0, 1.0)},
        {"steps": 9, "mask": True},
        {"strength": 0.0},
        {"batch": None},
        {"batch": 16},
    ],
    ids=str,
)
def test_in_every_way_of_sampling(changes: dict[str, Any], model: Denoiser) -> None:
    box = Box(3, 0, 61, 20)
    if changes.get("mask"):
        mask = torch.zeros(box.shape)
        mask[20:41, 3:16] = 1
        changes = {**changes, "mask": mask}
    work = task(box, known=known(box), **changes)
    counters = Counters()
    whole = sample(model, work, PRESETS["bulk"])
    steps = list(sample_bands(model, work, PRESETS["bulk"], counters=counters, budget=0))
    torch.testing.assert_close(torch.cat(rows_of(steps), 1), whole, atol=1e-5, rtol=0)
    planned = plan(work, PRESETS["bulk"], model.spec).evaluations
    assert steps[-1].evaluations == counters.evaluations == planned


@pytest.mark.parametrize("preset", ["bulk", "paper"])
def test_a_band_settles_rows_that_no_later_band_reaches(preset: str, model: Denoiser) -> None:
    windows = plan_windows((93, 20), 8, 6 if preset == "bulk" else 2)
    for least in (1, 4, 10, 1000):
        bands = plan_bands(windows, (93, 20), least)
        assert [w for band in bands for w in band.windows] == list(windows)
        assert all(len(band.windows) >= least for band in bands[:-1])
        edge = 0
        for n, band in enumerate(bands):
            assert (band.strip.y, band.strip.shape[1]) == (edge, 20)
            edge = band.strip.y1
            assert all(w.y >= edge for later in bands[n + 1 :] for w in later.windows)
            assert max(w.y1 for w in band.windows) <= bands[band.last].strip.y1
        assert edge == 93


@pytest.mark.usefixtures("small_windows")
def test_of_the_windows_that_a_strip_completes_the_nearest_to_the_focus_comes_first(
    model: Denoiser,
) -> None:
    at = [(0.0, 60.0)]
    wanted = list(Box(0, 0, 80, 240).tiles(20))
    decoder = Decoder(model, PRESETS["bulk"], (40, 120), wanted, focus=lambda: at[0], edge="top")
    firsts = list[float]()
    for place in strips((40, 120), 20, "top"):
        came = [
            wanted[n].centre[1] / 2
            for done in decoder.feed(torch.zeros(12, *place.shape), place)
            for n, _ in done
        ]
        firsts.append(came[0])
        at[0] = (40.0, 5.0)  # it has moved on when the second strip comes
    assert abs(firsts[0] - 60) < 15
    assert firsts[1] < 20


def test_rows_leave_long_before_the_canvas_is_done(model: Denoiser) -> None:
    work = task(Box(0, 0, 8 + 6 * 99, 14), steps=5)
    steps = list(sample_bands(model, work, PRESETS["bulk"]))
    first = next(step for step in steps if step.rows is not None)
    assert first.evaluations <= 0.1 * steps[-1].evaluations


def test_what_is_held_depends_on_the_steps_and_not_on_the_height(
    model: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = [0]
    use = _Front._use

    def watched(self: _Front, strips: Any) -> list[torch.Tensor]:
        states = use(self, strips)
        most[0] = max(most[0], sum(s.nbytes for s in self._held.values()))
        return states

    monkeypatch.setattr(_Front, "_use", watched)
    held = []
    for height, budget in ((300, 2**31), (900, 2**31), (900, 60_000)):
        most[0] = 0
        list(sample_bands(model, task(Box(0, 0, height, 20)), PRESETS["bulk"], budget=budget))
        held.append(most[0])
    assert held[0] == held[1] < canvas_bytes(task(Box(0, 0, 300, 20)), model.spec) / 4
    assert held[2] <= 60_000 < held[0]


def test_a_scratch_folder_gives_back_what_it_took_and_goes(
    model: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []
    put = Scratch.put

    def watched(self: Scratch, key: Any, tensor: torch.Tensor) -> None:
        put(self, key, tensor)
        assert self.folder is not None
        folders.append(self.folder)

    monkeypatch.setattr(Scratch, "put", watched)
    scratch, tensor = Scratch(), torch.randn(3, 4, 5)
    assert scratch.folder is None
    scratch.put(7, tensor)
    assert 7 in scratch
    assert torch.equal(scratch.take(7, torch.device("cpu")), tensor)
    assert 7 not in scratch
    assert list(folders[-1].iterdir()) == []
    scratch.close()
    work = task(Box(0, 0, 80, 20))
    steps = sample_bands(model, work, PRESETS["bulk"], budget=0)
    for step in steps:
        if step.rows is not None:
            break
    assert folders[-1].exists()
    steps.close()
    assert not any(folder.exists() for folder in folders)


def test_bands_are_cancelled_before_the_next_network_call(model: Denoiser) -> None:
    def check() -> None:
        if len(model.network.batches) == 7:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        list(sample_bands(model, task(Box(0, 0, 80, 20)), PRESETS["bulk"], check=check))
    assert len(model.network.batches) == 7


def tiles(shape: tuple[int, int], size: int, margin: int) -> list[Box]:
    whole = Box(0, 0, *shape)
    return [tile.grow(margin).intersect(whole) for tile in whole.tiles(size)]


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding windows of 12 latents that overlap by 4."""
    monkeypatch.setattr(room, "WINDOW", 12)
    monkeypatch.setattr(room, "OVERLAP", 4)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(
    ("preset", "budget"),
    # What waits on disk is the same for every preset; the paper's many windows make it slow.
    [("bulk", None), ("paper", None), ("bulk", 9000), ("bulk", 0)],
)
@pytest.mark.parametrize("edge", [None, *get_args(Edge)])
def test_every_wanted_box_comes_once_and_is_that_part_of_the_image(
    edge: Edge | None, budget: int | None, preset: str, model: Denoiser
) -> None:
    latents = known(Box(0, 0, 70, 53))
    *_, (_, image, _) = decode(model, latents, PRESETS[preset], centre=(35, 26))
    wanted = tiles((140, 106), 20, 3)
    decoder = Decoder(
        model, PRESETS[preset], (70, 53), wanted,
        focus=None if edge in ("top", "left") else lambda: (35.0, 26.0), edge=edge or "top",
        budget=budget,
    )  # fmt: skip
    got: dict[int, torch.Tensor] = {}
    if edge:
        parts = [
            part
            for place in strips((70, 53), 7, edge)
            for part in decoder.feed(latents[(slice(None), *place.slices)], place)
        ]
    else:
        parts = []
        while decoder.pending:
            parts.append(decoder.next(latents))
    folder = decoder.mosaic._scratch.folder
    assert (folder is not None) == (budget is not None)
    decoder.close()
    assert folder is None or not folder.exists()
    for n, pixels in (pair for part in parts for pair in part):
        assert n not in got
        got[n] = pixels
    assert sorted(got) == list(range(len(wanted)))
    for n, box in enumerate(wanted):
        torch.testing.assert_close(got[n], image[(slice(None), *box.slices)], atol=1e-5, rtol=0)
    assert decoder.mosaic.held == 0


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("edge", get_args(Edge))
def test_decoding_from_an_edge_holds_a_front_and_no_image(edge: Edge, model: Denoiser) -> None:
    held = []
    for length in (80, 400):
        facing = Facing(edge, Facing(edge, (length, 40)).shape)
        h, w = facing.extent
        decoder = Decoder(
            model, PRESETS["bulk"], (h, w), tiles((2 * h, 2 * w), 20, 3), edge=edge,
            focus=lambda: (20.0, 20.0),
        )  # fmt: skip
        most = 0
        for place in strips((h, w), 6, edge):
            for _ in decoder.feed(torch.zeros(12, *place.shape), place):
                most = max(most, decoder.mosaic.held)
            assert decoder._held is not None
            assert decoder._held.shape[1:] == decoder._place.shape
            assert facing.seen(decoder._place).h <= 24
        held.append(most)
    assert held[0] == held[1] < 0.2 * 3 * 4 * 800 * 80
