"""Memory that runs out once, at every place where a canvas asks for some."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from napari_ssldiff.diffusion import decode as room
from napari_ssldiff.diffusion import home, memory, sampling
from napari_ssldiff.diffusion.bands import sample_bands
from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.canvas import CanvasTask, Counters, plan, sample
from napari_ssldiff.diffusion.decode import Decoder, encode
from napari_ssldiff.diffusion.home import Home
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.diffusion.steer import Guide
from napari_ssldiff.diffusion.wave import Edge, Facing
from napari_ssldiff.geometry import Box

Make = Callable[..., Denoiser]
HERE = str(Path(room.__file__).parent)
Place = tuple[str, int, str]


class Fault(TorchDispatchMode):
    """Counts what asks for memory, notes where, and fails once at a number of it."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.at, self.count = at, 0
        self.first: dict[Place, int] = {}
        self.last: dict[Place, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        # Views and what works in place ask for none.
        if any(r.alias_info is None and "Tensor" in str(r.type) for r in returns):
            place = _place()
            if place is None:
                return func(*args, **(kwargs or {}))
            self.first.setdefault(place, self.count)
            self.last[place] = self.count
            self.count += 1
            if self.count - 1 == self.at:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return func(*args, **(kwargs or {}))


def _place() -> Place | None:
    """The line of the engine that is at work; ``None``: the test is."""
    frame: Any = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(HERE):
        frame = frame.f_back
    if frame is None:
        return None
    code = frame.f_code
    return (Path(code.co_filename).name, frame.f_lineno, code.co_name)


class Bent(nn.Module):
    """A nonlinear network in which every latent sees its neighbours, condition and time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        mean = context.mean(dim=(1, 2))[:, None, None, None]
        return SimpleNamespace(
            sample=torch.tanh(self.inner(x) + mean + t[:, None, None, None] / 1e3)
        )


@pytest.fixture(autouse=True)
def _nothing_to_collect(monkeypatch: pytest.MonkeyPatch) -> None:
    """No collection of garbage after every fault: it takes longer than the runs."""
    for module in (memory, home):
        monkeypatch.setattr(module, "release", lambda device: None)


def model_on(device: torch.device, make_denoiser: Make) -> Denoiser:
    model = make_denoiser()
    model.network, model.device = Bent(), device
    return model


#: The second is the same memory, but counts as a device that a canvas can leave.
DEVICES = [torch.device("cpu"), torch.device("cpu", 0)]
BOX = Box(0, 0, 20, 26)


def task(**changes: Any) -> CanvasTask:
    known = torch.from_numpy(np.random.default_rng(1).normal(size=(12, *BOX.shape))).float()
    mask = torch.zeros(BOX.shape)
    mask[2:18, 3:26] = 1
    arguments: dict[str, Any] = {
        "box": BOX,
        "tokens": lambda w: torch.full((4, 3), 0.01 * (w.y - w.x)),
        "steps": 3,
        "guidance": 2.0,
        "strength": 1.0,
        "seed": 4,
        "known": known,
        "mask": mask,
        "batch": 5,
        **changes,
    }
    return CanvasTask(**arguments)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    span = float(b.max() - b.min())
    return float(10 * torch.log10(span**2 / (a - b).square().mean().clamp_min(1e-20)))


def everywhere(run: Callable[[], torch.Tensor]) -> set[str]:
    """Let memory run out wherever ``run`` asks for it; the functions in which it did."""
    plain = run()
    with Fault() as watch:
        run()
    for moments in (watch.first, watch.last):
        for place, at in moments.items():
            with Fault(at) as fault:
                made = run()
            assert fault.count > at, place
            assert psnr(made, plain) >= 50, place
    return {name for _, _, name in watch.first}


@pytest.mark.parametrize("device", DEVICES, ids=["cpu", "device"])
@pytest.mark.parametrize("preset", ["bulk", "paper"])
def test_a_canvas_is_finished_wherever_memory_runs_out(
    preset: str, device: torch.device, make_denoiser: Make
) -> None:
    model = model_on(device, make_denoiser)
    work, counters = task(steps=2), Counters()
    planned = plan(work, PRESETS[preset], model.spec).evaluations

    def run() -> torch.Tensor:
        counters.evaluations = 0
        made = sample(model, work, PRESETS[preset], counters=counters)
        assert counters.evaluations == planned
        return made

    stages = {"empty", "start", "coverage", "call", "predict_x0", "guided", "settle", "step"}
    assert stages <= everywhere(run)


@pytest.mark.parametrize("device", DEVICES, ids=["cpu", "device"])
@pytest.mark.parametrize(
    ("budget", "edge"), [(0, "top"), (2**30, "top"), (0, "right"), (2**30, "left")]
)
def test_a_wave_of_bands_is_finished_wherever_memory_runs_out(
    budget: int, edge: Edge, device: torch.device, make_denoiser: Make
) -> None:
    model = model_on(device, make_denoiser)

    def run() -> torch.Tensor:
        steps = sample_bands(model, task(steps=2), PRESETS["bulk"], budget=budget, edge=edge)
        strips = [step.rows for step in steps if step.rows is not None]
        order = strips[::-1] if edge == "right" else strips
        return torch.cat(order, 1 if edge == "top" else 2)

    assert {"_gather", "_open", "settle", "step", "guided"} <= everywhere(run)


def test_a_guided_canvas_is_finished_wherever_memory_runs_out(make_denoiser: Make) -> None:
    model = model_on(DEVICES[1], make_denoiser)
    work = task(steps=2, guide=Guide(torch.zeros(3, 5, 7)), known=None, mask=None)
    assert "steer" in everywhere(lambda: sample(model, work, PRESETS["bulk"]))


@pytest.mark.parametrize("edge", ["top", "left"])
def test_pixels_are_finished_wherever_memory_runs_out(
    edge: Edge, make_denoiser: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "WINDOW", 12)
    monkeypatch.setattr(room, "OVERLAP", 4)
    model = make_denoiser()
    latents = torch.randn(12, 20, 26, generator=torch.Generator().manual_seed(0)) / 4
    whole = Box(0, 0, 40, 52)
    wanted = [tile.grow(3).intersect(whole) for tile in whole.tiles(20)]

    @torch.inference_mode()
    def run() -> torch.Tensor:
        out = torch.full((3, 40, 52), torch.nan)
        decoder = Decoder(
            model, PRESETS["bulk"], (20, 26), wanted, edge=edge, focus=lambda: (3.0, 20.0)
        )
        facing = Facing(edge, (20, 26))
        height, width = facing.shape
        for y in range(0, height, 7):
            place = facing.real(Box(y, 0, min(7, height - y), width))
            for done in decoder.feed(latents[(slice(None), *place.slices)], place):
                for n, pixels in done:
                    out[(slice(None), *wanted[n].slices)] = pixels
        decoder.close()
        return encode(model, out)

    assert {"_blend", "_share", "_joined"} <= everywhere(run)


def test_noise_that_finds_no_memory_is_made_in_strips(
    make_denoiser: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, made, asked = model_on(DEVICES[0], make_denoiser), sampling.place_noise, list[int]()
    plain = sample(model, task(), PRESETS["bulk"])

    def narrow(seed: int, box: Box, *rest: int) -> Any:
        asked.append(box.h)
        if box.h > 10:
            raise MemoryError
        return made(seed, box, *rest)

    monkeypatch.setattr(sampling, "place_noise", narrow)
    assert torch.equal(sample(model, task(), PRESETS["bulk"]), plain)
    assert asked == [20, 10, 10]


def test_a_canvas_that_leaves_its_device_stays_away_and_says_so(
    make_denoiser: Make, caplog: pytest.LogCaptureFixture
) -> None:
    place, moved = Home(torch.device("cpu", 0)), list[torch.device]()
    place.tenants.append(moved.append)
    fails = [False, True, True]

    def full() -> int:
        if fails.pop():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 7

    with pytest.raises(torch.OutOfMemoryError):  # twice in a row is beyond help
        place.guarded("a test", full)
    assert place.guarded("a test", full) == 7
    assert moved == [torch.device("cpu")] == [place.device]
    assert [r.message for r in caplog.records] == [
        "out of memory in a test: the canvas moves to the CPU"
    ]


@pytest.mark.parametrize("again", [None, 5, 40])
def test_a_canvas_that_has_moved_has_full_calls_again_and_bears_another_fault(
    again: int | None, make_denoiser: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device has no room for windows and canvas; then one more call fails."""
    wide = task(box=Box(0, 0, 20, 200), batch=8, known=None, mask=None)
    plain = sample(model_on(DEVICES[1], make_denoiser), wide, PRESETS["bulk"])
    views, runs, calls = sampling._views, list[sampling.Sampling](), [0]
    make = sampling.Sampling.__init__

    def noted(self: Any, *a: Any) -> None:
        make(self, *a)
        runs.append(self)

    def gathered(canvas: Any, windows: Any, top: int) -> Any:
        if sys._getframe(1).f_code.co_name == "call":
            if not runs[-1].home.is_last:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            calls[0] += 1
            if calls[0] == again:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return views(canvas, windows, top)

    monkeypatch.setattr(sampling.Sampling, "__init__", noted)
    monkeypatch.setattr(sampling, "_views", gathered)
    made = sample(model_on(DEVICES[1], make_denoiser), wide, PRESETS["bulk"])
    assert psnr(made, plain) >= 50
    windows = len(plan(wide, PRESETS["bulk"], make_denoiser().spec).windows)
    least = 3 * -(-windows // 8)
    assert least < calls[0] <= least + 12  # and not a call for every window of a step


def test_strips_go_on_where_the_canvas_has_moved() -> None:
    """The least strip moves it; the one after it, there, fails once more."""
    state, taken, calls = Home(DEVICES[1]), list[int](), [0]

    def call(part: slice) -> None:
        if state.is_last:
            calls[0] += 1
        if not state.is_last or calls[0] == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        taken.extend(range(part.start, part.stop))

    state.by_rows("a stage", 32, call)
    assert taken == list(range(32))
