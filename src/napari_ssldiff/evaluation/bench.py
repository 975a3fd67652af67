"""The canvas engine beside published ways to sample: cost, speed, memory, seams, fidelity.

What every field means is in ``docs/bench.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation.baselines import BASELINES
from napari_ssldiff.evaluation.bench_runs import Report, Run, Runner
from napari_ssldiff.evaluation.bench_scene import Ground, mean_cosine, read_ground, tile_field
from napari_ssldiff.evaluation.instrument import PeakMemory
from napari_ssldiff.evaluation.layouts import (
    MEGAPIXEL,
    TILE,
    Layout,
    at_window_256,
    evaluations_per_megapixel,
    layout_of,
)
from napari_ssldiff.evaluation.seams import detail, overlap_power, seam_ratio, seam_score
from napari_ssldiff.evaluation.stats import plain
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.models.random_weights import has_random_weights

#: Fields of a row, in this order; ``None`` where a figure does not exist.
FIELDS = (
    "preset", "size", "failed", "steps", "guidance", "stride_px", "batch", "seeds",
    "evals", "evals_per_mpx", "evals_per_mpx_at_window_256",
    "seconds", "seconds_all", "seconds_per_mpx", "ttft_s", "ttst_s",
    "unet_share", "unet_vae_share", "preview_share",
    "peak_rss_mb", "peak_rss_scope", "rss_before_mb", "peak_vram_mb",
    "seam_score", "seam_interval", "seam_log_ratio", "seam_lines",
    "overlap_power", "overlap_interval", "detail", "ssl_cosine",
)  # fmt: skip
#: Steps of the run that warms a row up: two, because a first and a last step differ.
WARM_STEPS = 2


#: Takes a row's name, its size and a picture.
Show = Callable[[str, int, NDArray[np.uint8]], None]


@dataclass(frozen=True)
class BenchPlan:
    """What to run.

    Parameters
    ----------
    sizes
        Edges of square canvases in model pixels: multiples of 256, at least a window.
    presets
        Of :data:`~napari_ssldiff.diffusion.presets.PRESETS`.
    against
        Of :data:`~napari_ssldiff.evaluation.baselines.BASELINES`.
    steps
        Instead of each preset's own; a preset that runs the model's student keeps the student's.
    seeds
        Runs per row, from seed 0 up.
    scene
        Where the field comes from; ``None``: the bundled synthetic slide.

    Raises
    ------
    InputError
        If a number or a name cannot be.
    """

    sizes: Sequence[int] = (1024,)
    presets: Sequence[str] = field(default_factory=lambda: tuple(PRESETS))
    against: Sequence[str] = ()
    steps: int | None = None
    seeds: int = 1
    scene: Path | None = None

    def __post_init__(self) -> None:
        for given, known, what in (
            (self.presets, PRESETS, "preset"),
            (self.against, BASELINES, "baseline"),
        ):
            for name in given:
                if name not in known:
                    raise InputError(f"unknown {what} {name!r}: choose among {', '.join(known)}")
        if not self.sizes or not (self.presets or self.against):
            raise InputError("nothing to run: give at least one size, and a preset or a baseline")
        for size in self.sizes:
            if size < TILE or size % TILE:
                raise InputError(
                    f"sizes are multiples of {TILE} px, the edge of a tile; got {size}"
                )
        if self.seeds < 1:
            raise InputError(f"seeds must be at least 1, got {self.seeds}")


class _Bench:
    """What all rows share."""

    def __init__(
        self, bundle: ModelBundle, plan: BenchPlan, ground: Ground, progress: Report, show: Show
    ) -> None:
        self.bundle, self.plan, self.ground, self.show = bundle, plan, ground, show
        self.runner = Runner(bundle, ground, progress)

    def row(self, name: str, size: int) -> dict[str, Any]:
        """One row: warmed up, run once per seed, measured."""
        out: dict[str, Any] = dict.fromkeys(FIELDS) | {"preset": name, "size": size}
        try:
            return out | self.measured(name, size)
        except torch.cuda.OutOfMemoryError:
            if name not in BASELINES:
                raise  # the engine has ways out of its own
            return out | {"failed": "out of memory"}

    def measured(self, name: str, size: int) -> dict[str, Any]:
        """What is known of a row that could be run."""
        baseline, spec, device = BASELINES.get(name), self.bundle.spec, self.bundle.device
        steps = self.plan.steps

        def run(edge: int, seed: int, steps: int | None) -> Run:
            if baseline:
                return self.runner.baseline(baseline, edge, seed, steps)
            return self.runner.engine(name, edge, seed, steps)

        # A GPU chooses and compiles kernels per shape, a CPU does not.
        small = -(-spec.window // TILE) * TILE
        run(size if device.type != "cpu" else small, 0, WARM_STEPS)
        memory = PeakMemory(device)
        runs = [run(size, seed, steps) for seed in range(self.plan.seeds)]
        used = memory.read()
        self.show(name, size, runs[0].image)
        if name == "bulk":
            self.runner.batch = runs[0].batch
        layout = baseline.layout(spec, size) if baseline else layout_of(PRESETS[name], spec, size)
        preset = baseline.follows if baseline else name
        sampler, stride = self.runner.sampler(preset, 0, steps), layout.stride * spec.latent_factor
        per_mpx = evaluations_per_megapixel(stride, self.runner.per_window(preset, steps))
        return {
            "steps": sampler.steps,
            "guidance": sampler.guidance,
            "stride_px": stride,
            "batch": runs[0].batch,
            "seeds": len(runs),
            "evals": runs[0].evaluations,
            "evals_per_mpx": per_mpx,
            "evals_per_mpx_at_window_256": at_window_256(per_mpx, spec.window),
            **_times(runs, size),
            **used,
            **self.quality([r.image for r in runs], layout),
        }

    def quality(self, images: Sequence[NDArray[np.uint8]], layout: Layout) -> dict[str, Any]:
        """What the pictures say; nothing for random weights, whose pictures are of nothing."""
        out: dict[str, Any] = {}
        if has_random_weights(self.bundle.card):
            return out
        f, lines, zones = layout.factor, layout.lines, layout.zones
        ratio = seam_ratio(images, (lines, lines), f, np.random.default_rng(0))
        if ratio is not None:
            score = seam_score(ratio)
            out["seam_score"], out["seam_interval"] = score.value, score.interval
            out["seam_log_ratio"], out["seam_lines"] = ratio.value, ratio.groups
        rng, piece = np.random.default_rng(0), layout.window * f
        power = overlap_power(images, (zones, zones), f, piece, rng)
        if power is not None:
            out["overlap_power"], out["overlap_interval"] = power.value, power.interval
        real = detail(self.ground.pixels, f)
        out["detail"] = float(np.mean([detail(i, f) for i in images])) / real if real else None
        asked = tile_field(self.ground.field, layout.size)
        cosines = [mean_cosine(self.bundle, asked, image) for image in images]
        out["ssl_cosine"] = float(np.mean(cosines))
        return out


def _times(runs: Sequence[Run], size: int) -> dict[str, Any]:
    """Medians over seeds, and shares of all seconds."""
    wall = sum(r.seconds for r in runs)
    seconds = float(np.median([r.seconds for r in runs]))

    def total(name: str) -> float | None:
        values = [getattr(r, name) for r in runs]
        return None if None in values else float(sum(values))

    def tile(n: int) -> float | None:
        return float(np.median([r.tiles[n] for r in runs])) if len(runs[0].tiles) > n else None

    network, autoencoder, preview = total("network"), total("autoencoder"), total("preview")
    forward = None if network is None or autoencoder is None else network + autoencoder
    return {
        "seconds": seconds,
        "seconds_all": [r.seconds for r in runs],
        "seconds_per_mpx": seconds / (size * size / MEGAPIXEL),
        "ttft_s": tile(0),
        "ttst_s": tile(1),
        "unet_share": None if network is None else network / wall,
        "unet_vae_share": None if forward is None else forward / wall,
        "preview_share": None if preview is None else preview / wall,
    }


def bench(
    bundle: ModelBundle,
    plan: BenchPlan,
    *,
    progress: Report = lambda stage, done, total: None,
    show: Show = lambda name, size, image: None,
) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Measure presets and baselines on one model, in this process.

    Parameters
    ----------
    progress
        Told ``(stage, done, total)``.
    show
        Given every row's name and size and the ``(size, size, 3)`` uint8 picture of its first seed.

    Returns
    -------
    What was run on what, and the rows as they are measured: by size, presets first. Both are
    ready for :func:`json.dumps`.

    Raises
    ------
    InputError
        If a size does not hold a window, the sampler cannot take these steps, or the scene does
        not suit the model.
    """
    spec = bundle.spec
    for size in plan.sizes:
        if size < spec.window or size % spec.latent_factor:
            raise InputError(
                f"a canvas of {size} px does not suit {bundle.card.id}: give multiples of {TILE} "
                f"px from its window, {spec.window} px, up"
            )
    ground = read_ground(bundle, plan.scene, max(plan.sizes))
    work = _Bench(bundle, plan, ground, progress, show)
    for preset in plan.presets:
        work.runner.sampler(preset, 0, plan.steps)  # refused now, not after minutes
    setup = {
        "model": bundle.card.id,
        "model_hash": bundle.hash,
        "random_weights": has_random_weights(bundle.card),
        "parameters": sum(p.numel() for p in bundle.denoiser.network.parameters()),
        "precision": bundle.denoiser.precision,
        "window_px": spec.window,
        "latent_factor": spec.latent_factor,
        "scene": ground.name,
        "notes": [] if ground.note is None else [ground.note],
    }
    names = [*plan.presets, *plan.against]
    return setup, (plain(work.row(name, size)) for size in plan.sizes for name in names)
