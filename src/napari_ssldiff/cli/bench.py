"""``napari-ssldiff bench``: what a canvas costs, how fast it comes, and whether windows show."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ssldiff.cli.deliver import Meter, say
from napari_ssldiff.cli.memory import add_options, options_of
from napari_ssldiff.errors import InputError, OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Bundled, and of the bundled slide's domain.
DEFAULT_MODEL = "demo-histology"


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """The grammar of ``bench``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench", help="cost, speed, memory and seams of the canvas engine"
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", metavar="ID", help=f"default: {DEFAULT_MODEL}")
    which.add_argument(
        "--random-weights", metavar="CONFIG",
        help="a card.yaml, paper-brca-20x or a catalogue id: its shape, its weights not read",
    )  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--threads", type=int, help="CPU threads")
    add_options(parser)
    add("--compile", action="store_true", help="compile the network (torch.compile)")
    add("--presets", nargs="+", metavar="NAME", help="default: all")
    add(
        "--against", nargs="+", default=[], metavar="NAME",
        help="diffusers-panorama, panorama-at-equal-evals, panorama-view-by-view, "
        "paper-as-published",
    )  # fmt: skip
    add("--steps", type=int, help="default: each preset's own")
    add("--sizes", type=int, nargs="+", default=[1024], metavar="PX", help="edges (1024)")
    add("--seeds", type=int, default=1, help="runs per row (1)")
    add("--scene", type=Path, metavar="PATH", help="where the field comes from")
    add("--json", type=Path, metavar="FILE", help="written anew after every row")
    add("--pictures", type=Path, metavar="DIR", help="every row's picture, NAME-SIZE.png")
    return parser


def _bundle(arguments: argparse.Namespace) -> Any:
    from napari_ssldiff.models import get_card, load_bundle

    options = options_of(arguments)
    if arguments.random_weights is not None:
        from napari_ssldiff.models.random_weights import random_bundle, shape_card

        return random_bundle(
            shape_card(arguments.random_weights), arguments.device, options=options, tell=say
        )
    return load_bundle(get_card(arguments.model or DEFAULT_MODEL), arguments.device, options, say)


def _line(row: dict[str, Any]) -> str:
    def number(name: str, form: str = ".3g") -> str:
        return "–" if row[name] is None else format(row[name], form)

    if row["failed"]:
        return f"{row['preset']}, {row['size']} px: {row['failed']}"
    return (
        f"{row['preset']}, {row['size']} px: {row['evals']} evaluations, "
        f"{number('seconds_per_mpx')} s/Mpx, first tile {number('ttft_s')} s, "
        f"seam {number('seam_score')}, overlap {number('overlap_power')}, "
        f"cosine {number('ssl_cosine')}"
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure row by row; without ``--json``, print the JSON."""
    import torch

    from napari_ssldiff.evaluation.bench import BenchPlan, bench
    from napari_ssldiff.evaluation.machine import provenance
    from napari_ssldiff.export import check_output, synthetic_png

    if arguments.json:
        check_output(arguments.json, overwrite=True, suffix=arguments.json.suffix.lower())
    given = {} if arguments.presets is None else {"presets": tuple(arguments.presets)}
    plan = BenchPlan(
        sizes=tuple(arguments.sizes), against=tuple(arguments.against), steps=arguments.steps,
        seeds=arguments.seeds, scene=arguments.scene, **given,
    )  # fmt: skip
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise InputError(f"threads must be at least 1, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    bundle = _bundle(arguments)
    if arguments.compile:
        bundle.denoiser.compile()

    def show(name: str, size: int, image: NDArray[np.uint8]) -> None:
        if arguments.pictures is not None:
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            synthetic_png(arguments.pictures / f"{name}-{size}.png", image, overwrite=True)

    setup, rows = bench(bundle, plan, progress=Meter(), show=show)
    for note in setup["notes"]:
        say(f"note: {note}")
    command = ["napari-ssldiff", *getattr(arguments, "words", sys.argv[1:])]
    report: dict[str, Any] = {**provenance(command, bundle.device), "setup": setup, "rows": []}
    for row in rows:
        say(_line(row))
        report["rows"].append(row)
        if arguments.json:
            _write(arguments.json, report)
    if arguments.json:
        print(arguments.json)
    else:
        print(json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False))


def _write(path: Path, report: dict[str, Any]) -> None:
    try:
        text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None
