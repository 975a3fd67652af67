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
    excess,
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


def _new_area(box: Box) -> int:
    """Pixels of a block that those before it, to the left and above, do not hold."""
    return (box.h - WINDOW * (box.y > 0)) * (box.w - WINDOW * (box.x > 0))


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


def _search(
    index: PlaceIndex, windows: Sequence[tuple[Picture, str]], tick: Callable[[], None]
) -> Found:
    """The best place of every window that has a pattern."""
    found: Found = []
    for window, image in windows:
        match = index.best(luminance(window, SHRINK))
        if match is not None:
            found.append((match, window, image))
        tick()
    return found


def _surroundings(tile: Tile, spec: EncoderSpec) -> Grey:
    """Luminance of at most :data:`BLOCK` model pixels a side of a tile's image, around the tile."""
    with open_scene(tile.path) as scene:
        scale = grid_scale(scene, spec)
        inside = tile.box.scaled_outward((1 / scale[0], 1 / scale[1]))
        h, w = (int(n / s) for n, s in zip(scene.shape, scale, strict=True))
        y, x = (
            min(max(0, corner + length // 2 - BLOCK // 2), max(0, whole - BLOCK))
            for corner, length, whole in (
                (inside.y, inside.h, h),
                (inside.x, inside.w, w),
            )
        )
        return luminance(read_grid(scene, Box(y, x, min(BLOCK, h), min(BLOCK, w)), spec), SHRINK)


def own_places(
    pieces: Sequence[Piece], spec: EncoderSpec, count: int, tick: Callable[[], None]
) -> tuple[list[float], list[str]]:
    """Best correlation of the first ``count`` windows with what surrounds the place that their
    embeddings are of, and the images of these places."""
    values: list[float] = []
    images: list[str] = []
    for piece in pieces:
        windows = windows_with_content(piece.tile, piece.made, spec.cell)[0]
        left = [(window, piece.tile.image) for window in windows[: count - len(values)]]
        if not left:
            continue
        index = PlaceIndex([_surroundings(piece.tile, spec)], WINDOW // SHRINK)
        found = _search(index, left, tick)
        values += [match.ncc for match, _, _ in found]
        images += [image for _, _, image in found]
    return values, images


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
        Variations of held-out tiles. Embeddings tell where tissue or a roof ends, so a variation
        is like the place that its embeddings are of without any memory. How often is seen by
        searching windows in the surroundings of their own place only, those of training and of
        held-out tiles alike: ``own_place`` holds both shares above the threshold and their
        difference: memory makes one, and so do kinds of places that only one side has.
    """
    blocks, whole = training_blocks(training, spec)
    if not whole:
        say(f"memorisation: only the first {LIMIT // 10**6} megapixels of training were searched")
    ours: list[tuple[Picture, str]] = []
    for piece in pieces:
        shown, _ = windows_with_content(piece.tile, piece.made, spec.cell)
        ours += [(window, piece.tile.image) for window in shown]
    theirs: list[tuple[Picture, str]] = []
    for tile in held_out:
        theirs += [(w, tile.image) for w in windows_with_content(tile, tile.pixels, spec.cell)[1]]
    ours, theirs = ours[:samples], theirs[: 4 * samples]
    done, total = 0, len(ours) + len(theirs) + (2 * len(ours) if control else 0)

    def tick() -> None:
        nonlocal done
        done += 1
        progress(min(done, total), total)

    index = PlaceIndex([b.grey for b in blocks], WINDOW // SHRINK, torch.get_num_threads())
    sample, real = _search(index, ours, tick), _search(index, theirs, tick)
    del index
    if min(len(sample), len(real)) < 2:
        say("memorisation is left out: too few windows with a pattern")
        return {}, []
    reference = [m.ncc for m, _, _ in real], [image for _, _, image in real]
    figures = share_above(
        [m.ncc for m, _, _ in sample], [image for _, _, image in sample], *reference, rng
    )
    figures |= {
        "window": WINDOW,
        "shrink": SHRINK,
        "training_images": len(training),
        "training_megapixels": sum(_new_area(b.box) for b in blocks) / 1e6,
        "flat_windows": len(ours) + len(theirs) - len(sample) - len(real),
    }
    if control:
        trained = own_places(pieces, spec, samples, tick)
        unseen = own_places(control, spec, samples, tick)
        if min(len(trained[0]), len(unseen[0])) < 2:
            say("memorisation has no control: too few windows with a pattern")
        else:
            # A generator of its own: whether there is a control changes no other figure.
            figures["own_place"] = excess(trained, unseen, reference, np.random.default_rng(0))
    pairs = []
    for match, window, _ in sorted(sample, key=lambda row: -row[0].ncc)[:6]:
        if match.image < 0:
            continue
        place = _place(blocks[match.image], match, spec)
        turned = np.ascontiguousarray(symmetry(window, match.symmetry))
        pairs.append(Pair(turned, place, match.ncc, match.ncc > figures["threshold"]))
    return figures, pairs
