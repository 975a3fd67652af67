"""What whole canvases and canvases in bands have in common: starts, windows, predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from napari_ssldiff.diffusion.batches import choose_batch
from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.calls import Calls, Counters, NotFiniteError
from napari_ssldiff.diffusion.conditioning import Condition, concatenate
from napari_ssldiff.diffusion.home import Home
from napari_ssldiff.diffusion.memory import Limit, in_parts, twice
from napari_ssldiff.diffusion.noise import place_noise
from napari_ssldiff.diffusion.presets import Preset, window_weights
from napari_ssldiff.diffusion.solvers import Solver
from napari_ssldiff.diffusion.steer import steer
from napari_ssldiff.diffusion.task import CanvasPlan, CanvasTask, plan
from napari_ssldiff.diffusion.transfer import to_device
from napari_ssldiff.geometry import Box


def batch_of(
    model: Denoiser,
    task: CanvasTask,
    preset: Preset,
    planned: CanvasPlan,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Windows per network call of a run that was planned; measured where that is needed."""
    return _batch(student_or(model, preset), task, planned, check)


def student_or(model: Denoiser, preset: Preset) -> Denoiser:
    """The network that a preset asks: the model's student where it uses that."""
    return model.student if preset.uses_student(model.spec) else model


def _batch(
    model: Denoiser, task: CanvasTask, planned: CanvasPlan, check: Callable[[], None]
) -> int:
    if task.batch is not None:
        return task.batch
    return choose_batch(model, max(planned.passes), len(planned.windows), check)


@dataclass
class Rows:
    """What windows see and where their predictions are added, wherever it lies.

    Parameters
    ----------
    x, fused
        ``(c, h, w)`` a part of the canvas, and sums of weighted predictions.
    conditions
        Of the windows in question.
    origin
        ``(y, x)`` on the canvas where both begin.
    """

    x: torch.Tensor
    fused: torch.Tensor
    conditions: Condition
    origin: tuple[int, int] = (0, 0)

    def move(self, device: torch.device) -> None:
        """Go to a device."""
        self.x, self.fused = self.x.to(device), self.fused.to(device)
        self.conditions = self.conditions.to(device)


