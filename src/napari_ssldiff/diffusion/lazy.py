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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec
from napari_ssldiff.diffusion.calls import Calls
from napari_ssldiff.diffusion.canvas import CanvasTask, Counters, guided
from napari_ssldiff.diffusion.lattice import ByteCache, Key, Lattice
from napari_ssldiff.diffusion.noise import place_noise
from napari_ssldiff.diffusion.presets import Preset
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


def lattice_of(preset: Preset, spec: ModelSpec) -> Lattice:
    """The windows of a preset, in latents."""
    window = spec.window_latents
    return Lattice(window, max(1, round(preset.stride * window)))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """That many CPU threads inside; results differ in the last digits between numbers."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)


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
        cache_bytes: int = CACHE,
        tile_bytes: int = CACHE,
        check: Callable[[], None] = lambda: None,
        on_batch: Callable[[int], None] = lambda evaluations: None,
        counters: Counters | None = None,
    ) -> None:
        if preset.phases is None:
            raise ValueError(f"the preset {preset.name} has no phases")
        if task.known is None and (task.strength < 1 or task.mask is not None):
            raise ValueError("a strength below 1 or a mask needs the known latents")
        self.model, self.task, self.preset = model, task, preset
        self._calls = Calls(model, check, counters, fixed=True)
        self.batch = task.batch or BATCH
        self.lattice = lattice_of(preset, model.spec)
        self._threads, self._on_batch = threads, on_batch
        begin = task.steps
        self._levels: dict[int, tuple[float, float]] = {}
        if task.strength > 0:
            solver = preset.make_solver(model.spec, task.steps, task.strength)
            begin = solver.begin
            self._levels = {i: solver.level(i) for i in range(begin, task.steps)}
        self.bounds = phase_bounds(begin, task.steps, preset.phases)
        self._shares = self.lattice.shares(preset.weights).to(model.device)
        self._windows: ByteCache[torch.Tensor] = ByteCache(cache_bytes)
        self._tiles: ByteCache[torch.Tensor] = ByteCache(tile_bytes)
        self._lock = threading.RLock()
        side = model.spec.tokens**2
        self._null = self._calls.condition(torch.zeros(1, side, model.spec.token_width))

    @property
    def counters(self) -> Counters:
        """What was spent so far."""
        return self._calls.counters

    @property
    def phases(self) -> int:
        """Phases that are left at the task's strength."""
        return len(self.bounds) - 1

    @torch.inference_mode()
    def latents(self, box: Box) -> torch.Tensor:
        """``(c, h, w)`` float32 clean latents of any box of the global lattice."""
        with self._lock, _threads(self._threads):
            try:
                if self.phases:
                    self._ensure(self.phases - 1, self._covering(box))
                return self._state(self.phases, box)[0]
            finally:
                self._windows.trim()

    @torch.inference_mode()
    def tile(self, row: int, column: int) -> torch.Tensor:
        """``(3, 256, 256)`` float32 in [-1, 1] on the CPU: one tile of the model's pixel grid.

        It is decoded by itself with 64 pixels around it, so that no neighbour is needed.
        """
        with self._lock, _threads(self._threads):
            kept = self._tiles.get((row, column))
            if kept is not None:
                return kept
            f = self.model.spec.latent_factor
            size, halo = TILE // f, -(-HALO // f)
            box = Box(row * size, column * size, size, size).grow(halo)
            image = self._calls.decode(self.latents(box))
            made = image[:, halo * f : halo * f + TILE, halo * f : halo * f + TILE].clone()
            self._tiles.put((row, column), made)
            self._tiles.trim()
            return made

    def pixels(self, box: Box) -> torch.Tensor:
        """``(3, h, w)`` float32 in [-1, 1]: any box of the model's pixel grid."""
        out = torch.empty(3, *box.shape)
        for row, column in Lattice(TILE, TILE).covering(box):
            whole = Box(row * TILE, column * TILE, TILE, TILE)
            part = whole.intersect(box)
            made = self.tile(row, column)
            to = part.shift(-box.y, -box.x).slices
            out[(slice(None), *to)] = made[(slice(None), *part.shift(-whole.y, -whole.x).slices)]
        return out

    def evaluations(self, boxes: Iterable[Box]) -> int:
        """Window evaluations that :meth:`latents` of all ``boxes`` takes where nothing is kept.

        Batches are padded, so it is a multiple of the batch; asked for one after another, boxes
        can leave more batches half empty.
        """
        keys = {key for box in boxes for key in self._covering(box)}
        passes, total = 1 if self.task.guidance == 1 else 2, 0
        for phase in reversed(range(self.phases)):
            steps = self.bounds[phase + 1] - self.bounds[phase]
            total += -(-len(keys) // self.batch) * self.batch * steps * passes
            keys = self._before(keys)
        return total

    def _covering(self, box: Box) -> list[Key]:
        """Windows that cover ``box`` and touch the mask."""
        keys = self.lattice.covering(box)
        if self.task.mask is None:
            return keys
        return [key for key in keys if bool(self._mask(self.lattice.box(key)).any())]

    def _before(self, keys: Iterable[Key]) -> set[Key]:
        """Windows of the phase before that ``keys`` depend on."""
        return {k for key in keys for k in self._covering(self.lattice.box(key))}

    def _ensure(self, phase: int, keys: Iterable[Key]) -> None:
        """Have the results of these windows in this phase."""
        missing = [k for k in sorted(keys) if (phase, k) not in self._windows]
        if not missing:
            return
        if phase:
            self._ensure(phase - 1, self._before(missing))
        for first in range(0, len(missing), self.batch):
            self._run(phase, missing[first : first + self.batch])

    def _run(self, phase: int, keys: list[Key]) -> None:
        """The steps of a phase for one batch of windows."""
        task, spec = self.task, self.model.spec
        boxes = [self.lattice.box(key) for key in keys]
        boxes += [boxes[-1]] * (self.batch - len(boxes))
        states = [self._state(phase, box) for box in boxes[: len(keys)]]
        states += [states[-1]] * (self.batch - len(states))
        x = torch.stack([state[0] for state in states])
        mask = known = None
        if task.mask is not None:
            mask = torch.stack([self._mask(box) for box in boxes])[:, None]
            known = torch.stack([self._known(box) for box in boxes])
        condition = self._calls.condition(torch.stack([task.tokens(box) for box in boxes]))
        solver = self.preset.make_solver(spec, task.steps, task.strength)
        if phase:
            history = [state[1] for state in states]
            solver.resume(self.bounds[phase], torch.stack(history))  # type: ignore[arg-type]

        def noise(n: int) -> torch.Tensor:
            return torch.stack([self._noise(box, n + 1) for box in boxes])

        x0 = x
        for i in range(self.bounds[phase], self.bounds[phase + 1]):
            level = solver.level(i)
            scale = task.guidance_at(level)
            x0 = guided(self._calls, x, solver.timesteps[i], level, condition, self._null, scale)
            if mask is not None and known is not None:
                x0 = mask * x0 + (1 - mask) * known
            x = solver.step(i, x0, x, noise)
            self._on_batch(self.counters.evaluations)
        last = phase == self.phases - 1
        for n, key in enumerate(keys):
            made = x[n].clone() if last else torch.cat([x[n], x0[n]])
            self._windows.put((phase, key), made)

    def _state(self, phase: int, box: Box) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Canvas and x0 before it, as phase ``phase`` finds them; the latter from phase 1 on."""
        channels = self.model.spec.latent_channels
        if not phase:
            return self._begin(box), None
        parts = channels if phase == self.phases else 2 * channels
        fused = torch.zeros(parts, *box.shape, device=self.model.device)
        # Always in the same order: a sum of floats depends on it.
        for key in self._covering(box):
            window = self.lattice.box(key)
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
            if phase < self.phases:
                alpha, sigma = self._levels[self.bounds[phase]]
                rest = torch.cat([alpha * known + sigma * self._noise(box, 0), known])
            fused = torch.where(outside, rest, fused)
        return fused[:channels], fused[channels:] if phase < self.phases else None

    def _begin(self, box: Box) -> torch.Tensor:
        task = self.task
        if not self.phases:
            return self._known(box)
        x = self._noise(box, 0)
        if task.known is None:
            return x
        alpha, sigma = self._levels[self.bounds[0]]
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
        """``mask`` of a box, 0 beyond the task's."""
        assert self.task.mask is not None
        out = torch.zeros(box.shape, device=self.model.device)
        both = box.intersect(self.task.box)
        if both.area:
            part = self.task.mask[both.shift(-self.task.box.y, -self.task.box.x).slices]
            out[both.shift(-box.y, -box.x).slices] = part.to(out)
        return out

    def _places(self, box: Box) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.arange(box.y, box.y1) - self.task.box.y
        return rows, torch.arange(box.x, box.x1) - self.task.box.x
