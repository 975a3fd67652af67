"""What a run costs: batches that suit the machine, guidance only where it helps."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from napari_ssldiff.diffusion import precisions
from napari_ssldiff.diffusion.batches import CPU_ROWS, LARGEST, choose_batch, measured_batch
from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.canvas import CanvasTask, Counters, plan, sample
from napari_ssldiff.diffusion.decode import Decoder, decode, encode
from napari_ssldiff.diffusion.offload import Limits
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.errors import Cancelled
from napari_ssldiff.geometry import Box

Make = Callable[..., Denoiser]
BULK = PRESETS["bulk"]


class Clockwork(nn.Module):
    """Takes the time it is told for so many rows; the clock is its own."""

    def __init__(self, seconds: Callable[[int], float], monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.seconds, self.now, self.asked = seconds, 0.0, []  # type: ignore[var-annotated]
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        self.asked.append(len(x))
        self.now += self.seconds(len(x))
        return SimpleNamespace(sample=x)


def task(box: Box, **changes: Any) -> CanvasTask:
    arguments: dict[str, Any] = {
        "box": box,
        "tokens": lambda window: torch.full((4, 3), 0.5),
        "steps": 5,
        "guidance": 1.0,
        "strength": 1.0,
        "seed": 4,
        **changes,
    }
    return CanvasTask(**arguments)


def test_the_batch_grows_as_long_as_it_makes_windows_faster(
    make_denoiser: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds, best in (
        (lambda rows: 1.0, LARGEST),  # a call costs the same however large
        (lambda rows: float(rows), 1),  # nothing is gained
        (lambda rows: float(max(rows, 8)), 8),  # full at eight
    ):
        model = make_denoiser()
        model.network = Clockwork(seconds, monkeypatch)
        assert measured_batch(model, 1, 1000) == best
        assert measured_batch(model, 2, 1000) == max(1, best // 2) or best == LARGEST


def test_a_batch_is_measured_once_and_never_beyond_the_windows(
    make_denoiser: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_denoiser()
    model.network = clock = Clockwork(lambda rows: 1.0, monkeypatch)
    assert measured_batch(model, 1, 5) == 5
    assert max(clock.asked) == 8
    assert measured_batch(model, 1, 1) == 1
    asked = len(clock.asked)
    assert measured_batch(model, 1, 5) == 5
    assert len(clock.asked) == asked
    assert measured_batch(model, 1, 30) == 30  # only the sizes that are new
    assert clock.asked[asked:] == [16, 16, 32, 32]


def test_a_batch_that_does_not_fit_is_not_chosen(
    make_denoiser: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(rows: int) -> float:
        if rows > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return 1.0

    model = make_denoiser()
    model.network = Clockwork(seconds, monkeypatch)
    assert measured_batch(model, 2, 100) == 2


def test_measuring_can_be_cancelled(make_denoiser: Make) -> None:
    def check() -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        measured_batch(make_denoiser(), 1, 100, check)


def test_half_precision_is_chosen_where_it_is_measured_to_be_faster(
    make_denoiser: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "other_precision", lambda device: "bf16")
    for took, chosen in ((0.5, "bf16"), (0.9, "fp32"), (7.0, "fp32")):
        model = make_denoiser()

        def seconds(rows: int, half: float = took) -> float:
            return rows * (half if torch.is_autocast_enabled("cpu") else 1.0)

        model.network = clock = Clockwork(seconds, monkeypatch)
        assert precisions.measured_precision(model) == chosen
        assert clock.asked == [precisions.ROWS] * 4
        model.limits = Limits(offload="parts")
        assert precisions.measured_precision(model) == "fp32"
        assert len(clock.asked) == 4


def test_a_cpu_is_never_timed(make_denoiser: Make) -> None:
    model = make_denoiser()
    assert precisions.other_precision(torch.device("cpu")) is None
    assert precisions.measured_precision(model) == "fp32"
    model.compute_in("bf16")  # as on a processor that has it
    assert precisions.measured_precision(model) == "bf16"
    assert model.network.batches == []
    assert precisions.other_precision(torch.device("cuda")) == "fp32"
    assert precisions.other_precision(torch.device("mps")) is None


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="not on this system")
def test_a_cpu_is_asked_for_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert precisions.native_bf16() == bool(flags & {"avx512_bf16", "amx_tile"})
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)  # torch that cannot tell
    assert not precisions.native_bf16()


def test_on_a_cpu_nothing_is_measured_and_results_do_not_vary(make_denoiser: Make) -> None:
    model, box = make_denoiser(share=0.3), Box(0, 0, 26, 44)
    assert choose_batch(model, 2, 100) == CPU_ROWS // 2
    assert choose_batch(model, 1, 100) == CPU_ROWS
    assert choose_batch(model, 2, 3) == 3
    assert model.network.batches == []
    automatic = sample(model, task(box, batch=None), BULK)
    assert max(model.network.batches) <= CPU_ROWS
    assert torch.equal(automatic, sample(model, task(box, batch=CPU_ROWS // 2), BULK))


@pytest.mark.parametrize("preset", ["bulk", "paper"])
def test_outside_its_interval_guidance_costs_and_changes_nothing(
    preset: str, make_denoiser: Make
) -> None:
    box, steps = Box(0, 0, 8, 20), 10
    solver = PRESETS[preset].make_solver(make_denoiser().spec, steps, 1.0)
    snr = [math.log(a / s) for a, s in map(solver.level, range(steps))]
    for interval in ((-99.0, 99.0), (snr[3], snr[6]), (snr[3] + 1e-6, 99.0), (50.0, 99.0)):
        guided = [interval[0] <= value <= interval[1] for value in snr]
        model, counters = make_denoiser(), Counters()
        work = task(box, guidance=3.0, steps=steps, guidance_interval=interval)
        means: list[float] = []
        sample(
            model, work, PRESETS[preset], counters=counters,
            on_step=lambda i, x0, to=means: to.append(float(x0.mean())),
        )  # fmt: skip
        windows = len(plan(work, PRESETS[preset], model.spec).windows)
        expected = [windows * (2 if g else 1) for g in guided]
        assert model.network.batches == expected
        assert counters.evaluations == sum(expected)
        assert plan(work, PRESETS[preset], model.spec).evaluations == sum(expected)
        # The network answers the tokens' mean: 0.5 with them, 0 without.
        assert means == pytest.approx([1.5 if g else 0.5 for g in guided], abs=1e-4)


def test_an_interval_that_holds_every_step_is_guidance(make_denoiser: Make) -> None:
    work = task(Box(0, 0, 9, 20), guidance=3.0)
    everywhere = replace(work, guidance_interval=(-1e9, 1e9))
    a, b = (sample(make_denoiser(share=0.4), w, BULK) for w in (work, everywhere))
    assert torch.equal(a, b)


def test_seconds_are_counted_where_they_are_spent(
    make_denoiser: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, counters = make_denoiser(), Counters()
    model.network = clock = Clockwork(lambda rows: 1.0, monkeypatch)
    sample(model, task(Box(0, 0, 8, 20), batch=2), BULK, counters=counters)
    assert (counters.network_seconds, counters.decode_seconds) == (10.0, 0.0)
    network = model.autoencoder.network
    for name in ("encode", "decode"):
        call = getattr(network, name)

        def slow(values: torch.Tensor, call: Any = call) -> Any:
            clock.now += 0.5
            return call(values)

        setattr(network, name, slow)
    latents = encode(model, torch.zeros(3, 16, 16), counters=counters)
    assert counters.decode_seconds == 0.5
    decoder = Decoder(model, BULK, (8, 8), [Box(0, 0, 16, 16)], counters=counters)
    assert len(decoder.next(latents)) == 1
    assert (counters.network_seconds, counters.decode_seconds) == (10.0, 1.0)
    assert len(list(decode(model, latents, BULK, centre=(0, 0)))) == 1


def test_a_models_network_is_compiled_when_asked_and_its_students_with_it(
    bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.nn.Module] = []

    def noted(module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        asked.append(module)

    monkeypatch.setattr(torch.nn.Module, "compile", noted)
    own = bundle.denoiser
    model = Denoiser(
        own.spec, own.autoencoder, own.network, own.projection, own.device,
        make_student=lambda: copy.deepcopy(own.network),
    )  # fmt: skip
    model.compile()
    assert asked == [model.network]
    assert model.student.network in asked
    assert len(asked) == 2
