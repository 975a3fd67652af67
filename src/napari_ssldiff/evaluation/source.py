"""All figures of one source of images, from one set of variations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation.colour import compare_colour
from napari_ssldiff.evaluation.fidelity import Piece, measure, score
from napari_ssldiff.evaluation.frechet import (
    LEAST,
    Projection,
    frechet_distance,
    kernel_distance,
    ratio_to_floor,
    real_floor,
    variance_ratio,
)
from napari_ssldiff.evaluation.manifold import diversity, inside_manifold, precision_recall
from napari_ssldiff.evaluation.regions import Tile, cells_of
from napari_ssldiff.evaluation.spaces import FeatureSpace
from napari_ssldiff.evaluation.spectrum import compare_power, pooled_psnr, psnr
from napari_ssldiff.evaluation.stats import bootstrap, mean_estimate
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.synthesis.run import from_uint8, to_uint8

Picture = NDArray[np.uint8]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Material:
    """What a source's figures are computed from; made once.

    Parameters
    ----------
    pool
        Real tiles; the first of them were varied.
    pieces
        The varied ones.
    second
        The varied ones again, by the next seed, of as many as diversity needs.
    """

    pool: Sequence[Tile]
    pieces: Sequence[Piece]
    second: Sequence[Piece] = ()


@dataclass
class CellSet:
    """Cells with content of many tiles: pictures, and the image that each is of."""

    pictures: Picture
    groups: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls, tiles: Sequence[Tile], cell: int, pictures: Sequence[Picture] | None = None
    ) -> CellSet:
        """Of tiles; or of ``pictures`` of theirs, content decided by the real one."""
        shown = [t.pixels for t in tiles] if pictures is None else pictures
        kept = [cells_of(p, cell)[t.content] for p, t in zip(shown, tiles, strict=True)]
        groups = [t.image for t in tiles for _ in range(int(t.content.sum()))]
        empty = np.empty((0, cell, cell, 3), np.uint8)
        return cls(np.concatenate([empty, *kept]), groups)


def round_trips(bundle: ModelBundle, tiles: Sequence[Tile]) -> Picture:
    """The autoencoder's round trip of tiles, each encoded on its own: ``(n, s, s, 3)``."""
    model, out = bundle.denoiser, []
    autoencoder = model.at_work(model.autoencoder)
    with torch.inference_mode():
        for tile in tiles:
            x = from_uint8(tile.pixels)[None].to(bundle.device)
            out.append(to_uint8(autoencoder.decode(autoencoder.encode(x))[0].cpu()))
    return np.stack(out)


def autoencoder_figures(
    bundle: ModelBundle, tiles: Sequence[Tile], rng: np.random.Generator
) -> dict[str, Any]:
    """PSNR and radial power of the round trip on whole tiles."""
    real = np.stack([t.pixels for t in tiles])
    made = round_trips(bundle, tiles)
    groups = [t.image for t in tiles]
    each = psnr(made, real)
    pooled = bootstrap(lambda index: pooled_psnr(each[index]), groups, rng)
    return {
        "psnr": mean_estimate(each, groups, rng).to_dict(),
        "psnr_pooled": pooled.to_dict(),
        "psnr_worst": float(each.min()),
        "power": compare_power(made, real, groups, rng),
    }


