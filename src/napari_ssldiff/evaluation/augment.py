"""The paper's second claim, in miniature: do variations help a classifier that has few labels?

Classifiers are trained on real images only, on variations only and on both, and tested on
held-out images. A variation has by construction the conditioning embedding of its source, so
features come from the independent evaluation encoder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.encoder import NetworkEncoder
from napari_ssldiff.embeddings.extract import holds_tissue
from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation import mil
from napari_ssldiff.evaluation.augment_classify import (
    CONDITIONS,
    Ints,
    Labelled,
    balanced_accuracy,
    run_draws,
    summarise,
)
from napari_ssldiff.evaluation.augment_tasks import (
    HELDOUT,
    TRAIN,
    Item,
    Task,
    choose_pool,
    read_picture,
)
from napari_ssldiff.evaluation.augment_variations import Variations
from napari_ssldiff.models.load import ModelBundle

Picture = NDArray[np.uint8]
Vectors = NDArray[np.float32]
Report = Callable[[str, float, float], None]

#: Pictures whose cells are embedded together.
BATCH = 16


@dataclass(frozen=True)
class Settings:
    """How the experiment is run.

    Parameters
    ----------
    pool
        Training images per class that have variations.
    variations
        Of each of them.
    draws
        Sets of labelled images per row; trainings per row of the bags.
    labels
        Labelled images per class; ``None`` stands for all.
    crop
        Edge in model pixels of the central square that is classified.
    part
        Edge in model pixels of the central square of a region that is varied for a bag.
    region
        Edge in model pixels of a real bag's region.
    seed
        Of pools, draws and classifiers.

    Raises
    ------
    InputError
        If a number is out of its range.
    """

    pool: int = 16
    variations: int = 1
    draws: int = 20
    labels: tuple[int | None, ...] = (4, 16, 64, None)
    crop: int = 256
    part: int = 512
    region: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("pool", 2), ("variations", 1), ("draws", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.labels or any(n is not None and n < 2 for n in self.labels):
            raise InputError("labels per class must be at least 2, or 'all'")

    def check(self, bundle: ModelBundle) -> None:
        """Raise :class:`InputError` where a square does not hold whole cells of the model."""
        cell = bundle.evaluation_encoder.spec.cell
        for name in ("crop", "part", "region"):
            size = getattr(self, name)
            if size < cell or size % cell:
                raise InputError(
                    f"{name} must be a multiple of the model's cell {cell}, got {size}"
                )


def cells_of(picture: Picture, cell: int) -> Picture:
    """``(h, w, 3)`` → ``(n, cell, cell, 3)``, row by row; h and w are multiples of ``cell``."""
    rows, columns = picture.shape[0] // cell, picture.shape[1] // cell
    grid = picture.reshape(rows, cell, columns, cell, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(-1, cell, cell, 3)


def describe(pictures: Iterable[Picture], encoder: NetworkEncoder) -> Vectors:
    """Mean and standard deviation of a picture's cell embeddings.

    Parameters
    ----------
    pictures
        ``(h, w, 3)`` uint8 of one size each, read lazily.

    Returns
    -------
    ``(n, 2 * width)`` float32.
    """
    rows: list[Vectors] = []
    waiting: list[Picture] = []

    def flush() -> None:
        if waiting:
            vectors = encoder.embed(np.concatenate(waiting))
            per = vectors.reshape(len(waiting), -1, vectors.shape[1])
            rows.append(np.concatenate([per.mean(1), per.std(1)], axis=1))
            waiting.clear()

    for picture in pictures:
        waiting.append(cells_of(picture, encoder.spec.cell))
        if len(waiting) == BATCH:
            flush()
    flush()
    return np.concatenate(rows)


def _scale(task_pixel: float | None, bundle: ModelBundle) -> float:
    return (task_pixel or bundle.card.resolution) / bundle.card.resolution


def _labelled(features: Vectors, items: Sequence[Item], task: Task) -> Labelled:
    # Numbers of groups are the same on both sides of the split.
    names = {name: i for i, name in enumerate(sorted({item.group for item in task.items}))}
    groups = np.array([names[item.group] for item in items])
    labels = np.array([task.classes.index(item.label) for item in items])
    return Labelled(features, labels, groups, np.ones(len(items)))


def run_task(
    task: Task,
    variations: Variations,
    settings: Settings,
    progress: Report = lambda stage, done, total: None,
) -> dict[str, Any]:
    """One classification, in all rows.

    Returns
    -------
    ``classes``, ``counts``, ``left_out`` and ``rows``: per number of labels the mean and
    standard deviation of the balanced accuracy over draws in every condition, ``gain`` (real +
    synthetic - real) with its paired 95 % interval, and the values of every draw.

    Raises
    ------
    InputError
        If an image cannot be read or a class has too few.
    """
    bundle = variations.bundle
    settings.check(bundle)
    train, test = task.fold(TRAIN), task.fold(HELDOUT)
    smallest = Counter(item.label for item in train).most_common()[-1]
    wanted = max((n for n in settings.labels if n is not None), default=0)
    # Asked before the variations are made, which takes long.
    if smallest[1] < wanted:
        raise InputError(
            f"the class {smallest[0]!r} of the task {task.name} has {smallest[1]} training images, "
            f"fewer than the {wanted} labels per class asked for: choose fewer with --labels"
        )
    scale, encoder = _scale(task.pixel_size, bundle), bundle.evaluation_encoder

    def picture(item: Item) -> Picture:
        return read_picture(item.path, scale, settings.crop, task.aspect)

    source = np.repeat(choose_pool(task, train, settings.pool, settings.seed), settings.variations)
    fresh = 0

    def made() -> Iterable[Picture]:
        nonlocal fresh
        for k, i in enumerate(source):
            pixels = picture(train[i])
            image, new = variations.get(train[i].path.stem, pixels, k % settings.variations)
            fresh += new
            progress(f"{task.name}: variations", k + 1, len(source))
            yield image

    def read() -> Iterable[Picture]:
        for k, item in enumerate([*train, *test]):
            yield picture(item)
            progress(f"{task.name}: real images", k + 1, len(train) + len(test))

    synthetic_features = describe(made(), encoder)
    features = describe(read(), encoder)
    real = _labelled(features[: len(train)], train, task)
    unseen = _labelled(features[len(train) :], test, task)
    weights = np.full(len(source), 1 / settings.variations)
    synthetic = Labelled(synthetic_features, real.labels[source], real.groups[source], weights)
    rows = []
    for k, count in enumerate(settings.labels):
        predictions, draw = run_draws(
            real, synthetic, source, unseen, count, settings.draws, settings.seed
        )
        rng = np.random.default_rng(settings.seed)
        row = summarise(predictions, unseen.labels, unseen.groups, rng)
        varied = np.bincount(real.labels[draw.varied], minlength=len(task.classes))
        label = "all" if count is None else count
        rows.append({"labels": label, "varied": [int(n) for n in varied], **row})
        progress(f"{task.name}: classifiers", k + 1, len(settings.labels))
    return {
        "model": bundle.card.id,
        "classes": list(task.classes),
        "left_out": dict(task.left_out),
        "counts": {
            "train": dict(sorted(Counter(item.label for item in train).items())),
            "heldout": dict(sorted(Counter(item.label for item in test).items())),
            "train_groups": len({item.group for item in train}),
            "heldout_groups": len({item.group for item in test}),
            "variations": len(source),
            "made_in_this_run": fresh,
        },
        "chance": round(1 / len(task.classes), 4),
        "rows": rows,
    }


def _bag(picture: Picture, item: Item, encoder: NetworkEncoder) -> Vectors:
    cells = cells_of(picture, encoder.spec.cell)
    kept = cells[holds_tissue(cells, (255, 255, 255))]
    return encoder.embed(kept if len(kept) else cells)


def run_bags(
    items: Sequence[Item],
    variations: Variations,
    settings: Settings,
    pixel_size: float = 0.5,
    progress: Report = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Bags of cells of whole regions, leave one case out.

    Parameters
    ----------
    items
        Their group is the case.
    pixel_size
        Of the files, in the unit of the model's resolution.

    Returns
    -------
    ``classes``, ``counts``, ``cases`` and per classifier and condition the balanced accuracy,
    pooled over the cases and of each one (over the classes that it has).
    """
    bundle = variations.bundle
    settings.check(bundle)
    encoder, scale = bundle.evaluation_encoder, _scale(pixel_size, bundle)
    classes = sorted({item.label for item in items})
    cases = sorted({item.group for item in items})
    real, synthetic, fresh = [], [], 0
    weight = 1 / settings.variations
    for i, item in enumerate(items):
        whole = read_picture(item.path, scale, settings.region)
        facts = classes.index(item.label), cases.index(item.group), i
        real.append(mil.Bag(_bag(whole, item, encoder), *facts))
        edge = (settings.region - settings.part) // 2
        if edge < 0:
            raise InputError(f"part {settings.part} is larger than the region {settings.region}")
        part = np.ascontiguousarray(whole[edge:, edge:][: settings.part, : settings.part])
        for v in range(settings.variations):
            image, new = variations.get(item.path.stem, part, v)
            fresh += new
            synthetic.append(mil.Bag(_bag(image, item, encoder), *facts, weight))
        progress("mil: variations", i + 1, len(items))
    truth = np.array([bag.label for bag in real])
    case = np.array([bag.case for bag in real])
    rng = np.random.default_rng(settings.seed)
    rows: dict[str, Any] = {}
    for k, name in enumerate(mil.CLASSIFIERS):
        found = mil.leave_one_case_out(real, synthetic, name, settings.draws, settings.seed)
        rows[name] = summarise(found, truth, np.arange(len(truth)), rng)
        rows[name]["per_case"] = {
            cases[c]: {n: _spread(found[n][:, case == c], truth[case == c]) for n in CONDITIONS}
            for c in range(len(cases))
        }
        progress("mil: classifiers", k + 1, len(mil.CLASSIFIERS))
    return {
        "model": bundle.card.id,
        "classes": classes,
        "exploratory": "few cases, classes missing in some: no conclusion rests on this",
        "cases": {c: dict(_counts(items, c)) for c in cases},
        "counts": {"regions": len(real), "variations": len(synthetic), "made_in_this_run": fresh},
        "chance": round(1 / len(classes), 4),
        "classifiers": rows,
    }


def _counts(items: Sequence[Item], case: str) -> Mapping[str, int]:
    return Counter(item.label for item in items if item.group == case)


def _spread(predicted: Ints, truth: Ints) -> dict[str, float]:
    values = [balanced_accuracy(truth, row) for row in predicted]
    return {
        "mean": round(float(np.mean(values)), 4),
        "sd": round(float(np.std(values, ddof=min(1, len(values) - 1))), 4),
    }
