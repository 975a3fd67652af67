"""Embedding fidelity: does the image hold what the embeddings asked for?

With c the mean cosine between requested and re-measured embeddings, c_shuffled the same with
requests permuted across images, and c_vae that of the autoencoder's round trip:

    fidelity = (c - c_shuffled) / (c_vae - c_shuffled)

0 is chance, 1 is as good as the autoencoder allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.diffusion.decode import decode, encode
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.embeddings.encoder import Encoder
from napari_ssldiff.embeddings.extract import grid_scale, read_grid
from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation.regions import Tile, cells_of, read_tiles
from napari_ssldiff.geometry import Region
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.scenes import Scene, open_scene
from napari_ssldiff.synthesis import Sampler, TileDone, make_request, synthesize
from napari_ssldiff.synthesis.prepare import frame_of, resolve
from napari_ssldiff.synthesis.run import from_uint8, to_uint8

Vectors = NDArray[np.float32]
Picture = NDArray[np.uint8]

#: Between the seeds of one tile and the next; repeats of a tile take those in between.
SEEDS_APART = 1000


@dataclass(frozen=True)
class Measured:
    """Embeddings of one region's cells: requested, synthesised, and round trip; ``(n, d)``.

    ``image`` names the image that the region is of.
    """

    requested: Vectors
    made: Vectors
    round_trip: Vectors
    image: str


@dataclass(frozen=True)
class Piece:
    """A tile with what was made of it: ``(size, size, 3)`` uint8 each.

    ``made`` is the variation at strength 1 from the tile's embeddings, ``trip`` the
    autoencoder's round trip.
    """

    tile: Tile
    real: Picture
    made: Picture
    trip: Picture


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
    values = [fidelity(np.concatenate([groups[i] for i in draw])) for draw in samples]
    spread = np.percentile(values, [2.5, 97.5], axis=0)

    def interval(column: int) -> list[float]:
        return [round(float(x), 4) for x in spread[:, column]]

    return {
        "fidelity": round(value, 4),
        "interval": interval(3),
        "c": round(c, 4),
        "c_interval": interval(0),
        "c_shuffled": round(c_shuffled, 4),
        "c_vae": round(c_vae, 4),
        "c_vae_interval": interval(2),
        "cells": int(sizes.sum()),
        "regions": len(parts),
        "images": len(groups),
    }


def synthesise_tiles(
    bundle: ModelBundle,
    tiles: Sequence[Tile],
    sampler: Sampler,
    progress: Callable[[float, float], None] = lambda done, total: None,
    *,
    first: int = 0,
) -> list[Piece]:
    """Vary every tile from its own embeddings, each with a seed of its own.

    Noise is bound to places: with one seed, tiles from the same place of other images would be
    drawn from the same noise, and many samples would be no more than a few.

    Parameters
    ----------
    first
        Number of the first tile among those of its source, which its seed follows from.

    Raises
    ------
    InputError
        If the strength is not 1: with less, the source's pixels leak into the figures.
    """
    if sampler.strength != 1:
        raise InputError(f"figures are measured at strength 1, got {sampler.strength}")
    out = []
    for i, tile in enumerate(tiles):
        progress(i, len(tiles))
        size = tile.pixels.shape[0]
        own = replace(sampler, seed=(sampler.seed + SEEDS_APART * (first + i)) % 2**63)
        with open_scene(tile.path) as scene:
            pictures = synthesise_region(scene, tile.region, bundle, own)
        out.append(Piece(tile, *(picture[:size, :size] for picture in pictures)))
    progress(len(tiles), len(tiles))
    return out


def measure(bundle: ModelBundle, pieces: Sequence[Piece]) -> dict[str, list[Measured]]:
    """Embeddings of the pieces' cells, in the conditioning space and the evaluation encoder's."""
    encoders: dict[str, Encoder] = {
        "conditioning": bundle.encoder,
        "encoder-eval": bundle.evaluation_encoder,
    }
    cell = bundle.spec.cell
    out: dict[str, list[Measured]] = {name: [] for name in encoders}
    for piece in pieces:
        parts = [
            cells_of(p, cell)[piece.tile.content] for p in (piece.real, piece.made, piece.trip)
        ]
        for name, encoder in encoders.items():
            requested, made, trip = map(encoder.embed, parts)
            out[name].append(Measured(requested, made, trip, image=piece.tile.image))
    return out


def sampler_facts(bundle: ModelBundle, sampler: Sampler) -> dict[str, Any]:
    """The sampler with its defaults filled in, as make_request resolves them."""
    full = resolve(sampler, bundle)
    return {
        "preset": full.preset,
        "guidance": full.guidance,
        "steps": full.steps,
        "strength": full.strength,
        "seed": full.seed,
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
    tiles = read_tiles(paths, bundle.encoder.spec, window, cells=cells)
    held = sum(int(tile.content.sum()) for tile in tiles)
    if held < cells:
        raise InputError(f"the images hold only {held} cells with content, {cells} were asked for")
    pieces = synthesise_tiles(
        bundle, tiles, sampler, lambda done, total: progress("fidelity", done, total)
    )
    rng = np.random.default_rng(0)
    return {
        "model": bundle.card.id,
        "model_hash": bundle.hash,
        "sampler": sampler_facts(bundle, sampler),
        **{name: score(parts, rng) for name, parts in measure(bundle, pieces).items()},
    }
