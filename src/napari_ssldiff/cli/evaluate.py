"""``napari-ssldiff evaluate``: honest figures of a model on images that no training saw."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_ssldiff.cli.deliver import Meter, say
from napari_ssldiff.cli.memory import options_of
from napari_ssldiff.errors import InputError, OutputError


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """The grammar of ``evaluate``; the sampler's options are added by the caller."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate", help="figures of a model on held-out images"
    )
    add = parser.add_argument
    add("model", metavar="MODEL")
    add("data", type=Path, nargs="+", metavar="DATA", help="held-out images: files or folders")
    add("--folds", type=Path, metavar="CSV", help="columns path or name, fold")
    add("--fold", default="heldout", help="fold to measure (default heldout)")
    add(
        "--training", type=Path, nargs="+", default=[], metavar="PATH",
        help="images that the model was trained on; default with --folds: the fold train of DATA",
    )  # fmt: skip
    add("--labels", type=Path, metavar="CSV", help="columns path or name, label, fold")
    add(
        "--out-of-distribution", nargs="+", default=[], metavar="NAME=PATH",
        help="another source, measured under its name",
    )  # fmt: skip
    add("--metrics", default="all", metavar="LIST", help="all, or names with commas between")
    add("--cells", type=int, default=640, help="varied cells per source (640)")
    add("--samples", type=int, default=100, help="windows searched for memorisation (100)")
    add("--large", type=int, default=2, help="large regions of the crop protocol (2; 0: none)")
    add("--space", default="encoder-eval", help="feature space (encoder-eval)")
    add("--window", type=int, default=256, help="edge of varied regions, model pixels (256)")
    add("--json", type=Path, metavar="FILE")
    add("--report", type=Path, metavar="FILE.html")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--threads", type=int, help="CPU threads")
    return parser


def parse_sources(texts: Sequence[str]) -> dict[str, Path]:
    """``["name=path", …]`` → ``{name: path}``.

    Raises
    ------
    InputError
        If a text has no name or no path, or a name comes twice.
    """
    out: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise InputError(f"another source is given as NAME=PATH, got {text!r}")
        if name in out:
            raise InputError(f"two sources are named {name!r}: give each a name of its own")
        out[name] = Path(path)
    return out


def _plan(arguments: argparse.Namespace, sampler: Any) -> Any:
    from napari_ssldiff.evaluation.regions import evaluation_scenes
    from napari_ssldiff.evaluation.runner import METRICS, Plan

    metrics = frozenset(METRICS)
    if arguments.metrics != "all":
        metrics = frozenset(part.strip() for part in arguments.metrics.split(",") if part.strip())
    data = evaluation_scenes(arguments.data, arguments.folds, arguments.fold)
    training: list[Path] = []
    if arguments.training:
        training = evaluation_scenes(arguments.training)
    elif arguments.folds and arguments.fold != "train":
        try:
            training = evaluation_scenes(arguments.data, arguments.folds, "train")
        except InputError:
            say("no training images: the table has no fold train; name them with --training")
    both = {path.resolve() for path in data} & {path.resolve() for path in training}
    if both:
        raise InputError(
            f"{min(both).name} is measured and named as training: held-out images must be unseen"
        )
    others = parse_sources(arguments.out_of_distribution)
    return Plan(
        data=data,
        training=training,
        labels=arguments.labels,
        out_of_distribution={name: evaluation_scenes([path]) for name, path in others.items()},
        cells=arguments.cells,
        samples=arguments.samples,
        large=arguments.large,
        metrics=metrics,
        sampler=sampler,
        space=arguments.space,
        window=arguments.window,
    )


def run(arguments: argparse.Namespace, sampler: Any) -> None:
    """Measure, then write the JSON, the report, or both; without either, print the JSON."""
    import torch

    from napari_ssldiff.evaluation.machine import provenance
    from napari_ssldiff.evaluation.report import write_report
    from napari_ssldiff.evaluation.runner import evaluate
    from napari_ssldiff.export import check_output
    from napari_ssldiff.models import get_card, load_bundle

    # Everything that can be refused is refused before the first variation.
    if arguments.json:
        check_output(arguments.json, overwrite=True, suffix=arguments.json.suffix.lower())
    if arguments.report:
        check_output(arguments.report, overwrite=True, suffix=".html")
    card = get_card(arguments.model)
    plan = _plan(arguments, sampler)
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise InputError(f"threads must be at least 1, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    bundle = load_bundle(card, arguments.device, options_of(arguments), say)
    figures, gallery = evaluate(bundle, plan, progress=Meter())
    command = ["napari-ssldiff", *getattr(arguments, "words", sys.argv[1:])]
    report = {**provenance(command, bundle.device), **figures}
    for note in report["notes"]:
        say(f"note: {note}")
    text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False)
    if arguments.json:
        try:
            arguments.json.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {arguments.json}: {error.strerror}") from None
        print(arguments.json)
    if arguments.report:
        write_report(arguments.report, report, gallery)
        print(arguments.report)
    if not (arguments.json or arguments.report):
        print(text)
