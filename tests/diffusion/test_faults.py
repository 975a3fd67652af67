"""Memory that runs out and numbers that overflow: the call is repeated, and nothing else."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from napari_ssldiff.diffusion import decode as room
from napari_ssldiff.diffusion.autoencoder import BORDER
from napari_ssldiff.diffusion.bundle import Denoiser, copy_on_cpu, default_precision
from napari_ssldiff.diffusion.calls import Calls, Counters
from napari_ssldiff.diffusion.canvas import CanvasTask, plan, sample
from napari_ssldiff.diffusion.conditioning import Condition
from napari_ssldiff.diffusion.decode import decode, encode
from napari_ssldiff.diffusion.memory import is_out_of_memory
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.errors import Cancelled, ModelError
from napari_ssldiff.geometry import Box

Make = Callable[..., Denoiser]
WIDE = Box(0, 0, 20, 32)
BULK = PRESETS["bulk"]
CPU_WORDS = "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you"
ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError(CPU_WORDS),
]


class Bent(nn.Module):
    """A nonlinear network that holds so many rows and notes what it is asked."""

    def __init__(self, rows: int = 10**6, error: Exception = ERRORS[0]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Conv2d(12, 12, 3, padding=1)
        self.rows, self.error, self.asked, self.held = rows, error, [], []  # type: ignore[var-annotated]

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        self.asked.append(len(x))
        # What an earlier try allocated has to be free again.
        assert not any(ref() is not None for ref in self.held)
        if len(x) > self.rows:
            taken = torch.zeros(1000)
            self.held.append(weakref.ref(taken))
            raise type(self.error)(*self.error.args)
        mean = context.mean(dim=(1, 2))[:, None, None, None]
        return SimpleNamespace(
            sample=torch.tanh(self.inner(x) + mean + t[:, None, None, None] / 1e3)
        )


def bent(make_denoiser: Make, **options: Any) -> Denoiser:
    model = make_denoiser()
    model.network = Bent(**options)
    return model


def task(box: Box = WIDE, **changes: Any) -> CanvasTask:
    arguments: dict[str, Any] = {
        "box": box,
        "tokens": lambda w: torch.full((4, 3), 0.01 * (w.y - w.x)),
        "steps": 4,
        "guidance": 2.0,
        "strength": 1.0,
        "seed": 4,
        **changes,
    }
    return CanvasTask(**arguments)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    span = float(b.max() - b.min())
    return float(10 * torch.log10(span**2 / (a - b).square().mean().clamp_min(1e-20)))


@pytest.mark.parametrize("error", ERRORS)
def test_errors_of_memory_are_told_from_others(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(OSError(12, "no memory"))


@pytest.mark.parametrize("preset", ["bulk", "draft", "paper"])
@pytest.mark.parametrize("error", ERRORS)
def test_a_network_call_that_finds_no_memory_is_halved_and_the_half_is_remembered(
    error: Exception, preset: str, make_denoiser: Make
) -> None:
    plain = sample(bent(make_denoiser), task(), PRESETS[preset])
    model, counters = bent(make_denoiser, rows=5, error=error), Counters()
    told: list[int] = []
    made = sample(model, task(), PRESETS[preset], counters=counters, on_batch=told.append)
    assert psnr(made, plain) >= 50
    planned = plan(task(), PRESETS[preset], model.spec).evaluations
    assert counters.evaluations == told[-1] == planned
    failed = [n for n in model.network.asked if n > 5]
    assert failed == sorted(failed, reverse=True)
    assert len(failed) <= 3  # 32 rows, 16, 8: once each for the whole run
    assert max(model.network.asked[len(failed) :]) <= 5


def test_only_the_call_that_failed_is_repeated(make_denoiser: Make) -> None:
    model = bent(make_denoiser)
    forward, fail = model.network.forward, [False, False, True, False]

    def moody(*args: Any) -> Any:
        out = forward(*args)
        if fail and fail.pop(0):
            raise MemoryError
        return out

    model.network.forward = moody
    narrow = task(Box(0, 0, 8, 20), guidance=1.0)  # three windows
    made = sample(model, replace(narrow, batch=2), BULK)
    assert model.network.asked == [2, 1, 2, 1, 1, 1] + [1, 1, 1] * 2
    assert psnr(made, sample(bent(make_denoiser), narrow, BULK)) >= 50


@pytest.mark.parametrize("rows", [1, 3])
def test_conditions_are_projected_in_smaller_parts(rows: int, make_denoiser: Make) -> None:
    class Small(nn.Module):
        def forward(self, tokens: torch.Tensor) -> Condition:
            if len(tokens) > rows:
                raise RuntimeError(CPU_WORDS)
            return Condition(tokens)

    plain = sample(bent(make_denoiser), task(), BULK)
    model = bent(make_denoiser)
    model.projection = Small()  # type: ignore[assignment]
    assert psnr(sample(model, task(), BULK), plain) >= 50


class SmallAutoencoder(nn.Module):
    """A local autoencoder that holds so many latents at once."""

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.latents, self.asked = latents, []  # type: ignore[var-annotated]

    def _room(self, shape: torch.Size, folded: int) -> None:
        self.asked.append(shape[-1] // folded)
        if shape[-1] * shape[-2] // folded**2 > self.latents:
            raise MemoryError

    def encode(self, images: torch.Tensor) -> Any:
        self._room(images.shape, 2)
        return SimpleNamespace(latents=torch.nn.functional.pixel_unshuffle(images, 2))

    def decode(self, latents: torch.Tensor) -> Any:
        self._room(latents.shape, 1)
        return SimpleNamespace(sample=torch.nn.functional.pixel_shuffle(latents.tanh(), 2))


@pytest.fixture
def windows_of_48(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of the autoencoder that overlap by 12."""
    monkeypatch.setattr(room, "WINDOW", 48)
    monkeypatch.setattr(room, "OVERLAP", 12)


