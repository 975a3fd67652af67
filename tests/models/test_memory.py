"""What a model takes is known before it is loaded, and a budget is kept to or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from napari_ssldiff.diffusion.halves import LAYERS
from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.models import load_bundle, memory
from napari_ssldiff.models.memory import MemoryOptions, MemoryPlan, plan_memory, read_bytes
from napari_ssldiff.models.needs import Needs, measure
from napari_ssldiff.models.random_weights import shape_card
from napari_ssldiff.models.skeleton import skeleton_of
from napari_ssldiff.models.trace import META, peak_bytes

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GB = 10**9
MAPS = Path("/proc/self/maps")
Plan = Callable[..., MemoryPlan]


@pytest.fixture(scope="module")
def needs() -> dict[str, Needs]:
    """What the published model of 400.9 M parameters takes on CUDA, by precision."""
    card = shape_card("paper-brca-20x")
    made = skeleton_of(card)
    half = measure(card, made, CUDA, "bf16")
    full = {**half.weights, "network": sum(p.nbytes for p in made.network.parameters())}
    return {"bf16": half, "fp32": replace(half, weights=full, largest=2 * half.largest)}


@pytest.fixture
def card_of(needs: dict[str, Needs], monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Plans the published model for a CUDA card with so many bytes free."""
    monkeypatch.setattr(memory, "default_precision", lambda device: "bf16")
    monkeypatch.setattr(memory, "measure", lambda card, made, device, kept: needs[kept])
    card, made = shape_card("paper-brca-20x"), object()

    def plan(free: float, **options: Any) -> MemoryPlan:
        monkeypatch.setattr(memory, "free_bytes", lambda device: int(free))
        return plan_memory(card, CUDA, MemoryOptions(**options), made)  # type: ignore[arg-type]

    return plan


def test_a_trace_counts_what_lives_at_once() -> None:
    chain = nn.Sequential(nn.Linear(10, 1000), nn.ReLU(), nn.Linear(1000, 10))
    for n in (1, 3):
        x = torch.empty(n, 10, device=META)
        # Before and after the ReLU, 1000 floats each.
        assert peak_bytes(chain, lambda m, x=x: m(x)) == 8000 * n
    assert next(chain.parameters()).device == CPU


def test_attention_is_counted_as_kernels_do_it() -> None:
    q = torch.empty(1, 1, 4096, 8, device=META)
    attention = nn.functional.scaled_dot_product_attention
    assert peak_bytes(nn.Identity(), lambda m: attention(m(q), q, q)) == q.nbytes


def test_what_looks_at_numbers_cannot_be_traced() -> None:
    x = torch.empty(1, 4, device=META)
    assert peak_bytes(nn.Linear(4, 4), lambda m: float(m(x).sum())) is None


def test_the_published_model_takes_an_8_gb_card_without_offload(card_of: Plan) -> None:
    plan = card_of(7.6 * GB)
    assert (plan.precision, plan.kept, plan.limits.offload) == ("bf16", "bf16", "none")
    assert 0.80 * GB < plan.needs.weights["network"] < 0.82 * GB  # two bytes per parameter
    assert plan.limits.decode is None
    assert plan.limits.rows >= 128
    assert plan.peak + plan.limits.canvas <= plan.available == int(0.9 * 7.6 * GB)
    assert plan.text.startswith("paper-brca-20x needs about 2.1 GB of 6.8 GB on cuda: ")
    assert "weights 1.1 GB in bf16, 8 windows 0.6 GB, decoding 0.9 GB" in plan.text
    assert "\n" not in plan.text


def test_precision_is_the_users(card_of: Plan) -> None:
    plan = card_of(7.6 * GB, precision="fp32")
    assert (plan.precision, plan.kept) == ("fp32", "fp32")
    assert 1.60 * GB < plan.needs.weights["network"] < 1.61 * GB


