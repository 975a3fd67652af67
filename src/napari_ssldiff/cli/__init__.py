"""``napari-ssldiff``: progress on stderr, results on stdout, exit codes for scripts.

0: done. 2: bad input. 130: cancelled (Ctrl-C).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from napari_ssldiff import __version__
from napari_ssldiff.cli import (
    augment,
    bench,
    cells,
    edit,
    evaluate,
    fields,
    memory,
    models,
    nearest,
    prompts,
    prototypes,
    train,
)
from napari_ssldiff.errors import Cancelled, SSLDiffError

EXIT_INPUT = 2
EXIT_CANCELLED = 130


def _add_region(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="slide or scene")
    parser.add_argument(
        "--region", required=True, metavar="X,Y,W,H", help="in level-0 pixels of the source"
    )
    parser.add_argument("--model", metavar="ID", help="default: nearest in domain and resolution")
    parser.add_argument(
        "--resolution",
        metavar="LENGTH",
        help="of the pixels to work at (8um, 4m): the model, or its variant, nearest to that is "
        "taken; default: the source's own",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--bands", metavar="R,G,B", help="band indices from 0, for rasters")


def _add_sampler(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strength", type=float, default=1.0, help="0…1 (default 1)")
    parser.add_argument("--steps", type=int, help="default: the preset's")
    parser.add_argument("--guidance", type=float, help="guidance scale; default: the model's")
    parser.add_argument(
        "--guidance-interval",
        metavar="LOW,HIGH",
        help="only steps that begin inside it, in log(alpha / sigma), are guided; all: every step; "
        "default: the preset's",
    )
    parser.add_argument("--preset", default="bulk", help="bulk, draft, lazy or paper")
    memory.add_options(parser)


def build_parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = argparse.ArgumentParser(
        prog="napari-ssldiff",
        description="Vary regions of gigapixel images by SSL-guided diffusion.",
    )
    parser.add_argument("--version", action="version", version=f"napari-ssldiff {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="vary a region of a sample, from file to OME-Zarr")
    demo.add_argument("--headless", action="store_true", help="no window")
    demo.add_argument("--out", type=Path, default=Path("napari-ssldiff-demo"), metavar="DIR")

    info = commands.add_parser("info", help="versions, devices, models")
    info.add_argument("--json", action="store_true")

    inspect = commands.add_parser("inspect", help="facts of a slide or scene")
    inspect.add_argument("path", metavar="PATH")
    inspect.add_argument("--json", action="store_true")

    embed = commands.add_parser("embed", help="a region's embedding field")
    _add_region(embed)
    embed.add_argument("-o", "--output", type=Path, required=True, metavar="FIELD")

    invert = commands.add_parser(
        "invert", help="a region's field from its pixels and the model, where no encoder is at hand"
    )
    _add_region(invert)
    invert.add_argument("--steps", type=int, default=200)
    invert.add_argument("--batch", type=int, default=4, help="windows per step (default 4)")
    invert.add_argument("--seed", type=int, default=0)
    invert.add_argument("-o", "--output", type=Path, required=True, metavar="FIELD")

    vary = commands.add_parser("vary", help="a variation of a region, as OME-Zarr")
    _add_region(vary)
    _add_sampler(vary)
    vary.add_argument(
        "--refine", type=int, nargs="?", const=300, metavar="T",
        help="in the place of a strength: draw anew from training timestep T on (300), which "
        "removes the seams and flaws of a synthetic picture and keeps what it shows",
    )  # fmt: skip
    vary.add_argument("--grid", default="source", help="source (level 0) or model")
    lengths = {
        "grow": "move the region's edge outwards",
        "feather": "fade in over so much inside that edge",
        "context": "source kept as it is around the region, which the variation continues",
        "match": "compare colours with so much of the source around the region, and correct them",
    }
    for name, text in lengths.items():
        help_ = f"{text} (pixels, or with a unit: 12um, 30m)"
        vary.add_argument(f"--{name}", default="0", metavar="LENGTH", help=help_)
    vary.add_argument(
        "--extend", default="0", metavar="LENGTH",
        help="let the region leave the image by so much: outpainting (--region=-256,0,512,512)",
    )  # fmt: skip
    vary.add_argument(
        "--guide", metavar="LENGTH|FILE",
        help="what it is to look like from afar: the source itself in pixels of that length (8um), "
        "or a picture of the region, such as a variation of lower magnification",
    )  # fmt: skip
    vary.add_argument(
        "--guide-strength", type=float, default=1.0, help="0…1: how much it keeps to it (default 1)"
    )
    cells.add_option(vary)
    vary.add_argument("--field", type=Path, metavar="FIELD", help="paint this field instead")
    vary.add_argument("--format", default="0.5", help="OME-Zarr 0.5 or 0.4")
    vary.add_argument("--png", type=Path, metavar="FILE", help="side-by-side picture")
    vary.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.ome.zarr")

    prompts.add_parser(commands, _add_sampler)
    edit.add_parser(commands)
    fields.add_parser(commands, _add_sampler)
    nearest.add_parsers(commands)
    prototypes.add_parser(commands)
    train.add_parser(commands)

    _add_sampler(evaluate.add_parser(commands))
    bench.add_parser(commands)
    models.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    # A sub-command of its own grammar: the first word after `evaluate` is a model otherwise.
    augmenting = words[:2] == ["evaluate", "augment"]
    parser = augment.build_parser() if augmenting else build_parser()
    arguments = parser.parse_args(words[2:] if augmenting else words)
    arguments.words = words

    try:
        names = {"render": "render_field"}  # a helper of theirs is called render
        name = names.get(arguments.command, arguments.command)
        if name == "models":  # they have no need of what the others import
            models.run(arguments)
        else:
            from napari_ssldiff.cli import commands

            run = augment.run if augmenting else getattr(commands, name)
            run(arguments)
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)
        return EXIT_CANCELLED
    except Cancelled as error:
        print(f"cancelled: {error}", file=sys.stderr)
        return EXIT_CANCELLED
    except SSLDiffError as error:
        print(f"napari-ssldiff {arguments.command}: {error}", file=sys.stderr)
        return EXIT_INPUT
    except BrokenPipeError:  # who reads has read enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        what = error.filename or "a file"
        text = f"cannot use {what}: {error.strerror or error}"
        print(f"napari-ssldiff {arguments.command}: {text}", file=sys.stderr)
        return EXIT_INPUT
    return 0
