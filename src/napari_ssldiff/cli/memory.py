"""``--memory``, ``--precision`` and ``--offload``: how a model fits into a machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_ssldiff.models.memory import MemoryOptions


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the three to a command that loads a model."""
    add = parser.add_argument
    add(
        "--memory", metavar="BYTES",
        help="what the model may take, such as 6GB; default: most of what is free",
    )  # fmt: skip
    add(
        "--precision", default="auto", metavar="NAME",
        help="auto, fp32, bf16 or fp16 (auto: half on CUDA and on CPUs with bf16)",
    )  # fmt: skip
    add(
        "--offload", default="auto", metavar="NAME",
        help="auto, none, parts or blocks: what waits outside the device's memory (auto: no more "
        "than memory demands)",
    )  # fmt: skip


def options_of(arguments: argparse.Namespace) -> MemoryOptions | None:
    """What the three say; ``None`` for a command without them."""
    if not hasattr(arguments, "memory"):
        return None
    from napari_ssldiff.models.memory import MemoryOptions, read_bytes

    budget = None if arguments.memory is None else read_bytes(arguments.memory)
    return MemoryOptions(budget, arguments.precision, arguments.offload)
