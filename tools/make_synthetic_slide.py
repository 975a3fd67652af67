"""Make the bundled synthetic slide: an island of tissue that never was.

    python tools/make_synthetic_slide.py DATA

Grids of embeddings of three training images (one per class) fill the sectors of an ellipse on
glass; the histology demo model paints them. The result is an OME-TIFF pyramid that says in its
description what it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.export import provenance_of
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models import load_bundle
from napari_ssldiff.scenes import PixelSize, Scene, open_scene
from napari_ssldiff.synthesis import (
    Progress,
    Sampler,
    TileDone,
    embed_region,
    make_request,
    synthesize,
)
from napari_ssldiff.training.data import list_files

TARGET = Path(__file__).resolve().parent.parent / "src/napari_ssldiff/data/synthetic-slide.ome.tif"
CELLS = 24
LIMIT = 2 * 2**20


def main() -> None:
    """Synthesise and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    bundle = load_bundle("demo-histology", "cpu")
    cell = bundle.spec.cell
    entry = {
        "glob": "histology/osteosarcoma_1024/*.jpg",
        "folds": {"table": "histology/folds.csv", "key": "path", "fold": "train"},
    }
    grids = []
    files = list_files(arguments.data, entry)
    for kind in ("Viable", "Non-Tumor", "Non-Viable"):
        fields = []
        for path in (f for f in files if f.name.startswith(kind)):
            with open_scene(path) as scene:
                fields.append(embed_region(scene, Region.from_box(scene.box), bundle))
        # The image of its class with the most tissue.
        grids.append(max(fields, key=lambda f: float(np.mean(np.asarray(f.valid)))).vectors)
    glass = bundle.encoder.embed(np.full((1, cell, cell, 3), 243, np.uint8))[0]
    y, x = (np.indices((CELLS, CELLS)) + 0.5) / CELLS * 2 - 1
    vectors = np.broadcast_to(glass, (CELLS, CELLS, len(glass))).copy()
    sector = ((np.arctan2(y, x) / (2 * np.pi) + 0.5) * 3).astype(int) % 3
    wave = 0.12 * np.sin(5 * np.arctan2(y, x))
    inside = (y / 0.8) ** 2 + (x / 0.88) ** 2 < (1 + wave) ** 2
    for r, c in zip(*np.nonzero(inside), strict=True):
        grid = grids[sector[r, c]]
        vectors[r, c] = grid[r % grid.shape[0], c % grid.shape[1]]

    size = CELLS * cell
    blank = np.full((size, size, 3), 243, np.uint8)
    resolution = bundle.card.resolution
    level: Any = blank
    canvas = Scene(
        "synthetic-slide",
        "synthetic-slide",
        [level],
        PixelSize(resolution, resolution, "micrometer"),
    )
    field = EmbeddingField(
        vectors, (0, 0), (cell, cell), bundle.encoder.spec.id, resolution, "micrometer"
    )
    region = Region.from_box(Box(0, 0, size, size))
    request = make_request(canvas, region, bundle, Sampler(seed=arguments.seed), field=field)
    made = blank.copy()
    for event in synthesize(request, bundle=bundle, scene=canvas):
        if isinstance(event, TileDone):
            made[event.box.slices] = event.pixels[..., :3]
        elif isinstance(event, Progress):
            print(f"\r{event.stage} {event.done / event.total:.0%}  ", end="", flush=True)
    print()
    facts = provenance_of(request)
    facts["request"]["field"].pop("vectors")  # the recipe is this script; keep the file small
    description = {"synthetic": True, "note": "Synthetic image, not real tissue.", **facts}
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    levels = [made]
    while max(levels[-1].shape) > 512:
        half = levels[-1].shape[1] // 2, levels[-1].shape[0] // 2
        levels.append(np.asarray(Image.fromarray(levels[-1]).resize(half, Image.Resampling.BOX)))
    with tifffile.TiffWriter(TARGET, ome=True) as writer:
        options: dict[str, Any] = {
            "photometric": "rgb",
            "tile": (256, 256),
            "compression": "jpeg",
            "compressionargs": {"level": 82},
        }
        metadata = {
            "axes": "YXS",
            "Name": "synthetic slide, not real tissue",
            "Description": json.dumps(description),
            "PhysicalSizeX": resolution,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": resolution,
            "PhysicalSizeYUnit": "µm",
        }
        writer.write(levels[0], subifds=len(levels) - 1, metadata=metadata, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **options)
    length = TARGET.stat().st_size
    print(f"{TARGET.name}: {length / 2**20:.2f} MiB, {size} × {size} px")
    if length > LIMIT:
        raise SystemExit("the slide is larger than 2 MiB: lower the quality or the size")


if __name__ == "__main__":
    main()
