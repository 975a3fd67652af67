"""What the canvas engine itself costs: memory, overhead and promptness, on a stub of a model.

    python benchmarks/engine_limits.py --json benchmarks/results/engine-limits.json

The stub has the shape of the paper's model (256-px windows, latents of 32 × 32 by 4) and a network
that takes 5 ms a batch and does nothing, so that all else is ours. Memory is measured in a process
of its own each time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from machine import provenance
from torch import nn

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.diffusion.bands import canvas_bytes, sample_bands
from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec
from napari_ssldiff.diffusion.canvas import CanvasTask, Counters, plan, sample
from napari_ssldiff.diffusion.conditioning import Condition
from napari_ssldiff.diffusion.decode import Decoder
from napari_ssldiff.diffusion.lazy import LazyCanvas
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import Cancelled
from napari_ssldiff.evaluation.instrument import PeakMemory
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models import load_bundle
from napari_ssldiff.scenes import PixelSize
from napari_ssldiff.scenes.blank import blank_scene
from napari_ssldiff.synthesis import Progress, Sampler, TileDone, make_request, synthesize
from napari_ssldiff.synthesis.cancel import CancelToken

SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "num_train_timesteps": 1000,
}


class Projection(nn.Module):
    """Tokens as they are."""

    def forward(self, tokens: torch.Tensor) -> Condition:
        return Condition(tokens)


class Stub(nn.Module):
    """A network that takes its time and returns its input."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.spent = seconds, 0.0

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        begin = time.perf_counter()
        # Not asleep: a sleeping thread would lend its time to others.
        while time.perf_counter() - begin < self.seconds:
            pass
        self.spent += time.perf_counter() - begin
        return SimpleNamespace(sample=x)


class Folding(nn.Module):
    """An autoencoder that only folds pixels into channels."""

    def encode(self, images: torch.Tensor) -> Any:
        return SimpleNamespace(latents=torch.nn.functional.pixel_unshuffle(images, 8)[:, :4])

    def decode(self, latents: torch.Tensor) -> Any:
        wide = latents.repeat(1, 48, 1, 1)
        return SimpleNamespace(sample=torch.nn.functional.pixel_shuffle(wide, 8))


def model(seconds: float = 0.0) -> Denoiser:
    """The stub."""
    spec = ModelSpec(
        window=256, tokens=2, token_width=8, latent_channels=4, latent_factor=8,
        prediction="sample", schedule=SCHEDULE,
    )  # fmt: skip
    autoencoder = Autoencoder(Folding(), 1, 4)
    return Denoiser(spec, autoencoder, Stub(seconds), Projection(), torch.device("cpu"))  # type: ignore[arg-type]


def task(pixels: int, guidance: float = 1.5) -> CanvasTask:
    """A square canvas."""
    tokens = torch.ones(4, 8) / 8**0.5
    edge = pixels // 8
    return CanvasTask(
        box=Box(0, 0, edge, edge), tokens=lambda window: tokens, steps=20, guidance=guidance,
        strength=1.0, seed=1, batch=None,
    )  # fmt: skip


def lazy_memory(pixels: int, tiles: int) -> dict[str, Any]:
    """Tiles of a canvas row by row into nothing, the caches full long before the end."""
    canvas = LazyCanvas(
        model(), task(pixels), PRESETS["lazy"], threads=1,
        cache_bytes=64 * 2**20, tile_bytes=16 * 2**20,
    )  # fmt: skip
    side = pixels // 256
    memory, half = PeakMemory(torch.device("cpu")), None
    for n in range(tiles):
        # A snake: every next tile touches the one before.
        row, column = divmod(n, side)
        canvas.tile(row, column if row % 2 == 0 else side - 1 - column)
        if n == tiles // 2:
            half = memory.read()["peak_rss_mb"]
    return {"size": pixels, "tiles": tiles, "half_way_mb": half, **memory.read()}


