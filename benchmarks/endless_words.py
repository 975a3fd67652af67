"""Cells that a prior samples by place: what they cost, and whether they are those of a field.

    python benchmarks/endless_words.py --json benchmarks/results/endless-words.json

Processor seconds on one thread, for one prompt: the cells that a first tile needs, with nothing
kept; those of a tile inside a view of 16 × 16 cells beside them; and a bounded field of 16 × 16
cells, with windows a quarter apart and a half. *Cosine*: mean over 10 × 10 cells of a cell sampled
by place and the same cell of a bounded field of the same noise, away from that field's edge.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import provenance

from napari_ssldiff.embeddings.control_points import ControlPoints
from napari_ssldiff.embeddings.field import Vectors
from napari_ssldiff.models import get_card
from napari_ssldiff.models.load import encoder_spec
from napari_ssldiff.models.priors import Words, load_words, prior_for
from napari_ssldiff.text import prior as bounded
from napari_ssldiff.text.places import PriorPlaces, typical_cells

SEED, EDGE = 3, slice(5, 15)


def seconds(call: Callable[[], Vectors]) -> tuple[float, Vectors]:
    """Of the processor, and what came of them."""
    begin = time.process_time()
    made = call()
    return round(time.process_time() - begin, 2), made


def cosine(a: Vectors, b: Vectors) -> float:
    """Mean over cells."""
    return round(float((a * b).sum(-1).mean()), 3)


def neighbours(field: Vectors) -> float:
    """Mean cosine of cells that lie side by side."""
    return cosine(field[:, 1:], field[:, :-1])


def by_place(words: Words, vector: Vectors, steps: int, of: Vectors, other: Vectors) -> Any:
    """Cells by place against those of two bounded fields."""
    prior = words.prior
    condition = ControlPoints(np.zeros((1, 2)), vector[None], words.card.id)
    typical = typical_cells(condition, [of], prior.facts.encoder)
    places = PriorPlaces(prior, words.card.hash, condition, SEED, typical, steps=steps)

    def cells(first: int, last: int, row: int) -> Vectors:
        rows, columns = (
            (n + np.arange(last - first) + 0.5) * prior.facts.cell for n in (row, first)
        )
        return places.sample(rows[:, None], columns[None])

    cost, made = seconds(lambda: cells(EDGE.start, EDGE.stop, EDGE.start))
    wide, _ = seconds(lambda: cells(0, 16, 16))
    return {
        "steps": steps, "first_tile_s": cost, "evaluations": places.counters.evaluations,
        "tile_in_a_view_s": round(wide / 16, 2), "cosine": cosine(made, of[EDGE, EDGE]),
        "cosine_to_another_seed": cosine(made, other[EDGE, EDGE]),
        "neighbours": neighbours(made), "neighbours_of_bounded": neighbours(of[EDGE, EDGE]),
    }  # fmt: skip


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="demo-histology")
    parser.add_argument("--prompt", default="tumour")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    words = load_words(prior_for(encoder_spec(get_card(options.model)).id), "cpu")
    prior = words.prior
    assert words.text is not None
    (vector,) = words.text.text([options.prompt])
    of, other = (prior.sample(vector, (20, 20), seed) for seed in (SEED, SEED + 1))
    quarter, _ = seconds(lambda: prior.sample(vector, (16, 16), SEED))
    kept, bounded.FIELDS = bounded.FIELDS, replace(bounded.FIELDS, stride=0.5)
    half, _ = seconds(lambda: prior.sample(vector, (16, 16), SEED))
    bounded.FIELDS = kept
    result = {
        **provenance(), "model": options.model, "prompt": options.prompt,
        "bounded_16x16_s": {"a quarter apart": quarter, "a half apart": half},
        "by_place": [by_place(words, vector, steps, of, other) for steps in (10, 20)],
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