@pytest.mark.usefixtures("windows_of_48")
@pytest.mark.parametrize("preset", ["bulk", "paper"])
def test_decoding_goes_on_in_smaller_windows(preset: str, make_denoiser: Make) -> None:
    latents = torch.randn(12, 70, 100, generator=torch.Generator().manual_seed(0))
    make = make_denoiser if preset == "bulk" else lambda: make_denoiser(window=32)
    pictures = []
    for room_for in (10**6, 450):
        model = make()
        model.autoencoder.network = SmallAutoencoder(room_for)
        *_, (_, image, _) = decode(model, latents, PRESETS[preset], centre=(0, 0))
        pictures.append(image)
    assert psnr(*pictures) >= 50
    # Each size fails once; four latents on every side are the mirror image.
    failed = [n - 2 * BORDER for n in model.autoencoder.network.asked if n * n > 450]
    assert failed in ([42, 21], [32, 16])


@pytest.mark.usefixtures("windows_of_48")
def test_encoding_goes_on_in_smaller_windows(make_denoiser: Make) -> None:
    image = torch.rand(3, 140, 200, generator=torch.Generator().manual_seed(0)) * 2 - 1
    results = []
    for room_for in (10**6, 150):
        model = make_denoiser()
        model.autoencoder.network = SmallAutoencoder(room_for)
        results.append(encode(model, image))
    assert psnr(*results) >= 50
    assert [n for n in model.autoencoder.network.asked if n > 12] == [42, 21]


def test_where_nothing_fits_the_error_of_memory_reaches_the_caller(make_denoiser: Make) -> None:
    with pytest.raises(MemoryError):
        sample(bent(make_denoiser, rows=0, error=MemoryError()), task(), BULK)
    model = make_denoiser()
    model.autoencoder.network = SmallAutoencoder(0)
    with pytest.raises(MemoryError):
        encode(model, torch.zeros(3, 64, 64))


