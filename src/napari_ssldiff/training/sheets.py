"""Sample sheets: what a network can do by now, as one labelled picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from napari_ssldiff.training.data import ImageSet

_GAP, _HEAD = 4, 26


def to_uint8(images: torch.Tensor) -> NDArray[np.uint8]:
    """``(n, 3, h, w)`` in [-1, 1] → ``(n, h, w, 3)``."""
    scaled = (images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return scaled.round().byte().permute(0, 2, 3, 1).numpy()


def grid(columns: Sequence[tuple[str, torch.Tensor]], edge: int, blocks: int = 1) -> Image.Image:
    """Columns of pictures under their names.

    Parameters
    ----------
    columns
        Names and ``(n, 3, h, w)`` images in [-1, 1], the same number in each.
    edge
        Of a picture on the sheet, in pixels; smaller images are magnified by whole numbers
        without smoothing.
    blocks
        The rows are broken into this many groups side by side.
    """
    pictures = [to_uint8(images) for _, images in columns]
    count = len(pictures[0])
    rows = -(-count // blocks)
    step = edge + _GAP
    width = len(columns) * step + 3 * _GAP
    image = Image.new("RGB", (blocks * width + _GAP, rows * step + _HEAD), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    for i in range(count):
        left = i // rows * width + 2 * _GAP
        for c, (name, _) in enumerate(columns):
            if i % rows == 0:
                draw.text((left + c * step + edge / 2, 5), name, (30, 30, 30), font, anchor="ma")
            picture = Image.fromarray(pictures[c][i])
            if picture.width != edge:
                whole = edge % picture.width == 0
                how = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
                picture = picture.resize((edge, edge), how)
            image.paste(picture, (left + c * step, _HEAD + i % rows * step))
    return image


def lattice_cells(sets: Sequence[ImageSet], cell: int, count: int, seed: int) -> torch.Tensor:
    """``(n, 3, cell, cell)`` uint8, n ≤ ``count``: cells that do not overlap, of all images.

    Each image gives about as many as any other; images smaller than a cell give none.
    """
    rng = np.random.default_rng(seed)
    images = [image for group in sets for image in group.images if min(image.shape[:2]) >= cell]
    chosen = rng.permutation(len(images))[: max(1, count)]
    share = -(-count // max(1, len(chosen)))
    cells = []
    for i in chosen:
        image = images[i]
        rows, columns = image.shape[0] // cell, image.shape[1] // cell
        for place in rng.permutation(rows * columns)[:share]:
            y, x = int(place) // columns * cell, int(place) % columns * cell
            cells.append(image[y : y + cell, x : x + cell])
    if not cells:
        return torch.zeros(0, 3, cell, cell, dtype=torch.uint8)
    return torch.from_numpy(np.stack(cells[:count])).permute(0, 3, 1, 2)


def spread(features: torch.Tensor, count: int) -> list[int]:
    """Indices of ``count`` rows of ``(n, d)`` taken farthest-first by cosine about their mean."""
    unit = F.normalize(features - features.mean(0), dim=1)
    similarity = unit @ unit.T
    chosen = [0]
    while len(chosen) < count:
        chosen.append(int(similarity[chosen].amax(0).argmin()))
    return chosen


def nearest(features: torch.Tensor, queries: int, neighbours: int) -> torch.Tensor:
    """``(queries, 1 + neighbours)`` indices: spread-out queries, then their nearest by cosine.

    Features ``(n, d)`` are centred first.
    """
    chosen = spread(features, queries)
    unit = F.normalize(features - features.mean(0), dim=1)
    order = (unit[chosen] @ unit.T).scatter(1, torch.tensor(chosen)[:, None], 2.0)
    return order.topk(1 + neighbours, dim=1).indices
