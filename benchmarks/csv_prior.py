"""Whether fields of a prior of numbers follow the number: trained, sampled, drawn and measured.

The numbers are measured from the pictures themselves (a fact of :mod:`napari_ssldiff.text.facts`
per image), so what a field shows can be measured in the same way: by the pixel model's picture of
it, and by the training cells that its own cells are nearest to.

    python benchmarks/csv_prior.py DATA RUN --minutes 2

DATA is laid out as the demo models' data. RUN is the folder of the run; images are embedded there
once.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from machine import provenance
from numpy.typing import NDArray
from scipy.stats import spearmanr

from napari_ssldiff.geometry import Region
from napari_ssldiff.models import get_card, load_bundle
from napari_ssldiff.models.priors import load_words, read_prior
from napari_ssldiff.scenes import PixelSize
from napari_ssldiff.scenes.blank import blank_scene
from napari_ssldiff.synthesis import Sampler, make_request, synthesize
from napari_ssldiff.synthesis.events import TileDone
from napari_ssldiff.synthesis.imagine import Prompt, imagine
from napari_ssldiff.text.conditions import Numbers
from napari_ssldiff.text.facts import fact_names, facts_of
from napari_ssldiff.training.config import DEFAULT_CONFIG
from napari_ssldiff.training.pipeline import Pipeline
from napari_ssldiff.training.prior_bundle import write_priors
from napari_ssldiff.training.runtime import Runtime
from napari_ssldiff.training.start import open_pipeline, with_condition
from napari_ssldiff.training.worded import Worded

DOMAIN = "histology"
COLUMNS = ("nuclei", "eosin")


def write_table(worded: Worded, path: Path) -> dict[str, list[float]]:
    """A row of facts for every training and validation image of the osteosarcoma set."""
    rows: dict[str, list[float]] = {}
    names = fact_names(worded.subject(DOMAIN))
    for part in ("train", "validation"):
        for one in worded.meanings(DOMAIN, part).meanings:
            if "osteosarcoma" in one.source:
                facts = dict(zip(names, one.facts.mean((0, 1)).tolist(), strict=True))
                # Of the forms of an image the first is the one that nothing was changed in.
                rows.setdefault(one.source, [round(facts[c], 4) for c in COLUMNS])
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", *COLUMNS])
        table.writerows([name, *values] for name, values in rows.items())
    return rows


def picture(field: Any, bundle: Any, seed: int) -> NDArray[np.uint8]:
    """A field drawn by the pixel model's student."""
    spec = bundle.encoder.spec
    pixel = PixelSize(spec.resolution, spec.resolution, spec.unit)
    shape = (field.shape[0] * spec.cell, field.shape[1] * spec.cell)
    image = np.zeros((*shape, 3), np.uint8)
    with blank_scene(shape, pixel) as scene:
        request = make_request(
            scene, Region.from_box(scene.box), bundle, Sampler(preset="draft", seed=seed),
            field=field, grid="model",
        )  # fmt: skip
        for event in synthesize(request, bundle=bundle, scene=scene):
            if isinstance(event, TileDone):
                image[event.box.slices] = event.pixels[..., :3]
    return image


def nearest(field: NDArray[np.float32], worded: Worded, fact: int) -> float:
    """Mean fact of the training cells that a field's cells are nearest to."""
    known = worded.meanings(DOMAIN).meanings
    vectors = np.concatenate([m.vectors.reshape(-1, field.shape[-1]) for m in known])
    facts = np.concatenate([m.facts[..., fact].ravel() for m in known])
    cells = field.reshape(-1, field.shape[-1])
    return float(facts[(cells @ vectors.T).argmax(1)].mean())


def train(options: argparse.Namespace) -> tuple[Pipeline, Path]:
    """The prior, and its card."""
    base = open_pipeline([options.data], options.run, str(DEFAULT_CONFIG))
    table = options.run / "facts.csv"
    options.run.mkdir(parents=True, exist_ok=True)
    write_table(Worded(base), table)
    pipeline = with_condition(base, f"csv:{table}", None, DOMAIN)
    rows = pipeline.train("prior", options.minutes, DOMAIN, runtime=Runtime("cpu"))
    for row in rows:
        print(row, flush=True)
    (card,) = [p for p in write_priors(pipeline, options.run / "bundle") if "numbers" in str(p)]
    return pipeline, card


def measure(pipeline: Pipeline, card: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Fields over a range of each column, the other one open."""
    worded, words = Worded(pipeline), load_words(read_prior(card), "cpu")
    bundle = load_bundle(get_card("demo-histology"), "cpu")
    names = fact_names(worded.subject(DOMAIN))
    found: dict[str, Any] = {}
    assert words.card.columns is not None
    for column in words.card.columns.columns:
        asked, cells, drawn = [], [], []
        for step, value in enumerate(np.linspace(column.min, column.max, options.values)):
            for seed in range(options.seeds):
                condition = Numbers({column.name: float(value)})
                prompt = Prompt(condition=condition, seed=100 * step + seed)
                field = imagine(words, prompt, (options.cells, options.cells)).field
                asked.append(float(value))
                cells.append(nearest(field.vectors, worded, names.index(column.name)))
                pixels = picture(field, bundle, seed)
                drawn.append(facts_of(pixels, worded.subject(DOMAIN))[column.name])
        found[column.name] = {
            "range": [column.min, column.max],
            "fields": len(asked),
            **{
                name: {
                    "pearson": float(np.corrcoef(asked, values)[0, 1]),
                    "spearman": float(spearmanr(asked, values).statistic),
                    "lowest": float(np.mean(values[: options.seeds])),
                    "highest": float(np.mean(values[-options.seeds :])),
                }
                for name, values in (("nearest_training_cells", cells), ("picture", drawn))
            },
        }
    return found


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--values", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/csv-prior.json"))
    options = parser.parse_args()
    pipeline, card = train(options)
    training = read_prior(card).extra["training"]["prior"]
    found = {**provenance(), "training": training, "columns": measure(pipeline, card, options)}
    options.json.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found["columns"], indent=2))


if __name__ == "__main__":
    main()
