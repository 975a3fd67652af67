"""What bf16 gains and changes on a CPU: the same canvas in fp32 and in bf16.

    python benchmarks/precision.py --threads 1 --json benchmarks/results/precision-cpu.json

512² px of both demo models from the bundled synthetic slide's field, presets bulk and draft.
Rounds alternate, and the median of each precision counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from first_light import psnr
from machine import provenance

from napari_ssldiff.diffusion.precisions import native_bf16
from napari_ssldiff.evaluation.bench_scene import canvas_of, read_ground, request_for
from napari_ssldiff.models import load_bundle
from napari_ssldiff.models.memory import MemoryOptions
from napari_ssldiff.synthesis import Finished, Sampler, TileDone, synthesize


def compare(model: str, preset: str, rounds: int, size: int = 512) -> dict[str, Any]:
    """Seconds in either precision, and how far apart the pixels are."""
    bundles = {p: load_bundle(model, "cpu", MemoryOptions(precision=p)) for p in ("fp32", "auto")}
    taken = {name: list[float]() for name in bundles}
    made = {name: np.zeros((size, size, 3), np.uint8) for name in bundles}
    ground = read_ground(bundles["fp32"], None, size)  # encoders compute in fp32 in any case
    for name in [*bundles] * (rounds + 1):
        bundle, scene = bundles[name], canvas_of(bundles[name], size)
        request = request_for(bundle, scene, ground, Sampler(preset, seed=1))
        for event in synthesize(request, bundle=bundle, scene=scene):
            if isinstance(event, TileDone):
                made[name][event.box.slices] = event.pixels[..., :3]
            elif isinstance(event, Finished):
                taken[name].append(event.seconds)
    seconds = {name: round(statistics.median(all_[1:]), 2) for name, all_ in taken.items()}
    return {
        "model": model, "preset": preset, "size": size, "seconds": seconds,
        "computes": {name: bundle.denoiser.precision for name, bundle in bundles.items()},
        "share": round(seconds["auto"] / seconds["fp32"], 3),
        "psnr_db": round(psnr(made["fp32"], made["auto"]), 1),
    }  # fmt: skip


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = [
        compare(model, preset, options.rounds)
        for model in ("demo-histology", "demo-naip")
        for preset in ("bulk", "draft")
    ]
    result = {**provenance(), "native_bf16": native_bf16(), "threads": torch.get_num_threads()}
    result["rows"] = rows
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
