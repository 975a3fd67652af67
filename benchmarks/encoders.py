"""What the demo encoders know, by nearest neighbours, pooled over three tasks.

    python benchmarks/encoders.py DATA --json benchmarks/results/encoders.json

DATA is a folder with ``histology/`` and ``satellite/``, as the fold tables name them. Tasks:
normal oral epithelium against carcinoma (400x), the city of an aerial tile, and its density of
trees (terciles of the training fold). Everything is chosen on the fold ``train``.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
import torch
from machine import provenance

from napari_ssldiff.cli.deliver import Meter
from napari_ssldiff.evaluation.classify import Task, pooled_knn
from napari_ssldiff.evaluation.labels import Labelled, check_split
from napari_ssldiff.evaluation.stats import plain
from napari_ssldiff.models import ModelBundle, load_bundle

#: The source gives no size; nuclei at 400x look like about 1 µm per pixel after the resize.
ORAL_PIXEL, ORAL_ASPECT = 1.0, 299 / 224


def oral(data: Path) -> list[Labelled]:
    """Normal and carcinoma at 400x; stored squeezed from 4:3. No patient is known."""
    with (data / "histology/folds.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if "oral_224/400x" in r["path"]]
    return [
        Labelled(data / r["path"], r["label"], r["fold"], r["path"], ORAL_PIXEL, ORAL_ASPECT)
        for r in rows
    ]


def aerial(data: Path) -> tuple[list[Labelled], list[Labelled]]:
    """City, and tree density; one place in several years is one group."""
    folder = data / "satellite/naip_60cm"
    with (folder / "tiles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    trees = np.array([float(r["trees"]) for r in rows])
    train = np.array([r["fold"] == "train" for r in rows])
    edges = np.quantile(trees[train], [1 / 3, 2 / 3])
    names = np.array(["few", "some", "many"])[np.searchsorted(edges, trees)]
    files = [folder / f"{r['name']}.jpg" for r in rows]
    city = [Labelled(f, r["city"], r["fold"], r["place"]) for f, r in zip(files, rows, strict=True)]
    density = [
        Labelled(f, str(n), r["fold"], r["place"])
        for f, r, n in zip(files, rows, names, strict=True)
    ]
    return city, density


def tasks(data: Path, histology: ModelBundle, naip: ModelBundle) -> list[Task]:
    """The three tasks, each for the encoder of its domain."""
    city, density = aerial(data)
    out = [
        Task("oral 400x", "oral", oral(data), histology.encoder),
        Task("NAIP city", "naip", city, naip.encoder),
        Task("NAIP tree density", "naip", density, naip.encoder),
    ]
    for task in out:
        check_split(task.pictures, task.name)
    return out


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--histology", default="demo-histology", help="model id or folder")
    parser.add_argument("--naip", default="demo-naip", help="model id or folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    bundles = [load_bundle(m, arguments.device) for m in (arguments.histology, arguments.naip)]
    figures = pooled_knn(tasks(arguments.data, *bundles), progress=Meter())
    models = [{"model": b.card.id, "hash": b.hash, "encoder": b.encoder.spec.id} for b in bundles]
    text = json.dumps({**provenance(), "models": models, **plain(figures)}, indent=2)
    arguments.json.write_text(text + "\n")
    print(json.dumps(plain(figures["pooled"]), indent=2), file=sys.stdout)


if __name__ == "__main__":
    main()
