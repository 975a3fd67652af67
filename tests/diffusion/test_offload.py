"""Half the weights, one part at a time, smaller windows: less memory, and the same pictures."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from napari_ssldiff.diffusion import decode as room
from napari_ssldiff.diffusion.batches import choose_batch, measured_batch
from napari_ssldiff.diffusion.blend import cover
from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.calls import Calls
from napari_ssldiff.diffusion.decode import decode, decode_windows, encode
from napari_ssldiff.diffusion.halves import LAYERS, half_names, keep, keep_and_widen, widened
from napari_ssldiff.diffusion.offload import Limits, Turns, streamed
from napari_ssldiff.diffusion.presets import PRESETS

Make = Callable[..., Denoiser]
CPU = torch.device("cpu")


@pytest.fixture
def network(bundle: Any) -> nn.Module:
    """The tiny model's U-Net, to be changed."""
    return copy.deepcopy(bundle.denoiser.network)


@torch.inference_mode()
def ask(network: nn.Module, half: bool = False) -> torch.Tensor:
    numbers = torch.Generator().manual_seed(0)
    x = torch.randn(2, 7, 8, 8, generator=numbers).contiguous(memory_format=torch.channels_last)
    context = torch.randn(2, 4, 8, generator=numbers)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out: torch.Tensor = network(x, torch.tensor([400, 20]), context).sample
    return out


def dtypes(network: nn.Module) -> set[torch.dtype]:
    return {layer.weight.dtype for layer in network.modules() if isinstance(layer, LAYERS)}


def test_rounded_weights_change_nothing_for_autocast(network: nn.Module) -> None:
    before, size = ask(network, half=True), sum(p.nbytes for p in network.parameters())
    keep(network, "bf16")
    assert torch.equal(ask(network, half=True), before)
    assert sum(p.nbytes for p in network.parameters()) < 0.6 * size
    norms = [m.weight.dtype for m in network.modules() if isinstance(m, nn.GroupNorm)]
    assert set(norms) == {torch.float32}
    half = {n for n, p in network.named_parameters() if p.dtype == torch.bfloat16}
    assert half == half_names(network)


@pytest.mark.parametrize("kept", ["bf16", "fp16"])
def test_widened_layers_answer_as_a_network_of_rounded_weights_in_fp32(
    kept: str, network: nn.Module
) -> None:
    exact, rounded = ask(network), copy.deepcopy(network)
    keep(rounded, kept)
    rounded.float()
    keep_and_widen(network, kept)
    for _ in range(2):
        assert torch.equal(ask(network), ask(rounded))
        assert dtypes(network) == {{"bf16": torch.bfloat16, "fp16": torch.float16}[kept]}
    torch.testing.assert_close(ask(network), exact, atol=0.05, rtol=0.05)
    assert not torch.equal(ask(network), exact)


def test_a_call_in_fp32_widens_weights_for_its_own_time(bundle: Any, network: nn.Module) -> None:
    own = bundle.denoiser
    rounded = copy.deepcopy(network)
    model = Denoiser(
        own.spec, own.autoencoder, network, own.projection, CPU, precision="bf16", kept="bf16"
    )
    keep(rounded, "bf16")
    plain = Denoiser(own.spec, own.autoencoder, rounded.float(), own.projection, CPU)
    x, condition = torch.randn(2, 4, 8, 8), model.null_condition(2)
    with torch.inference_mode():
        made = model.predict_x0(x, 500, (0.6, 0.8), condition, "fp32")
        assert torch.equal(made, plain.predict_x0(x, 500, (0.6, 0.8), condition))
        assert dtypes(model.network) == {torch.bfloat16}
        assert model.predict_x0(x, 500, (0.6, 0.8), condition).dtype == torch.float32
    with widened(model.network):
        assert dtypes(model.network) == {torch.float32}
    assert dtypes(model.network) == {torch.bfloat16}
    # And so it does from now on, where fp32 was found to be faster.
    model.compute_in("fp32")
    for _ in range(2):
        with torch.inference_mode():
            assert torch.equal(
                model.predict_x0(x, 500, (0.6, 0.8), condition),
                plain.predict_x0(x, 500, (0.6, 0.8), condition),
            )
        assert dtypes(model.network) == {torch.bfloat16}


class Part(nn.Module):
    """Writes down where it goes."""

    def __init__(self, name: str, diary: list[str]) -> None:
        super().__init__()
        self.name, self.diary = name, diary

    def to(self, device: Any = None, **options: Any) -> Part:  # type: ignore[override]
        if device is not None:
            self.diary.append(f"{self.name} to {torch.device(device).type}")
        return self


def test_parts_take_turns_and_go_before_the_next_one_comes() -> None:
    diary: list[str] = []
    a, b = Part("a", diary), Part("b", diary)
    turns = Turns(torch.device("meta"))
    assert turns(a) is a
    turns(a)
    turns(b)
    turns.clear()
    turns.clear()
    assert diary == ["a to meta", "a to cpu", "b to meta", "b to cpu"]


