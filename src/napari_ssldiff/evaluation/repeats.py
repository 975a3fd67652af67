"""Memorisation of a model: samples of training embeddings, searched for in training images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_ssldiff.embeddings.encoder import EncoderSpec
from napari_ssldiff.embeddings.extract import grid_scale, read_grid
from napari_ssldiff.evaluation.fidelity import Piece
from napari_ssldiff.evaluation.memorisation import (
    Grey,
    Match,
    PlaceIndex,
    luminance,
    share_above,
    symmetry,
)
from napari_ssldiff.evaluation.regions import Tile, cells_of
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import open_scene

Picture = NDArray[np.uint8]

#: Edge of the windows in model pixels, and how much they are shrunk for the search.
WINDOW, SHRINK = 128, 4
#: Images are searched in blocks of this edge.
BLOCK = 1024
#: At most so many model pixels of training images are searched.
LIMIT = 400 * 10**6


@dataclass(frozen=True)
class Block:
    """A part of a training image: where it lies in model pixels, and its luminance."""

    path: Path
    box: Box
    grey: Grey


@dataclass(frozen=True)
class Pair:
    """A sample and its nearest training place, turned alike, at full resolution."""

    sample: Picture
    place: Picture
    ncc: float
    above: bool


def training_blocks(paths: Sequence[Path], spec: EncoderSpec) -> tuple[list[Block], bool]:
    """All of the training images at the model's resolution, in overlapping blocks.

    Returns
    -------
    The blocks, and whether that is everything (:data:`LIMIT`).
    """
    blocks: list[Block] = []
    seen = 0
    step = BLOCK - WINDOW
    for path in paths:
        with open_scene(path) as scene:
            scale = grid_scale(scene, spec)
            h, w = (int(n / s) for n, s in zip(scene.shape, scale, strict=True))
            for y in range(0, max(h - WINDOW, 0) + 1, step):
                for x in range(0, max(w - WINDOW, 0) + 1, step):
                    if seen >= LIMIT:
                        return blocks, False
                    box = Box(y, x, min(BLOCK, h - y), min(BLOCK, w - x))
                    blocks.append(Block(path, box, luminance(read_grid(scene, box, spec), SHRINK)))
                    seen += box.area
    return blocks, True


def windows_with_content(
    tile: Tile, picture: Picture, cell: int
) -> tuple[list[Picture], list[Picture]]:
    """Windows of a tile's picture at least half of whose cells hold content, real ones beside."""
    side = round(len(tile.content) ** 0.5)
    per = max(1, WINDOW // cell)
    content = tile.content.reshape(side, side)
    rows = side // per
    kept = [
        content[r * per : (r + 1) * per, c * per : (c + 1) * per].mean() >= 0.5
        for r in range(rows)
        for c in range(rows)
    ]
    made, real = cells_of(picture, WINDOW), cells_of(tile.pixels, WINDOW)
    shown = [i for i, keep in enumerate(kept) if keep and i < len(made)]
    return [made[i] for i in shown], [real[i] for i in shown]


def _place(block: Block, match: Match, spec: EncoderSpec) -> Picture:
    box = Box(block.box.y + match.y * SHRINK, block.box.x + match.x * SHRINK, WINDOW, WINDOW)
    with open_scene(block.path) as scene:
        return read_grid(scene, box, spec)


Found = list[tuple[Match, Picture, str]]


class _Search:
    """Looks windows up in images, and tells how far it got."""

    def __init__(
        self, blocks: Sequence[Block], total: int, progress: Callable[[float, float], None]
    ) -> None:
        greys = [block.grey for block in blocks]
        self._index = PlaceIndex(greys, WINDOW // SHRINK, torch.get_num_threads())
        self._progress, self._done, self._total = progress, 0, total

    def __call__(self, windows: Sequence[tuple[Picture, str]]) -> Found:
        found: Found = []
        for window, image in windows:
            match = self._index.best(luminance(window, SHRINK))
            if match is not None:
                found.append((match, window, image))
            self._done += 1
            self._progress(self._done, self._total)
        return found


def _windows_of(pieces: Sequence[Piece], spec: EncoderSpec) -> list[tuple[Picture, str]]:
    """Windows of the variations, each with the image that its embeddings are of."""
    return [
        (window, piece.tile.image)
        for piece in pieces
        for window in windows_with_content(piece.tile, piece.made, spec.cell)[0]
    ]


def _share(found: Found, real: Found, rng: np.random.Generator) -> dict[str, Any]:
    return share_above(
        [m.ncc for m, _, _ in found], [g for _, _, g in found],
        [m.ncc for m, _, _ in real], [g for _, _, g in real], rng,
    )  # fmt: skip


def repeat_figures(
    pieces: Sequence[Piece],
    held_out: Sequence[Tile],
    training: Sequence[Path],
    spec: EncoderSpec,
    rng: np.random.Generator,
    *,
    samples: int,
    say: Callable[[str], None],
    control: Sequence[Piece] = (),
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> tuple[dict[str, Any], list[Pair]]:
    """Share of samples that repeat a training place, and the nearest pairs.

    Parameters
    ----------
    pieces
        Variations of *training* tiles.
    held_out
        Real tiles that no training saw: their windows set the threshold.
    samples
        At most so many windows of the pieces, and four times as many of the held-out tiles.
    control
        Variations of held-out tiles, whose windows are searched for in the images that these
        tiles are of. The model never saw those, so what is above the threshold there is
        told by the embeddings (where tissue ends, say) and not remembered.
    """
    blocks, whole = training_blocks(training, spec)
    if not whole:
        say(f"memorisation: only the first {LIMIT // 10**6} megapixels of training were searched")
    ours = _windows_of(pieces, spec)[:samples]
    theirs: list[tuple[Picture, str]] = []
    for tile in held_out:
        theirs += [(w, tile.image) for w in windows_with_content(tile, tile.pixels, spec.cell)[1]]
    theirs = theirs[: 4 * samples]
    others = _windows_of(control, spec)[:samples]
    total = len(ours) + len(theirs)
    search = _Search(blocks, total, progress)
    sample, real = search(ours), search(theirs)
    if min(len(sample), len(real)) < 2:
        say("memorisation is left out: too few windows with a pattern")
        return {}, []
    figures = _share(sample, real, rng)
    figures |= {
        "window": WINDOW,
        "shrink": SHRINK,
        "training_images": len(training),
        "training_megapixels": sum(b.box.area for b in blocks) / 1e6,
        "flat_windows": total - len(sample) - len(real),
    }
    if others:
        own, _ = training_blocks(list(dict.fromkeys(p.tile.path for p in control)), spec)
        found = _Search(own, len(others), progress)(others)
        if len(found) > 1:
            told = _share(found, real, rng)
            figures["control"] = {"share": told["share"], "samples": told["samples"]}
    pairs = []
    for match, window, _ in sorted(sample, key=lambda row: -row[0].ncc)[:6]:
        if match.image < 0:
            continue
        place = _place(blocks[match.image], match, spec)
        turned = np.ascontiguousarray(symmetry(window, match.symmetry))
        pairs.append(Pair(turned, place, match.ncc, match.ncc > figures["threshold"]))
    return figures, pairs