class Sampling:
    """What the parts of a canvas share while it is sampled.

    Its tensors lie at :attr:`home`; every answer that is one may be asked for again after memory
    ran out.

    Parameters
    ----------
    model, task, preset, check, counters
        As for :func:`sample`.

    Raises
    ------
    ValueError
        As by :func:`sample`.
    """

    def __init__(
        self,
        model: Denoiser,
        task: CanvasTask,
        preset: Preset,
        check: Callable[[], None],
        counters: Counters | None,
    ) -> None:
        if preset.phases is not None:
            raise ValueError(f"the preset {preset.name} is sampled by lazy.LazyCanvas")
        if task.needs_known and task.known is None:
            raise ValueError("a strength below 1 or a mask needs the known latents")
        if task.control is not None and not model.spec.control:
            raise ValueError("the model takes no control")
        student = model.spec.student if preset.uses_student(model.spec) else None
        if student is not None and (task.steps != student.steps or task.guidance != 1):
            raise ValueError(f"the student takes {student.steps} steps at guidance 1")
        self.task, self.preset, self.spec = task, preset, model.spec
        self.home = Home(model.device)
        self.plan = twice(lambda: plan(task, preset, model.spec))
        #: Nothing is made: the result is what is known.
        self.idle = not self.plan.passes or not self.plan.windows
        if student is not None and not self.idle:
            model = model.student
        self.calls = Calls(model, check, counters)
        weight = twice(lambda: window_weights(preset.weights, self.spec.window_latents))
        self._weights = {weight.device: weight}
        if self.idle:
            return
        self._null = self.home.guarded("projection", self._nothing)
        self.batch = _batch(model, task, self.plan, check)
        self._levels = self.solver()

    @property
    def device(self) -> torch.device:
        """Where the canvas lies now."""
        return self.home.device

    @property
    def weight(self) -> torch.Tensor:
        """``(w, w)`` weights of a window's positions, at :attr:`device`."""
        if self.device not in self._weights:
            self._weights[self.device] = self._weights[torch.device("cpu")].to(self.device)
        return self._weights[self.device]

    def _nothing(self) -> Condition:
        """What guidance leads away from, on the networks' device."""
        null, device = self.calls.condition(self.task.unwanted(self.spec)), self.calls.model.device
        if self.task.control is None:
            return null
        edge = self.spec.window_latents
        return null.beside(torch.zeros(1, len(self.task.control), edge, edge, device=device))

    def solver(self) -> Solver:
        """A fresh solver of this run."""
        task = self.task
        return twice(lambda: self.preset.make_solver(self.spec, task.steps, task.strength))

    def known(self, part: Box) -> torch.Tensor:
        """``(c, h, w)`` known latents of a part of the canvas."""
        assert self.task.known is not None
        return to_device(self.task.known[(slice(None), *part.slices)], self.device)

    def noise(self, part: Box, step: int) -> torch.Tensor:
        """``(c, h, w)`` noise of a part of the canvas."""
        place = part.shift(self.task.box.y, self.task.box.x)
        noise = place_noise(self.task.seed, place, self.spec.latent_channels, step)
        return to_device(torch.from_numpy(noise), self.device)

    def start(self, part: Box) -> torch.Tensor:
        """``(c, h, w)`` of a part of the canvas before the first step."""
        x = self.noise(part, 0)
        if not self.task.needs_known:
            return x
        start, mask = self.known(part), self._mask(part)
        if self.task.strength == 1 and mask is not None:
            # No pixel of the source may shine through where latents are made.
            start = (1 - mask) * start
        alpha, sigma = self._levels.level(self.plan.begin)
        return alpha * start + sigma * x

    def tokens(self, windows: Sequence[Box]) -> torch.Tensor:
        """``(n, k², d)`` unit vectors of windows."""
        place = self.task.box
        return torch.stack([self.task.tokens(w.shift(place.y, place.x)) for w in windows])

    def conditions(self, windows: Sequence[Box]) -> Condition:
        """Projected conditions of any number of windows."""
        parts = (windows[first : first + 256] for first in range(0, len(windows), 256))
        made = [self.calls.condition(self.tokens(part)).to(self.device) for part in parts]
        return concatenate(made)

    def coverage(self, windows: Sequence[Box], part: Box) -> torch.Tensor:
        """``(h, w)`` sums of the weights of windows on a part of the canvas."""
        total = torch.zeros(part.shape, device=self.device)
        for w in windows:
            both = w.intersect(part)
            if both.area:
                inside = both.shift(-w.y, -w.x).slices
                total[both.shift(-part.y, -part.x).slices] += self.weight[inside]
        return total

    def fuse(self, i: int, windows: Sequence[Box], rows: Rows) -> Iterator[int]:
        """Add the weighted predictions of windows in step ``i``.

        Parameters
        ----------
        rows
            Around ``windows``. Whoever holds them moves them when the canvas moves.

        Yields
        ------
        The run's evaluations so far, after every batch.
        """
        t, level = self._levels.timesteps[i], self._levels.level(i)
        guidance = self.task.guidance_at(level)
        counters, device = self.calls.counters, self.calls.model.device
        # As many calls as the batch demands, of equal size: a call with one window left over
        # costs nearly as much as a whole one.
        calls = -(-len(windows) // self.batch)
        full = -(-len(windows) // calls)
        limit = Limit(full)

        def call(part: slice) -> tuple[Sequence[Box], torch.Tensor]:
            batch, spent = windows[part], counters.evaluations
            try:
                stacked = to_device(torch.stack(_views(rows.x, batch, rows.origin)), device)
                condition = self._shown(rows.conditions[part].to(device), batch)
                made = guided(self.calls, stacked, t, level, condition, self._null, guidance)
            except NotFiniteError as error:
                window = batch[error.row % len(batch)].shift(self.task.box.y, self.task.box.x)
                raise error.at(window, i, self.task.steps) from None
            except (MemoryError, RuntimeError):
                counters.evaluations = spent  # what is asked for again counts once
                raise
            return batch, made

        def elsewhere(part: slice) -> tuple[Sequence[Box], torch.Tensor]:
            if not self.home.is_last:
                self.home.retreat("windows")
                limit.size = full  # the networks have the device to themselves now
            limit.lost = False
            return call(part)

        on_cpu = None if self.home.is_last else elsewhere
        for batch, made in in_parts(len(windows), limit, self.device, "windows", call, on_cpu):
            self._add(rows, batch, made)
            yield counters.evaluations

    def _add(self, rows: Rows, windows: Sequence[Box], made: torch.Tensor) -> None:
        """Add predictions where windows lie, each once and in their order."""
        done = 0

        def add() -> None:
            nonlocal done
            there, weight = made[done:].to(self.device), self.weight
            views = _views(rows.fused, windows[done:], rows.origin)
            for view, prediction in zip(views, there, strict=True):
                view.addcmul_(prediction, weight)
                done += 1

        self.home.guarded("fusion", add)

    def _shown(self, conditions: Condition, windows: Sequence[Box]) -> Condition:
        """Conditions of windows, and what the task shows besides."""
        control = self.task.control
        if control is None:
            return conditions
        parts = [control[(slice(None), *w.slices)] for w in windows]
        return conditions.beside(to_device(torch.stack(parts), self.calls.model.device))

    def settle(self, fused: torch.Tensor, coverage: torch.Tensor, part: Box) -> torch.Tensor:
        """x0 of a part of the canvas, from the sums of :meth:`fuse` and :meth:`coverage`."""
        x0 = fused / coverage.clamp_min(1e-8)
        mask = self._mask(part)
        # With x0 known, every solver step keeps x = alpha·known + sigma·noise out there.
        return x0 if mask is None else mask * x0 + (1 - mask) * self.known(part)

    def steer(self, i: int, x0: torch.Tensor) -> torch.Tensor:
        """x0 of the whole canvas in step ``i``, nearer to the task's guide if there is one."""
        guide = self.task.guide
        if guide is None or not guide.strength:
            return x0
        _, sigma = self._levels.level(i)
        steered = steer(self.calls, x0, guide, guide.strength * sigma)
        mask = self._mask(Box(0, 0, *self.task.box.shape))
        return steered if mask is None else mask * steered + (1 - mask) * x0

    def _mask(self, part: Box) -> torch.Tensor | None:
        mask = self.task.mask
        return None if mask is None else to_device(mask[part.slices], self.device)


def _views(
    canvas: torch.Tensor, windows: Sequence[Box], origin: tuple[int, int]
) -> list[torch.Tensor]:
    """Windows of the ``(c, h, w)`` part of a canvas that begins at ``origin``, not copied.

    By their place in memory: indexing costs three times as much, and a canvas has thousands.
    """
    channels, strides, (y, x) = len(canvas), canvas.stride(), origin
    _, row, column = strides
    first = canvas.storage_offset() - y * row - x * column
    return [
        canvas.as_strided((channels, w.h, w.w), strides, first + w.y * row + w.x * column)
        for w in windows
    ]


def guided(
    model: Denoiser | Calls,
    x: torch.Tensor,
    t: int,
    level: tuple[float, float],
    condition: Condition,
    null: Condition,
    guidance: float,
) -> torch.Tensor:
    """Classifier-free guidance on x0: uncond + guidance · (cond - uncond).

    For a fixed x, x0 is affine in eps and in v, so this equals guidance on either.
    """
    n = len(x)
    if guidance == 1:
        return model.predict_x0(x, t, level, condition)
    spatial = None if null.spatial is None else null.spatial.expand(n, -1, -1, -1)
    empty = Condition(null.context.expand(n, -1, -1), spatial)
    both = concatenate([condition, empty])
    with_, without = model.predict_x0(torch.cat([x, x]), t, level, both).chunk(2)
    # In place: at 5 ms a call, fresh memory for every term is felt.
    return (with_ - without).mul_(guidance).add_(without)