def test_the_parts_of_a_model_and_of_its_student_share_their_turns(make_denoiser: Make) -> None:
    diary: list[str] = []
    own, (auto, network, student) = (
        make_denoiser(student=nn.Identity),
        (Part(name, diary) for name in ("autoencoder", "network", "student")),
    )
    model = Denoiser(
        own.spec, auto, network, own.projection, torch.device("meta"), lambda: student,  # type: ignore[arg-type]
        limits=Limits(offload="parts"),
    )  # fmt: skip
    assert diary == []  # all wait until they are needed
    model.at_work(model.autoencoder)
    model.at_work(model.student.network)
    model.student.at_work(model.autoencoder)
    assert diary == [
        "autoencoder to meta", "autoencoder to cpu", "student to meta",
        "student to cpu", "autoencoder to meta",
    ]  # fmt: skip


def test_a_network_in_blocks_answers_alike_and_holds_no_weights(network: nn.Module) -> None:
    ours = {p.data_ptr() for p in network.parameters()}
    shell = streamed(network, CPU)
    for _ in range(2):
        assert torch.equal(ask(shell), ask(network))
        assert {p.device.type for p in shell.parameters()} == {"meta"}
    assert {p.data_ptr() for p in network.parameters()} == ours


def test_the_cpu_has_nobody_to_take_turns_with(bundle: Any, network: nn.Module) -> None:
    own = bundle.denoiser
    model = Denoiser(
        own.spec, own.autoencoder, network, own.projection, CPU, precision=own.precision,
        limits=Limits(offload="blocks"),
    )  # fmt: skip
    assert model.at_work(model.network) is network
    x, condition = torch.randn(2, 4, 8, 8), model.null_condition(2)
    with torch.inference_mode():
        made = model.predict_x0(x, 9, (0.6, 0.8), condition)
        assert torch.equal(made, own.predict_x0(x, 9, (0.6, 0.8), condition))


def test_a_call_has_no_more_rows_than_memory_has_room_for(make_denoiser: Make) -> None:
    model = make_denoiser()
    model.limits = Limits(rows=6)
    assert choose_batch(model, 2, 100) == 3
    assert measured_batch(model, 1, 100) <= 6
    model.limits = Limits(rows=1)
    assert choose_batch(model, 2, 100) == 1
    model.network.batches.clear()  # type: ignore[union-attr, operator]
    Calls(model).predict_x0(torch.zeros(2, 12, 8, 8), 0, (0.6, 0.8), model.null_condition(2))
    assert model.network.batches == [1, 1]


def test_smaller_decoding_windows_cover_the_canvas_and_overlap_by_a_quarter(
    make_denoiser: Make,
) -> None:
    model, bulk = make_denoiser(), PRESETS["bulk"]
    shape = (150, 90)
    few, many = (decode_windows(shape, bulk, model.spec, most) for most in (None, 32))
    assert len(few) < len(many)
    assert {w.shape for w in many} == {(32, 29)}
    assert decode_windows(shape, bulk, model.spec, 128) == few
    paper = PRESETS["paper"]  # publishes its own windows
    assert decode_windows(shape, paper, model.spec, 32) == decode_windows(shape, paper, model.spec)
    # Nothing but the window itself matters to this autoencoder, so pictures are the same.
    latents = torch.rand(12, *shape) - 0.5
    *_, (_, whole, _) = decode(model, latents, bulk, centre=(0.0, 0.0))
    whole = whole.clone()
    model.limits = Limits(decode=32)
    *_, (_, parts, left) = decode(model, latents, bulk, centre=(0.0, 0.0))
    assert not left
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(encode(model, whole), latents, atol=1e-5, rtol=0)


@pytest.mark.parametrize("most", [None, 32, 48])
def test_decoding_windows_do_no_more_twice_than_they_must(most: int | None) -> None:
    """Beside those of full size, the last one at the border, which were there before."""
    full = most or room.WINDOW
    overlap = full // 4
    for length in (1, full - 1, full, full + 1, full + 12, 2 * full, 777):
        windows = room._cover((length, 5), most)
        before = cover((length, 5), full, full - overlap)
        assert len({w.shape for w in windows}) == 1
        assert max(w.h for w in windows) <= full
        assert windows[0].y == 0
        assert windows[-1].y1 == length
        assert all(a.y1 - b.y >= overlap for a, b in itertools.pairwise(windows))
        assert len(windows) == len(before)
        work = sum(w.h for w in windows)
        assert work <= sum(w.h for w in before)
        assert work < length + len(windows) * (overlap + 1)
    assert sum(w.area for w in room._cover((256, 256), None)) == 321**2  # 384**2 before