def test_the_less_memory_the_more_waits_outside_it(card_of: Plan) -> None:
    plans = [card_of(24 * GB, budget=int(b * GB)) for b in (24, 2.9, 2.0, 1.4, 0.75, 0.5)]
    offloads = [plan.limits.offload for plan in plans]
    order = ["none", "parts", "blocks"]
    assert [order.index(o) for o in offloads] == sorted(order.index(o) for o in offloads)
    assert set(offloads) == set(order)
    windows = [plan.edge for plan in plans]
    assert windows == sorted(windows, reverse=True)
    assert windows[0] == 128 > windows[-1]
    for plan in plans:
        assert plan.peak + plan.limits.canvas <= plan.available
        assert plan.rows >= 1
    assert "offload blocks, decoded in windows of" in plans[-1].text


def test_an_offload_that_was_asked_for_is_taken_where_it_is_not_needed(card_of: Plan) -> None:
    assert card_of(24 * GB, offload="blocks").limits.offload == "blocks"
    assert card_of(24 * GB).limits.offload == "none"


def test_what_does_not_fit_is_refused_with_the_ways_out(card_of: Plan) -> None:
    with pytest.raises(ModelError) as error:
        card_of(24 * GB, budget=10**8, precision="fp32")
    said = str(error.value)
    assert "paper-brca-20x needs at least" in said
    assert "network 1.6 GB" in said
    assert "may take 0.1 GB" in said
    for way in ("--precision bf16", "a larger --memory", "--device cpu"):
        assert way in said
    assert "\n" not in said
    with pytest.raises(ModelError, match="--offload auto"):
        card_of(1 * GB, offload="none")


