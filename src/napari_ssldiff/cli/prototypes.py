"""``napari-ssldiff prototypes``: what a slide consists of, as kinds of cells to paint with."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ssldiff.cli.deliver import Meter, say
from napari_ssldiff.cli.sheet import EDGE, Shown, draw_sheet
from napari_ssldiff.cli.sources import load_model, open_source
from napari_ssldiff.errors import InputError, OutputError

if TYPE_CHECKING:
    from napari_ssldiff.embeddings.look import Prototypes
    from napari_ssldiff.embeddings.slide import Sampled

#: Real cells that the sheet shows of each.
NEAR = 6
LIST, SHEET = "prototypes.json", "prototypes.png"


def add_parser(commands: Any) -> None:
    """The grammar."""
    parser = commands.add_parser(
        "prototypes", help="what a slide consists of: kinds of cells, to paint with"
    )
    add = parser.add_argument
    add("path", metavar="PATH", help="slide or scene")
    add("-k", type=int, default=8, metavar="N", help="kinds at most (8)")
    add("--sample", type=int, metavar="N", help="cells that are looked at, at most (1024)")
    add("--seed", type=int, default=0, help="of the clustering")
    add("--model", metavar="ID", help="whose embeddings; default: nearest in domain and resolution")
    add("--resolution", metavar="LENGTH", help="as for embed")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--bands", metavar="R,G,B", help="band indices from 0, for rasters")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="a new folder: a field of "
        f"one cell for each kind (kind-1.json …), {LIST} and the sheet {SHEET}")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Sample, sort, write."""
    from napari_ssldiff.embeddings.look import prototypes
    from napari_ssldiff.embeddings.slide import CELLS
    from napari_ssldiff.synthesis.prepare import sample_slide

    folder, count = arguments.output, CELLS if arguments.sample is None else arguments.sample
    for value, option in ((arguments.k, "-k"), (count, "--sample")):
        if value < 1:
            raise InputError(f"{option} is at least 1, got {value}")
    if not 0 <= arguments.seed < 2**32:
        raise InputError(f"--seed is between 0 and {2**32 - 1}, got {arguments.seed}")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise OutputError(f"{folder} is there already: name a new folder")
    if not folder.absolute().parent.is_dir():
        raise OutputError(f"cannot make the folder {folder}: there is no {folder.parent}")
    with open_source(arguments) as scene:
        bundle = load_model(arguments, scene)
        sampled = sample_slide(scene, bundle, count, progress=Meter())
        found = prototypes(sampled.field, arguments.k, arguments.seed)
        made = {"image": scene.name, "cells": sampled.count, "seed": arguments.seed}
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from None
        kinds = _described(sampled, found)
        for n, kind in enumerate(kinds, 1):
            story = json.dumps({"prototype": n, **made, **kind}, sort_keys=True)
            _write_field(
                folder / f"kind-{n}.json", sampled, found, n - 1, (*bundle.embedded, story)
            )
            print(f"kind {n}: {kind['share']:.3f} of {sampled.count} cells")
        whole = {**made, "encoder": sampled.field.encoder, "kinds": kinds}
        (folder / LIST).write_text(json.dumps(whole, indent=1) + "\n")
        _draw(folder / SHEET, scene, sampled, kinds)
    say(str(folder / SHEET))
    print(folder)


def _described(sampled: Sampled, found: Prototypes) -> list[dict[str, Any]]:
    """Of each kind its share and the real cells most like it: place (x, y in level-0 pixels) and
    cosine.
    """
    import numpy as np

    from napari_ssldiff.embeddings.look import of_kind

    assert sampled.field.valid is not None
    sorted_ = found.labels[sampled.field.valid]
    kinds = []
    for n in range(len(found.vectors)):
        near = [
            {"x": x, "y": y, "cosine": round(cell.cosine, 4)}
            for cell in of_kind(sampled.field, found, n, NEAR)
            for y, x in [sampled.corner(cell.row, cell.column)]
        ]
        kinds.append({"share": round(float(np.mean(sorted_ == n)), 4), "nearest": near})
    return kinds


def _write_field(
    path: Path, sampled: Sampled, found: Prototypes, kind: int, history: tuple[str, ...]
) -> None:
    """A field of one cell, where the real cell most like it lies."""
    from napari_ssldiff.embeddings.field import EmbeddingField

    source = sampled.field
    EmbeddingField(
        found.vectors[kind][None, None],
        sampled.corner(*found.cells[kind]),
        sampled.cell,
        source.encoder,
        source.resolution,
        source.unit,
    ).save(path, history)


def _draw(path: Path, scene: Any, sampled: Sampled, kinds: list[dict[str, Any]]) -> None:
    from napari_ssldiff.scenes.thumbnail import thumbnail

    draw_sheet(path, [
        (f"kind {n}\n{kind['share']:.3f}", [
            Shown(
                thumbnail(scene, (near["y"], near["x"]), sampled.cell, EDGE),
                (f"{near['cosine']:.3f}", f"{near['x']:.0f},{near['y']:.0f}"),
            )
            for near in kind["nearest"]
        ])
        for n, kind in enumerate(kinds, 1)
    ])  # fmt: skip
