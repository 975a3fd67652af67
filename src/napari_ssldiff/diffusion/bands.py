"""A canvas too large for memory: bands of windows in a wavefront, from the top.

The canvas is cut into bands, each some rows of windows. Row ``y`` of the canvas is complete in a
step when the last band that reaches it has made the step, so a band settles the rows from its own
first to the next band's: its *strip*. Band ``b`` may take step ``i`` when

- band ``b - 1`` has taken step ``i``: then its strip is settled as soon as it is done itself, and
- every strip that its windows reach has been through step ``i - 1``.

Of the bands that may, the topmost goes first. The work then runs down the canvas as a slope, a
few rows high for every step; above it rows are final and leave, below it nothing has begun. Every
latent sees the arithmetic of :func:`napari_ssldiff.diffusion.canvas.sample` in the same order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch

from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec
from napari_ssldiff.diffusion.canvas import CanvasTask, Counters, Sampling
from napari_ssldiff.diffusion.offload import CANVAS
from napari_ssldiff.diffusion.presets import Preset
from napari_ssldiff.diffusion.scratch import Scratch
from napari_ssldiff.geometry import Box

#: Bytes of solver state that are held in memory.
BUDGET = CANVAS


def canvas_bytes(task: CanvasTask, spec: ModelSpec) -> int:
    """Bytes of solver state that :func:`~napari_ssldiff.diffusion.canvas.sample` holds.

    Five float32 arrays of latents (the canvas before and after a step, the sum of predictions,
    their mean, and the mean of the step before) and the sum of the weights.
    """
    return 4 * (5 * spec.latent_channels + 1) * task.box.area


def sampling_bytes(model: Denoiser, task: CanvasTask, preset: Preset) -> int:
    """Bytes that :func:`~napari_ssldiff.diffusion.canvas.sample` holds on the model's device.

    :func:`canvas_bytes`, and the conditions of all windows, which are projected once: often more
    than the canvas itself.
    """
    one = model.null_condition(1)
    each = one.context.nbytes + (0 if one.spatial is None else one.spatial.nbytes)
    windows = 1.0
    for side in task.box.shape:
        windows *= side / preset.stride_of(model.spec) + 1
    return canvas_bytes(task, model.spec) + round(each * windows)


@dataclass(frozen=True)
class BandStep:
    """What a network call has brought.

    Attributes
    ----------
    evaluations
        Of the run so far.
    rows
        ``(c, h, w)`` float32: the canvas's next final rows, or ``None``.
    """

    evaluations: int
    rows: torch.Tensor | None = None


@dataclass(frozen=True)
class Band:
    """Some rows of windows.

    Attributes
    ----------
    windows
        In latents of the canvas.
    strip
        The rows of the canvas that this band settles.
    last
        The last strip that the windows reach.
    """

    windows: tuple[Box, ...]
    strip: Box
    last: int


def plan_bands(windows: Sequence[Box], shape: tuple[int, int], least: int) -> list[Band]:
    """Cut a canvas into bands of at least ``least`` windows (the last one may have fewer).

    Parameters
    ----------
    windows
        Row by row.
    shape
        ``(h, w)`` of the canvas in latents.
    """
    groups: list[list[Box]] = []
    for _, row in itertools.groupby(windows, key=lambda w: w.y):
        if groups and len(groups[-1]) < least:
            groups[-1].extend(row)
        else:
            groups.append(list(row))
    tops = [0, *(group[0].y for group in groups[1:]), shape[0]]
    bands = []
    for n, group in enumerate(groups):
        end = max(w.y1 for w in group)
        last = max(q for q in range(n, len(groups)) if tops[q] < end)
        strip = Box(tops[n], 0, tops[n + 1] - tops[n], shape[1])
        bands.append(Band(tuple(group), strip, last))
    return bands


@torch.inference_mode()
def sample_bands(
    model: Denoiser,
    task: CanvasTask,
    preset: Preset,
    *,
    budget: int = BUDGET,
    check: Callable[[], None] = lambda: None,
    counters: Counters | None = None,
) -> Generator[BandStep, None, None]:
    """Sample a canvas of any size from the top.

    Parameters
    ----------
    budget
        Bytes of solver state in memory; what a slope of bands has beyond it is written to a
        temporary folder between its uses. The strips that one band reaches are held in any case.
    check, counters
        As for :func:`~napari_ssldiff.diffusion.canvas.sample`, as are the errors.

    Yields
    ------
    After every batch of windows, and for all rows of the canvas once, from the top.
    """
    if task.guide is not None:
        raise ValueError("a guide needs the whole canvas at once")
    run = Sampling(model, task, preset, check, counters)
    if run.idle:
        yield BandStep(run.calls.counters.evaluations, run.known(Box(0, 0, *task.box.shape)))
        return
    front = _Front(run, budget)
    try:
        yield from front.advance()
    finally:
        front.close()


class _Front:
    """The bands at work.

    A strip's state is one tensor: the canvas, x0 of the step before, the sum of the predictions
    of the step that is open (channels each), and the coverage (one channel).
    """

    def __init__(self, run: Sampling, budget: int) -> None:
        self.run, self.budget = run, budget
        self.bands = plan_bands(run.plan.windows, run.task.box.shape, run.batch)
        self.done = [run.plan.begin] * len(self.bands)
        self._solver = run.solver()
        self._tokens: dict[int, torch.Tensor] = {}
        self._held: dict[int, torch.Tensor] = {}  # in order of their last use
        self._scratch = Scratch()

    def close(self) -> None:
        self._held.clear()
        self._scratch.close()

    def advance(self) -> Iterator[BandStep]:
        top, steps = 0, self.run.task.steps
        while top < len(self.bands):
            band = next(b for b in range(top, len(self.bands)) if self._may(b))
            yield from (BandStep(n) for n in self._step(band))
            while top < len(self.bands) and self.done[top] == steps:
                (state,) = self._use([top])
                rows = state[: self.run.spec.latent_channels].clone()
                del self._held[top]
                self._tokens.pop(top, None)
                yield BandStep(self.run.calls.counters.evaluations, rows)
                top += 1

    def _may(self, b: int) -> bool:
        i = self.done[b]
        above = b == 0 or self.done[b - 1] > i
        return i < self.run.task.steps and above and self.done[self.bands[b].last] == i

    def _step(self, b: int) -> Iterator[int]:
        run, band, i, c = self.run, self.bands[b], self.done[b], self.run.spec.latent_channels
        states = self._use(range(b, band.last + 1))
        x = torch.cat([state[:c] for state in states], 1)
        fused = torch.zeros_like(x)
        if b not in self._tokens:
            self._tokens[b] = run.tokens(band.windows)
        conditions = run.calls.condition(self._tokens[b])
        yield from run.fuse(i, band.windows, conditions, x, fused, band.strip.y)
        heights = [state.shape[1] for state in states]
        for state, sums in zip(states, fused.split(heights, 1), strict=True):
            state[2 * c : 3 * c].add_(sums)
        own, part = states[0], band.strip
        # One solver goes from strip to strip: making one takes as long as a step of it.
        self._solver.resume(i, own[c : 2 * c].clone() if i > run.plan.begin else None)
        x0 = run.settle(own[2 * c : 3 * c], own[3 * c], part)
        own[:c] = self._solver.step(i, x0, own[:c].clone(), lambda n: run.noise(part, n + 1))
        own[c : 2 * c] = x0
        own[2 * c : 3 * c].zero_()
        self.done[b] += 1

    def _use(self, strips: Sequence[int]) -> list[torch.Tensor]:
        """The states of strips; of the others, those that are used last go to disk."""
        for q in strips:
            state = self._held.pop(q, None)
            if state is None and q in self._scratch:
                state = self._scratch.take(q, self.run.device)
            self._held[q] = self._open(q) if state is None else state
        # The slope is worked through from the bottom up, over and over: what was used just now
        # is what will not be used for longest.
        for q in [q for q in reversed(self._held) if q not in strips]:
            if sum(state.nbytes for state in self._held.values()) <= self.budget:
                break
            self._scratch.put(q, self._held.pop(q))
        return [self._held[q] for q in strips]

    def _open(self, q: int) -> torch.Tensor:
        run, strip, c = self.run, self.bands[q].strip, self.run.spec.latent_channels
        state = torch.zeros(3 * c + 1, *strip.shape, device=run.device)
        state[:c] = run.start(strip)
        reaching = (w for band in self.bands[: q + 1] if band.last >= q for w in band.windows)
        state[3 * c] = run.coverage(list(reaching), strip)
        return state
