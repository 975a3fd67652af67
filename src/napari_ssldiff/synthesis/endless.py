"""A slide without bounds: a virtual pyramid that is synthesised where one looks.

Reading never synthesises. It gives the pixels that exist and notes which tiles are missing;
:meth:`LazyScene.work` makes them, on whatever thread owns the model. What was made is kept as long
as the budget lasts, and is made again, the same to the bit, when somebody comes back.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from napari_ssldiff.diffusion.canvas import CanvasTask, Counters
from napari_ssldiff.diffusion.lattice import ByteCache, Key
from napari_ssldiff.diffusion.lazy import TILE, LazyCanvas
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.embeddings.endless import Places
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.geometry import Box, centre_out
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.synthesis.prepare import resolve
from napari_ssldiff.synthesis.request import Sampler
from napari_ssldiff.synthesis.tokens import window_tokens

#: Alpha of a pixel that only the field's map shows: it is approximate, and looks it.
APPROXIMATE = 160
#: Views that need more tiles than this show what exists and the map, and ask for nothing.
TILES_PER_VIEW = 64
#: The map is computed at no more than so many places per side of a view.
_MAP_SIDE = 128
#: Edge of the coarsest level, at most.
_COARSEST = 256


@dataclass(frozen=True)
class Palette:
    """The mean colour of a cell, as far as it is linear in its embedding.

    Parameters
    ----------
    weights, bias
        ``(d, 3)`` and ``(3,)`` float32: colour = vector @ weights + bias, in [0, 255].
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(…, d)`` → ``(…, 3)`` float32 in [0, 255]."""
        return np.asarray(np.clip(vectors @ self.weights + self.bias, 0, 255), np.float32)


def fit_palette(
    field: EmbeddingField, colours: NDArray[np.floating[Any]], ridge: float = 1e-2
) -> Palette:
    """The palette of a scene, by ridge regression.

    Parameters
    ----------
    field
        ``(rows, columns, d)`` embeddings of the scene's cells.
    colours
        ``(rows, columns, 3)``: the cells' mean colours, in [0, 255].
    ridge
        Penalty on the weights, per cell.
    """
    x = field.vectors.reshape(-1, field.width).astype(np.float64)
    y = np.asarray(colours, np.float64).reshape(-1, 3)
    if len(x) != len(y):
        raise InputError(f"a palette needs a colour per cell: {len(x)} cells, {len(y)} colours")
    mean, middle = x.mean(0), y.mean(0)
    gram = (x - mean).T @ (x - mean) + ridge * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, (x - mean).T @ (y - middle))
    return Palette(weights.astype(np.float32), (middle - mean @ weights).astype(np.float32))


class LazyLevel:
    """One level as napari and dask take it: ``(h, w, 4)`` uint8, read by slices."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, scene: LazyScene, level: int) -> None:
        self.scene, self.level = scene, level
        self.shape = (*(-(-n // 2**level) for n in scene.shape), 4)
        self.chunks = (TILE, TILE, 4)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis in index:
            at = index.index(Ellipsis)
            missing = self.ndim - len(index) + 1
            index = (*index[:at], *[slice(None)] * missing, *index[at + 1 :])
        rows, columns, *rest = (*index, slice(None), slice(None))[:3]
        (y, y1), (x, x1) = _bounds(rows, self.shape[0]), _bounds(columns, self.shape[1])
        out = self.scene.read(self.level, Box(y, x, max(0, y1 - y), max(0, x1 - x)))
        inner = tuple(
            0 if isinstance(part, (int, np.integer)) else slice(None, None, part.step)
            for part in (rows, columns)
        )
        return np.asarray(out[(*inner, *rest)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if self.size > 2**30:
            raise InputError(
                f"level {self.level} of {self.shape[1]} × {self.shape[0]} pixels does not fit "
                "into memory as a whole; read a part of it"
            )
        return np.asarray(self[:], dtype=dtype)


def _bounds(part: Any, length: int) -> tuple[int, int]:
    if isinstance(part, slice):
        if (part.step or 1) < 1:
            raise IndexError(f"a lazy level is read forwards, not by a step of {part.step}")
        start, stop, _ = part.indices(length)
        return start, stop
    at = int(part) + (length if int(part) < 0 else 0)
    if not 0 <= at < length:
        raise IndexError(f"{int(part)} is outside a level of {length} pixels")
    return at, at + 1


class LazyScene:
    """A virtual slide at the model's resolution.

    Parameters
    ----------
    bundle
        The model.
    places
        What is where; pixels are the model's, from the slide's corner.
    palette
        Colours of embeddings, for the map that coarse levels show.
    shape
        ``(h, w)`` in pixels.
    sampler
        Preset ``lazy``; what it leaves out is filled in as for a request. Strength is 1.
    cache_bytes
        Budget of finished pixels, and of window results.

    Raises
    ------
    InputError, ModelError
        If the sampler is another preset's or the places are not the model's encoder's.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        places: Places,
        palette: Palette,
        shape: tuple[int, int],
        sampler: Sampler,
        *,
        cache_bytes: int = 2**30,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        preset = PRESETS[sampler.preset]
        if preset.phases is None:
            raise InputError(f"an endless slide needs the preset lazy, not {sampler.preset}")
        if places.encoder != bundle.encoder.spec.id:
            raise ModelError(
                f"the places were made by {places.encoder}, {bundle.card.id} is conditioned on "
                f"{bundle.encoder.spec.id}: embed them with this model"
            )
        if min(shape) < 1:
            raise InputError(f"a slide has at least one pixel, not {shape[1]} × {shape[0]}")
        self.shape, self.places, self.palette = (int(shape[0]), int(shape[1])), places, palette
        sampler = resolve(sampler, bundle)
        assert sampler.steps is not None
        assert sampler.guidance is not None
        self.sampler, self.counters = sampler, Counters()
        self._identity = {
            "model": bundle.card.id,
            "model_hash": bundle.hash,
            "places": places.digest,
            "sampler": vars(sampler),
        }
        self._canvas = LazyCanvas(
            bundle.denoiser,
            CanvasTask(
                box=Box(0, 0, 1, 1),  # nothing is known in advance, so it says nothing
                tokens=window_tokens(places, bundle.spec),
                steps=sampler.steps,
                guidance=sampler.guidance,
                strength=1.0,
                seed=sampler.seed,
                batch=sampler.batch,
            ),
            preset,
            threads=sampler.threads,
            cache_bytes=cache_bytes,
            tile_bytes=0,
            check=check,
            counters=self.counters,
        )
        self._tiles: ByteCache[tuple[int, Key], NDArray[np.uint8]] = ByteCache(cache_bytes)
        self._means: dict[Key, NDArray[np.float32]] = {}
        self._wanted: dict[Key, None] = {}
        self._changed = threading.Condition()
        count = 0
        while max(self.shape) > _COARSEST * 2**count:
            count += 1
        self._levels = [LazyLevel(self, level) for level in range(count)]
        self._coarsest = self._map(count, Box(0, 0, *self._shape_at(count)))

    @property
    def levels(self) -> list[Any]:
        """Finest first: arrays of ``(h, w, 4)`` uint8; the coarsest is plain numpy."""
        return [*self._levels, self._coarsest]

    @property
    def digest(self) -> str:
        """sha256 over all that the pixels depend on."""
        text = json.dumps(self._identity, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    # Reading: any thread, never long

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """``(h, w, 4)`` uint8 of a box of a level; asks for the tiles that it lacks."""
        if level == 0:
            out = np.zeros((*box.shape, 4), np.uint8)
        else:
            out = self._map(level, box)
        if not box.area:
            return out
        full = self._full(level, box)
        rows = range(full.y // TILE, -(-full.y1 // TILE))
        columns = range(full.x // TILE, -(-full.x1 // TILE))
        few = len(rows) * len(columns) <= TILES_PER_VIEW
        with self._changed:
            # A wide view spans more tiles than were ever made: look through those instead.
            if few:
                keys = [(i, j) for i in rows for j in columns]
            else:
                made = (key for at, key in self._tiles if at == level)
                keys = [key for key in made if key[0] in rows and key[1] in columns]
            for key in keys:
                self._show(out, level, box, key)
        # A single pixel is somebody pointing at it, not a view.
        if few and box.area > 1:
            self._ask(keys, full.centre)
        return out

    def _shape_at(self, level: int) -> tuple[int, int]:
        return -(-self.shape[0] // 2**level), -(-self.shape[1] // 2**level)

    def _full(self, level: int, box: Box) -> Box:
        f = 2**level
        return Box(box.y * f, box.x * f, box.h * f, box.w * f).intersect(Box(0, 0, *self.shape))

    def _exists(self, key: Key) -> bool:
        return 0 <= key[0] * TILE < self.shape[0] and 0 <= key[1] * TILE < self.shape[1]

    def _show(self, out: NDArray[np.uint8], level: int, box: Box, key: Key) -> None:
        """Lay a tile over what is there, if it exists at this level."""
        size = TILE >> level
        if not size:
            return
        made = self._tiles.get((level, key))
        if made is None:
            return
        place = Box(key[0] * size, key[1] * size, size, size)
        both = place.intersect(box)
        out[both.shift(-box.y, -box.x).slices] = made[both.shift(-place.y, -place.x).slices]

    def _map(self, level: int, box: Box) -> NDArray[np.uint8]:
        """The field's colours, at a lattice of places that a panned view shares, interpolated."""
        step = 2**level
        while max(box.shape) * 2**level > _MAP_SIDE * step:
            step *= 2
        first = [n * 2**level // step for n in (box.y, box.x)]
        last = [-(-n * 2**level // step) for n in (box.y1, box.x1)]
        rows, columns = (np.arange(a - 1, b + 2) for a, b in zip(first, last, strict=True))
        colours = self.palette(
            self.places.sample(((rows + 0.5) * step)[:, None], ((columns + 0.5) * step)[None, :])
        )
        grid = torch.from_numpy(colours).permute(2, 0, 1)[None]
        ratio = step >> level
        if ratio > 1:
            size = [n * ratio for n in grid.shape[2:]]
            grid = F.interpolate(grid, size, mode="bilinear", align_corners=False)
        y, x = box.y - int(rows[0]) * ratio, box.x - int(columns[0]) * ratio
        rgb = grid[0, :, y : y + box.h, x : x + box.w].permute(1, 2, 0).round().to(torch.uint8)
        alpha = np.full((*box.shape, 1), APPROXIMATE, np.uint8)
        return np.concatenate([rgb.numpy(), alpha], 2)

    def _ask(self, keys: list[Key], centre: tuple[float, float]) -> None:
        boxes = {Box(k[0] * TILE, k[1] * TILE, TILE, TILE): k for k in keys}
        with self._changed:
            missing = [
                boxes[b] for b in centre_out(boxes, centre) if (0, boxes[b]) not in self._tiles
            ]
            if missing:
                # The last view counts: what an earlier one lacked is asked for when it is back.
                self._wanted = dict.fromkeys(missing)
                self._changed.notify_all()

    # Working: the thread that owns the model

    @property
    def waiting(self) -> int:
        """Tiles asked for and not made yet."""
        return len(self._wanted)

    def wait(self, seconds: float) -> bool:
        """Wait until a tile is asked for; whether one is."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._wanted), seconds)

    def work(self) -> Iterator[Box]:
        """Make what was asked for, the middle of the last view first.

        Yields
        ------
        After every tile: its box in level-0 pixels.
        """
        while True:
            with self._changed:
                key = next(iter(self._wanted), None)
            if key is None:
                return
            box = self.make(key)
            with self._changed:
                self._wanted.pop(key, None)
            yield box

    def make(self, key: Key) -> Box:
        """Make the tile at row and column ``key``; its box."""
        made = self._canvas.tile(*key)
        rgb = ((made.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
        with self._changed:
            level, part = 0, rgb
            while True:
                pixels = np.full((*part.shape[:2], 4), 255, np.uint8)
                pixels[..., :3] = part.round().to(torch.uint8).numpy()
                self._tiles.put((level, key), pixels)
                if part.shape[0] == 1:
                    break
                part = F.avg_pool2d(part.permute(2, 0, 1)[None], 2)[0].permute(1, 2, 0)
                level += 1
            self._tiles.trim()
            self._paint_coarsest(key, part.reshape(3).numpy())
        return Box(key[0] * TILE, key[1] * TILE, TILE, TILE).intersect(Box(0, 0, *self.shape))

    def _paint_coarsest(self, key: Key, mean: NDArray[np.float32]) -> None:
        """The true colour of a pixel of the coarsest level, once all its tiles were made."""
        level = len(self._levels)
        per = 2**level // TILE
        if per < 1:
            size = TILE >> level
            made = self._tiles.get((level, key))
            if made is not None:
                part = self._coarsest[key[0] * size :, key[1] * size :][:size, :size]
                part[...] = made[: part.shape[0], : part.shape[1]]
            return
        self._means[key] = mean
        y, x = key[0] // per, key[1] // per
        keys = [(y * per + i, x * per + j) for i in range(per) for j in range(per)]
        keys = [k for k in keys if self._exists(k)]
        if all(k in self._means for k in keys):
            colour = np.mean([self._means[k] for k in keys], axis=0)
            self._coarsest[y, x, :3], self._coarsest[y, x, 3] = np.round(colour), 255
