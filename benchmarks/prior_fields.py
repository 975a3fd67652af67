"""Are sampled fields like real ones? Cells, neighbourhoods, autocorrelation, seams, retrieval.

    python benchmarks/prior_fields.py DATA --training DIR \
        --json benchmarks/results/prior-fields.json

DIR is the folder of ``train text`` and ``train prior``, whose embedded images (train and held out)
are the real fields. Sampled fields follow captions of random held-out areas, as pictures from
captions are usually compared with the pictures that the captions are of.

*Cells* and *neighbourhoods*: Fréchet distance in PCA-32 (fitted on training cells, or 2 × 2 cells)
of sampled to all held-out fields, over that between two halves of the held-out ones at the same n:
halves that share no image (mean of ten ways to halve them), and halves of all cells. *Training*
stands for random areas of the training images in the place of sampled fields: what a prior that
learned them perfectly would have. *Autocorrelation*: mean cosine of cells at a lag, each less the
mean of all fields. *Seam*: ln of the largest over the smallest mean jump between neighbouring
cells, lines being told apart by where in a window they lie, in a 64 × 64 field. *Retrieval*:
largest mean cosine of a 3 × 3 neighbourhood to any of the training images, of sampled against
held-out ones, with the interval of the difference of medians (bootstrap over fields and images);
*training* is that of training areas to training images of other files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import provenance
from numpy.typing import NDArray

from napari_ssldiff.evaluation.frechet import fit_projection, frechet_distance
from napari_ssldiff.models.load import encoder_spec
from napari_ssldiff.models.priors import load_words, prior_for
from napari_ssldiff.training.meanings import Areas, Meaning
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
    apart = []
    for _ in range(10):
        order = rng.permutation(len(real))
        halves = order[: len(real) // 2], order[len(real) // 2 :]
        cut = [blocks([real[i] for i in half], side, step) for half in halves]
        m = min(n, *(len(c) for c in cut))
        apart.append(frechet_distance(*(project(c[rng.permutation(len(c))[:m]]) for c in cut)))
    value = float(np.mean(values))
    return {
        "n": n, "frechet": value,
        "halves_of_images": float(np.mean(apart)), "ratio": value / float(np.mean(apart)),
        "halves_of_cells": float(np.mean(floors)),
        "ratio_to_cells": value / float(np.mean(floors)),
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


def quartiles(best: NDArray[np.float32]) -> list[float]:
    """Those and the 95th percentile."""
    return [round(float(v), 4) for v in np.percentile(best, (25, 50, 75, 95))]


def nearest(fields: Fields, train: Fields, each: int, seed: int) -> Fields:
    """Per field: the largest cosines to any of training of up to ``each`` 3 × 3 neighbourhoods."""
    rng = np.random.default_rng(seed)
    t, found = blocks(train, 3), []
    for field in fields:
        f = blocks([field], 3)
        found.append((f[rng.permutation(len(f))[:each]] @ t.T).max(1) / 9)
    return found


def closer(made: Fields, real: Fields, seed: int) -> list[float]:
    """95 % interval of how much larger the median of ``made`` is than that of ``real``."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(1000):
        a, b = ([f[i] for i in rng.integers(len(f), size=len(f))] for f in (made, real))
        found.append(np.median(np.concatenate(a)) - np.median(np.concatenate(b)))
    return [round(float(v), 4) for v in np.percentile(found, (2.5, 97.5))]


def nearest_of_others(meanings: Sequence[Meaning], count: int, seed: int) -> list[float]:
    """The same of training images to those that were cut from other files."""
    rng = np.random.default_rng(seed)
    t = [blocks([m.vectors], 3) for m in meanings]
    best = np.empty(count, np.float32)
    for n in range(count):
        i = int(rng.integers(len(t)))
        one = t[i][rng.integers(len(t[i]))]
        others = (b for b, m in zip(t, meanings, strict=True) if m.source != meanings[i].source)
        best[n] = max(float((b @ one).max()) for b in others) / 9
    return quartiles(best)


def seam(field: NDArray[np.float32], window: int) -> float:
    """The largest over the smallest mean jump at the places within a window, as a logarithm."""
    lines = [f[1:] * f[:-1] for f in (field, field.transpose(1, 0, 2))]
    jump = np.mean([1 - pairs.sum(-1).mean(1) for pairs in lines], 0)  # between i and i + 1
    phases = [jump[place::window].mean() for place in range(window)]
    return float(np.log(max(phases) / min(phases)))


def measure(worded: Worded, domain: str, options: argparse.Namespace) -> dict[str, Any]:
    """One domain."""
    words = load_words(prior_for(encoder_spec(worded.card(domain)).id), "cpu")
    train, held = worded.meanings(domain), worded.meanings(domain, "validation")
    captions, rng = worded.captions(domain), np.random.default_rng(0)
    side = 16 if domain == "histology" else 4
    real: Fields = [m.vectors for m in held.meanings]
    known: Fields = [m.vectors for m in train.meanings]
    areas, asked = Areas(train.meanings), Areas(held.meanings)
    made: Fields = []
    window = int(worded.prior_config(domain)["window"])
    while len(made) < options.fields:
        area = asked.draw(window, window, rng)
        text = captions.caption(area.facts, area.label, rng)
        if text:
            made.append(words.prior.sample(words.text.text([text])[0], (side, side), len(made),
                                           options.guidance))  # fmt: skip
    guidance = words.prior.facts.guidance if options.guidance is None else options.guidance
    mean = np.concatenate([f.reshape(-1, f.shape[-1]) for f in known]).mean(0)
    lags = LAGS[domain]
    ours, theirs = autocorrelation(made, lags, mean), autocorrelation(real, lags, mean)
    prompt = words.text.text([options.prompt[domain]])[0]
    large = words.prior.sample(prompt, (64, 64), 1, options.guidance)
    # As large as every image, so that all sources are among them as they are among the real ones.
    least = min(min(m.shape) for m in (*train.meanings, *held.meanings))
    copies = [areas.draw(least, least, rng).vectors for _ in range(options.fields)]
    ours_near, theirs_near = nearest(made, known, 16, 0), nearest(real, known, 16, 0)
    found = {
        "fields": len(made), "real_fields": len(real), "guidance": guidance,
        "cells": distances(made, real, known, 1, 0),
        "neighbourhoods": distances(made, real, known, 2, 0),
        "training_cells": distances(copies, real, known, 1, 0),
        "training_neighbourhoods": distances(copies, real, known, 2, 0),
        "autocorrelation": {
            str(lag): {"sampled": a, "real": b, "ratio": a / b}
            for lag, a, b in zip(lags, ours, theirs, strict=True)
        },
        "seam_64": seam(large, window),
        "retrieval_quartiles": {
            "sampled": quartiles(np.concatenate(ours_near)),
            "held_out": quartiles(np.concatenate(theirs_near)),
            "training": nearest_of_others(train.meanings, 400, 0),
        },
        "closer_than_held_out": closer(ours_near, theirs_near, 0),
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
