"""Sheets of what prompts make: every prompt a row, every seed a column, none chosen.

python benchmarks/prompt_pictures.py docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from prompt_fidelity import MODELS, picture

from napari_ssldiff.models.load import load_bundle
from napari_ssldiff.models.priors import load_words, prior_for

PROMPTS = {
    "histology": (
        "dense tumour with dark crowded nuclei beside pink fibrous stroma",
        "necrotic tumour with few pale nuclei",
        "solid tumour around fat",
        "pink stroma, no white spaces",
    ),
    "remote sensing": (
        "residential neighbourhood with large trees and a car park",
        "warehouses and parking lots beside many small houses",
        "a forest above bare soil",
        "green lawns surrounded by houses with gardens",
    ),
}


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--shown", type=int, default=400, help="edge of a picture in the sheet")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--preset", default="bulk")
    parser.add_argument("--domains", nargs="+", default=list(MODELS))
    options = parser.parse_args()
    for domain in options.domains:
        bundle = load_bundle(MODELS[domain], "cpu")
        words = load_words(prior_for(bundle.encoder.spec.id), "cpu")
        rows = []
        for text in PROMPTS[domain]:
            made = [
                picture(words, bundle, text, seed, options.size, options.preset)
                for seed in range(options.seeds)
            ]
            small = [
                np.asarray(
                    Image.fromarray(m).resize((options.shown,) * 2, Image.Resampling.LANCZOS)
                )
                for m in made
            ]
            rows.append(titled(np.concatenate(small, 1), text))
            print(domain, text, flush=True)
        # Two rows of prompts beside the other two.
        half = -(-len(rows) // 2)
        sheet = np.concatenate([np.concatenate(rows[:half]), np.concatenate(rows[half:])], 1)
        name = f"text-{domain.replace(' ', '-')}.jpg"
        Image.fromarray(sheet).save(options.folder / name, quality=82)


def titled(row: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """A row of pictures under its prompt, marked as synthetic."""
    bar = Image.new("RGB", (row.shape[1], 22), "white")
    ImageDraw.Draw(bar).text((5, 5), f"synthetic: {text}", fill="black")
    return np.concatenate([np.asarray(bar), row])


if __name__ == "__main__":
    main()
