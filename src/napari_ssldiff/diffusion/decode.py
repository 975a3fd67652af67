"""Latents ↔ pixels of any canvas, by windows that fit in memory and blend where they overlap."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch

from napari_ssldiff.diffusion.blend import blend, cover, scaled
from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec
from napari_ssldiff.diffusion.calls import Calls, Counters
from napari_ssldiff.diffusion.memory import trim, twice
from napari_ssldiff.diffusion.mosaic import Mosaic
from napari_ssldiff.diffusion.presets import Preset
from napari_ssldiff.diffusion.wave import Edge, Facing
from napari_ssldiff.geometry import Box, centre_out

#: Edge of a decoding window in latents. GroupNorm makes an autoencoder's tone depend on what it
#: sees at once, so windows are large and overlap by a quarter.
WINDOW = 128
OVERLAP = 32


def encode(
    model: Denoiser,
    image: torch.Tensor,
    *,
    check: Callable[[], None] = lambda: None,
    counters: Counters | None = None,
) -> torch.Tensor:
    """``(3, h, w)`` float in [-1, 1], sides multiples of the factor → ``(c, h/f, w/f)``.

    ``check`` is called before every window and raises to cancel.
    """

    def read(box: Box) -> torch.Tensor:
        return image[(slice(None), *box.slices)]

    shape = image.shape[1], image.shape[2]
    return encode_parts(model, read, shape, check=check, counters=counters)


@torch.inference_mode()
def encode_parts(
    model: Denoiser,
    read: Callable[[Box], torch.Tensor],
    shape: tuple[int, int],
    *,
    check: Callable[[], None] = lambda: None,
    counters: Counters | None = None,
) -> torch.Tensor:
    """:func:`encode` an image of ``shape`` pixels that is never whole in memory.

    ``read`` gives the ``(3, h, w)`` pixels of a box.
    """
    calls, f = Calls(model, check, counters), model.spec.latent_factor
    latents = shape[0] // f, shape[1] // f
    boxes = _cover(latents, model.limits.decode)
    made = ((box, calls.encode(read(scaled(box, f)))) for box in boxes)
    return blend(made, latents, 1, "cos2")


def _cover(shape: tuple[int, int], most: int | None) -> list[Box]:
    """Windows of one shape that overlap by no more than they must.

    Windows of full size, the last one pushed back to the border, would do up to half of the work
    twice where a canvas is a little higher or wider than some of them.
    """
    size, overlap = WINDOW, OVERLAP
    if most is not None and most < WINDOW:
        size, overlap = most, most // 4
    rows, columns = (_spread(length, size, overlap) for length in shape)
    return [Box(y, x, h, w) for y, h in rows for x, w in columns]


def _spread(length: int, most: int, overlap: int) -> list[tuple[int, int]]:
    """Starts and lengths of the fewest windows up to ``most``, evenly over ``length``."""
    if length <= most:
        return [(0, length)]
    count = -(-(length - overlap) // (most - overlap))
    size = -(-(length + (count - 1) * overlap) // count)
    return [(n * (length - size) // (count - 1), size) for n in range(count)]


def decode_windows(
    shape: tuple[int, int], preset: Preset, spec: ModelSpec, most: int | None = None
) -> list[Box]:
    """The windows, in latents and row by row, in which a canvas of ``shape`` is decoded.

    Their edges are at most :data:`WINDOW`, or ``most`` where memory has no room for that; those of
    the preset ``paper`` are the network's.
    """
    if preset.decode == "gaussian":
        return cover(shape, spec.window_latents, preset.stride_of(spec))
    return _cover(shape, most)


class Decoder:
    """Boxes of a canvas's pixels, each given once, as soon as it is final.

    Parameters
    ----------
    model, preset
        Whose autoencoder, and how windows are laid and blended.
    shape
        ``(h, w)`` of the canvas in latents.
    wanted
        Boxes in pixels of the canvas; they may overlap.
    focus
        Asked before every window for a place ``(y, x)`` in latents: of the windows that can be
        decoded the nearest to it comes next. ``None``: in their order.
    edge
        Of a canvas that is fed strip by strip: the edge where that begins.
    budget
        Bytes of unfinished boxes in memory; more than that waits on disk until :meth:`close`.
    check, counters
        As for :func:`encode`.
    """

    def __init__(
        self,
        model: Denoiser,
        preset: Preset,
        shape: tuple[int, int],
        wanted: Sequence[Box],
        *,
        focus: Callable[[], tuple[float, float]] | None = None,
        edge: Edge = "top",
        budget: int | None = None,
        check: Callable[[], None] = lambda: None,
        counters: Counters | None = None,
    ) -> None:
        windows = decode_windows(shape, preset, model.spec, model.limits.decode)
        self._facing = Facing(edge, shape)
        #: Windows still to be decoded, in latents.
        self.pending = [self._facing.real(w) for w in self._facing.rows(windows)]
        self._focus = focus
        self._at: tuple[float, float] | None = None
        self._factor = model.spec.latent_factor
        #: As published, values leave [-1, 1] until windows are blended.
        self._published = preset.decode == "gaussian"
        kind = "gaussian" if self._published else "cos2"
        self.mosaic = Mosaic([scaled(w, self._factor) for w in windows], wanted, kind, budget)
        self._is_limited = budget is not None
        self._calls = Calls(model, check, counters)
        self._held: torch.Tensor | None = None
        self._place = Box(0, 0, 0, 0)

    def close(self) -> None:
        """Let go of what is not finished."""
        self.mosaic.close()

    @torch.inference_mode()
    def next(
        self, latents: torch.Tensor, origin: tuple[int, int] = (0, 0), among: int | None = None
    ) -> list[tuple[int, torch.Tensor]]:
        """Decode the next window.

        Parameters
        ----------
        latents
            ``(c, h, w)``: a part of the canvas, by default all of it.
        origin
            ``(y, x)`` on the canvas where it begins.
        among
            How many of the pending windows lie in it, from the first; by default all.

        Returns
        -------
        The boxes that it completes: their index in ``wanted`` and ``(3, h, w)`` in [-1, 1].
        """
        if self._focus is not None and (now := self._focus()) != self._at:
            self.pending[:among], self._at = centre_out(self.pending[:among], now), now
        box, (y, x) = self.pending[0], origin
        part = latents[(slice(None), *box.shift(-y, -x).slices)]
        made = self._calls.decode(part, clamp=not self._published)
        self.pending.pop(0)
        finished = self.mosaic.add(scaled(box, self._factor), made)
        done = [(n, pixels.clamp_(-1, 1)) for n, pixels in finished]
        if self._is_limited:
            del made, finished
            trim()  # a window's work is many times what is left of it
        return done

    def feed(self, strip: torch.Tensor, place: Box) -> Iterator[list[tuple[int, torch.Tensor]]]:
        """Take the canvas's next strip; :meth:`next` of every window that it completes.

        What no later window needs is let go.

        Parameters
        ----------
        strip
            ``(c, h, w)``: whole rows of the canvas, or columns from a side.
        place
            Where it lies on the canvas.
        """
        self._held = twice(lambda: self._joined(strip))
        self._place = self._place.union(place) if self._place.area else place
        ready = len(list(itertools.takewhile(self._place.contains, self.pending)))
        self._at = None  # other windows are to be ordered now
        for left in range(ready, 0, -1):
            yield self.next(self._held, (self._place.y, self._place.x), left)
        self._let_go()

    def _joined(self, strip: torch.Tensor) -> torch.Tensor:
        strip = strip.cpu()
        if self._held is None:
            return strip
        parts = [strip, self._held] if self._facing.mirrored else [self._held, strip]
        return torch.cat(parts, 2 if self._facing.sideways else 1)

    def _let_go(self) -> None:
        """Hold no more than what the next window needs and what lies behind it."""
        assert self._held is not None
        seen = self._facing.seen(self._place)
        top = self._facing.seen(self.pending[0]).y if self.pending else seen.y1
        keep = self._facing.real(Box(top, seen.x, seen.y1 - top, seen.w))
        inside = keep.shift(-self._place.y, -self._place.x).slices
        held = self._held[(slice(None), *inside)]
        self._held, self._place = twice(held.clone), keep


def decode(
    model: Denoiser,
    latents: torch.Tensor,
    preset: Preset,
    *,
    centre: tuple[float, float],
    check: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Box, torch.Tensor, list[Box]]]:
    """Decode a canvas centre out into one buffer, for images that are wanted whole.

    Parameters
    ----------
    latents
        ``(c, h, w)``.
    centre
        ``(y, x)`` in latents; windows nearest to it come first.

    Yields
    ------
    After each window: its box in canvas pixels, the ``(3, H, W)`` canvas in [-1, 1] so far (one
    buffer, final wherever no pending window reaches, 0 elsewhere), and the pending boxes in
    pixels.
    """
    f, shape = model.spec.latent_factor, (latents.shape[1], latents.shape[2])
    windows = [scaled(w, f) for w in decode_windows(shape, preset, model.spec, model.limits.decode)]
    # Cells between the edges of windows: no window reaches a part of one.
    ys, xs = (sorted({e for span in spans for e in span}) for spans in _spans(windows))
    cells = [
        Box(y, x, y1 - y, x1 - x)
        for y, y1 in itertools.pairwise(ys)
        for x, x1 in itertools.pairwise(xs)
    ]
    decoder = Decoder(model, preset, shape, cells, focus=lambda: centre, check=check)
    out = torch.zeros(3, shape[0] * f, shape[1] * f)
    left = {scaled(w, f) for w in decoder.pending}
    while left:
        for n, pixels in decoder.next(latents):
            out[(slice(None), *cells[n].slices)] = pixels
        pending = [scaled(w, f) for w in decoder.pending]
        (place,) = left.difference(pending)
        left.remove(place)
        yield place, out, pending


def _spans(windows: Sequence[Box]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    return [(w.y, w.y1) for w in windows], [(w.x, w.x1) for w in windows]
