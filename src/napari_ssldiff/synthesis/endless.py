"""A slide without bounds: a virtual pyramid that is synthesised where one looks.

Reading never synthesises. It gives the pixels that exist and notes which tiles are missing;
:meth:`LazyScene.work` makes them, on whatever thread owns the model. What was made is kept as long
as the budget lasts, and is made again, the same to the bit, when somebody comes back.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_ssldiff.diffusion.canvas import CanvasTask, Counters
from napari_ssldiff.diffusion.lattice import ByteCache, Key
from napari_ssldiff.diffusion.lazy import TILE, LazyCanvas, tiles_of
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.embeddings.endless import Places
from napari_ssldiff.errors import Cancelled, InputError, ModelError
from napari_ssldiff.geometry import Box, centre_out
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.synthesis.coarsest import Coarsest
from napari_ssldiff.synthesis.endless_levels import LazyLevel, RenderedLevel
from napari_ssldiff.synthesis.means import Means, tile_levels
from napari_ssldiff.synthesis.palette import Palette, draw_map
from napari_ssldiff.synthesis.places import read_places
from napari_ssldiff.synthesis.prepare import resolve
from napari_ssldiff.synthesis.request import Sampler
from napari_ssldiff.synthesis.tokens import window_tokens
from napari_ssldiff.text.places import PriorPlaces

if TYPE_CHECKING:
    from napari_ssldiff.models.priors import Words

#: Views that need more tiles than this show what exists and the map, and ask for nothing.
TILES_PER_VIEW = 64
#: Edge of the coarsest level, at most.
_COARSEST = 256
#: The level where a tile is a pixel.
_PIXEL = TILE.bit_length() - 1


def _nothing() -> None:
    """Nobody listens, or wants to stop."""


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
        Budget of finished pixels, and of window results; ``None``: half of what the model's
        memory plan leaves for canvases, each.

    Attributes
    ----------
    on_wanted
        Called, on the reader's thread, after a view has asked for tiles.
    encoder
        What a cell is: resolution, unit and edge.

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
        cache_bytes: int | None = None,
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
        if cache_bytes is None:
            cache_bytes = bundle.denoiser.limits.canvas // 2
        self.sampler, self.counters = sampler, Counters()
        self.on_wanted = self._stop = _nothing
        self.encoder = bundle.encoder.spec
        self._model = {"model": bundle.card.id, "model_hash": bundle.hash}
        self._canvas = LazyCanvas(
            bundle.denoiser,
            CanvasTask(
                box=Box(0, 0, 1, 1),  # nothing is known in advance, so it says nothing
                tokens=self._tokens(bundle),
                steps=sampler.steps,
                guidance=sampler.guidance,
                guidance_interval=sampler.guidance_interval,
                strength=1.0,
                seed=sampler.seed,
                batch=sampler.batch,
            ),
            preset,
            threads=sampler.threads,
            precision=sampler.precision,
            cache_bytes=cache_bytes,
            tile_bytes=0,
            check=self._check,
            counters=self.counters,
        )
        self._tiles: ByteCache[tuple[int, Key], NDArray[np.uint8]] = ByteCache(cache_bytes)
        self._wanted: dict[Key, None] = {}
        self._changed = threading.Condition()
        # At least one level that is made: the coarsest is a map that nobody's reading asks for.
        count = 1
        while max(self.shape) > _COARSEST * 2**count:
            count += 1
        self._levels = [LazyLevel(self, level) for level in range(count)]
        whole = Box(0, 0, *(-(-n // 2**count) for n in self.shape))
        self._coarsest = Coarsest(draw_map(places, palette, count, whole), count, TILE)
        self._means = Means(_PIXEL, count, (-(-self.shape[0] // TILE), -(-self.shape[1] // TILE)))

    def _tokens(self, bundle: ModelBundle) -> Callable[[Box], torch.Tensor]:
        """The tokens of any window, in whose making the slide's work can be stopped as well."""
        places, tokens = self.places, window_tokens(self.places, bundle.spec)
        if not isinstance(places, PriorPlaces):
            return tokens

        def stoppable(window: Box) -> torch.Tensor:
            places.check = self._check  # of the slide that is at work: several may share places
            return tokens(window)

        return stoppable

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyScene:
        """Itself: it is a function of place with a memory, and a copy would be no other."""
        return self

    @property
    def levels(self) -> list[Any]:
        """Finest first: arrays of ``(h, w, 4)`` uint8; the coarsest is plain numpy."""
        return [*self._levels, self._coarsest.pixels]

    @property
    def rendered(self) -> RenderedLevel:
        """Level 0 as ``(h, w, 3)`` uint8 that makes what it lacks; for whoever owns the model."""
        return RenderedLevel(self)

    def to_dict(self) -> dict[str, Any]:
        """All that the pixels depend on, JSON-compatible; :meth:`from_dict` goes back."""
        return {
            **self._model,
            "shape": list(self.shape),
            "places": self.places.to_dict(),
            "palette": self.palette.to_dict(),
            "sampler": asdict(self.sampler),
        }

    @classmethod
    def from_dict(
        cls, bundle: ModelBundle, data: Mapping[str, Any], words: Words | None = None
    ) -> LazyScene:
        """The slide that :meth:`to_dict` described.

        Parameters
        ----------
        words
            The prior that samples its field, where one does; by default the one installed.

        Raises
        ------
        InputError
            If it is no such description.
        ModelError
            If the model is another one, or the prior, or that is not there: pixels would be others.
        """
        try:
            model = (data["model"], data["model_hash"])
            beside, device = bundle.card.folder, str(bundle.device)
            places = read_places(data["places"], words, beside=beside, device=device)
            palette = Palette.from_dict(data["palette"])
            shape = (int(data["shape"][0]), int(data["shape"][1]))
            sampler = Sampler(**data["sampler"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"not an endless slide: {error!r}") from None
        if model != (bundle.card.id, bundle.hash):
            raise ModelError(
                f"the slide was made by {model[0]} ({str(model[1])[:12]}), not by {bundle.card.id} "
                f"({bundle.hash[:12]}): install that version of the model"
            )
        return cls(bundle, places, palette, shape, sampler)

    @property
    def digest(self) -> str:
        """sha256 over all that the pixels depend on, and the palette."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    # Reading: any thread, never long

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """``(h, w, 4)`` uint8 of a box of a level; asks for the tiles that it lacks.

        The last view counts: what an earlier one lacked is asked for again when it is back.
        """
        if level == 0:
            out = np.zeros((*box.shape, 4), np.uint8)
        else:
            out = draw_map(self.places, self.palette, level, box)
        if not box.area:
            return out
        full = self._full(level, box)
        rows = range(full.y // TILE, -(-full.y1 // TILE))
        columns = range(full.x // TILE, -(-full.x1 // TILE))
        few = len(rows) * len(columns) <= TILES_PER_VIEW
        keys = [(i, j) for i in rows for j in columns] if few else []
        with self._changed:
            if level >= _PIXEL:
                self._means.lay(out, level, box)
            else:
                # A wide view spans more tiles than were ever made: look through those instead.
                made = (key for at, key in self._tiles if at == level)
                shown = keys or [k for k in made if k[0] in rows and k[1] in columns]
                for key in shown:
                    self._show(out, level, box, key)
        # A single pixel is somebody pointing at it, not a view.
        if box.area > 1:
            self._ask(keys, full.centre)
        return out

    def _full(self, level: int, box: Box) -> Box:
        f = 2**level
        return Box(box.y * f, box.x * f, box.h * f, box.w * f).intersect(Box(0, 0, *self.shape))

    def _show(self, out: NDArray[np.uint8], level: int, box: Box, key: Key) -> None:
        """Lay a tile over what is there, if it exists at this level."""
        size = TILE >> level
        made = self._tiles.get((level, key))
        if made is None:
            return
        place = Box(key[0] * size, key[1] * size, size, size)
        both = place.intersect(box)
        out[both.shift(-box.y, -box.x).slices] = made[both.shift(-place.y, -place.x).slices]

    def _ask(self, keys: list[Key], centre: tuple[float, float]) -> None:
        boxes = {_tile_box(key): key for key in keys}
        with self._changed:
            missing = [
                boxes[b] for b in centre_out(boxes, centre) if (0, boxes[b]) not in self._tiles
            ]
            self._wanted = dict.fromkeys(missing)
            self._changed.notify_all()
        if missing:
            self.on_wanted()

    # Working: the thread that owns the model

    @property
    def waiting(self) -> int:
        """Tiles asked for and not made yet."""
        return len(self._wanted)

    def wait(self, seconds: float) -> bool:
        """Wait until a tile is asked for; whether one is."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._wanted), seconds)

    def forget(self) -> None:
        """Ask for nothing any more, until something is read."""
        with self._changed:
            self._wanted = {}

    def step(self, check: Callable[[], None] = lambda: None) -> Box | None:
        """Make one of the tiles asked for, the middle of the last view first.

        A tile that goes out of view meanwhile is left, and the next one made; the work on it is
        kept for when it comes back.

        Parameters
        ----------
        check
            Called before every call of the network; raises to stop.

        Returns
        -------
        The tile's box in level-0 pixels; ``None`` if nothing is asked for.
        """
        while True:
            with self._changed:
                key = next(iter(self._wanted), None)
            if key is None:
                return None

            def go_on(key: Key = key) -> None:
                check()
                if key not in self._wanted:
                    raise _OutOfViewError("the view has moved on")

            try:
                box = self.make(key, go_on)
            except _OutOfViewError:
                continue
            with self._changed:
                self._wanted.pop(key, None)
            return box

    def work(self, check: Callable[[], None] = lambda: None) -> Iterator[Box]:
        """:meth:`step` until nothing is asked for; yields the tiles' boxes."""
        while (box := self.step(check)) is not None:
            yield box

    def make(self, key: Key, check: Callable[[], None] = lambda: None) -> Box:
        """Make the tile at row and column ``key``, unless it exists; its box."""
        self._made(key, check)
        return _tile_box(key).intersect(Box(0, 0, *self.shape))

    def _made(self, key: Key, check: Callable[[], None]) -> NDArray[np.uint8]:
        """``(256, 256, 4)`` uint8 of a tile."""
        with self._changed:
            kept = self._tiles.get((0, key))
        if kept is not None:
            return kept
        self._stop = check
        try:
            made = self._canvas.tile(*key)
        finally:
            self._stop = _nothing
        levels, mean = tile_levels(made)
        with self._changed:
            for level, pixels in enumerate(levels):
                self._tiles.put((level, key), pixels)
            self._tiles.trim()
            self._means.put(key, mean)
            self._coarsest.paint(key, levels, self._means)
        return levels[0]

    def prepare(
        self,
        box: Box,
        check: Callable[[], None] = lambda: None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Make the tiles of a box of level 0, as many of them as the budget keeps.

        Parameters
        ----------
        progress
            Told ``(tiles done, tiles)``.
        """
        # A tile and its coarser copies take a third more than the tile.
        keys = tiles_of(box)[: int(self._tiles.budget // (TILE * TILE * 4 * 4 / 3))]
        for done, key in enumerate(keys):
            self._made(key, check)
            progress(done + 1, len(keys))

    def render(self, box: Box) -> NDArray[np.uint8]:
        """``(h, w, 3)`` uint8 of a box of level 0, everything in it made."""
        out = np.empty((*box.shape, 3), np.uint8)
        for key in tiles_of(box):
            place = _tile_box(key)
            both = place.intersect(box)
            made = self._made(key, _nothing)[both.shift(-place.y, -place.x).slices]
            out[both.shift(-box.y, -box.x).slices] = made[..., :3]
        return out

    def _check(self) -> None:
        self._stop()


class _OutOfViewError(Cancelled):
    """The tile in the making is asked for no more."""


def _tile_box(key: Key) -> Box:
    return Box(key[0] * TILE, key[1] * TILE, TILE, TILE)
