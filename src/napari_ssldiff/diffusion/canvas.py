"""The canvas engine: all windows of a canvas advance together.

Per step every window predicts x0; predictions are averaged on the canvas with the preset's
weights; one solver step is taken there. (MultiDiffusion averages the *updates* instead, which
needs solver state per window and loses variance with stochastic samplers.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.calls import Counters as Counters
from napari_ssldiff.diffusion.presets import Preset
from napari_ssldiff.diffusion.sampling import Rows, Sampling
from napari_ssldiff.diffusion.sampling import guided as guided
from napari_ssldiff.diffusion.task import CanvasPlan as CanvasPlan
from napari_ssldiff.diffusion.task import CanvasTask as CanvasTask
from napari_ssldiff.diffusion.task import plan as plan
from napari_ssldiff.geometry import Box


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
    if run.idle:
        return run.known(Box(0, 0, *task.box.shape))
    canvas = _Canvas(run)
    for i in range(run.plan.begin, task.steps):
        for evaluations in canvas.predict(i):
            on_batch(evaluations)
        canvas.step(i)
        assert canvas.before is not None
        on_step(i, canvas.before)
    return canvas.x


class _Canvas:
    """The state of a canvas that is sampled as a whole.

    Every stage can be begun again, or is done strip by strip and each strip once, so that memory
    that runs out in any of them costs that stage and nothing before it.

    Attributes
    ----------
    x
        ``(c, h, w)``: the canvas.
    before
        x0 of the last step; what the solver remembers.
    """

    def __init__(self, run: Sampling) -> None:
        self._run, self._home = run, run.home
        self._place, self._windows = Box(0, 0, *run.task.box.shape), run.plan.windows
        self._solver = run.solver()
        self.before: torch.Tensor | None = None
        self._coverage: torch.Tensor | None = None
        self._rows: Rows | None = None
        self._home.tenants.append(self._move)
        shape = run.spec.latent_channels, *run.task.box.shape

        def empty() -> Rows:
            conditions = run.conditions(self._windows)
            x = torch.empty(shape, device=run.device)
            return Rows(x, x, conditions)  # sums are made anew in every step

        self._rows = self._home.guarded("the canvas", empty)
        self._coverage = self._home.guarded(
            "the canvas", lambda: run.coverage(self._windows, self._place)
        )
        self._home.by_rows("noise", self._place.h, self._begin)

    def _move(self, device: torch.device) -> None:
        if self._rows is not None:
            self._rows.move(device)
        if self.before is not None:
            self.before = self.before.to(device)
        if self._coverage is not None:
            self._coverage = self._coverage.to(device)

    @property
    def rows(self) -> Rows:
        """All of them."""
        assert self._rows is not None
        return self._rows

    @property
    def x(self) -> torch.Tensor:
        return self.rows.x

    def _strip(self, rows: slice) -> Box:
        return Box(rows.start, 0, rows.stop - rows.start, self._place.w)

    def _begin(self, rows: slice) -> None:
        self.x[:, rows] = self._run.start(self._strip(rows))

    def predict(self, i: int) -> Iterator[int]:
        """Ask the network for x0 of all windows; the evaluations so far after every batch."""
        self.rows.fused = self._home.guarded("fusion", lambda: torch.zeros_like(self.x))
        yield from self._run.fuse(i, self._windows, self.rows)

    def step(self, i: int) -> None:
        """Take the solver's step on what was predicted."""
        run, home = self._run, self._home

        def settle(rows: slice) -> None:
            assert self._coverage is not None
            part = self.rows.fused[:, rows]
            part.copy_(run.settle(part, self._coverage[rows], self._strip(rows)))

        def advance(rows: slice) -> None:
            before = None if self.before is None else self.before[:, rows]
            self._solver.resume(i, before)
            x, strip = self.x[:, rows], self._strip(rows)
            x0 = self.rows.fused[:, rows]
            x.copy_(self._solver.step(i, x0, x, lambda n: run.noise(strip, n + 1)))

        home.by_rows("blending", self._place.h, settle)
        self.rows.fused = home.guarded("a guide", lambda: run.steer(i, self.rows.fused))
        home.by_rows("a solver's step", self._place.h, advance)
        self.before = self.rows.fused
