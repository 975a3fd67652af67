"""Seconds that one 256-px region takes, for both demo models, with all cores to itself.

    python benchmarks/region_time.py --json benchmarks/results/region-time.json

The synthesis alone, from the request to the last pixel, as ``evaluate`` times it; run it on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from machine import provenance

from napari_ssldiff.geometry import Region
from napari_ssldiff.models import load_bundle
from napari_ssldiff.scenes import PixelSize
from napari_ssldiff.scenes.blank import blank_scene
from napari_ssldiff.synthesis import Sampler, make_request, synthesize

MODELS = ("demo-histology", "demo-naip")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    result = {**provenance(), "threads": torch.get_num_threads(), "models": {}}
    for model in MODELS:
        bundle = load_bundle(model, "cpu")
        result["precision"] = bundle.denoiser.precision
        spec, found = bundle.encoder.spec, {}
        scene = blank_scene((256, 256), PixelSize(spec.resolution, spec.resolution, spec.unit))
        for preset in ("bulk", "draft"):
            request = make_request(scene, Region.from_box(scene.box), bundle, Sampler(preset))
            seconds = []
            for _ in range(options.runs + 1):
                begin = time.perf_counter()
                for _ in synthesize(request, bundle=bundle, scene=scene):
                    pass
                seconds.append(round(time.perf_counter() - begin, 3))
            # The first run warms up.
            found[preset] = {"median_s": float(np.median(seconds[1:])), "all_s": seconds[1:]}
        result["models"][model] = found
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
