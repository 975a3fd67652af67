"""Embedding fidelity: does the image hold what the embeddings asked for?

With c the mean cosine between requested and re-measured embeddings, c_shuffled the same with
requests permuted across images, and c_vae that of the autoencoder's round trip:

    fidelity = (c - c_shuffled) / (c_vae - c_shuffled)

0 is chance, 1 is as good as the autoencoder allows.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.diffusion.decode import decode, encode
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.embeddings.encoder import NetworkEncoder
from napari_ssldiff.embeddings.extract import grid_scale, holds_tissue, read_grid
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.scenes import Scene, open_scene
from napari_ssldiff.synthesis import Sampler, TileDone, make_request, synthesize
from napari_ssldiff.synthesis.prepare import frame_of
from napari_ssldiff.synthesis.run import from_uint8, to_uint8

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Measured:
    """Embeddings of one region's cells: requested, synthesised, and round trip; ``(n, d)``.

    ``image`` names the image that the region is of.
    """

    requested: Vectors
    made: Vectors
    round_trip: Vectors
    image: str


def evaluation_scenes(
    paths: Sequence[Path], folds: Path | None = None, fold: str = "heldout"
) -> list[Path]:
    """Image files below files and folders, cut to a fold.

    Parameters
    ----------
    folds
        CSV with the columns ``fold`` and ``path`` (whose end is matched) or ``name`` (stem).

    Raises
    ------
    InputError
        If nothing is left.
    """
    kinds = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".svs"}
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.suffix.lower() in kinds)
        elif path.exists():
            files.append(path)
        else:
            raise InputError(f"no image or folder at {path}")
    if folds:
        try:
            with folds.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["fold"] == fold]
            names = {row.get("name") or Path(row["path"]).stem for row in rows}
        except KeyError as error:
            raise InputError(f"the folds in {folds} lack the column {error}") from None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"cannot read the folds in {folds}: {error}") from None
        files = [f for f in files if f.stem in names]
    if not files:
        raise InputError(f"no image of the fold {fold!r} in {', '.join(map(str, paths))}")
    return files


def place_regions(shape: tuple[int, int], size: int, count: int) -> list[Box]:
    """Up to ``count`` disjoint squares spread over an image, in its pixels."""
    rows, columns = shape[0] // size, shape[1] // size
    boxes = [Box(r * size, c * size, size, size) for r in range(rows) for c in range(columns)]
    keep = np.unique(np.linspace(0, len(boxes) - 1, min(count, len(boxes))).round().astype(int))
    return [boxes[i] for i in keep] if boxes else []


def _cells(pixels: NDArray[np.uint8], cell: int) -> NDArray[np.uint8]:
    rows, columns = pixels.shape[0] // cell, pixels.shape[1] // cell
    cut = pixels[: rows * cell, : columns * cell]
    grid = cut.reshape(rows, cell, columns, cell, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(-1, cell, cell, 3)


def synthesise_region(
    scene: Scene, region: Region, bundle: ModelBundle, sampler: Sampler
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Source, synthesis and autoencoder round trip of a region, at the model's resolution."""
    request = make_request(scene, region, bundle, sampler, grid="model")
    scale = grid_scale(scene, bundle.encoder.spec)
    box = region.bounds.scaled_outward((1 / scale[0], 1 / scale[1]))
    real = read_grid(scene, box, bundle.encoder.spec)
    made = np.zeros_like(real)
    for event in synthesize(request, bundle=bundle, scene=scene):
        if isinstance(event, TileDone):
            made[event.box.shift(-box.y, -box.x).slices] = event.pixels[..., :3]
    # On the canvas of the request: another phase of the latent lattice is another round trip.
    canvas = frame_of(scene, region, bundle, "model").canvas
    z = encode(bundle.denoiser, from_uint8(read_grid(scene, canvas, bundle.encoder.spec)))
    last = None
    for _, image, _ in decode(bundle.denoiser, z, PRESETS["bulk"], centre=(0, 0)):
        last = image
    assert last is not None
    inside = box.shift(-canvas.y, -canvas.x)
    return real, made, to_uint8(last[(slice(None), *inside.slices)])


