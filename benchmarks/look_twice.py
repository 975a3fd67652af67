"""Twenty numbered crops, real and synthetic mixed, for somebody who has never seen the project.

    python benchmarks/look_twice.py DATA --model demo-histology --sheet crops.png --key key.json

Half of the crops are held-out pixels as they are; the other half are variations at strength 1 of
other held-out crops. The sheet does not say which; the key does. Show the sheet, write the answers
down as numbers, and let ``--answers 3 7 12 --key key.json`` count.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from first_light import HELD_OUT
from PIL import Image, ImageDraw

from napari_ssldiff.evaluation import evaluation_scenes
from napari_ssldiff.evaluation.fidelity import synthesise_region
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models import load_bundle
from napari_ssldiff.scenes import open_scene
from napari_ssldiff.synthesis import Sampler

COUNT, SIZE, ZOOM, COLUMNS = 20, 192, 2, 5


def make(data: Path, model: str, seed: int) -> tuple[Image.Image, dict[str, object]]:
    """The sheet and its key."""
    rng = np.random.default_rng(seed)
    bundle = load_bundle(model, "cpu")
    folder, table = HELD_OUT[model]
    paths = evaluation_scenes([data / folder], data / table)
    chosen = rng.choice(len(paths), COUNT, replace=len(paths) < COUNT)
    synthetic = np.sort(rng.choice(COUNT, COUNT // 2, replace=False))
    edge, head = SIZE * ZOOM, 24
    rows = COUNT // COLUMNS
    sheet = Image.new("RGB", (COLUMNS * (edge + 8), rows * (edge + head + 8)), "white")
    draw = ImageDraw.Draw(sheet)
    for n, index in enumerate(chosen):
        with open_scene(paths[index]) as scene:
            h, w = scene.shape
            y, x = (int(rng.integers(0, size - SIZE + 1)) for size in (h, w))
            region = Region.from_box(Box(y, x, SIZE, SIZE))
            real, made, _ = synthesise_region(scene, region, bundle, Sampler(seed=n))
        crop = Image.fromarray(made if n in synthetic else real)
        place = (n % COLUMNS * (edge + 8), n // COLUMNS * (edge + head + 8))
        draw.text((place[0] + 4, place[1] + 4), str(n + 1), fill="black", font_size=18)
        sheet.paste(
            crop.resize((edge, edge), Image.Resampling.BICUBIC), (place[0], place[1] + head)
        )
    return sheet, {"model": model, "seed": seed, "synthetic": (synthetic + 1).tolist()}


def main() -> None:
    """Make a sheet, or count answers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--model", default="demo-histology", choices=sorted(HELD_OUT))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--answers", type=int, nargs="*", help="crops taken to be synthetic")
    options = parser.parse_args()
    if options.answers is not None:
        truth = set(json.loads(options.key.read_text())["synthetic"])
        said = set(options.answers)
        right = len(truth & said) + len(set(range(1, COUNT + 1)) - truth - said)
        result = {
            "right": right,
            "of": COUNT,
            "synthetic_taken_for_real": sorted(truth - said),
            "real_taken_for_synthetic": sorted(said - truth),
        }
        print(json.dumps(result))
        return
    if options.data is None or options.sheet is None:
        parser.error("a sheet needs DATA and --sheet")
    sheet, key = make(options.data, options.model, options.seed)
    sheet.save(options.sheet)
    options.key.write_text(json.dumps(key) + "\n")


if __name__ == "__main__":
    main()
