"""How long an edited cell takes to be seen: preset draft, as the dock's brush asks for it.

    python benchmarks/edit_time.py --json benchmarks/results/edit-time.json

From the edited field to the last pixel: one cell, and a patch of 3 × 3, with the image around them
as context. Reading the context is in the time; opening the embeddings before is not.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import provenance
from skimage.data import immunohistochemistry

from napari_ssldiff.embeddings import edit
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models import load_bundle
from napari_ssldiff.scenes.levels import ArrayLevel, Problems
from napari_ssldiff.scenes.scene import PixelSize, Scene
from napari_ssldiff.synthesis import Finished, Sampler, make_request, synthesize
from napari_ssldiff.synthesis.prepare import embed_region


def seconds(cells: int, repeats: int, device: str) -> dict[str, Any]:
    """Of drafts of ``cells`` × ``cells`` cells in the middle of an image."""
    bundle = load_bundle("demo-histology", device)
    pixels = immunohistochemistry()
    level = ArrayLevel(pixels, "YXC", "C", (512, 512), Problems(), "immunohistochemistry")
    scene = Scene("", "immunohistochemistry", (level,), PixelSize(0.5, 0.5, "micrometer"))
    whole, size = Region.from_box(scene.box), bundle.spec.cell
    field = embed_region(scene, whole, bundle)
    first = 2
    mask = np.zeros(field.shape)
    mask[first : first + cells, first : first + cells] = 1
    changed = edit.paint(field, field.vectors[0, 0], mask)
    region = Region.from_box(Box(first * size, first * size, cells * size, cells * size))
    taken, evaluations = [], 0
    for n in range(repeats + 1):  # the first one loads the student
        begin = time.perf_counter()
        request = make_request(
            scene, region, bundle, Sampler("draft", seed=n), field=changed, context=size
        )
        for event in synthesize(request, bundle=bundle, scene=scene):
            if isinstance(event, Finished):
                evaluations = event.evaluations
        taken.append(time.perf_counter() - begin)
    return {
        "cells": cells * cells, "evaluations": evaluations,
        "seconds": round(float(np.median(taken[1:])), 3),
        "all": [round(t, 3) for t in taken[1:]],
    }  # fmt: skip


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [seconds(cells, options.repeats, options.device) for cells in (1, 3)]
    text = json.dumps({**provenance(), "threads": options.threads, "rows": rows}, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