def score(parts: Sequence[Measured], rng: np.random.Generator, draws: int = 1000) -> dict[str, Any]:
    """Fidelity with a 95 % interval, bootstrapped over images (cells of one are not
    independent).

    Raises
    ------
    InputError
        If there are fewer than two images, or c_vae - c_shuffled < 0.1: the encoder then
        cannot tell these cells apart and the ratio means nothing.
    """
    images = np.unique([p.image for p in parts], return_inverse=True)[1]
    groups = [np.nonzero(images == i)[0] for i in range(images.max(initial=-1) + 1)]
    if len(groups) < 2:
        raise InputError("fidelity needs cells from at least two images")
    own = [np.sum(p.requested * p.made, 1) for p in parts]
    ceiling = [np.sum(p.requested * p.round_trip, 1) for p in parts]
    # Every request against the results of every other image: the mean over all permutations
    # that never stay within one image.
    requested = np.stack([p.requested.mean(0) for p in parts])
    made = np.stack([p.made.mean(0) for p in parts])
    sizes = np.array([len(p.made) for p in parts], float)
    cross = requested @ made.T

    def fidelity(index: NDArray[np.int64]) -> tuple[float, float, float, float]:
        c = float(np.concatenate([own[i] for i in index]).mean())
        c_vae = float(np.concatenate([ceiling[i] for i in index]).mean())
        weight = np.outer(sizes[index], sizes[index]) * (
            images[index][:, None] != images[index][None, :]
        )
        c_shuffled = float((cross[np.ix_(index, index)] * weight).sum() / weight.sum())
        return c, c_shuffled, c_vae, (c - c_shuffled) / (c_vae - c_shuffled)

    everything = np.arange(len(parts))
    c, c_shuffled, c_vae, value = fidelity(everything)
    if c_vae - c_shuffled < 0.1:
        raise InputError(
            f"the autoencoder's cosine {c_vae:.3f} is less than 0.1 above chance "
            f"{c_shuffled:.3f}: fidelity is undefined for these images and this encoder"
        )
    samples = rng.integers(0, len(groups), (draws, len(groups)))
    # A draw of one image only has nothing to shuffle with.
    samples = samples[(samples != samples[:, :1]).any(1)]
    values = [fidelity(np.concatenate([groups[i] for i in draw]))[3] for draw in samples]
    low, high = np.percentile(values, [2.5, 97.5])
    return {
        "fidelity": round(value, 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
        "c": round(c, 4),
        "c_shuffled": round(c_shuffled, 4),
        "c_vae": round(c_vae, 4),
        "cells": int(sizes.sum()),
        "regions": len(parts),
        "images": len(groups),
    }


def embedding_fidelity(
    bundle: ModelBundle,
    paths: Sequence[Path],
    sampler: Sampler,
    *,
    cells: int = 320,
    window: int = 256,
    progress: Callable[[str, float, float], None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Measure fidelity on images, in the conditioning space and in the evaluation encoder's.

    Parameters
    ----------
    paths
        Images that no training saw. Each gives as many regions as are needed in all.
    sampler
        Strength must be 1: with less, the source's pixels leak into the figure.
    cells
        At least so many cells in all, background not counted.
    window
        Edge of the regions in model pixels.

    Raises
    ------
    InputError
        If the strength is not 1 or the images hold too few cells.
    """
    if sampler.strength != 1:
        raise InputError(f"fidelity is measured at strength 1, got {sampler.strength}")
    encoders: dict[str, NetworkEncoder] = {
        "conditioning": bundle.encoder,
        "encoder-eval": bundle.evaluation_encoder,
    }
    cell = bundle.spec.cell
    per_region = (window // cell) ** 2
    rounds = -(-cells // (per_region * len(paths))) + 2
    measured: dict[str, list[Measured]] = {name: [] for name in encoders}
    done = 0
    # One region of every image, then a second one: the pool spreads over all images.
    for turn, path in ((turn, path) for turn in range(rounds) for path in paths):
        if done >= cells:
            break
        with open_scene(path) as scene:
            size = round(window * grid_scale(scene, bundle.encoder.spec)[0])
            boxes = place_regions(scene.shape, size, rounds)
            if turn >= len(boxes):
                continue
            region = Region.from_box(boxes[turn])
            pictures = synthesise_region(scene, region, bundle, sampler)
            split = [_cells(p, cell) for p in pictures]
            keep = holds_tissue(split[0], scene.background)
        if not keep.any():
            continue
        for name, encoder in encoders.items():
            requested, made, trip = (encoder.embed(part[keep]) for part in split)
            measured[name].append(Measured(requested, made, trip, image=str(path)))
        done += int(keep.sum())
        progress("fidelity", min(done, cells), cells)
    if done < cells:
        raise InputError(f"the images hold only {done} cells with content, {cells} were asked for")
    rng = np.random.default_rng(0)
    # As make_request resolves it.
    candidates = (sampler.guidance, PRESETS[sampler.preset].guidance, bundle.card.guidance)
    guidance = next(value for value in candidates if value is not None)
    return {
        "model": bundle.card.id,
        "model_hash": bundle.hash,
        "sampler": {
            "preset": sampler.preset,
            "guidance": guidance,
            "steps": sampler.steps or PRESETS[sampler.preset].steps,
            "strength": sampler.strength,
            "seed": sampler.seed,
        },
        **{name: score(parts, rng) for name, parts in measured.items()},
    }
