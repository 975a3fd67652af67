"""Are sampled fields like real ones? Cells, neighbourhoods, autocorrelation, seams, retrieval.

    python benchmarks/prior_fields.py DATA --training DIR \
        --json benchmarks/results/prior-fields.json

DIR is the folder of ``train text`` and ``train prior``, whose embedded images (train and held out)
are the real fields. Sampled fields follow captions of random training areas, in the proportions of
the training images.

*Cells* and *neighbourhoods*: Fréchet distance in PCA-32 (fitted on training cells, or 2 × 2 cells)
of sampled to held-out fields, over that between two halves of the held-out ones at the same n.
*Autocorrelation*: mean cosine of cells at a lag, each less the mean of all fields. *Seam*: |ln| of
the mean jump between neighbouring cells across window lines over that across all other lines, in a
64 × 64 field. *Retrieval*: largest mean cosine of a 3 × 3 neighbourhood to any of the training
images, of sampled against held-out ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import provenance
from numpy.typing import NDArray

from napari_ssldiff.evaluation.frechet import fit_projection, frechet_distance
from napari_ssldiff.models.load import encoder_spec
from napari_ssldiff.models.priors import load_words, prior_for
from napari_ssldiff.training.meanings import Areas
from napari_ssldiff.training.start import open_pipeline
from napari_ssldiff.training.worded import Worded

LAGS = {"histology": (1, 2, 4, 8), "naip": (1, 2, 3)}
Fields = list[NDArray[np.float32]]


def blocks(fields: Fields, side: int, step: int = 1) -> NDArray[np.float32]:
    """``(n, side² · d)``: all neighbourhoods of ``side`` × ``side`` cells."""
    found = []
    for f in fields:
        rows, columns, _ = f.shape
        found += [
            f[y : y + side, x : x + side].ravel()
            for y in range(0, rows - side + 1, step)
            for x in range(0, columns - side + 1, step)
        ]
    return np.stack(found)


def distances(made: Fields, real: Fields, train: Fields, side: int, seed: int) -> dict[str, Any]:
    """Fréchet distance and the same between halves of the real fields."""
    rng = np.random.default_rng(seed)
    step = side
    a, b, t = blocks(made, side, step), blocks(real, side, step), blocks(train, side, step)
    project = fit_projection(t[rng.permutation(len(t))[:20_000]])
    n = min(len(a), len(b) // 2)
    floors, values = [], []
    for _ in range(10):
        order = rng.permutation(len(b))
        floors.append(frechet_distance(project(b[order[:n]]), project(b[order[n : 2 * n]])))
        chosen = rng.permutation(len(a))[:n]
        values.append(frechet_distance(project(a[chosen]), project(b[order[:n]])))
    # A second floor: halves that share no image.
    cut = [blocks(part, side, step) for part in (real[::2], real[1::2])]
    m = min(n, *(len(c) for c in cut))
    apart = frechet_distance(*(project(c[rng.permutation(len(c))[:m]]) for c in cut))
    return {
        "n": n, "frechet": float(np.mean(values)), "halves": float(np.mean(floors)),
        "ratio": float(np.mean(values) / np.mean(floors)),
        "halves_of_images": float(apart), "ratio_to_images": float(np.mean(values) / apart),
    }  # fmt: skip


def autocorrelation(
    fields: Fields, lags: tuple[int, ...], mean: NDArray[np.float32]
) -> list[float]:
    """Mean cosine at lags along both axes."""
    out = []
    for lag in lags:
        values = []
        for f in fields:
            c = f - mean
            c = c / np.maximum(np.linalg.norm(c, axis=-1, keepdims=True), 1e-6)
            if c.shape[0] > lag:
                values.append((c[lag:] * c[:-lag]).sum(-1).ravel())
            if c.shape[1] > lag:
                values.append((c[:, lag:] * c[:, :-lag]).sum(-1).ravel())
        out.append(float(np.concatenate(values).mean()))
    return out


def nearest(fields: Fields, train: Fields, count: int, seed: int) -> list[float]:
    """Quartiles of the largest cosine of 3 × 3 neighbourhoods to any of training."""
    rng = np.random.default_rng(seed)
    t, f = blocks(train, 3), blocks(fields, 3)
    f = f[rng.permutation(len(f))[:count]]
    best = (f @ t.T).max(1) / 9
    return [round(float(v), 4) for v in np.percentile(best, (25, 50, 75, 95))]


def seam(field: NDArray[np.float32], window: int) -> float:
    """Jumps across the borders of windows over those elsewhere."""
    stride = max(1, round(0.75 * window))
    scores = []
    for f in (field, field.transpose(1, 0, 2)):
        jump = 1 - (f[1:] * f[:-1]).sum(-1).mean(1)  # between rows i and i + 1
        length = f.shape[0]
        starts = list(range(0, length - window + 1, stride))
        lines = {s - 1 for s in starts if s} | {
            s + window - 1 for s in starts if s + window < length
        }
        on = np.array([i in lines for i in range(len(jump))])
        scores.append(np.log(jump[on].mean() / jump[~on].mean()))
    return float(np.abs(np.mean(scores)))


def measure(worded: Worded, domain: str, options: argparse.Namespace) -> dict[str, Any]:
    """One domain."""
    words = load_words(prior_for(encoder_spec(worded.card(domain)).id), "cpu")
    train, held = worded.meanings(domain), worded.meanings(domain, "validation")
    captions, rng = worded.captions(domain), np.random.default_rng(0)
    side = 16 if domain == "histology" else 4
    real = [m.vectors for m in held.meanings if min(m.shape) >= min(side, held.largest)]
    known: Fields = [m.vectors for m in train.meanings]
    areas = Areas(train.meanings)
    made: Fields = []
    window = int(worded.prior_config(domain)["window"])
    while len(made) < options.fields:
        area = areas.draw(window, window, rng)
        text = captions.caption(area.facts, area.label, rng)
        if text:
            made.append(words.prior.sample(words.text.text([text])[0], (side, side), len(made),
                                           options.guidance))  # fmt: skip
    mean = np.concatenate([f.reshape(-1, f.shape[-1]) for f in known]).mean(0)
    lags = LAGS[domain]
    ours, theirs = autocorrelation(made, lags, mean), autocorrelation(real, lags, mean)
    large = words.prior.sample(words.text.text([options.prompt[domain]])[0], (64, 64), 1)
    found = {
        "fields": len(made), "real_fields": len(real), "guidance": options.guidance,
        "cells": distances(made, real, known, 1, 0),
        "neighbourhoods": distances(made, real, known, 2, 0),
        "autocorrelation": {
            str(lag): {"sampled": a, "real": b, "ratio": a / b}
            for lag, a, b in zip(lags, ours, theirs, strict=True)
        },
        "seam_64": seam(large, window),
        "retrieval_quartiles": {
            "sampled": nearest(made, known, 800, 0), "held_out": nearest(real, known, 800, 0),
        },
    }  # fmt: skip
    print(domain, json.dumps(found, indent=1), flush=True)
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--training", type=Path, required=True, metavar="DIR")
    parser.add_argument("--fields", type=int, default=120)
    parser.add_argument("--guidance", type=float, help="default: the prior's")
    parser.add_argument("--domains", nargs="+", default=list(LAGS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.prompt = {"histology": "pink stroma", "naip": "a residential neighbourhood"}
    torch.manual_seed(0)
    worded = Worded(open_pipeline([options.data], options.training))
    result = {
        **provenance(), "domains": {d: measure(worded, d, options) for d in options.domains},
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
