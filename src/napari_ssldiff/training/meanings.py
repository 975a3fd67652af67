"""What text encoder and prior learn from: images as fields, facts and small pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from napari_ssldiff.errors import InputError
from napari_ssldiff.text.captions import Captions
from napari_ssldiff.text.facts import fact_map, fact_names
from napari_ssldiff.text.layout import place_weights
from napari_ssldiff.text.pictures import THUMB, small_picture
from napari_ssldiff.training.augment import jitter_light, jitter_stain, symmetry
from napari_ssldiff.training.data import ImageSet
from napari_ssldiff.training.runtime import Runtime
from napari_ssldiff.training.samples import embed_cells
from napari_ssldiff.training.state import read_tensors, write_tensors


@dataclass(frozen=True)
class Meaning:
    """One form of one image, cell by cell.

    Parameters
    ----------
    vectors
        ``(rows, columns, d)`` float32 unit embeddings.
    facts
        ``(rows, columns, f)`` float32, see :mod:`napari_ssldiff.text.facts`.
    picture
        ``(rows · THUMB, columns · THUMB, 3)`` uint8.
    label
        Of the image, or ``""``.
    source
        Name of the file that the image was cut from.
    """

    vectors: NDArray[np.float32]
    facts: NDArray[np.float32]
    picture: NDArray[np.uint8]
    label: str = ""
    source: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return self.vectors.shape[0], self.vectors.shape[1]


@dataclass(frozen=True)
class Area:
    """A part of a :class:`Meaning`."""

    vectors: NDArray[np.float32]
    facts: NDArray[np.float32]
    picture: NDArray[np.uint8]
    label: str
    source: str = ""


def cut(meaning: Meaning, y: int, x: int, rows: int, columns: int) -> Area:
    """Cells ``[y, y + rows) × [x, x + columns)``; facts are their means, ``(f,)``."""
    place = np.s_[y : y + rows, x : x + columns]
    small = np.s_[y * THUMB : (y + rows) * THUMB, x * THUMB : (x + columns) * THUMB]
    return Area(
        meaning.vectors[place], meaning.facts[place].mean((0, 1)), meaning.picture[small],
        meaning.label, meaning.source,
    )  # fmt: skip


def joined(rest: Area, there: Area, place: str, rng: np.random.Generator) -> Area:
    """Two areas of one shape in one: ``there`` at a place of :mod:`napari_ssldiff.text.layout`.

    Vectors are joined cell by cell, the picture by its pixels; facts are those of the picture's
    parts, and there is no label.
    """
    small = place_weights(place, rest.picture.shape[:2], 0, rng) > 0.5
    cells = small.reshape(len(rest.vectors), THUMB, -1, THUMB).mean((1, 3)) > 0.5
    share = float(small.mean())
    return Area(
        np.where(cells[..., None], there.vectors, rest.vectors),
        ((1 - share) * rest.facts + share * there.facts).astype(np.float32),
        np.where(small[..., None], there.picture, rest.picture),
        "",
    )


class Areas:
    """Areas of any size out of some images.

    Parameters
    ----------
    meanings
        The images.
    """

    def __init__(self, meanings: Sequence[Meaning]) -> None:
        self.meanings = list(meanings)
        self._shapes = np.array([m.shape for m in self.meanings]).reshape(-1, 2)
        self._shares: dict[tuple[int, int], NDArray[np.float64]] = {}

    def __len__(self) -> int:
        return len(self.meanings)

    @property
    def largest(self) -> int:
        """Cells along the largest square area."""
        return int(self._shapes.min(1).max()) if len(self) else 0

    def draw(self, rows: int, columns: int, rng: np.random.Generator) -> Area:
        """An area of that many cells, images by their size and places uniformly.

        Raises
        ------
        InputError
            If no image is that large.
        """
        if (rows, columns) not in self._shares:
            room = (self._shapes - (rows - 1, columns - 1)).clip(0).prod(1)
            if not room.any():
                raise InputError(
                    f"no image has {columns} × {rows} cells: give larger ones, or set "
                    "prior.window lower"
                )
            # The root keeps large images from being nearly all that is seen.
            self._shares[rows, columns] = np.cumsum(np.sqrt(room)) / np.sqrt(room).sum()
        chosen = int(np.searchsorted(self._shares[rows, columns], rng.random(), side="right"))
        meaning = self.meanings[min(chosen, len(self) - 1)]
        y = int(rng.integers(meaning.shape[0] - rows + 1))
        x = int(rng.integers(meaning.shape[1] - columns + 1))
        return cut(meaning, y, x, rows, columns)


def captions_of(
    domain: str, areas: Areas, cells: int, count: int = 4000, seed: int = 0
) -> Captions:
    """Captions whose quantiles are those of areas of up to ``cells`` cells a side."""
    rng = np.random.default_rng(seed)
    facts = []
    for _ in range(count):
        side = int(rng.integers(2, cells + 1))
        facts.append(areas.draw(side, side, rng).facts)
    return Captions(domain, fact_names(domain), np.stack(facts))


@torch.no_grad()
def prepare(
    sets: Sequence[ImageSet],
    augmentation: Mapping[str, float],
    encoder: nn.Module,
    cell: int,
    domain: str,
    versions: int,
    labels: Mapping[str, str],
    seed: int,
    runtime: Runtime | None = None,
) -> Iterator[Meaning]:
    """Every image in ``versions`` forms, each with its own symmetry, stain, light and cell phase.

    Parameters
    ----------
    labels
        By the file that an image was cut from, see :func:`label_of`.
    """
    hardware = (runtime or Runtime()).resolve()
    encoder, rng = encoder.to(hardware.device), np.random.default_rng(seed)
    try:
        for group in sets:
            names = group.sources or ("",) * len(group.images)
            count = max(1, round(versions * group.weight))
            for image, name in zip(group.images, names, strict=True):
                for version in range(count):
                    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
                    x = symmetry(x.to(hardware.device), (version * 3) % 8).float() / 255
                    if augmentation.get("stain"):
                        x = jitter_stain(x, augmentation["stain"] * (version > 0), rng)
                    if augmentation.get("light"):
                        x = jitter_light(x, augmentation["light"] * (version > 0), rng)
                    x = x.clamp(0, 1)
                    if version and min(x.shape[-2:]) >= 8 * cell:
                        y0, x0 = (int(n) for n in rng.integers(0, cell, 2))
                        x = x[..., y0:, x0:]
                    yield _meaning(x[0], encoder, cell, domain, label_of(labels, name), name)
    finally:
        encoder.cpu()


def _meaning(
    x: torch.Tensor, encoder: nn.Module, cell: int, domain: str, label: str, source: str
) -> Meaning:
    rows, columns = x.shape[1] // cell, x.shape[2] // cell
    vectors = embed_cells(encoder, x, cell)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
    cropped = x[:, : rows * cell, : columns * cell].permute(1, 2, 0).cpu().numpy()
    pixels = (cropped * 255).round().astype(np.uint8)
    facts, small = fact_map(pixels, domain, cell), small_picture(pixels, cell)
    return Meaning(vectors.astype(np.float32), facts, small, label, source)


def save(path: Path, meanings: Sequence[Meaning]) -> None:
    """Keep them in one safetensors file, whole or absent."""
    tensors: dict[str, torch.Tensor] = {}
    for i, m in enumerate(meanings):
        tensors[f"{i}.vectors"] = torch.from_numpy(m.vectors).half()
        tensors[f"{i}.facts"] = torch.from_numpy(m.facts)
        tensors[f"{i}.picture"] = torch.from_numpy(m.picture.copy())
        tensors[f"{i}.label"] = _bytes(m.label)
        tensors[f"{i}.source"] = _bytes(m.source)
    write_tensors(path, tensors)


def _bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def load(path: Path) -> list[Meaning]:
    """What :func:`save` wrote."""
    tensors = read_tensors(path)
    return [
        Meaning(
            tensors[f"{i}.vectors"].float().numpy(),
            tensors[f"{i}.facts"].numpy(),
            tensors[f"{i}.picture"].numpy(),
            bytes(tensors[f"{i}.label"].tolist()).decode(),
            bytes(tensors[f"{i}.source"].tolist()).decode(),
        )
        for i in range(len(tensors) // 5)
    ]


def condition_pictures(areas: Sequence[Area], size: int) -> torch.Tensor:
    """``(n, 3, size, size)`` float32 in [0, 1]: areas as a text encoder's images."""
    pictures = [
        np.asarray(Image.fromarray(a.picture).resize((size, size), Image.Resampling.BICUBIC))
        for a in areas
    ]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def label_of(labels: Mapping[str, str], name: str) -> str:
    """The label of an image by its path in the data, or by its name alone; ``""``: none."""
    return labels.get(name) or labels.get(PurePosixPath(name).stem, "")


def label_table(root: Path, entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """``{file name: label}`` of data entries that name a table of labels.

    Raises
    ------
    InputError
        If a table is missing or lacks a column.
    """
    import csv

    found: dict[str, str] = {}
    for entry in entries:
        part = entry.get("labels")
        if not part:
            continue
        path = root / part["table"]
        try:
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    found[row[part["key"]]] = row[part["column"]]
        except OSError as error:
            raise InputError(f"cannot read the labels {path}: {error.strerror}") from None
        except KeyError as error:
            raise InputError(f"the labels {path} have no column {error}") from None
    return found
