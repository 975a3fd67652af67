"""``napari-ssldiff index`` and ``nearest``: which real cells a field's are most like."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ssldiff.cli.deliver import Meter, say
from napari_ssldiff.cli.edit import mask_of
from napari_ssldiff.cli.sheet import EDGE, Shown, draw_sheet
from napari_ssldiff.errors import InputError

if TYPE_CHECKING:
    from napari_ssldiff.embeddings.index import Index, RealCell

#: Cells that a picture shows at most.
SHOWN = 32


def add_parsers(commands: Any) -> None:
    """The grammar of both."""
    index = commands.add_parser("index", help="the cells of a data set, to be asked by nearest")
    add = index.add_argument
    add("paths", nargs="+", type=Path, metavar="PATH", help="images, or folders of them")
    add("--model", metavar="ID", help="whose encoder; default: the nearest to the first image")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("-o", "--output", type=Path, required=True, metavar="INDEX", help="a folder; images that "
        "it holds already are left out, so a run can be stopped and started again")  # fmt: skip

    near = commands.add_parser("nearest", help="the cells of a data set most like a field's")
    add = near.add_argument
    add("field", type=Path, metavar="FIELD", help="what embed or edit wrote")
    add("index", type=Path, metavar="INDEX", help="what index wrote")
    add("--cells", metavar="X,Y,W,H", help="only these cells of the grid, from its corner")
    add("-k", type=int, default=5, metavar="N", help="cells for each (5)")
    add("--png", type=Path, metavar="FILE", help=f"their pixels, of at most {SHOWN} cells")
    add("--json", action="store_true")


def run_index(arguments: argparse.Namespace) -> None:
    """Make or extend an index."""
    from napari_ssldiff.embeddings.index import Index
    from napari_ssldiff.embeddings.indexing import index_images
    from napari_ssldiff.models import choose_model, get_card
    from napari_ssldiff.models.load import encoder_spec, load_encoder, resolve_device
    from napari_ssldiff.scenes import open_scene
    from napari_ssldiff.training.sources import find_images

    images = [(source.path, source.name) for source in find_images(arguments.paths)]
    if arguments.model:
        card = get_card(arguments.model)
    else:
        with open_scene(images[0][0]) as scene:
            card = choose_model(scene)
        say(f"model: {card.id} ({card.name}), the nearest to {images[0][1]}")
    index = Index.at(arguments.output, encoder_spec(card))
    before = sum(index.known(path) for path, _ in images)
    if before:
        say(f"{before} of {len(images)} images are in {index.folder.name} already")
    encoder, meter = load_encoder(card, resolve_device(arguments.device)), Meter()
    index_images(index, images, encoder, progress=meter, told=say)
    print(
        f"{arguments.output}: {index.cells} cells of {len(index.images)} images, by {index.encoder}"
    )


def run_nearest(arguments: argparse.Namespace) -> None:
    """Ask an index."""
    from napari_ssldiff.embeddings import EmbeddingField
    from napari_ssldiff.embeddings.index import Index
    from napari_ssldiff.export import check_output

    if arguments.k < 1:
        raise InputError(f"-k is at least 1, got {arguments.k}")
    if arguments.png:
        check_output(arguments.png, suffix=".png")
    field, index = EmbeddingField.load(arguments.field), Index.open(arguments.index)
    index.check(field.encoder)
    mask = mask_of(field, arguments.cells)
    places = np.argwhere(np.ones(field.shape) if mask is None else mask).tolist()
    found = index.nearest(field.vectors[tuple(np.transpose(places))], arguments.k)
    gone = index.missing()
    if gone:
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        say(f"moved or removed since they were indexed: {', '.join(gone[:3])}{more}")
    if arguments.json:
        cells = [
            {"cell": [c, r], "nearest": [one.to_dict() for one in near]}
            for (r, c), near in zip(places, found, strict=True)
        ]
        print(json.dumps({"encoder": index.encoder, "missing": gone, "cells": cells}, indent=1))
    else:
        for (r, c), near in zip(places, found, strict=True):
            print(f"{c},{r}: " + "  ".join(_line(one) for one in near))
    if arguments.png:
        draw(arguments.png, index, places, found)
        say(str(arguments.png))


def _line(cell: RealCell) -> str:
    x, y = (round(v) for v in reversed(cell.corner))
    return f"{cell.cosine:.3f} {cell.image.name} at {x},{y}"


def draw(path: Path, index: Index, places: list[list[int]], found: list[list[RealCell]]) -> None:
    """A sheet of real cells, a row for each of the field's; grey where an image is gone."""
    from napari_ssldiff.embeddings.index import pictures

    rows = found[:SHOWN]
    taken = iter(pictures(index, [cell for near in rows for cell in near], EDGE))
    draw_sheet(path, [
        (f"cell {c},{r}", [
            Shown(next(taken), (f"{cell.cosine:.3f}", Path(cell.image.name).name[:15]))
            for cell in near
        ])
        for (r, c), near in zip(places, rows, strict=False)
    ])  # fmt: skip
