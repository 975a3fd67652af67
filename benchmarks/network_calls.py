"""What one network call costs: by batch, by thread, and with weights in half precision.

    python benchmarks/network_calls.py --model demo-histology --json calls.json
    python benchmarks/network_calls.py --random-weights paper-brca-20x --device cuda --json c.json

Milliseconds per call on a thread that has called before and on a new one (where cuDNN's plans are
made again), by autocast as the engine does it and with the weights themselves in half precision;
and what share of the device's own bf16 matrix product the network reaches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import provenance
from torch.utils.flop_counter import FlopCounterMode

from napari_ssldiff.diffusion.bundle import Denoiser, copy_on_cpu
from napari_ssldiff.models import get_card, load_bundle


def wait(device: torch.device) -> None:
    """Until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(call: Callable[[], Any], device: torch.device, repeats: int) -> dict[str, float]:
    """Of the first call and of the median of those after it."""
    taken = []
    for _ in range(repeats + 1):
        wait(device)
        begin = time.perf_counter()
        call()
        wait(device)
        taken.append(1000 * (time.perf_counter() - begin))
    return {"first": round(taken[0], 2), "then": round(statistics.median(taken[1:]), 2)}


def on_new_thread(call: Callable[[], Any], device: torch.device, repeats: int) -> dict[str, float]:
    """The same on a thread that has never called."""
    found: list[dict[str, float]] = []
    thread = threading.Thread(target=lambda: found.append(milliseconds(call, device, repeats)))
    thread.start()
    thread.join()
    return found[0]


def flops(model: Denoiser) -> float:
    """Floating-point operations of one evaluation."""
    network = copy_on_cpu(model.network).to("meta")
    edge, spec = model.spec.window_latents, model.spec
    condition = model.null_condition(1).to(torch.device("meta"))
    x = torch.zeros(1, spec.latent_channels, edge, edge, device="meta")
    inputs = x if condition.spatial is None else torch.cat([x, condition.spatial], 1)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(inputs, torch.zeros(1, dtype=torch.long, device="meta"), condition.context)
    return float(counter.get_total_flops())


def matmul(device: torch.device) -> float:
    """Operations per second of a large bf16 matrix product."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    b = torch.randn_like(a)
    taken = milliseconds(lambda: a @ b, device, 10)["then"]
    return 2 * n**3 / (taken / 1000)


@torch.inference_mode()
def measure(model: Denoiser, batches: list[int], repeats: int) -> list[dict[str, Any]]:
    """A row per batch."""
    spec, device, rows = model.spec, model.device, []
    half = torch.float16 if model.precision == "fp16" else torch.bfloat16
    light = copy_on_cpu(model.network).to(device, half, memory_format=torch.channels_last)  # type: ignore[call-overload]
    each = flops(model)
    for count in batches:
        x = torch.randn(count, spec.latent_channels, spec.window_latents, spec.window_latents)
        x, condition = x.to(device), model.null_condition(count)
        times = torch.full((count,), 500, device=device)

        def engine(x: torch.Tensor = x, condition: Any = condition) -> Any:
            with torch.inference_mode():
                return model.predict_x0(x, 500, (0.7, 0.7), condition)

        def weights(x: torch.Tensor = x, condition: Any = condition, times: Any = times) -> Any:
            inputs = x if condition.spatial is None else torch.cat([x, condition.spatial], 1)
            inputs = inputs.to(half).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                return light(inputs, times, condition.context.to(half)).sample

        row: dict[str, Any] = {"windows": count, "autocast": milliseconds(engine, device, repeats)}
        row["autocast_new_thread"] = on_new_thread(engine, device, repeats)
        row["half_weights"] = milliseconds(weights, device, repeats)
        row["tflops"] = round(count * each / row["autocast"]["then"] / 1e9, 2)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="demo-histology")
    parser.add_argument("--random-weights", metavar="CONFIG")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64, 128, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.random_weights:
        from napari_ssldiff.models.random_weights import random_bundle, shape_card

        bundle = random_bundle(shape_card(options.random_weights), options.device)
    else:
        bundle = load_bundle(get_card(options.model), options.device)
    model = bundle.denoiser
    result = {
        **provenance(),
        "model": options.random_weights or options.model,
        "precision": model.precision,
        "device": str(model.device),
        "gflop_per_window": round(flops(model) / 1e9, 2),
        "matmul_tflops": round(matmul(model.device) / 1e12, 2),
        "rows": measure(model, options.batches, options.repeats),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