def _in_bands(pixels: int, budget: int) -> int:
    """A canvas in bands, looked at in its middle; how many tiles it had."""
    stub, work, preset = model(), task(pixels, 1.0), PRESETS["bulk"]
    whole = list(Box(0, 0, pixels, pixels).tiles(256))
    # Shared out as synthesize does.
    middle = work.box.centre
    decoder = Decoder(stub, preset, work.box.shape, whole, focus=lambda: middle, budget=budget // 4)
    count = 0
    for step in sample_bands(stub, work, preset, budget=budget // 2):
        if step.rows is not None and step.place is not None:
            count += sum(len(finished) for finished in decoder.feed(step.rows, step.place))
    decoder.close()
    return count


def bulk_memory(pixels: int, budget: int) -> dict[str, Any]:
    """A canvas whose state is larger than the budget, tiles into nothing."""
    _in_bands(512, 0)  # what is loaded at the first use is no canvas
    memory = PeakMemory(torch.device("cpu"))
    count = _in_bands(pixels, budget)
    found = memory.read()
    state = canvas_bytes(task(pixels, 1.0), model().spec)
    added = found["peak_rss_mb"] - found["rss_before_mb"]
    return {
        "size": pixels, "tiles": count, "budget_mb": budget / 2**20,
        "state_of_the_whole_canvas_mb": state / 2**20, "added_mb": added, **found,
    }  # fmt: skip


def overhead(pixels: int) -> dict[str, Any]:
    """Share of wall time inside a network of 5 ms a batch, decoding included in neither."""
    stub, work, preset = model(0.005), task(pixels), PRESETS["bulk"]
    sample(stub, work, preset)
    found = {}
    for name in ("whole", "bands"):
        network = stub.network
        network.spent, begin = 0.0, time.perf_counter()  # type: ignore[assignment]
        if name == "whole":
            sample(stub, work, preset)
        else:
            for _ in sample_bands(stub, work, preset):
                pass
        seconds = time.perf_counter() - begin
        found[name] = {"seconds": round(seconds, 2), "share": round(network.spent / seconds, 3)}  # type: ignore[operator]
    windows = len(plan(work, preset, stub.spec).windows)
    return {"size": pixels, "windows": windows, **found}


def distance() -> dict[str, Any]:
    """A tile at the corner and one a million pixels away, each from nothing."""
    found: dict[str, list[float]] = {"near": [], "far": []}
    evaluations = {}
    for _ in range(5):
        for name, key in (("near", (3, 3)), ("far", (3907, 3907))):
            counters = Counters()
            canvas = LazyCanvas(
                model(0.005), task(256), PRESETS["lazy"], threads=1, counters=counters
            )
            begin = time.perf_counter()
            canvas.tile(*key)
            found[name].append(time.perf_counter() - begin)
            evaluations[name] = counters.evaluations
    near, far = (float(np.median(found[n])) for n in ("near", "far"))
    return {
        "near_s": round(near, 3), "far_s": round(far, 3), "ratio": round(far / near, 3),
        "evaluations": evaluations,
    }  # fmt: skip


def promptness() -> dict[str, Any]:
    """From the wish to stop to the end of the run, beyond one network call."""
    late = []
    for wait in np.linspace(0.2, 0.6, 9):
        stub, stop, at = model(0.05), threading.Event(), [0.0]

        def check(stop: threading.Event = stop) -> None:
            if stop.is_set():
                raise Cancelled("cancelled")

        def wish(stop: threading.Event = stop, at: list[float] = at) -> None:
            at[0] = time.perf_counter()
            stop.set()

        timer = threading.Timer(float(wait), wish)
        timer.start()
        try:
            sample(stub, task(1024), PRESETS["bulk"], check=check)
        except Cancelled:
            late.append(time.perf_counter() - at[0])
        timer.join()
    return {
        "network_call_s": 0.05, "runs": len(late), "largest_s": round(max(late), 3),
        "median_s": round(float(np.median(late)), 3),
    }  # fmt: skip


def cancelling(preset: str, height: int, width: int) -> dict[str, Any]:
    """From a click on Cancel to the end of ``synthesize``, with a demo model, by its stages.

    Beside the longest call of the network and of the decoder that were seen: what is running is
    waited for.
    """
    bundle = load_bundle("demo-histology", "cpu")
    calls: dict[str, list[float]] = {"network": [0.0], "decoder": [0.0]}

    def timed(call: Any, name: str) -> Any:
        def inside(*args: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            made = call(*args, **options)
            calls[name].append(time.perf_counter() - begin)
            return made

        return inside

    model = bundle.denoiser
    model.predict_x0 = timed(model.predict_x0, "network")  # type: ignore[method-assign]
    model.autoencoder.decode = timed(model.autoencoder.decode, "decoder")  # type: ignore[method-assign]
    scene = blank_scene((height, width), PixelSize(0.5, 0.5, "micrometer"), "blank")
    shape = (height // bundle.spec.cell, width // bundle.spec.cell)
    vectors = np.random.default_rng(0).normal(size=(*shape, bundle.spec.token_width))
    edges = (float(bundle.spec.cell),) * 2
    encoder = bundle.encoder.spec
    field = EmbeddingField(
        vectors.astype(np.float32), (0.0, 0.0), edges, encoder.id, encoder.resolution, encoder.unit
    )
    late: dict[str, list[float]] = {"denoising": [], "decoding": []}
    for n in range(10):
        stage = "decoding" if n % 2 and (preset, width) == ("bulk", height) else "denoising"
        # Decoding comes behind the steps: one brings it near.
        steps = 1 if stage == "decoding" else None
        request = make_request(
            scene, Region.from_box(scene.box), bundle, Sampler(preset, steps=steps, seed=n),
            field=field, grid="model",
        )  # fmt: skip
        cancel, at = CancelToken(), [0.0]

        def wish(cancel: CancelToken = cancel, at: list[float] = at) -> None:
            at[0] = time.perf_counter()
            cancel.cancel()

        timer = None
        try:
            for event in synthesize(request, bundle=bundle, scene=scene, cancel=cancel):
                begun = isinstance(event, TileDone if stage == "decoding" else Progress)
                if timer is None and begun:
                    timer = threading.Timer(0.1 + 0.07 * n, wish)
                    timer.start()
        except Cancelled:
            late[stage].append(time.perf_counter() - at[0])
        if timer is not None:
            timer.join()
    return {
        "preset": preset, "size": [height, width],
        "late_s": {k: [round(t, 3) for t in v] for k, v in late.items()},
        "longest_call_s": {k: round(max(v), 3) for k, v in calls.items()},
    }  # fmt: skip


def apart(name: str, *arguments: int | str) -> dict[str, Any]:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--part", name, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--tiles", type=int, default=256, help="per lazy canvas (256)")
    options = parser.parse_args()
    if options.part:
        name, *numbers = options.part
        arguments = (int(a) if a.isdigit() else a for a in numbers)
        print(json.dumps(globals()[name](*arguments)))
        return
    result = {
        **provenance(),
        "lazy_memory": [
            apart("lazy_memory", size, options.tiles) for size in (4096, 32_768, 204_800)
        ],
        # Smaller than the state of the canvas; the first is less than a decoding window takes.
        "bulk_memory": [
            apart("bulk_memory", size, budget * 2**20)
            for size, budget in ((16_384, 64), (16_384, 256), (32_768, 512))
        ],
        "overhead": [apart("overhead", size) for size in (1024, 2048)],
        "distance": apart("distance"),
        "promptness": apart("promptness"),
        "cancelling": [
            apart("cancelling", preset, height, width)
            for preset, height, width in (
                ("bulk", 1024, 1024),
                ("bulk", 1024, 4096),
                ("lazy", 512, 512),
            )
        ],
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