def test_what_finds_no_memory_on_a_gpu_even_alone_is_done_elsewhere(make_denoiser: Make) -> None:
    """The spare model is the CPU's; the first one stands for the GPU's."""
    full, spare = bent(make_denoiser, rows=0), bent(make_denoiser)
    full.autoencoder.network, spare.autoencoder.network = (SmallAutoencoder(n) for n in (0, 10**6))

    class Stuck(nn.Module):
        def forward(self, tokens: torch.Tensor) -> Condition:
            raise MemoryError

    full.projection = Stuck()  # type: ignore[assignment]
    calls, plain = Calls(full, spare=lambda: spare), Calls(spare)
    torch.manual_seed(0)
    tokens, x = torch.randn(3, 4, 3), torch.randn(3, 12, 8, 8)
    with torch.inference_mode():
        conditions = [c.condition(tokens) for c in (calls, plain)]
        assert torch.equal(conditions[0].context, conditions[1].context)
        answers = [c.predict_x0(x, 500, (0.6, 0.8), conditions[0]) for c in (calls, plain)]
        assert psnr(*answers) >= 50
        assert spare.network.asked == [1, 1, 1, 3]
        assert torch.equal(calls.decode(x[0]), plain.decode(x[0]))
        pixels = torch.rand(3, 16, 16)
        assert torch.equal(calls.encode(pixels), plain.encode(pixels))
    assert calls.counters.evaluations == 3


def test_what_fits_nowhere_on_a_gpu_is_not_tried_again_and_again(make_denoiser: Make) -> None:
    full, spare = bent(make_denoiser, rows=0), bent(make_denoiser)
    full.autoencoder.network = SmallAutoencoder(0)
    calls = Calls(full, spare=lambda: spare)
    x = torch.randn(2, 12, 8, 8)
    with torch.inference_mode():
        condition = Calls(spare).condition(torch.randn(2, 4, 3))
        for _ in range(3):
            calls.predict_x0(x, 500, (0.6, 0.8), condition)
            calls.decode(x[0])
    assert full.network.asked == [2, 1]
    assert len(full.autoencoder.network.asked) == 1