def test_a_budget_may_stand_in_the_environment(
    card_of: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(memory.MEMORY, "3GB")
    assert card_of(24 * GB).available == 3 * GB
    assert card_of(24 * GB, budget=5 * GB).available == 5 * GB  # the command's own word wins
    monkeypatch.setenv(memory.MEMORY, "much")
    with pytest.raises(InputError, match="'much' is no amount of memory"):
        card_of(24 * GB)


def test_amounts_are_read_as_people_write_them() -> None:
    assert [read_bytes(t) for t in ("6GB", "500 MiB", "1.5e9", "4gib")] == [
        6 * GB, 500 * 2**20, 15 * 10**8, 4 * 2**30,
    ]  # fmt: skip
    with pytest.raises(InputError):
        read_bytes("6 elephants")
    for wrong in ({"precision": "int8"}, {"offload": "disk"}, {"budget": 0}):
        with pytest.raises(InputError):
            MemoryOptions(**wrong)  # type: ignore[arg-type]


def test_the_peak_is_that_of_the_worst_stage() -> None:
    weights = {"network": 100, "student": 0, "autoencoder": 20, "projection": 1, "encoder": 30}
    needs = Needs(weights, largest=5, row=7, cell=2, decode=400, border=0, base=1000)
    kernels = needs.peak("none", 0, 0, 0) - 1151
    assert needs.peak("none", 2, 0, 0) - kernels == 1151 + 14
    assert needs.peak("parts", 2, 0, 0) - kernels == 1101 + 14
    assert needs.peak("parts", 2, 128, 0) - kernels == 1021 + 400
    assert needs.peak("blocks", 2, 64, 0) - kernels == 1021 + 100
    assert needs.peak("blocks", 2, 0, 9) - kernels == 1031 + 18


@pytest.mark.parametrize("native", [False, True])
def test_without_a_budget_the_cpu_is_as_it_was(
    native: bool, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "native_bf16", lambda: native)
    bundle = load_bundle(str(tiny_folder), "cpu")
    assert bundle.plan is not None
    limits = bundle.denoiser.limits
    assert (limits.rows, limits.decode, limits.offload) == (None, None, "none")
    computes = "bf16" if native else "fp32"
    assert bundle.computed == {"device": "cpu", "precision": computes, "weights": "fp32"}
    assert {p.dtype for p in bundle.denoiser.network.parameters()} == {torch.float32}


@pytest.mark.parametrize("native", [False, True])
def test_the_cpu_keeps_weights_in_half_and_computes_in_what_it_has(
    native: bool, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "native_bf16", lambda: native)
    full = load_bundle(str(tiny_folder), "cpu", MemoryOptions(precision="fp32")).denoiser
    assert full.precision == "fp32"
    bundle = load_bundle(str(tiny_folder), "cpu", MemoryOptions(precision="bf16"))
    computes = "bf16" if native else "fp32"
    assert bundle.computed == {"device": "cpu", "precision": computes, "weights": "bf16"}
    layers = [m for m in bundle.denoiser.network.modules() if isinstance(m, LAYERS)]
    assert {m.weight.dtype for m in layers} == {torch.bfloat16}
    assert {p.dtype for p in bundle.denoiser.autoencoder.parameters()} == {torch.float32}
    x, condition = torch.randn(2, 4, 8, 8), full.null_condition(2)
    with torch.inference_mode():
        made = bundle.denoiser.predict_x0(x, 500, (0.6, 0.8), condition)
        exact = full.predict_x0(x, 500, (0.6, 0.8), condition)
    torch.testing.assert_close(made, exact, atol=0.05, rtol=0.05)
    halved = load_bundle(str(tiny_folder), "cpu", MemoryOptions(precision="fp16"))
    assert halved.computed == {"device": "cpu", "precision": "fp32", "weights": "fp16"}


def mapped(network: nn.Module) -> set[str]:
    """Names of the files in whose pages a network's weights lie; "" for memory of its own."""
    lines = (line.split(maxsplit=5) for line in MAPS.read_text().splitlines())
    spans = [([int(n, 16) for n in a.split("-")], Path(*rest)) for a, _, _, _, _, *rest in lines]
    places = [p.data_ptr() for p in network.parameters()]
    files = {path for at in places for (low, high), path in spans if low <= at < high}
    return {path.name if path.suffix == ".safetensors" else "" for path in files}


def test_a_cpu_that_offloads_leaves_weights_in_their_files(tiny_folder: Path) -> None:
    full = load_bundle(str(tiny_folder), "cpu").denoiser
    bundle = load_bundle(str(tiny_folder), "cpu", MemoryOptions(offload="blocks"))
    model = bundle.denoiser
    assert model.limits.offload == "parts"
    if MAPS.exists():
        assert mapped(model.network) == {"unet.safetensors"}
        assert mapped(full.network) == {""}
    assert bundle.plan is not None
    assert bundle.plan.needs.weights["network"] == 0
    x, condition = torch.randn(2, 4, 8, 8), full.null_condition(2)
    with torch.inference_mode():
        made = model.predict_x0(x, 500, (0.6, 0.8), condition)
        torch.testing.assert_close(made, full.predict_x0(x, 500, (0.6, 0.8), condition))
        z = torch.randn(4, 8, 8)
        torch.testing.assert_close(
            model.autoencoder.decode(z[None]), full.autoencoder.decode(z[None])
        )


def test_it_is_said_before_a_weight_is_read(make_tiny_model: Any, tmp_path: Path) -> None:
    folder, said = make_tiny_model(tmp_path / "tiny"), []
    (folder / "unet.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="damaged"):
        load_bundle(str(folder), "cpu", tell=said.append)
    assert not said, "a small model, run as usual, is not worth a word"
    halved = MemoryOptions(precision="bf16")
    with pytest.raises(ModelError, match="damaged"):
        load_bundle(str(folder), "cpu", halved, tell=said.append)
    assert len(said) == 1
    assert said[0].startswith("tiny needs about")
    with pytest.raises(ModelError, match=r"tiny needs at least .* on cpu"):  # and not of the damage
        load_bundle(str(folder), "cpu", MemoryOptions(budget=10**6))


def test_a_smaller_decoding_window_is_part_of_what_is_recorded(tiny_folder: Path) -> None:
    bundle = load_bundle(str(tiny_folder), "cpu")
    bundle.denoiser.limits = memory.Limits(decode=48)
    assert bundle.computed["decode_window"] == 48 * 8
