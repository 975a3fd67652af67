"""The figures of the first milestone, on real held-out images, for both demo models.

    python benchmarks/first_light.py DATA --json benchmarks/results/first_light.json

DATA is a folder with ``samples/``, ``histology/`` and ``satellite/``, as the fold tables name
them. Nothing here was seen in training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import provenance
from numpy.typing import NDArray
from PIL import Image

from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.evaluation import embedding_fidelity, evaluation_scenes
from napari_ssldiff.evaluation.fidelity import synthesise_region
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models import ModelBundle, load_bundle
from napari_ssldiff.scenes import open_scene
from napari_ssldiff.synthesis import Sampler, TileDone, embed_region, make_request, synthesize

HELD_OUT = {
    "demo-histology": ("histology/osteosarcoma_1024", "histology/folds.csv"),
    "demo-naip": ("satellite/naip_60cm", "satellite/naip_60cm/tiles.csv"),
}
JOBS = {
    "demo-histology": ("samples/cmu_small_region.svs", "600,900,768,768"),
    "demo-naip": ("samples/naip_santa_monica_2020_53_rgbn_utm.tif", "0,0,256,256"),
}


def ncc(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Normalised cross-correlation of two grey-level images."""
    x, y = (p[..., :3].astype(np.float64).mean(-1).ravel() for p in (a, b))
    return float(np.corrcoef(x, y)[0, 1])


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """In dB; identical images give 99."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def wall_time(data: Path, model: str) -> dict[str, Any]:
    """Seconds of the whole ``vary`` command, the start of Python included."""
    path, region = JOBS[model]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "napari_ssldiff", "vary", str(data / path)]
        command += ["--region", region, "-o", f"{folder}/out.ome.zarr", "--png", f"{folder}/o.png"]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - start
    return {"source": path, "region": region, "seconds": round(seconds, 1)}


def repeatability(bundle: ModelBundle, data: Path) -> dict[str, Any]:
    """Same request twice, two seeds, strength 0 against the round trip."""
    path, text = JOBS[bundle.card.id]
    x, y, _, _ = (int(n) for n in text.split(","))
    region = Region.from_box(Box(y, x, 256, 256))
    with open_scene(data / path) as scene:
        real, first, round_trip = synthesise_region(scene, region, bundle, Sampler(seed=0))
        again = synthesise_region(scene, region, bundle, Sampler(seed=0))[1]
        other = synthesise_region(scene, region, bundle, Sampler(seed=1))[1]
        zero = synthesise_region(scene, region, bundle, Sampler(strength=0))[1]
    h, w = min(zero.shape[0], round_trip.shape[0]), min(zero.shape[1], round_trip.shape[1])
    return {
        "identical_twice": bool(np.array_equal(first, again)),
        "ncc_other_seed": round(ncc(first, other), 3),
        "ncc_source": round(ncc(first, real), 3),
        "ncc_other_seed_source": round(ncc(other, real), 3),
        "strength_0_psnr_to_round_trip": round(psnr(zero[:h, :w], round_trip[:h, :w]), 1),
    }


def quadrants(bundle: ModelBundle, paths: list[Path]) -> dict[str, Any]:
    """A field of four images' embeddings, one per quadrant; each quadrant re-embedded.

    Returns the mean cosine of every quadrant's cells to the request of its own quadrant and to
    that of the transposed layout, for the two quadrants that a transposition swaps.
    """
    cell, side = bundle.spec.cell, 4
    size = side * cell
    fields = []
    for path in paths[:4]:
        with open_scene(path) as scene:
            box = Box(0, 0, size, size)
            fields.append(embed_region(scene, Region.from_box(box), bundle).vectors)
    a, b, c, d = fields
    grid = np.concatenate([np.concatenate([a, b], 1), np.concatenate([c, d], 1)], 0)
    with tempfile.TemporaryDirectory() as folder:
        blank = Path(folder) / "blank.png"
        Image.new("RGB", (2 * size, 2 * size), (255, 255, 255)).save(blank)
        with open_scene(blank) as canvas:
            region = Region.from_box(canvas.box)
            field = EmbeddingField(
                grid,
                (0, 0),
                (cell, cell),
                bundle.encoder.spec.id,
                bundle.card.resolution,
                bundle.card.unit,
            )
            request = make_request(canvas, region, bundle, Sampler(), field=field, grid="model")
            made = np.zeros((2 * size, 2 * size, 3), np.uint8)
            for event in synthesize(request, bundle=bundle, scene=canvas):
                if isinstance(event, TileDone):
                    made[event.box.slices] = event.pixels[..., :3]
    cells = made.reshape(2 * side, cell, 2 * side, cell, 3).transpose(0, 2, 1, 3, 4)
    seen = bundle.encoder.embed(cells.reshape(-1, cell, cell, 3)).reshape(2 * side, 2 * side, -1)
    swapped = grid.transpose(1, 0, 2)
    parts = {
        "top right": (slice(0, side), slice(side, None)),
        "bottom left": (slice(side, None), slice(0, side)),
    }
    return {
        name: {
            "own": round(float((seen[at] * grid[at]).sum(-1).mean()), 3),
            "transposed": round(float((seen[at] * swapped[at]).sum(-1).mean()), 3),
        }
        for name, at in parts.items()
    }


def batch_shapes(bundle: ModelBundle, data: Path) -> float:
    """PSNR in dB between the same request at 16 and at 5 windows per network call."""
    from napari_ssldiff.diffusion.canvas import sample
    from napari_ssldiff.diffusion.presets import PRESETS
    from napari_ssldiff.synthesis.prepare import frame_of
    from napari_ssldiff.synthesis.run import canvas_task, to_uint8

    path, text = JOBS[bundle.card.id]
    x, y, _, _ = (int(n) for n in text.split(","))
    region = Region.from_box(Box(y, x, 256, 256))
    with open_scene(data / path) as scene:
        request = make_request(scene, region, bundle)
        task = canvas_task(request, bundle, scene, frame_of(scene, region, bundle, "model"))
    pictures = []
    with torch.inference_mode():
        for batch in (16, 5):
            z = sample(bundle.denoiser, replace(task, batch=batch), PRESETS["bulk"])
            pictures.append(to_uint8(bundle.denoiser.autoencoder.decode(z[None])[0]))
    return round(psnr(*pictures), 1)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=320)
    parser.add_argument("--only", choices=["repeatability"], help="this part alone")
    arguments = parser.parse_args()
    rows = []
    for model, (folder, table) in HELD_OUT.items():
        data = arguments.data
        bundle = load_bundle(model, "cpu")
        if arguments.only:
            rows.append({"model": model, "repeatability": repeatability(bundle, data)})
            continue
        paths = evaluation_scenes([data / folder], data / table)
        # Spread over the fold: neighbours in the list are the same place in other years.
        keep = np.linspace(0, len(paths) - 1, min(len(paths), 24)).round().astype(int)
        chosen = [paths[i] for i in keep]
        row = {
            "model": model,
            "model_hash": bundle.hash,
            "vary": wall_time(data, model),
            "repeatability": repeatability(bundle, data),
            "batch_shape_psnr": batch_shapes(bundle, data),
            "quadrants": quadrants(bundle, chosen[:: max(1, len(chosen) // 5)]),
            "fidelity": embedding_fidelity(bundle, chosen, Sampler(), cells=arguments.cells),
        }
        rows.append(row)
        print(json.dumps(row, indent=2), flush=True)
    arguments.json.write_text(json.dumps({**provenance(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