def test_windows_that_cannot_be_gathered_are_gathered_in_smaller_calls(
    make_denoiser: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sample(bent(make_denoiser), task(), BULK)
    stack, refused = torch.stack, []

    def narrow(tensors: Any, *rest: Any) -> torch.Tensor:
        if len(tensors) > 3 and tensors[0].shape == (12, 8, 8):
            refused.append(len(tensors))
            raise MemoryError
        return stack(tensors, *rest)

    monkeypatch.setattr(torch, "stack", narrow)
    model, counters = bent(make_denoiser), Counters()
    made = sample(model, task(), BULK, counters=counters)
    assert refused
    assert psnr(made, plain) >= 50
    assert counters.evaluations == plan(task(), BULK, model.spec).evaluations


def test_a_copy_for_the_cpu_shares_nothing_and_answers_alike(bundle: Any) -> None:
    network = bundle.denoiser.network
    with torch.inference_mode():  # as in a run
        copy = copy_on_cpu(network)
    x, t, context = torch.randn(1, 7, 8, 8), torch.tensor([5]), torch.randn(1, 4, 8)
    with torch.inference_mode():
        assert torch.equal(copy(x, t, context).sample, network(x, t, context).sample)
    ours = {p.data_ptr() for p in network.parameters()}
    assert ours.isdisjoint(p.data_ptr() for p in copy.parameters())
    assert copy_on_cpu(bundle.denoiser.autoencoder).shift.device.type == "cpu"
    assert bundle.denoiser.on_cpu is bundle.denoiser  # it is there already


class Overflowing(Bent):
    """Not finite in half precision, nor elsewhere for windows whose tokens are beyond a bound."""

    def __init__(self, bound: float = 1e9) -> None:
        super().__init__()
        self.bound, self.precisions = bound, []  # type: ignore[var-annotated]

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        half = torch.is_autocast_enabled("cpu")
        self.precisions.append("half" if half else "fp32")
        with torch.autocast("cpu", enabled=False):
            answer = super().forward(x, t, context).sample
        bad = (context.amax(dim=(1, 2)) > self.bound) | half
        return SimpleNamespace(sample=torch.where(bad[:, None, None, None], torch.inf, answer))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_what_overflows_in_half_precision_is_repeated_in_fp32(
    precision: str, make_denoiser: Make
) -> None:
    plain = sample(bent(make_denoiser), task(), BULK)
    model, counters = make_denoiser(), Counters()
    model.network, model.precision = Overflowing(), precision  # type: ignore[assignment]
    made = sample(model, task(), BULK, counters=counters)
    assert torch.equal(made, plain)
    assert model.network.precisions == ["half", "fp32"] * (len(model.network.precisions) // 2)
    assert counters.evaluations == plan(task(), BULK, model.spec).evaluations


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_what_is_not_finite_in_fp32_is_named(
    guidance: float, precision: str, make_denoiser: Make
) -> None:
    model = make_denoiser()
    model.network, model.precision = Overflowing(0.5), precision  # type: ignore[assignment]
    tokens = lambda w: torch.full((4, 3), 1.0 if (w.y, w.x) == (106, 206) else 0.0)  # noqa: E731
    work = task(Box(100, 200, 20, 32), tokens=tokens, guidance=guidance)
    with pytest.raises(ModelError, match="row 106, column 206, step 1 of 4") as error:
        sample(model, work, BULK)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


def test_precision_reaches_the_network_only(make_denoiser: Make) -> None:
    seen: list[tuple[torch.dtype, torch.dtype]] = []

    class Linear(nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
            made = torch.nn.functional.conv2d(x, torch.eye(12)[:, :, None, None])
            seen.append((x.dtype, made.dtype))
            return SimpleNamespace(sample=made)

    for precision in (None, "fp32", "bf16", "fp16"):
        model = make_denoiser()
        model.network = Linear()
        model.precision = precision or model.precision  # type: ignore[assignment]
        assert sample(model, task(steps=1), BULK).dtype == torch.float32
    assert {m for _, m in seen[:2]} == {torch.float32}
    assert seen[-1] == (torch.float32, torch.float16)
    assert any(s == (torch.float32, torch.bfloat16) for s in seen)


def test_a_network_that_nobody_chose_for_computes_in_fp32_on_a_cpu(
    make_denoiser: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_precision(torch.device("cpu")) == "fp32"
    assert make_denoiser().precision == "fp32"
    for capability, expected in (((9, 0), "bf16"), ((7, 5), "fp16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert default_precision(torch.device("cuda")) == expected


def test_a_student_computes_in_its_teachers_precision(make_denoiser: Make) -> None:
    model = make_denoiser(student=Bent)
    model.precision = "bf16"
    assert model.student.precision == "bf16"


@pytest.mark.parametrize("stage", ["projection", "network", "decode", "encode"])
def test_a_cancel_is_obeyed_between_the_tries(stage: str, make_denoiser: Make) -> None:
    model, asked = bent(make_denoiser, rows=1), []
    model.autoencoder.network = SmallAutoencoder(100)

    def check() -> None:
        asked.append(stage)
        if len(asked) == 2:
            raise Cancelled("stop")

    class Small(nn.Module):
        def forward(self, tokens: torch.Tensor) -> Condition:
            raise MemoryError

    model.projection = Small()  # type: ignore[assignment]
    calls, x = Calls(model, check), torch.zeros(4, 12, 8, 8)
    tries: dict[str, Callable[[], Any]] = {
        "projection": lambda: calls.condition(torch.zeros(4, 4, 3)),
        "network": lambda: calls.predict_x0(x, 1, (1, 1), Condition(torch.zeros(4, 4, 3))),
        "decode": lambda: calls.decode(torch.zeros(12, 32, 32)),
        "encode": lambda: calls.encode(torch.zeros(3, 64, 64)),
    }
    with pytest.raises(Cancelled), torch.inference_mode():
        tries[stage]()
    assert len(asked) == 2
