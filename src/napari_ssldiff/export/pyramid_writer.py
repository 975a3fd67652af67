"""Writes one pyramid into a Zarr group, block by block, every shard once and whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from napari_ssldiff.export.downsample import pyramid_shapes
from napari_ssldiff.geometry import Box

#: No level is halved further once its longest side is this long.
COARSEST = 512

# Blosc, because Java readers of Zarr 2 know it and no bare zstd.
_BLOSC_2: dict[str, Any] = {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 1}

Reader = Callable[[Box], NDArray[Any]]
Halve = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """How arrays are cut: chunk edge, shard edge (0: no shards) and OME-Zarr version."""

    chunk: int
    shard: int
    version: str

    def block(self, shape: tuple[int, int]) -> int:
        """Edge of what is written at once: a whole shard, or as much of whole chunks.

        Blocks start at multiples of it, so no two writes ever meet in one shard or chunk:
        a partly written shard is rewritten whole, which is slow, and loses data when two do it.
        """
        size = self.shard or max(1, 2048 // self.chunk) * self.chunk
        return min(size, -(-max(shape) // self.chunk) * self.chunk)


class PyramidWriter:
    """One image or label pyramid, finest level from a reader, the others each from the last.

    Parameters
    ----------
    group
        Empty group that receives arrays ``"0"``, ``"1"``, ….
    shape
        ``(h, w)`` of level 0.
    channels
        Number of channels, written first (``cyx``), or 0 for none (``yx``).
    dtype, layout
        Of every level.
    halve
        ``(h, w, …)`` → half of it, see :mod:`napari_ssldiff.export.downsample`.
    guard
        Makes a context for every write, which turns disk errors into readable ones.
    """

    def __init__(
        self,
        group: zarr.Group,
        shape: tuple[int, int],
        channels: int,
        dtype: np.dtype[Any],
        layout: Layout,
        halve: Halve,
        guard: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.shapes = pyramid_shapes(shape, COARSEST)
        self._channels, self._layout = channels, layout
        self._halve, self._guard = halve, guard
        with guard():
            self._arrays = [
                self._create(group, str(k), level, dtype) for k, level in enumerate(self.shapes)
            ]

    @property
    def blocks(self) -> int:
        """How many blocks :meth:`write` will report."""
        return sum(1 for shape in self.shapes for _ in self._tiles(shape))

    def write(self, read: Reader) -> Iterator[NDArray[Any]]:
        """Write everything; yields each block of level 0 and of the others as it is done.

        Parameters
        ----------
        read
            ``Box → (h, w)`` or ``(h, w, channels)`` of level 0; its errors pass unchanged.
        """
        for k, shape in enumerate(self.shapes):
            for tile in self._tiles(shape):
                pixels = read(tile) if k == 0 else self._from_finer(k, tile)
                with self._guard():
                    self._put(k, tile, pixels)
                yield pixels

    def _tiles(self, shape: tuple[int, int]) -> Iterator[Box]:
        return Box(0, 0, *shape).tiles(self._layout.block(shape))

    def _from_finer(self, level: int, tile: Box) -> NDArray[Any]:
        """``tile`` of ``level`` from the level before, in parts to bound the memory."""
        finer = Box(0, 0, *self.shapes[level - 1])
        trailing = (self._channels,) if self._channels else ()
        out = np.empty((*tile.shape, *trailing), self._arrays[level].dtype)
        for part in tile.tiles(max(1, self._layout.block(self.shapes[level]) // 2)):
            source = Box(part.y * 2, part.x * 2, part.h * 2, part.w * 2).intersect(finer)
            with self._guard():
                pixels = self._get(level - 1, source)
            out[part.shift(-tile.y, -tile.x).slices] = self._halve(pixels)
        return out

    def _get(self, level: int, box: Box) -> NDArray[Any]:
        if not self._channels:
            return np.asarray(self._arrays[level][box.slices])
        planes = np.asarray(self._arrays[level][(slice(None), *box.slices)])
        return np.moveaxis(planes, 0, -1)

    def _put(self, level: int, box: Box, pixels: NDArray[Any]) -> None:
        if not self._channels:
            self._arrays[level][box.slices] = pixels
        else:
            planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
            self._arrays[level][(slice(None), *box.slices)] = planes

    def _create(
        self, group: zarr.Group, name: str, shape: tuple[int, int], dtype: np.dtype[Any]
    ) -> zarr.Array[Any]:
        lead = (self._channels,) if self._channels else ()
        chunk = self._layout.chunk
        common: dict[str, Any] = {
            "shape": (*lead, *shape),
            "dtype": dtype,
            "chunks": (*((1,) if lead else ()), chunk, chunk),
            "fill_value": 0,
        }
        if self._layout.version == "0.4":
            return group.create_array(
                name,
                **common,
                chunk_key_encoding={"name": "v2", "separator": "/"},
                compressors=_BLOSC_2,
            )
        edge = self._layout.block(shape)
        return group.create_array(
            name,
            **common,
            shards=(*lead, edge, edge) if self._layout.shard else None,
            compressors=BloscCodec(
                cname="zstd", clevel=3, shuffle="shuffle", typesize=dtype.itemsize
            ),
            dimension_names=("c", "y", "x") if lead else ("y", "x"),
        )
