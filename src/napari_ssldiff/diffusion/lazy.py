"""Random access: any tile of a canvas without bounds, alone, and always the same.

Windows lie on one lattice for ever. The solver's steps are cut into a few phases; inside a phase
every window goes its own way, and where a phase ends the windows are fused, the solver's history
with them (the scheme of InfiniteDiffusion, SIGGRAPH 2026; carrying the history is ours). So the
state at a place after phase k depends on the windows that cover it and on the state after phase
k - 1 under these, and on nothing else: a tile costs a cone of windows, wherever it lies.

With stride W/2 a window depends on nine of the phase before. One aligned window after three
phases takes 9, 25 and 49 windows; in the long run every latent is denoised by four windows:
evaluations per megapixel = 2**20 / (stride · factor)² · steps · passes (256-px windows, 20 steps,
guidance on: 2,560).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import torch

from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec, Precision
from napari_ssldiff.diffusion.calls import Calls, NotFiniteError
from napari_ssldiff.diffusion.canvas import CanvasTask, Counters, guided
from napari_ssldiff.diffusion.lattice import ByteCache, Key, Lattice
from napari_ssldiff.diffusion.noise import place_noise
from napari_ssldiff.diffusion.presets import Preset
from napari_ssldiff.diffusion.threads import cpu_threads
from napari_ssldiff.geometry import Box

#: Edge of a tile and what its decoder sees beyond it, in pixels of the model.
TILE, HALO = 256, 64
#: Windows per network call where the task does not say.
BATCH = 8
#: Bytes of window results that are kept for the neighbours of what was asked for.
CACHE = 256 * 2**20


def phase_bounds(begin: int, steps: int, phases: int) -> tuple[int, ...]:
    """First step of every phase, and the end: ``phases`` parts of equal length to a step.

    Fewer where there are fewer steps than phases.
    """
    count = steps - begin
    phases = min(phases, count)
    return (
        tuple(begin + round(count * k / phases) for k in range(phases + 1)) if count else (begin,)
    )


class LazyPlan:
    """Windows, phases and costs of a task, known before anything is computed.

    Parameters
    ----------
    task, preset, spec
        As for :class:`LazyCanvas`.

    Raises
    ------
    ValueError
        If the preset has no phases.
    """

    def __init__(self, task: CanvasTask, preset: Preset, spec: ModelSpec) -> None:
        if preset.phases is None:
            raise ValueError(f"the preset {preset.name} has no phases")
        self.task, self.factor = task, spec.latent_factor
        self.batch = task.batch or BATCH
        self.lattice = Lattice(spec.window_latents, preset.stride_of(spec))
        begin = task.steps
        #: ``(alpha, sigma)`` before every step that is taken.
        self.levels: dict[int, tuple[float, float]] = {}
        if task.strength > 0:
            solver = preset.make_solver(spec, task.steps, task.strength)
            begin = solver.begin
            self.levels = {i: solver.level(i) for i in range(begin, task.steps)}
        self.bounds = phase_bounds(begin, task.steps, preset.phases)

    @property
    def phases(self) -> int:
        """Phases that are left at the task's strength."""
        return len(self.bounds) - 1

    def steps(self, phase: int) -> range:
        """The solver's steps of a phase."""
        return range(self.bounds[phase], self.bounds[phase + 1])

    def covering(self, box: Box) -> list[Key]:
        """Windows that cover ``box`` and touch the mask."""
        keys = self.lattice.covering(box)
        if self.task.mask is None:
            return keys
        return [key for key in keys if bool(self.mask(self.lattice.box(key)).any())]

    def before(self, keys: Iterable[Key]) -> set[Key]:
        """Windows of the phase before that ``keys`` depend on."""
        return {k for key in keys for k in self.covering(self.lattice.box(key))}

    def mask(self, box: Box) -> torch.Tensor:
        """``mask`` of a box, 0 beyond the task's; on the CPU."""
        assert self.task.mask is not None
        out = torch.zeros(box.shape)
        both = box.intersect(self.task.box)
        if both.area:
            part = self.task.mask[both.shift(-self.task.box.y, -self.task.box.x).slices]
            out[both.shift(-box.y, -box.x).slices] = part.to(out)
        return out

    def tile_latents(self, tile: Key) -> Box:
        """What a tile is decoded from, in latents: itself and the halo."""
        size, halo = TILE // self.factor, -(-HALO // self.factor)
        return Box(tile[0] * size, tile[1] * size, size, size).grow(halo)

    def evaluations(self, boxes: Iterable[Box]) -> int:
        """Window evaluations that the boxes of latents take, asked for one after another.

        The padding of batches is in it; nothing is kept at the start or dropped on the way.
        """
        have: set[tuple[int, Key]] = set()
        total = 0

        def ensure(phase: int, keys: Iterable[Key]) -> None:
            nonlocal total
            missing = {k for k in keys if (phase, k) not in have}
            if not missing:
                return
            if phase:
                ensure(phase - 1, self.before(missing))
            scales = (self.task.guidance_at(self.levels[i]) for i in self.steps(phase))
            passes = sum(1 if scale == 1 else 2 for scale in scales)
            total += -(-len(missing) // self.batch) * self.batch * passes
            have.update((phase, k) for k in missing)

        for box in boxes:
            if self.phases:
                ensure(self.phases - 1, self.covering(box))
        return total


def tiles_of(box: Box) -> list[Key]:
    """Tiles that share a pixel of the model's grid with ``box``, row by row."""
    return Lattice(TILE, TILE).covering(box)


class LazyCanvas:
    """Latents and pixels by place. Safe to ask from several threads, one at a time is served.

    Parameters
    ----------
    model
        Any denoiser; its student is not used.
    task
        As for :func:`~napari_ssldiff.diffusion.canvas.sample`. ``box`` only says where ``known``
        and ``mask`` lie: beyond it the border of ``known`` goes on and nothing is denoised if
        there is a mask. ``batch`` is the exact shape of every network call: a batch that is not
        full is padded, because kernels round differently for other shapes.
    preset
        With ``phases``.
    threads
        CPU threads of every call; ``None`` leaves torch's number. Part of what the last digits
        depend on.
    precision
        What the network computes in; ``None``: the model's own. Pixels depend on it as well.
    cache_bytes, tile_bytes
        Kept between calls: results of windows, and decoded tiles.
    check, on_batch, counters
        As for ``sample``. What memory does not hold goes to the CPU or fails: the shape stays.
    """

    def __init__(
        self,
        model: Denoiser,
        task: CanvasTask,
        preset: Preset,
        *,
        threads: int | None = None,
        precision: Precision | None = None,
        cache_bytes: int = CACHE,
        tile_bytes: int = CACHE,
        check: Callable[[], None] = lambda: None,
        on_batch: Callable[[int], None] = lambda evaluations: None,
        counters: Counters | None = None,
    ) -> None:
        self.plan = LazyPlan(task, preset, model.spec)
        if task.known is None and (task.strength < 1 or task.mask is not None):
            raise ValueError("a strength below 1 or a mask needs the known latents")
        if task.guide is not None:
            raise ValueError("a guide needs the whole canvas at once")
        self.model, self.task, self.preset = model, task, preset
        self._calls = Calls(model, check, counters, fixed=True, precision=precision)
        self._threads, self._on_batch = threads, on_batch
        self._shares = self.plan.lattice.shares(preset.weights).to(model.device)
        self._windows: ByteCache[tuple[int, Key], torch.Tensor] = ByteCache(cache_bytes)
        self._tiles: ByteCache[Key, torch.Tensor] = ByteCache(tile_bytes)
        self._lock = threading.RLock()
        self._null = self._calls.condition(task.unwanted(model.spec))

    @property
    def counters(self) -> Counters:
        """What was spent so far."""
        return self._calls.counters

    @torch.inference_mode()
    def latents(self, box: Box) -> torch.Tensor:
        """``(c, h, w)`` float32 clean latents of any box of the global lattice."""
        with self._lock, cpu_threads(self._threads):
            try:
                if self.plan.phases:
                    self._ensure(self.plan.phases - 1, self.plan.covering(box))
                return self._state(self.plan.phases, box)[0]
            finally:
                self._windows.trim()

    @torch.inference_mode()
    def tile(self, row: int, column: int) -> torch.Tensor:
        """``(3, 256, 256)`` float32 in [-1, 1] on the CPU: one tile of the model's pixel grid.

        It is decoded by itself with 64 pixels around it, so that no neighbour is needed.
        """
        with self._lock, cpu_threads(self._threads):
            kept = self._tiles.get((row, column))
            if kept is not None:
                return kept
            image = self._calls.decode(self.latents(self.plan.tile_latents((row, column))))
            halo = (image.shape[1] - TILE) // 2
            made = image[:, halo : halo + TILE, halo : halo + TILE].clone()
            self._tiles.put((row, column), made)
            self._tiles.trim()
            return made

    def pixels(self, box: Box) -> torch.Tensor:
        """``(3, h, w)`` float32 in [-1, 1]: any box of the model's pixel grid."""
        out = torch.empty(3, *box.shape)
        for row, column in tiles_of(box):
            whole = Box(row * TILE, column * TILE, TILE, TILE)
            part = whole.intersect(box)
            made = self.tile(row, column)
            to = part.shift(-box.y, -box.x).slices
            out[(slice(None), *to)] = made[(slice(None), *part.shift(-whole.y, -whole.x).slices)]
        return out

    def _ensure(self, phase: int, keys: Iterable[Key]) -> None:
        """Have the results of these windows in this phase."""
        missing = [k for k in sorted(keys) if (phase, k) not in self._windows]
        if not missing:
            return
        if phase:
            self._ensure(phase - 1, self.plan.before(missing))
        for first in range(0, len(missing), self.plan.batch):
            self._run(phase, missing[first : first + self.plan.batch])

    def _run(self, phase: int, keys: list[Key]) -> None:
        """The steps of a phase for one batch of windows."""
        task, spec = self.task, self.model.spec
        boxes = [self.plan.lattice.box(key) for key in keys]
        boxes += [boxes[-1]] * (self.plan.batch - len(boxes))
        states = [self._state(phase, box) for box in boxes[: len(keys)]]
        states += [states[-1]] * (self.plan.batch - len(states))
        x = torch.stack([state[0] for state in states])
        mask = known = None
        if task.mask is not None:
            mask = torch.stack([self._mask(box) for box in boxes])[:, None]
            known = torch.stack([self._known(box) for box in boxes])
        condition = self._calls.condition(torch.stack([task.tokens(box) for box in boxes]))
        solver = self.preset.make_solver(spec, task.steps, task.strength)
        if phase:
            history = [state[1] for state in states]
            solver.resume(self.plan.bounds[phase], torch.stack(history))  # type: ignore[arg-type]

        def noise(n: int) -> torch.Tensor:
            return torch.stack([self._noise(box, n + 1) for box in boxes])

        x0 = x
        for i in self.plan.steps(phase):
            level = self.plan.levels[i]
            scale = task.guidance_at(level)
            try:
                x0 = guided(
                    self._calls, x, solver.timesteps[i], level, condition, self._null, scale
                )
            except NotFiniteError as error:
                raise error.at(boxes[error.row % len(boxes)], i, task.steps) from None
            if mask is not None and known is not None:
                x0 = mask * x0 + (1 - mask) * known
            x = solver.step(i, x0, x, noise)
            self._on_batch(self.counters.evaluations)
        last = phase == self.plan.phases - 1
        for n, key in enumerate(keys):
            made = x[n].clone() if last else torch.cat([x[n], x0[n]])
            self._windows.put((phase, key), made)

    def _state(self, phase: int, box: Box) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Canvas and x0 before it, as phase ``phase`` finds them; the latter from phase 1 on."""
        channels = self.model.spec.latent_channels
        if not phase:
            return self._begin(box), None
        parts = channels if phase == self.plan.phases else 2 * channels
        fused = torch.zeros(parts, *box.shape, device=self.model.device)
        # Always in the same order: a sum of floats depends on it.
        for key in self.plan.covering(box):
            window = self.plan.lattice.box(key)
            both = window.intersect(box)
            made = self._windows.get((phase - 1, key))
            assert made is not None
            inside = both.shift(-window.y, -window.x).slices
            to = (slice(None), *both.shift(-box.y, -box.x).slices)
            fused[to] += self._shares[inside] * made[(slice(None), *inside)]
        if self.task.mask is not None:
            # Outside the mask x is known·alpha + noise·sigma all along, and x0 is known.
            known, outside = self._known(box), self._mask(box) == 0
            rest = known
            if phase < self.plan.phases:
                alpha, sigma = self.plan.levels[self.plan.bounds[phase]]
                rest = torch.cat([alpha * known + sigma * self._noise(box, 0), known])
            fused = torch.where(outside, rest, fused)
        return fused[:channels], fused[channels:] if phase < self.plan.phases else None

    def _begin(self, box: Box) -> torch.Tensor:
        task = self.task
        if not self.plan.phases:
            return self._known(box)
        x = self._noise(box, 0)
        if task.known is None:
            return x
        alpha, sigma = self.plan.levels[self.plan.bounds[0]]
        start = self._known(box)
        if task.strength == 1:
            start = (1 - self._mask(box)) * start if task.mask is not None else 0 * start
        return alpha * start + sigma * x

    def _noise(self, box: Box, step: int) -> torch.Tensor:
        made = place_noise(self.task.seed, box, self.model.spec.latent_channels, step)
        return torch.from_numpy(made).to(self.model.device)

    def _known(self, box: Box) -> torch.Tensor:
        """``known`` of a box, its border going on beyond the task's."""
        assert self.task.known is not None
        rows, columns = self._places(box)
        return self.task.known[:, rows.clamp(0, self.task.box.h - 1)][
            :, :, columns.clamp(0, self.task.box.w - 1)
        ].to(self.model.device)

    def _mask(self, box: Box) -> torch.Tensor:
        return self.plan.mask(box).to(self.model.device)

    def _places(self, box: Box) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.arange(box.y, box.y1) - self.task.box.y
        return rows, torch.arange(box.x, box.x1) - self.task.box.x
