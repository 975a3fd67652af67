"""The cells of a data set, to be asked which are most like an embedding.

An index is a folder: ``index.json`` says which encoder, which images, and where they lie; beside it
are safetensors with the unit vectors (float16) and the places of at most :data:`PART` cells each.
Only one of them is in memory at a time, whether it is written or asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from napari_ssldiff.embeddings.field import Vectors, normalise
from napari_ssldiff.errors import InputError, OutputError
from napari_ssldiff.scenes import open_scene
from napari_ssldiff.scenes.thumbnail import thumbnail

if TYPE_CHECKING:
    from napari_ssldiff.embeddings.encoder import EncoderSpec

FORMAT, FILE = "napari-ssldiff-index-1", "index.json"
#: Cells in one file of vectors.
PART = 65536


@dataclass(frozen=True)
class IndexedImage:
    """One image of an index.

    Parameters
    ----------
    name, path, beside
        What it is called, where it was, and the same relative to the index, where it is sought
        when both were moved.
    stamp
        Bytes and time of the file, by which a changed one is told.
    cell
        ``(h, w)`` of a cell in level-0 pixels.
    pixel
        ``(y, x, unit)``: size of a level-0 pixel.
    parts
        Files of vectors, beside ``index.json``.
    cells
        How many there are.
    """

    name: str
    path: str
    beside: str
    stamp: tuple[int, int]
    cell: tuple[float, float]
    pixel: tuple[float, float, str]
    parts: tuple[str, ...] = ()
    cells: int = 0


@dataclass(frozen=True)
class RealCell:
    """A cell of a data set and its cosine with what was sought.

    Parameters
    ----------
    image
        Whose.
    corner, extent
        ``(y, x)`` and ``(h, w)`` in level-0 pixels.
    """

    image: IndexedImage
    corner: tuple[float, float]
    extent: tuple[float, float]
    cosine: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible: name, path, box ``[x, y, w, h]``, pixel size and cosine."""
        box = [self.corner[1], self.corner[0], self.extent[1], self.extent[0]]
        return {
            "name": self.image.name,
            "path": self.image.path,
            "box": [round(v, 2) for v in box],
            "pixel_size": list(self.image.pixel),
            "cosine": round(self.cosine, 4),
        }


