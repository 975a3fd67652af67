"""A canvas as a wavefront of bands, for what memory does not hold and for early pixels.

The canvas is cut into bands, each some rows of windows. Row ``y`` of the canvas is complete in a
step when the last band that reaches it has made the step, so a band settles the rows from its own
first to the next band's: its *strip*. Band ``b`` may take step ``i`` when

- band ``b - 1`` has taken step ``i``: then its strip is settled as soon as it is done itself, and
- every strip that its windows reach has been through step ``i - 1``.

Of the bands that may, the first goes first. The work then runs over the canvas as a slope, a few
rows high for every step; behind it rows are final and leave, before it nothing has begun. All of
this may lie on its side or upside down (:class:`~napari_ssldiff.diffusion.wave.Facing`): then rows
are columns, or the last ones come first. Every latent sees the arithmetic of
:func:`napari_ssldiff.diffusion.canvas.sample`, from the top in the same order (from other edges
predictions are added in another one, and a sum of sums is rounded in the last digit where a sum is
not).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch

from napari_ssldiff.diffusion.batches import call_cost
from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec
from napari_ssldiff.diffusion.calls import Counters
from napari_ssldiff.diffusion.decode import decode_windows
from napari_ssldiff.diffusion.offload import CANVAS
from napari_ssldiff.diffusion.presets import Preset
from napari_ssldiff.diffusion.sampling import Rows, Sampling, batch_of, student_or
from napari_ssldiff.diffusion.scratch import Scratch
from napari_ssldiff.diffusion.task import CanvasTask, plan
from napari_ssldiff.diffusion.wave import Edge, Facing, Wave, early_bands
from napari_ssldiff.diffusion.wave import plan_bands as plan_bands
from napari_ssldiff.geometry import Box

#: Bytes of solver state that are held in memory.
BUDGET = CANVAS
#: A canvas of no more windows stays whole: it is over before a wave has come far.
SMALL = 16
#: Of a whole canvas's time in the network: after no more a wave must have its first pixels to be
#: worth it, and no more than that share may it add.
EARLY, MORE = 0.6, 0.03


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


def early(
    model: Denoiser,
    task: CanvasTask,
    preset: Preset,
    check: Callable[[], None] = lambda: None,
    *,
    edge: Edge = "top",
) -> int | None:
    """Windows of a band where bands give the first pixels far earlier than the whole canvas would.

    Parameters
    ----------
    check
        As for :func:`sample_bands`; where the batch is measured it may be called.
    edge
        As for :func:`sample_bands`.

    Returns
    -------
    What :func:`sample_bands` takes as ``least``; ``None``: the canvas is to be sampled whole. The
    bands may take :data:`MORE` of its time in addition, as their rows of windows seldom divide by
    the batch.
    """
    if task.guide is not None or preset.phases is not None:
        return None
    planned = plan(task, preset, model.spec)
    if len(planned.windows) <= SMALL or not planned.passes:
        return None
    batch = batch_of(model, task, preset, planned, check)
    facing = Facing(edge, task.box.shape)
    first = decode_windows(task.box.shape, preset, model.spec, model.limits.decode)[0]
    return early_bands(
        facing.rows(planned.windows),
        facing.shape,
        batch,
        len(planned.passes),
        facing.seen(first).h,
        call_cost(student_or(model, preset), max(planned.passes)),
        EARLY,
        MORE,
    )


@dataclass(frozen=True)
class BandStep:
    """What a network call has brought.

    Attributes
    ----------
    evaluations
        Of the run so far.
    rows
        ``(c, h, w)`` float32: the canvas's next final rows (columns), or ``None``.
    x0
        ``(c, h, w)`` float32: what some that are not final look like by now, or ``None``.
    place
        Where ``rows`` or ``x0`` lie on the canvas.
    """

    evaluations: int
    rows: torch.Tensor | None = None
    x0: torch.Tensor | None = None
    place: Box | None = None


@torch.inference_mode()
def sample_bands(
    model: Denoiser,
    task: CanvasTask,
    preset: Preset,
    *,
    budget: int = BUDGET,
    least: int | None = None,
    edge: Edge = "top",
    check: Callable[[], None] = lambda: None,
    counters: Counters | None = None,
) -> Generator[BandStep, None, None]:
    """Sample a canvas of any size from one of its edges.

    Parameters
    ----------
    budget
        Bytes of solver state in memory; what a slope of bands has beyond it is written to a
        temporary folder between its uses. The strips that one band reaches are held in any case.
    least
        Windows in a band; by default a batch.
    edge
        Where to begin. Bands from a side are columns: less is held of a canvas that is wide.
    check, counters
        As for :func:`~napari_ssldiff.diffusion.canvas.sample`, as are the errors.

    Yields
    ------
    After every batch of windows, after every step of a band, and for all rows (columns) of the
    canvas once, from the edge where the work began.
    """
    if task.guide is not None:
        raise ValueError("a guide needs the whole canvas at once")
    run = Sampling(model, task, preset, check, counters)
    if run.idle:
        whole = Box(0, 0, *task.box.shape)
        yield BandStep(run.calls.counters.evaluations, run.known(whole), place=whole)
        return
    front = _Front(run, budget, least or run.batch, edge)
    try:
        yield from front.advance()
    finally:
        front.close()


class _Front:
    """The bands at work.

    A strip's state is one tensor: the canvas, x0 of the step before, the sum of the predictions
    of the step that is open (channels each), and the coverage (one channel).
    """

    def __init__(self, run: Sampling, budget: int, least: int, edge: Edge) -> None:
        self.run, self.budget = run, budget
        self._facing = Facing(edge, run.task.box.shape)
        self.bands = plan_bands(run.plan.windows, run.task.box.shape, least, edge)
        self.wave = Wave(self.bands, run.plan.begin, run.task.steps)
        self._solver = run.solver()
        self._tokens: dict[int, torch.Tensor] = {}
        self._held: dict[int, torch.Tensor] = {}  # in order of their last use
        self._rows: Rows | None = None  # of the band whose turn it is
        self._scratch = Scratch()
        run.home.tenants.append(self._move)

    def close(self) -> None:
        self._held.clear()
        self._scratch.close()

    def _move(self, device: torch.device) -> None:
        for q, state in self._held.items():
            self._held[q] = state.to(device)
        if self._rows is not None:
            self._rows.move(device)

    def advance(self) -> Iterator[BandStep]:
        top, counters, c = 0, self.run.calls.counters, self.run.spec.latent_channels
        for band in self.wave:
            yield from (BandStep(n) for n in self._step(band))
            if self.wave.done[band] + 1 < self.run.task.steps:
                x0, strip = self._held[band][c : 2 * c], self.bands[band].strip
                yield BandStep(counters.evaluations, x0=x0, place=strip)
                continue
            assert band == top  # no band is done before the one that it follows
            rows = self.run.home.guarded("final rows", lambda b=band: self._held[b][:c].clone())  # type: ignore[misc]
            del self._held[top]
            self._tokens.pop(top, None)
            yield BandStep(counters.evaluations, rows, place=self.bands[top].strip)
            top += 1

    def _step(self, b: int) -> Iterator[int]:
        run, band, i, home = self.run, self.bands[b], self.wave.done[b], self.run.home
        reached = range(b, band.last + 1)
        self._rows = home.guarded("a band", lambda: self._gather(b, reached))
        yield from run.fuse(i, band.windows, self._rows)
        c, (y, x) = run.spec.latent_channels, self._rows.origin
        for q in reached:
            there = self.bands[q].strip.shift(-y, -x).slices
            self._held[q][2 * c : 3 * c].add_(self._rows.fused[(slice(None), *there)])
        self._rows = None

        def settle(rows: slice) -> None:
            own = self._held[b]
            part = own[2 * c : 3 * c, rows]
            part.copy_(run.settle(part, own[3 * c, rows], _within(band.strip, rows)))

        def advance(rows: slice) -> None:
            own, place = self._held[b], _within(band.strip, rows)
            x, before, x0 = (own[n * c : (n + 1) * c, rows] for n in range(3))
            # One solver goes from strip to strip: making one takes as long as a step of it.
            self._solver.resume(i, before if i > run.plan.begin else None)
            x.copy_(self._solver.step(i, x0, x, lambda n: run.noise(place, n + 1)))
            before.copy_(x0)

        home.by_rows("blending", band.strip.h, settle)
        home.by_rows("a solver's step", band.strip.h, advance)
        self._held[b][2 * c : 3 * c].zero_()

    def _gather(self, b: int, reached: Sequence[int]) -> Rows:
        """What the windows of a band see."""
        run, c = self.run, self.run.spec.latent_channels
        strips = sorted(reached, reverse=self._facing.mirrored)
        self._use(reached)
        x = torch.cat([self._held[q][:c] for q in strips], 2 if self._facing.sideways else 1)
        if b not in self._tokens:
            self._tokens[b] = run.tokens(self.bands[b].windows)
        conditions = run.calls.condition(self._tokens[b])
        first = self.bands[strips[0]].strip
        return Rows(x, torch.zeros_like(x), conditions, (first.y, first.x))

    def _use(self, strips: Sequence[int]) -> None:
        """Hold the states of strips; of the others, those that are used last go to disk."""
        for q in strips:
            if q not in self._held and q in self._scratch:
                self._held[q] = self._scratch.take(q, self.run.device)
            state = self._held[q] if q in self._held else self._open(q)
            self._held.pop(q, None)
            self._held[q] = state
        # The slope is worked through from its far end, over and over: what was used just now is
        # what will not be used for longest.
        for q in [q for q in reversed(self._held) if q not in strips]:
            if sum(state.nbytes for state in self._held.values()) <= self.budget:
                break
            self._scratch.put(q, self._held[q])
            del self._held[q]

    def _open(self, q: int) -> torch.Tensor:
        run, strip, c = self.run, self.bands[q].strip, self.run.spec.latent_channels
        state = torch.zeros(3 * c + 1, *strip.shape, device=run.device)
        state[:c] = run.start(strip)
        reaching = (w for band in self.bands[: q + 1] if band.last >= q for w in band.windows)
        state[3 * c] = run.coverage(list(reaching), strip)
        return state


def _within(strip: Box, rows: slice) -> Box:
    """Some rows of a strip."""
    return Box(strip.y + rows.start, strip.x, rows.stop - rows.start, strip.w)
