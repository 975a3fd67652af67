"""The canvas engine: all windows of a canvas advance together.

Per step every window predicts x0; predictions are averaged on the canvas with the preset's
weights; one solver step is taken there. (MultiDiffusion averages the *updates* instead, which
needs solver state per window and loses variance with stochastic samplers.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from napari_ssldiff.diffusion.batches import choose_batch
from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec
from napari_ssldiff.diffusion.calls import Calls, NotFiniteError
from napari_ssldiff.diffusion.calls import Counters as Counters
from napari_ssldiff.diffusion.conditioning import Condition, concatenate
from napari_ssldiff.diffusion.memory import Limit, in_parts
from napari_ssldiff.diffusion.noise import place_noise
from napari_ssldiff.diffusion.presets import Preset, window_weights
from napari_ssldiff.diffusion.solvers import Solver
from napari_ssldiff.diffusion.steer import Guide, steer
from napari_ssldiff.geometry import Box, plan_windows


@dataclass(frozen=True)
class CanvasTask:
    """What to sample.

    Parameters
    ----------
    box
        The canvas on the global latent lattice, at least a window in size.
    tokens
        Gives a window (in latents of that lattice) its ``(k², d)`` unit vectors, row-major.
    steps, guidance, strength, seed
        As in :class:`napari_ssldiff.synthesis.request.Sampler`, resolved to numbers.
    known
        ``(c, h, w)`` clean latents of the canvas; needed where ``strength`` < 1 or ``mask``.
    mask
        ``(h, w)`` float in [0, 1]: 1 where latents are made, 0 where ``known`` stays.
    batch
        Windows per network call; part of what the pixels depend on, in the last digits.
        ``None``: what suits model and device (:mod:`napari_ssldiff.diffusion.batches`).
    guidance_interval
        ``(low, high)`` in log(alpha / sigma): steps that begin outside are not guided and cost
        half (Kynkäänniemi et al., *Applying guidance in a limited interval improves sample and
        distribution quality in diffusion models*, NeurIPS 2024). ``None``: all are.
    negative
        ``(k², d)``: what guidance leads away from, in place of the null condition.
    guide
        What the canvas is to look like from afar (:mod:`napari_ssldiff.diffusion.steer`); only
        where it is sampled as a whole.
    control
        ``(c, h, w)`` latents of a picture of the canvas that is shown to a network with
        ``spec.control``, such as a mask of cells. What guidance leads away from sees none.
    """

    box: Box
    tokens: Callable[[Box], torch.Tensor]
    steps: int
    guidance: float
    strength: float
    seed: int
    known: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    batch: int | None = 16
    guidance_interval: tuple[float, float] | None = None
    negative: torch.Tensor | None = None
    guide: Guide | None = None
    control: torch.Tensor | None = None

    @property
    def needs_known(self) -> bool:
        """Whether there is no sampling without ``known``."""
        return self.strength < 1 or self.mask is not None

    def unwanted(self, spec: ModelSpec) -> torch.Tensor:
        """``(1, k², d)``: the tokens that guidance leads away from; zeros are none."""
        if self.negative is not None:
            return self.negative[None]
        return torch.zeros(1, spec.tokens**2, spec.token_width)

    def guidance_at(self, level: tuple[float, float]) -> float:
        """The guidance scale of a step that begins at ``(alpha, sigma)``."""
        if self.guidance_interval is None:
            return self.guidance
        alpha, sigma = level
        low, high = self.guidance_interval
        inside = low <= math.log(max(alpha, 1e-30) / max(sigma, 1e-30)) <= high
        return self.guidance if inside else 1.0


@dataclass(frozen=True)
class CanvasPlan:
    """The windows and steps of a task.

    Parameters
    ----------
    windows
        In latents of the canvas, row by row.
    begin, steps
        Steps ``begin`` … ``steps - 1`` are taken.
    passes
        Of each of these steps: evaluations per window, 2 with guidance and 1 without.
    """

    windows: tuple[Box, ...]
    begin: int
    steps: int
    passes: tuple[int, ...]

    @property
    def evaluations(self) -> int:
        """Window evaluations of the network: windows × the passes of all steps."""
        return len(self.windows) * sum(self.passes)


def plan(task: CanvasTask, preset: Preset, spec: ModelSpec) -> CanvasPlan:
    """Windows (canvas-relative latents) that touch the mask, and the steps to take.

    ``n`` windows of size W at stride S along a side of L latents are
    ``ceil((L - W) / S) + 1``; the last one is snapped to the border.
    """
    windows = plan_windows(task.box.shape, spec.window_latents, preset.stride_of(spec))
    if task.mask is not None:
        windows = tuple(w for w in windows if bool(task.mask[w.slices].any()))
    if task.strength == 0:
        return CanvasPlan(windows, task.steps, task.steps, ())
    solver = preset.make_solver(spec, task.steps, task.strength)
    scales = (task.guidance_at(solver.level(i)) for i in range(solver.begin, task.steps))
    return CanvasPlan(windows, solver.begin, task.steps, tuple(1 if g == 1 else 2 for g in scales))


class Sampling:
    """What the parts of a canvas share while it is sampled.

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
        self.task, self.preset, self.spec, self.device = task, preset, model.spec, model.device
        self.plan = plan(task, preset, model.spec)
        #: Nothing is made: the result is what is known.
        self.idle = not self.plan.passes or not self.plan.windows
        if student is not None and not self.idle:
            model = model.student
        self.calls = Calls(model, check, counters)
        self.weight = window_weights(preset.weights, self.spec.window_latents).to(self.device)
        if self.idle:
            return
        self._null = self.calls.condition(task.unwanted(self.spec))
        if task.control is not None:
            edge = self.spec.window_latents
            nothing = torch.zeros(1, len(task.control), edge, edge, device=self.device)
            self._null = self._null.beside(nothing)
        self.batch = task.batch or choose_batch(
            model, max(self.plan.passes), len(self.plan.windows), check
        )
        self._levels = self.solver()

    def solver(self) -> Solver:
        """A fresh solver of this run."""
        return self.preset.make_solver(self.spec, self.task.steps, self.task.strength)

    def known(self, part: Box) -> torch.Tensor:
        """``(c, h, w)`` known latents of a part of the canvas."""
        assert self.task.known is not None
        return self.task.known[(slice(None), *part.slices)].to(self.device)

    def noise(self, part: Box, step: int) -> torch.Tensor:
        """``(c, h, w)`` noise of a part of the canvas."""
        place = part.shift(self.task.box.y, self.task.box.x)
        noise = place_noise(self.task.seed, place, self.spec.latent_channels, step)
        return torch.from_numpy(noise).to(self.device)

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
        return concatenate([self.calls.condition(self.tokens(part)) for part in parts])

    def coverage(self, windows: Sequence[Box], part: Box) -> torch.Tensor:
        """``(h, w)`` sums of the weights of windows on a part of the canvas."""
        total = torch.zeros(part.shape, device=self.device)
        for w in windows:
            both = w.intersect(part)
            if both.area:
                inside = both.shift(-w.y, -w.x).slices
                total[both.shift(-part.y, -part.x).slices] += self.weight[inside]
        return total

    def fuse(
        self,
        i: int,
        windows: Sequence[Box],
        conditions: Condition,
        x: torch.Tensor,
        fused: torch.Tensor,
        top: int = 0,
    ) -> Iterator[int]:
        """Add the weighted predictions of windows in step ``i``.

        Parameters
        ----------
        conditions
            Of ``windows``.
        x, fused
            ``(c, h, w)`` whole rows of the canvas from row ``top``: what the windows see, and
            where their predictions are added.

        Yields
        ------
        The run's evaluations so far, after every batch.
        """
        t, level = self._levels.timesteps[i], self._levels.level(i)
        guidance = self.task.guidance_at(level)
        # As many calls as the batch demands, of equal size: a call with one window left over
        # costs nearly as much as a whole one.
        calls = -(-len(windows) // self.batch)
        limit = Limit(-(-len(windows) // calls))

        def call(part: slice) -> tuple[Sequence[Box], torch.Tensor]:
            batch = windows[part]
            stacked = torch.stack(_views(x, batch, top))
            condition = self._shown(conditions[part], batch)
            try:
                made = guided(self.calls, stacked, t, level, condition, self._null, guidance)
            except NotFiniteError as error:
                window = batch[error.row % len(batch)].shift(self.task.box.y, self.task.box.x)
                raise error.at(window, i, self.task.steps) from None
            return batch, made

        for batch, made in in_parts(len(windows), limit, self.device, "windows", call, None):
            for view, prediction in zip(_views(fused, batch, top), made, strict=True):
                view.addcmul_(prediction, self.weight)
            yield self.calls.counters.evaluations

    def _shown(self, conditions: Condition, windows: Sequence[Box]) -> Condition:
        """Conditions of windows, and what the task shows besides."""
        control = self.task.control
        if control is None:
            return conditions
        parts = [control[(slice(None), *w.slices)] for w in windows]
        return conditions.beside(torch.stack(parts).to(self.device))

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
        return None if mask is None else mask[part.slices].to(self.device)


@torch.inference_mode()
def sample(
    model: Denoiser,
    task: CanvasTask,
    preset: Preset,
    *,
    check: Callable[[], None] = lambda: None,
    on_step: Callable[[int, torch.Tensor], None] = lambda i, x0: None,
    on_batch: Callable[[int], None] = lambda evaluations: None,
    counters: Counters | None = None,
) -> torch.Tensor:
    """Sample a canvas.

    Memory that runs out and half precision that overflows cost the calls that they stop and
    nothing else (:mod:`napari_ssldiff.diffusion.calls`).

    Parameters
    ----------
    check
        Called before every network call; raises to cancel.
    on_step
        Told the step's index and the fused ``(c, h, w)`` x0 after every solver step.
    on_batch
        Told the evaluations so far after every batch of windows.

    Returns
    -------
    ``(c, h, w)`` float32 clean latents.

    Raises
    ------
    ValueError
        If ``known`` is missing where strength or mask needs it, or steps or guidance are not
        those that the model's student was distilled for.
    ModelError
        If an answer of the network is not finite in fp32.
    """
    run = Sampling(model, task, preset, check, counters)
    whole, windows = Box(0, 0, *task.box.shape), run.plan.windows
    if run.idle:
        return run.known(whole)
    solver = run.solver()
    x = run.start(whole)
    conditions, coverage = run.conditions(windows), run.coverage(windows, whole)
    for i in range(run.plan.begin, task.steps):
        fused = torch.zeros_like(x)
        for evaluations in run.fuse(i, windows, conditions, x, fused):
            on_batch(evaluations)
        x0 = run.steer(i, run.settle(fused, coverage, whole))
        x = solver.step(i, x0, x, lambda n: run.noise(whole, n + 1))
        on_step(i, x0)
    return x


def _views(canvas: torch.Tensor, windows: Sequence[Box], top: int) -> list[torch.Tensor]:
    """Windows of ``(c, h, w)`` rows of a canvas from row ``top``, not copied.

    By their place in memory: indexing costs three times as much, and a canvas has thousands.
    """
    strides, first = canvas.stride(), canvas.storage_offset()
    channels, (_, row, column) = len(canvas), strides
    return [
        canvas.as_strided((channels, w.h, w.w), strides, first + (w.y - top) * row + w.x * column)
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