def fidelity_figures(
    bundle: ModelBundle, pieces: Sequence[Piece], rng: np.random.Generator, say: Say
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Fidelity in both spaces, and every piece's mean cosine in the conditioning space."""
    parts = measure(bundle, pieces)
    out: dict[str, Any] = {}
    for name, measured in parts.items():
        groups = [m.image for m in measured for _ in m.made]
        own = np.concatenate([(m.requested * m.made).sum(1) for m in measured])
        trip = np.concatenate([(m.requested * m.round_trip).sum(1) for m in measured])
        out[name] = {
            "similarity": mean_estimate(own, groups, rng).to_dict(),
            "autoencoder_similarity": mean_estimate(trip, groups, rng).to_dict(),
        }
        try:
            out[name] |= score(measured, rng)
        except InputError as error:
            say(f"fidelity in the space {name} is left out: {error}")
    each = [float((m.requested * m.made).sum(1).mean()) for m in parts["conditioning"]]
    return out, np.array(each)


def distance_figures(
    space: FeatureSpace,
    made: CellSet,
    real: CellSet,
    pool: CellSet,
    other: CellSet,
    projection: Projection | None,
    rng: np.random.Generator,
    say: Say,
    splits: int = 200,
) -> dict[str, Any]:
    """Fréchet and kernel distance of made cells, beside those of real cells at the same n.

    Parameters
    ----------
    made, real
        The same cells, varied and real.
    pool
        All real cells: halves of them give the floor.
    other
        Real cells of other places than ``made``.
    projection
        ``None`` leaves Fréchet out.
    """
    n = min(len(made.groups), len(pool.groups) // 2)
    if n < 8:
        say(f"distances are left out: only {len(pool.groups)} real cells hold content")
        return {}
    keep = np.sort(rng.permutation(len(made.groups))[:n])
    groups = [made.groups[i] for i in keep]
    a, b = (space.features(x.pictures[keep]) for x in (made, real))
    c = space.features(pool.pictures)
    out: dict[str, Any] = {"space": space.name, "weights": space.version, "n": n}
    order = rng.permutation(len(c))
    value, std = kernel_distance(a * space.scale, b * space.scale)
    low, low_std = kernel_distance(c[order[:n]] * space.scale, c[order[n : 2 * n]] * space.scale)
    out["kernel"] = {
        "value": value, "std": std, "n": n,
        "real_halves": {"value": low, "std": low_std, "n": n},
    }  # fmt: skip
    if projection is None:
        say("Fréchet distance is left out: it needs training images (--folds or --training)")
        return out
    if n < LEAST:
        say(f"Fréchet distance is left out: it needs {LEAST} cells a side, {n} are here (kernel)")
        return out
    pa, pb, pc = (projection(x) for x in (a, b, c))
    floor = real_floor(pc, pool.groups, n, rng, splits=splits)
    assert floor is not None
    distance, ratio = ratio_to_floor(pa, pb, groups, floor, rng)
    out["frechet"] = {
        "dimensions": len(projection.axes),
        "explained": projection.explained,
        "training_cells": projection.count,
        "distance": distance.to_dict(),
        "real_halves_by_cell": floor.to_dict(),
        "ratio": ratio.to_dict(),
        "variance_ratio": variance_ratio(pa, pb),
    }
    apart = real_floor(pc, pool.groups, n, rng, splits=splits, by_image=True)
    if apart is None:
        say("halves by image are left out: a half of the images does not fill n")
    else:
        out["frechet"]["real_halves_by_image"] = apart.to_dict()
        out["frechet"]["ratio_by_image"] = distance.value / float(apart.values.mean())
    if len(other.groups) >= n:
        # Neither side shares a place with the other here, the real one no more than the made.
        pd = projection(space.features(other.pictures[rng.permutation(len(other.groups))[:n]]))
        ours, theirs = frechet_distance(pa, pd), frechet_distance(pb, pd)
        out["frechet"]["other_places"] = {
            "made": ours, "real": theirs, "ratio": ours / theirs, "n": n,
        }  # fmt: skip
    return out


def manifold_figures(
    space: FeatureSpace,
    material: Material,
    made: CellSet,
    real: CellSet,
    pool: CellSet,
    cell: int,
    rng: np.random.Generator,
    say: Say,
) -> dict[str, Any]:
    """Precision, recall and diversity, with what real halves reach in precision."""
    a, b = space.features(made.pictures), space.features(real.pictures)
    if len(a) < 8:
        say(f"precision and recall are left out: only {len(a)} cells hold content")
        return {}
    out: dict[str, Any] = {"space": space.name, **precision_recall(a, b, made.groups, rng)}
    n = min(len(a), len(pool.groups) // 2)
    if n >= 8:
        order = rng.permutation(len(pool.groups))
        one, two = (space.features(pool.pictures[i]) for i in (order[:n], order[n : 2 * n]))
        out["real_halves"] = {"precision": float(inside_manifold(one, two).mean()), "n": n}
    if material.second:
        tiles = [p.tile for p in material.second]
        made_by_tile = {(p.tile.path, p.tile.box): p.made for p in material.pieces}
        first, second = (
            CellSet.of(tiles, cell, pictures)
            for pictures in (
                [made_by_tile[t.path, t.box] for t in tiles],
                [p.made for p in material.second],
            )
        )
        same = CellSet.of(tiles, cell, [p.real for p in material.second])
        out["diversity"] = diversity(
            space.features(first.pictures), space.features(second.pictures),
            space.features(same.pictures), first.groups, rng,
        )  # fmt: skip
    return out


def source_figures(
    bundle: ModelBundle,
    material: Material,
    metrics: frozenset[str],
    space: FeatureSpace | None,
    projection: Projection | None,
    rng: np.random.Generator,
    say: Say,
) -> tuple[dict[str, Any], NDArray[np.float64] | None]:
    """Every figure of ``metrics`` that a source's material gives.

    Returns
    -------
    The figures, and each piece's mean cosine if fidelity is among them.
    """
    pieces, cell = material.pieces, bundle.spec.cell
    images = sorted({t.image for t in material.pool})
    out: dict[str, Any] = {
        "images": len(images), "tiles": len(material.pool), "varied_tiles": len(pieces),
    }  # fmt: skip
    cosines = None
    if "autoencoder" in metrics:
        out["autoencoder"] = autoencoder_figures(bundle, material.pool[:64], rng)
    if "fidelity" in metrics:
        out["fidelity"], cosines = fidelity_figures(bundle, pieces, rng, say)
    if pieces and metrics & {"frechet", "manifold"}:
        assert space is not None
        tiles = [p.tile for p in pieces]
        made = CellSet.of(tiles, cell, [p.made for p in pieces])
        real = CellSet.of(tiles, cell, [p.real for p in pieces])
        pool = CellSet.of(material.pool, cell)
        if "frechet" in metrics:
            other = CellSet.of(material.pool[len(tiles) :], cell)
            out["distances"] = distance_figures(
                space, made, real, pool, other, projection, rng, say
            )
        if "manifold" in metrics:
            out["manifold"] = manifold_figures(space, material, made, real, pool, cell, rng, say)
    if pieces and metrics & {"spectrum", "colour"}:
        shown, true, trip = (
            np.stack([getattr(p, name) for p in pieces]) for name in ("made", "real", "trip")
        )
        groups = [p.tile.image for p in pieces]
        if "spectrum" in metrics:
            out["spectrum"] = {
                "made": compare_power(shown, true, groups, rng),
                "autoencoder": compare_power(trip, true, groups, rng),
            }
        if "colour" in metrics:
            out["colour"] = {
                "made": compare_colour(shown, true, groups, rng),
                "autoencoder": compare_colour(trip, true, groups, rng),
            }
    return out, cosines
