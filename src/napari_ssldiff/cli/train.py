"""``napari-ssldiff train``: one stage of training on one's own images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ssldiff.cli.deliver import say
from napari_ssldiff.errors import InputError

if TYPE_CHECKING:
    from napari_ssldiff.training.pipeline import Pipeline
    from napari_ssldiff.training.runtime import Runtime

_STAGES = (
    "encoder, encoder-eval, autoencoder, diffusion, distil, bundle, in this order; then text, "
    "prior and bundle again, to give a model words"
)


def add_parser(commands: Any) -> None:
    """Add the grammar of ``train`` to a parser's commands."""
    train = commands.add_parser(
        "train",
        help="train models on your own images",
        description="Train a model on your own images, stage by stage. A stage that was stopped "
        "goes on when the same command is given again.",
    )
    train.add_argument("stage", metavar="STAGE", help=_STAGES)
    train.add_argument(
        "data", type=Path, nargs="+", metavar="DATA", help="slides, scenes, tiles, folders of them"
    )
    train.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    train.add_argument(
        "--config",
        metavar="YAML",
        help="a file, demo or own; default: what DIR was begun with, else own",
    )
    train.add_argument("--minutes", type=float, help="time box of the stage, all calls together")
    train.add_argument("--steps", type=int, help="instead of the configuration's")
    train.add_argument("--domain", help="of the stages encoder and prior; default: all in turn")
    train.add_argument(
        "--condition",
        metavar="text|csv:FILE",
        help="of the stage prior: words (as before), or a table with a column path and numbers",
    )
    train.add_argument(
        "--text-encoder",
        metavar="NAME",
        help="of the stage prior, instead of the one that the stage text makes: a folder, "
        "hf-hub:OWNER/NAME[:VARIANT], or ARCHITECTURE:TAG or :FILE of open_clip; own: back to "
        "that one",
    )
    train.add_argument("--threads", type=int, help="CPU threads")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    train.add_argument("--precision", default="auto", help="auto, no, bf16 or fp16")
    train.add_argument("--init", type=Path, metavar="WEIGHTS", help="weights to start from")
    train.add_argument(
        "--resolution", metavar="SIZE", help="of the model, such as 0.5um; default: the images'"
    )
    train.add_argument(
        "--pixel-size", metavar="SIZE", help="of images that do not say theirs, such as 0.6m"
    )
    train.add_argument("--dry-run", action="store_true", help="check everything, train nothing")


class _Log:
    """Says each line once, since stages ask for the same images more than once.

    Lines wait until everything was checked: a refusal is one line and not the last of many.
    """

    def __init__(self) -> None:
        self._said: dict[str, None] = {}
        self._waiting = True

    def __call__(self, text: str) -> None:
        if text not in self._said:
            self._said[text] = None
            if not self._waiting:
                say(text)

    def release(self) -> None:
        """Say what has waited."""
        self._waiting = False
        for text in self._said:
            say(text)


