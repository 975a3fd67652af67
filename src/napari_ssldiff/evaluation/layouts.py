"""Where a way to sample puts its windows, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from napari_ssldiff.diffusion.bundle import ModelSpec
from napari_ssldiff.diffusion.decode import decode_windows
from napari_ssldiff.diffusion.presets import Preset, window_weights
from napari_ssldiff.evaluation.seams import Zones, effective_windows, inner_lines, zones
from napari_ssldiff.geometry import window_starts

#: Edge of delivered tiles in pixels.
TILE = 256
#: Pixels of a megapixel as everywhere in this project: 1024 × 1024.
MEGAPIXEL = 2**20


def evaluations_per_megapixel(stride: int, per_window: float) -> float:
    """Window evaluations of the network per 2**20 pixels of a canvas without end.

    There is one window per stride² pixels: ``2**20 / stride² · per_window``. With W = 256 px and
    guidance in every step: paper (stride W/4, 50 steps) 25,600; bulk (3W/4, 20 steps) 1,138, and
    882 with its guidance interval, in which 11 steps are guided. A canvas that ends
    takes more or fewer: its own count is ``evals``.

    Parameters
    ----------
    stride
        In pixels.
    per_window
        Evaluations of one window in a run: steps, those with guidance twice.
    """
    return MEGAPIXEL / stride**2 * per_window


def at_window_256(evaluations: float, window: int) -> float:
    """What a figure per megapixel would be for windows of 256 px with the same overlap.

    A window of W px covers W² pixels, so smaller windows need more, and cheaper, evaluations:
    four times as many at 128 px.
    """
    return evaluations * (window / 256) ** 2


@dataclass(frozen=True)
class Layout:
    """Windows of a square canvas along one of its axes; both are alike.

    Parameters
    ----------
    size
        Edge of the canvas in pixels.
    factor
        Pixels per latent.
    window, stride
        In latents.
    starts
        Of the windows, in latents.
    weights
        Kind of :func:`~napari_ssldiff.diffusion.presets.window_weights`.
    cuts
        Borders of decoded windows, in pixels.
    """

    size: int
    factor: int
    window: int
    stride: int
    starts: tuple[int, ...]
    weights: str
    cuts: tuple[int, ...]

    @property
    def lines(self) -> tuple[int, ...]:
        """Every line at which something ends, in pixels: windows, decoded windows, tiles."""
        borders = inner_lines(self.size // self.factor, self.starts, self.window)
        tiles = range(TILE, self.size, TILE)
        return tuple(sorted({p * self.factor for p in borders} | set(self.cuts) | set(tiles)))

    @property
    def zones(self) -> Zones | None:
        """Overlap zones and centres over latents; an eighth window at the ends is in neither."""
        line = window_weights(self.weights, self.window).sum(0).numpy()
        canvas = effective_windows(self.size // self.factor, self.starts, line)
        endless = range(-self.window // self.stride * self.stride, self.stride, self.stride)
        period = effective_windows(self.stride, endless, line)
        return zones(canvas, float(period.min()), float(period.max()), self.window // 8)


def regular(
    spec: ModelSpec, size: int, stride: int, weights: str, cuts: Sequence[int] = ()
) -> Layout:
    """Windows at every ``stride`` latents, the last one snapped to the border."""
    starts = window_starts(size // spec.latent_factor, spec.window_latents, stride)
    return Layout(
        size, spec.latent_factor, spec.window_latents, stride, starts, weights, tuple(cuts)
    )


def decode_cuts(preset: Preset, spec: ModelSpec, size: int) -> tuple[int, ...]:
    """Borders of a preset's decoding windows on a canvas of ``size`` pixels, in pixels."""
    length, f = size // spec.latent_factor, spec.latent_factor
    row = [box for box in decode_windows((length, length), preset, spec) if box.y == 0]
    return tuple(p * f for p in inner_lines(length, [box.x for box in row], row[0].w))


def layout_of(preset: Preset, spec: ModelSpec, size: int) -> Layout:
    """A preset's windows on a canvas of ``size`` pixels whose corner is the scene's origin."""
    window, stride = spec.window_latents, preset.stride_of(spec)
    if preset.phases is not None:
        # One lattice without end, anchored at the origin; tiles are decoded with a halo and cut.
        first = (-window) // stride + 1
        end = -(-(size // spec.latent_factor) // stride)
        starts = tuple(k * stride for k in range(first, end))
        return Layout(size, spec.latent_factor, window, stride, starts, preset.weights, ())
    cuts = decode_cuts(preset, spec, size)
    return regular(spec, size, stride, preset.weights, cuts)
