"""A whole evaluation: what is varied, once, and every figure that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation.classify import Task, solve
from napari_ssldiff.evaluation.crops import crop_figures, windows_of
from napari_ssldiff.evaluation.fidelity import Piece, sampler_facts, synthesise_tiles
from napari_ssldiff.evaluation.frechet import LEAST, Projection, fit_projection
from napari_ssldiff.evaluation.labels import read_labels
from napari_ssldiff.evaluation.regions import Tile, read_tiles
from napari_ssldiff.evaluation.repeats import WINDOW, Pair, repeat_figures
from napari_ssldiff.evaluation.source import CellSet, Material, source_figures
from napari_ssldiff.evaluation.spaces import FeatureSpace, check_space, feature_space
from napari_ssldiff.evaluation.speed import timing_figures
from napari_ssldiff.evaluation.stats import plain
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.synthesis import Sampler

Report = Callable[[str, float, float], None]

METRICS = (
    "fidelity", "autoencoder", "frechet", "crops", "spectrum", "colour", "manifold",
    "memorisation", "encoder", "timing",
)  # fmt: skip
#: Figures of one source's variations; those of another source too (``out_of_distribution``).
_OF_SOURCE = frozenset({"fidelity", "autoencoder", "frechet", "spectrum", "colour", "manifold"})
_VARIED = _OF_SOURCE - {"autoencoder"}


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Parameters
    ----------
    data
        Images that no training saw.
    training
        Images that the training saw; empty leaves out what needs them.
    labels
        Table of labelled images for the encoder's probes.
    out_of_distribution
        ``{name: images}`` of other sources.
    cells
        Varied cells with content, per source.
    samples
        Windows from training embeddings, for memorisation.
    large
        Large regions of the crop protocol.
    metrics
        Of :data:`METRICS`.
    sampler
        Strength 1.
    space
        Of :data:`napari_ssldiff.evaluation.spaces.SPACES`.
    window
        Edge of varied regions in model pixels.

    Raises
    ------
    InputError
        If a number, a name or the strength cannot be.
    """

    data: Sequence[Path]
    training: Sequence[Path] = ()
    labels: Path | None = None
    out_of_distribution: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    cells: int = 640
    samples: int = 100
    large: int = 2
    metrics: frozenset[str] = frozenset(METRICS)
    sampler: Sampler = field(default_factory=Sampler)
    space: str = "encoder-eval"
    window: int = 256

    def __post_init__(self) -> None:
        unknown = set(self.metrics) - set(METRICS)
        if unknown or not self.metrics:
            named = ", ".join(sorted(unknown)) or "none"
            raise InputError(f"unknown metrics {named}: choose among all, {', '.join(METRICS)}")
        if self.sampler.strength != 1:
            raise InputError(f"figures are measured at strength 1, got {self.sampler.strength}")
        for name in ("cells", "samples", "window"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.large < 0:
            raise InputError(f"large must be at least 0, got {self.large}")
        check_space(self.space)


@dataclass
class Gallery:
    """Pictures for the report, of the main source."""

    pieces: Sequence[Piece] = ()
    second: Sequence[Piece] = ()
    cosines: NDArray[np.float64] | None = None
    pairs: Sequence[Pair] = ()
    large: Sequence[Piece] = ()


class _Run:
    """One evaluation under way: the bundle, the plan, and what was said."""

    def __init__(self, bundle: ModelBundle, plan: Plan, progress: Report) -> None:
        self.bundle, self.plan, self.progress = bundle, plan, progress
        self.notes: list[str] = []
        self.rng = np.random.default_rng(0)
        self.spec = bundle.encoder.spec
        if plan.window % self.spec.cell:
            raise InputError(
                f"the window must be a multiple of the model's cell of {self.spec.cell} pixels, "
                f"got {plan.window}"
            )
        need = plan.metrics & {"frechet", "manifold", "crops"}
        self.space: FeatureSpace | None = feature_space(plan.space, bundle) if need else None
        self._projections: dict[int, Projection] = {}
        self._training: list[Tile] | None = None

    def say(self, text: str) -> None:
        self.notes.append(text)

    def vary(self, name: str, tiles: Sequence[Tile], seed: int = 0, first: int = 0) -> list[Piece]:
        """Variations of tiles, the ``first``-th of their source and those after it; ``seed`` counts
        from the plan's."""
        sampler = replace(self.plan.sampler, seed=self.plan.sampler.seed + seed)
        return synthesise_tiles(
            self.bundle, tiles, sampler,
            lambda done, total: self.progress(name, done, total), first=first,
        )  # fmt: skip

    def training_tiles(self) -> list[Tile]:
        """Tiles of training images that hold about 3000 cells."""
        if self._training is None:
            self._training = read_tiles(self.plan.training, self.spec, self.plan.window, cells=3000)
        return self._training

    def projection(self, size: int) -> Projection | None:
        """Principal components of training pictures of an edge; ``None`` without training."""
        if not self.plan.training or self.space is None:
            return None
        if size not in self._projections:
            tiles = self.training_tiles()
            cell = self.spec.cell
            pictures = CellSet.of(tiles, cell).pictures if size == cell else windows_of(tiles, size)
            if len(pictures) < 64:
                self.say(f"training images hold only {len(pictures)} windows of {size} pixels")
                return None
            self._projections[size] = fit_projection(self.space.features(pictures))
        return self._projections[size]

    def material(self, name: str, paths: Sequence[Path], metrics: frozenset[str]) -> Material:
        """Real tiles of a source, and as many variations as its figures need."""
        plan = self.plan
        # Three times as many real cells as varied ones: two halves, and cells of other places.
        pool = read_tiles(paths, self.spec, plan.window, cells=3 * plan.cells)
        if not pool:
            raise InputError(
                f"{name} holds no region of {plan.window} × {plan.window} model pixels with content"
            )
        pieces: list[Piece] = []
        second: list[Piece] = []
        if metrics & _VARIED:
            held = np.cumsum([t.content.sum() for t in pool])
            count = int(np.searchsorted(held, plan.cells)) + 1
            if count > len(pool):
                self.say(f"{name}: {plan.cells} cells were asked for, {held[-1]} hold content")
            pieces = self.vary(f"varying {name}", pool[:count])
            if "manifold" in metrics:
                tiles = [p.tile for p in pieces[:8]]
                second = self.vary(f"varying {name} again", tiles, seed=1)
        return Material(pool, pieces, second)

    def source(
        self, name: str, paths: Sequence[Path], metrics: frozenset[str]
    ) -> tuple[dict[str, Any], Material, NDArray[np.float64] | None]:
        """All figures of a source."""
        material = self.material(name, paths, metrics)
        projection = self.projection(self.spec.cell) if "frechet" in metrics else None
        self.progress(f"measuring {name}", 0, 1)
        figures, cosines = source_figures(
            self.bundle, material, metrics, self.space, projection, self.rng,
            lambda text: self.say(f"{name}: {text}"),
        )  # fmt: skip
        self.progress(f"measuring {name}", 1, 1)
        return figures, material, cosines

    def crops(self) -> tuple[dict[str, Any], list[Piece]]:
        """The crop protocol, where an image holds a large region."""
        plan, size = self.plan, 2 * self.plan.window
        tiles = read_tiles(plan.data, self.spec, size, count=plan.large) if plan.large else []
        if not tiles:
            self.say(f"the crop protocol is left out: no image holds {size} × {size} model pixels")
            return {}, []
        pieces = self.vary("varying large regions", tiles)
        crop = 2 * self.spec.cell
        assert self.space is not None
        count = min(LEAST, plan.cells)
        return (
            crop_figures(self.space, pieces, self.projection(crop), crop, count, self.rng),
            pieces,
        )

    def memorisation(self, held_out: Material) -> tuple[dict[str, Any], list[Pair]]:
        """Samples of training embeddings, searched for; those of held-out ones beside."""
        plan = self.plan
        if not plan.training:
            self.say("memorisation is left out: it needs training images (--folds or --training)")
            return {}, []
        per = (plan.window // WINDOW) ** 2
        if not per:
            self.say(f"memorisation is left out: it needs a window of at least {WINDOW} pixels")
            return {}, []
        count = -(-plan.samples // per)
        pieces = self.vary("varying training", self.training_tiles()[:count])
        control = list(held_out.pieces[:count])
        lacking = held_out.pool[len(control) : count]
        if lacking:
            control += self.vary("varying held out", lacking, first=len(control))
        return repeat_figures(
            pieces, held_out.pool, plan.training, self.spec, self.rng, samples=plan.samples,
            say=self.say, control=control,
            progress=lambda done, total: self.progress("searching training", done, total),
        )  # fmt: skip

    def encoder(self) -> dict[str, Any]:
        """The probes on the table of labels."""
        table = self.plan.labels
        if table is None:
            self.say("the encoder's probes are left out: they need labels (--labels)")
            return {}
        task = Task(table.stem, table.stem, read_labels(table), self.bundle.encoder)
        _, facts = solve(
            task, progress=lambda done, total: self.progress("probing the encoder", done, total)
        )
        return facts


def evaluate(
    bundle: ModelBundle,
    plan: Plan,
    *,
    progress: Report = lambda stage, done, total: None,
) -> tuple[dict[str, Any], Gallery]:
    """Measure a model.

    Parameters
    ----------
    progress
        Told ``(stage, done, total)``.

    Returns
    -------
    The figures, ready for :func:`json.dumps` (no NaN), with ``notes`` on what was left out and
    why; and the pictures for a report.

    Raises
    ------
    InputError
        If the images hold no region to measure, or a table or weights are missing.
    """
    if plan.labels is not None:
        read_labels(plan.labels)  # refused now, not after minutes of work
    run = _Run(bundle, plan, progress)
    metrics = plan.metrics
    out: dict[str, Any] = {
        "model": bundle.card.id,
        "model_hash": bundle.hash,
        "domain": bundle.card.domain,
        "resolution": [bundle.card.resolution, bundle.card.unit],
        "sampler": sampler_facts(bundle, plan.sampler),
        "data": {
            "held_out_images": len(plan.data),
            "training_images": len(plan.training),
            "window": plan.window,
            "cell": run.spec.cell,
        },
    }
    gallery = Gallery()
    material: Material | None = None
    if metrics & (_OF_SOURCE | {"timing", "memorisation"}):
        if "timing" in metrics:
            # First, while nothing else has warmed or filled the machine.
            tiles = read_tiles(plan.data, run.spec, plan.window, count=1)
            if tiles:
                progress("timing", 0, 1)
                out["timing"] = timing_figures(bundle, tiles[0], plan.sampler)
                progress("timing", 1, 1)
        out["figures"], material, cosines = run.source("held out", plan.data, metrics & _OF_SOURCE)
        gallery = Gallery(material.pieces, material.second, cosines)
    if "crops" in metrics:
        out["crops"], gallery.large = run.crops()
    if "memorisation" in metrics and material is not None:
        out["memorisation"], gallery.pairs = run.memorisation(material)
    if "encoder" in metrics:
        out["encoder"] = run.encoder()
    if plan.out_of_distribution:
        of_source = metrics & {"fidelity", "autoencoder", "frechet"}
        out["out_of_distribution"] = {
            name: run.source(name, paths, of_source)[0]
            for name, paths in plan.out_of_distribution.items()
        }
    out["notes"] = run.notes
    return plain(out), gallery