def run(arguments: argparse.Namespace) -> None:
    """Check everything, then train or tell what would be done."""
    from napari_ssldiff.training.checks import check, check_stage
    from napari_ssldiff.training.config import keep_config
    from napari_ssldiff.training.rehearsal import describe
    from napari_ssldiff.training.runtime import Runtime
    from napari_ssldiff.training.start import note_command

    check_stage(arguments.stage)
    for name in ("minutes", "steps", "threads"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise InputError(f"--{name} must be more than 0, got {value}")
    if arguments.domain and arguments.stage not in ("encoder", "prior"):
        raise InputError(
            f"--domain is for the stages encoder and prior; {arguments.stage} trains on all"
        )
    if (arguments.condition or arguments.text_encoder) and arguments.stage != "prior":
        raise InputError("--condition and --text-encoder are for the stage prior")
    runtime = Runtime(arguments.device, arguments.precision, arguments.init, arguments.threads)
    log = _Log()
    pipeline = _pipeline(arguments, log)
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    check(pipeline, arguments.stage, arguments.domain, runtime)
    log.release()
    if arguments.dry_run:
        for line in describe(
            pipeline,
            arguments.stage,
            arguments.minutes,
            arguments.domain,
            steps=arguments.steps,
            runtime=runtime,
        ):
            print(line)
        return
    keep_config(pipeline.config, arguments.output)
    if arguments.stage == "bundle":
        from napari_ssldiff.training.bundle import write_bundle
        from napari_ssldiff.training.kept import stage_files
        from napari_ssldiff.training.prior_bundle import has_priors, write_priors

        folder = arguments.output / "bundle"
        if stage_files(pipeline.folder("diffusion")):
            for path in write_bundle(pipeline, folder):
                print(path)
        if has_priors(pipeline):
            for path in write_priors(pipeline, folder):
                print(path)
        return
    parts = pipeline.parts(arguments.stage, arguments.domain)
    folders = [pipeline.folder(arguments.stage, part) for part in parts]
    note_command(arguments.output, [f.name for f in folders], command_of(arguments, pipeline))
    _train(arguments, pipeline, runtime)
    for folder in folders:
        print(folder)


def _pipeline(arguments: argparse.Namespace, log: _Log) -> Pipeline:
    from napari_ssldiff.training.config import parse_size
    from napari_ssldiff.training.start import open_pipeline, with_condition

    resolution, size = arguments.resolution, arguments.pixel_size
    made = open_pipeline(
        arguments.data,
        arguments.output,
        arguments.config,
        resolution=parse_size(resolution, "--resolution") if resolution else None,
        fallback=parse_size(size, "--pixel-size") if size else None,
        log=log,
    )
    return with_condition(made, arguments.condition, arguments.text_encoder, arguments.domain)


def _train(arguments: argparse.Namespace, pipeline: Pipeline, runtime: Runtime) -> None:
    rows = pipeline.train(
        arguments.stage,
        arguments.minutes,
        arguments.domain,
        steps=arguments.steps,
        runtime=runtime,
    )
    count = 0
    for row in rows:
        count += 1
        say(progress_line(row))
    if not count:
        say(f"{arguments.stage} was finished before: nothing to do")


def progress_line(row: dict[str, Any]) -> str:
    """A row of metrics as one line: ``step 40  loss 0.31  …  3 minutes left``."""
    left = row.get("eta_minutes")
    facts = {k: v for k, v in row.items() if k != "eta_minutes"}
    text = "  ".join(f"{k} {v:g}" if isinstance(v, int | float) else f"{k} {v}"
                     for k, v in facts.items())  # fmt: skip
    return text if left is None else f"{text}  {left:g} minutes left"


def command_of(arguments: argparse.Namespace, pipeline: Pipeline) -> str:
    """The command as a card may show it: places of this machine become DATA and DIR."""
    from napari_ssldiff.training.config import prior_section

    words = ["napari-ssldiff train", arguments.stage, "DATA", "-o DIR"]
    words.append(f"--config {pipeline.config['name']}")
    for name in ("domain", "minutes", "steps", "precision", "resolution", "pixel_size"):
        value = getattr(arguments, name)
        if value not in (None, "auto"):
            number = f"{value:g}" if isinstance(value, int | float) else value
            words.append(f"--{name.replace('_', '-')} {number}")
    if arguments.stage == "prior":
        # What an earlier call gave holds for this one too.
        section = prior_section(pipeline.config, arguments.domain or pipeline.domains[0])
        encoder = section.get("text_encoder")
        if section.get("csv"):
            words.append(f"--condition csv:{Path(section['csv']).name}")
        elif encoder:
            words.append(
                f"--text-encoder {Path(encoder).name if Path(encoder).is_dir() else encoder}"
            )
    if arguments.init:
        words.append(f"--init {arguments.init.name}")
    return " ".join(words)