@dataclass
class Index:
    """An index in its folder.

    Parameters
    ----------
    folder
        Where it lies.
    encoder, width
        Whose embeddings, and how long they are.
    images
        What it holds.
    """

    folder: Path
    encoder: str
    width: int
    images: list[IndexedImage] = field(default_factory=list)

    @property
    def cells(self) -> int:
        """How many there are in all."""
        return sum(image.cells for image in self.images)

    @classmethod
    def open(cls, folder: str | Path) -> Index:
        """Read what is in an index; none of its vectors yet.

        Raises
        ------
        InputError
            If it is none.
        """
        folder = Path(folder).expanduser().absolute()
        try:
            data = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise InputError(f"{folder} is an index of another version: {data['format']}")
            images = [_image_from(one) for one in data["images"]]
            return cls(folder, str(data["encoder"]), int(data["width"]), images)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{folder} is no index: make one with 'napari-ssldiff index PATH -o {folder.name}'"
            ) from None

    @classmethod
    def at(cls, folder: str | Path, spec: EncoderSpec) -> Index:
        """The index of a folder, to be added to; a new one where there is nothing.

        Raises
        ------
        InputError
            If it is another encoder's.
        OutputError
            If something else is there.
        """
        folder = Path(folder).expanduser().absolute()
        if (folder / FILE).is_file():
            found = cls.open(folder)
            found.check(spec.id)
            # What a run that was killed has written of an image that it did not finish.
            listed = {name for image in found.images for name in image.parts}
            found.remove_parts(p.name for p in folder.glob("*.safetensors") if p.name not in listed)
            return found
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder} exists and is no index: choose another name")
        return cls(folder, spec.id, spec.width)

    def check(self, encoder: str) -> None:
        """Raise where an encoder is another.

        Raises
        ------
        InputError
            Which names both.
        """
        if encoder != self.encoder:
            raise InputError(
                f"the index {self.folder.name} holds embeddings of {self.encoder}, not of "
                f"{encoder}: make one with that encoder's model (napari-ssldiff index --model)"
            )

    def known(self, path: Path) -> bool:
        """Whether an image is in it, and unchanged since."""
        where = str(path.absolute())
        return any(i.path == where and i.stamp == stamp_of(path) for i in self.images)

    def where(self, image: IndexedImage) -> Path | None:
        """Where an image is now; ``None`` where it is not found."""
        places = Path(image.path), self.folder / image.beside
        return next((place for place in places if place.exists()), None)

    def missing(self) -> list[str]:
        """Paths of the images that are not where they were."""
        return [image.path for image in self.images if self.where(image) is None]

    def nearest(
        self, vectors: ArrayLike, count: int = 5, check: Callable[[], None] = lambda: None
    ) -> list[list[RealCell]]:
        """The cells that are most like each of ``(n, d)`` vectors, the nearest first.

        Parameters
        ----------
        check
            Called between the files of vectors; raises to cancel.

        Raises
        ------
        InputError
            If the vectors have another length, or a part of the index is damaged.
        """
        from sklearn.neighbors import NearestNeighbors

        sought = normalise(np.atleast_2d(np.asarray(vectors, np.float32)))
        if sought.shape[1] != self.width:
            raise InputError(
                f"the index {self.folder.name} has vectors of {self.width} numbers, not "
                f"{sought.shape[1]}"
            )
        rows = range(len(sought))
        best: list[list[RealCell]] = [[] for _ in rows]
        for image in self.images:
            for name in image.parts:
                check()
                known, places = self._part(name)
                near = NearestNeighbors(metric="cosine", algorithm="brute").fit(known)
                away, at = near.kneighbors(sought, min(count, len(known)))
                for i in rows:
                    found = [
                        _cell(image, places[j], 1 - float(a))
                        for a, j in zip(away[i], at[i], strict=True)
                    ]
                    best[i] = sorted(best[i] + found, key=lambda c: -c.cosine)[:count]
        return best

    def add(self, image: IndexedImage, parts: Sequence[str]) -> None:
        """Take in an image whose files of vectors are written; of one path there is one."""
        gone = [old for old in self.images if old.path == image.path]
        self.images = [old for old in self.images if old.path != image.path]
        self.images.append(replace(image, parts=tuple(parts)))
        self._save()
        self.remove_parts({name for old in gone for name in old.parts} - set(parts))

    def remove_parts(self, names: Iterable[str]) -> None:
        """Delete files of vectors that no image of the index needs."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def write_part(self, vectors: Vectors, places: NDArray[np.int32]) -> str:
        """Write cells to a file of its own; its name.

        Parameters
        ----------
        vectors
            ``(n, d)`` on the unit sphere.
        places
            ``(n, 2)``: row and column.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            taken = {int(p.stem) for p in self.folder.glob("*.safetensors") if p.stem.isdigit()}
            name = f"{max(taken, default=-1) + 1:06d}.safetensors"
            partial = self.folder / f".{name}.partial"
            tensors: dict[str, NDArray[Any]] = {
                "vectors": vectors.astype(np.float16),
                "places": places.astype(np.int32),
            }
            save_file(tensors, partial)
            partial.replace(self.folder / name)
        except OSError as error:
            raise self._cannot(error) from error
        return name

    def _part(self, name: str) -> tuple[Vectors, NDArray[np.int32]]:
        try:
            tensors = load_file(self.folder / name)
            return normalise(tensors["vectors"].astype(np.float32)), tensors["places"]
        except (OSError, KeyError, SafetensorError) as error:
            raise InputError(
                f"{self.folder / name} cannot be read ({error}): make the index again"
            ) from None

    def _save(self) -> None:
        data = {
            "format": FORMAT, "encoder": self.encoder, "width": self.width,
            "images": [asdict(image) for image in self.images],
        }  # fmt: skip
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f".{FILE}.partial"
            partial.write_text(json.dumps(data, indent=1), encoding="utf-8")
            partial.replace(self.folder / FILE)
        except OSError as error:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot write the index {self.folder}: {error.strerror}; choose another place"
        )


def _image_from(data: dict[str, Any]) -> IndexedImage:
    lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return IndexedImage(**lists)


def stamp_of(path: Path) -> tuple[int, int]:
    """Bytes and time of change of a file or folder."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def image_of(
    path: Path, name: str, folder: Path, cell: tuple[float, float], pixel: tuple[float, float, str]
) -> IndexedImage:
    """An image as an index in ``folder`` records it."""
    where = path.absolute()
    try:
        beside = os.path.relpath(where, folder)
    except ValueError:  # another drive
        beside = str(where)
    return IndexedImage(name, str(where), beside, stamp_of(path), cell, pixel)


def pictures(index: Index, cells: Sequence[RealCell], edge: int) -> list[NDArray[np.uint8] | None]:
    """``(edge, edge, 3)`` uint8 of each cell; ``None`` where its image is not found any more, or
    cannot be read."""
    out: list[NDArray[np.uint8] | None] = [None] * len(cells)
    for image in {cell.image for cell in cells}:
        path = index.where(image)
        if path is None:
            continue
        try:
            with open_scene(path) as scene:
                for i, cell in enumerate(cells):
                    if cell.image == image:
                        out[i] = thumbnail(scene, cell.corner, cell.extent, edge)
        except InputError:
            continue
    return out


def _cell(image: IndexedImage, place: NDArray[np.int32], cosine: float) -> RealCell:
    (row, column), (h, w) = place.tolist(), image.cell
    return RealCell(image, (row * h, column * w), (h, w), cosine)
