"""How a model is run in the memory that there is, known before a weight of it is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import psutil
import torch
from dask.utils import parse_bytes

from napari_ssldiff.diffusion.batches import CPU_ROWS, LARGEST
from napari_ssldiff.diffusion.bundle import Precision, default_precision
from napari_ssldiff.diffusion.decode import WINDOW
from napari_ssldiff.diffusion.offload import CANVAS, Limits, Offload
from napari_ssldiff.diffusion.precisions import native_bf16
from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.needs import KERNELS, Needs, left_in_files, measure
from napari_ssldiff.models.skeleton import Skeleton, skeleton_of

#: Environment variable: bytes that a model may take, such as 6GB.
MEMORY = "NAPARI_SSLDIFF_MEMORY"
#: Part of free memory that is planned with where nobody gives a budget.
SHARE = 0.9
#: Bytes of weights from which on it is said what a model takes.
NOTABLE = 500 * 10**6
#: Rows of a call below which a device would be waiting more than working.
WORTHWHILE = 8
#: Edges of decoding windows in latents, those that memory may ask for.
EDGES = (WINDOW, 96, 64, 48, 32)
#: Cells that an encoder sees at once.
CELLS = 128


@dataclass(frozen=True)
class MemoryOptions:
    """What a user may choose.

    Parameters
    ----------
    budget
        Bytes: of a GPU's own memory, or of the whole process on the CPU. ``None``: what
        :data:`MEMORY` says, or else most of what is free.
    precision
        What the network computes in and its weights are kept in; on a CPU, which computes in bf16
        or fp32, the latter. ``"auto"``: the device's own
        (:func:`~napari_ssldiff.diffusion.bundle.default_precision`), and on a CPU that has bf16
        that, of weights in fp32.
    offload
        As :class:`~napari_ssldiff.diffusion.offload.Limits` has it, or ``"auto"``: no more than
        memory demands.

    Raises
    ------
    InputError
        If one is unknown, or the budget is not above 0.
    """

    budget: int | None = None
    precision: Precision | Literal["auto"] = "auto"
    offload: Offload | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        known = {"precision": ("auto", "fp32", "bf16", "fp16")}
        known["offload"] = ("auto", "none", "parts", "blocks")
        for name, words in known.items():
            if getattr(self, name) not in words:
                raise InputError(
                    f"{name} is one of {', '.join(words)}, got {getattr(self, name)!r}"
                )
        if self.budget is not None and self.budget <= 0:
            raise InputError(f"a model cannot do with {self.budget} bytes: give it more memory")


def read_bytes(text: str) -> int:
    """``"6GB"``, ``"500 MiB"`` or a number of bytes.

    Raises
    ------
    InputError
        If it is none of these.
    """
    try:
        return int(parse_bytes(text))
    except ValueError:
        raise InputError(f"{text!r} is no amount of memory: write 6GB, 500MB or 4GiB") from None


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{max(size, 0) / 1e6:.0f} MB"


@dataclass(frozen=True)
class MemoryPlan:
    """How a model is going to be run, and what that takes.

    Parameters
    ----------
    model, device
        Which, and what kind of device.
    precision, kept
        What the network computes in and what its weights are kept in.
    needs
        What parts and calls take.
    limits
        What the engine keeps to.
    cells
        Cells that the encoder sees at once.
    available
        Bytes that the model may take.
    """

    model: str
    device: str
    precision: Precision
    kept: Precision
    needs: Needs
    limits: Limits
    cells: int
    available: int

    @property
    def rows(self) -> int:
        """Rows of a usual network call: 8 windows with guidance, or what there is room for.

        A GPU takes more where it gains by that and has the room.
        """
        return min(self.limits.rows or CPU_ROWS, CPU_ROWS)

    @property
    def edge(self) -> int:
        """Edge in latents of the largest decoding window."""
        return self.limits.decode or WINDOW

    @property
    def peak(self) -> int:
        """Bytes at the worst moment of a large picture."""
        return self.estimate(self.rows, self.edge, self.cells)

    def estimate(self, rows: int, edge: int, cells: int = 1) -> int:
        """Bytes at the worst moment with calls of that size."""
        offload = _counted(self.limits.offload, self.device)
        return self.needs.peak(offload, rows, edge, cells)

    @property
    def notable(self) -> bool:
        """Whether a user wants to know: weights of some size, or a picture that has to be done in
        another way than the usual one for want of memory.
        """
        limits = self.limits
        short = limits.offload != "none" or limits.decode is not None or self.kept != "fp32"
        return short or self.needs.stages("none")["network"] - self.needs.base > NOTABLE

    @property
    def text(self) -> str:
        """One line for the user."""
        needs, offload = self.needs, self.limits.offload
        held = needs.stages(_counted(offload, self.device))["network"] - needs.base
        parts = [f"the program {_gb(needs.base)}"] * bool(needs.base)
        parts += [
            f"weights {_gb(held)} in {self.kept}"
            + (f", computed in {self.precision}" if self.precision != self.kept else ""),
            f"{max(1, self.rows // 2)} windows {_gb(self.rows * needs.row)}",
            f"decoding {_gb(needs.decoding(self.edge))}",
        ]
        if offload != "none":
            parts.append(f"offload {offload}")
        if self.limits.decode is not None:
            parts.append(f"decoded in windows of {self.edge} latents")
        return (
            f"{self.model} needs about {_gb(self.peak)} of {_gb(self.available)} on {self.device}: "
            f"{', '.join(parts)}"
        )


def precisions(device: torch.device, asked: str = "auto") -> tuple[Precision, Precision]:
    """What a network computes in on a device, and what its weights are kept in."""
    kept: Precision = default_precision(device) if asked == "auto" else asked  # type: ignore[assignment]
    if device.type != "cpu":
        return kept, kept
    return ("bf16" if asked in ("auto", "bf16") and native_bf16() else "fp32"), kept


def free_bytes(device: torch.device) -> int:
    """What a device has left."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return int(psutil.virtual_memory().available)  # Apple GPUs share it


def _most_rows(device: str) -> int:
    return CPU_ROWS if device == "cpu" else 2 * LARGEST


def _modes(asked: str, device: torch.device) -> tuple[Offload, ...]:
    auto: tuple[Offload, ...] = ("none", "parts", "blocks")
    modes = auto if asked == "auto" else tuple(m for m in auto if m == asked)
    if device.type != "cpu":
        return modes
    # Leaving weights in their files is all that a CPU can do.
    return tuple(dict.fromkeys("parts" if m == "blocks" else m for m in modes))


def _counted(offload: Offload, device: str) -> Offload:
    return "none" if device == "cpu" else offload  # nothing moves there


def _choices(modes: tuple[Offload, ...]) -> Iterator[tuple[int, int, Offload]]:
    """Least rows, decoding edge and offload: what costs pixels nothing and little time first."""
    for edge in EDGES:
        for least in (WORTHWHILE, 1):
            for mode in modes:
                yield least, edge, mode


def plan_memory(
    card: ModelCard,
    device: torch.device,
    options: MemoryOptions | None = None,
    made: Skeleton | None = None,
) -> MemoryPlan:
    """Plan precision, offload, batch and decoding windows.

    Parameters
    ----------
    options
        What the user chose.
    made
        The card's networks without weights, if somebody has them already.

    Raises
    ------
    ModelError
        If there is no way.
    """
    options = options or MemoryOptions()
    budget = options.budget
    if budget is None and os.environ.get(MEMORY):
        budget = read_bytes(os.environ[MEMORY])
    computes, kept = precisions(device, options.precision)
    needs = measure(card, made or skeleton_of(card), device, kept)
    available = int(free_bytes(device) * SHARE) + needs.base if budget is None else budget
    canvas, most = min(CANVAS, available // 8), _most_rows(device.type)
    modes = _modes(options.offload, device)
    by_mode = dict.fromkeys(modes, needs)
    if device.type == "cpu" and "parts" in modes:
        by_mode["parts"] = left_in_files(card, needs, kept)
    for least, edge, mode in _choices(modes):
        own, counted = by_mode[mode], _counted(mode, device.type)
        if own.peak(counted, least, edge) + canvas > available:
            continue
        left, held = available - canvas - KERNELS, own.stages(counted)
        rows = min(most, (left - held["network"]) // max(own.row, 1))
        cells = max(1, min(CELLS, (left - held["encoder"]) // max(own.cell, 1)))
        limits = Limits(
            rows=None if rows == most else rows,
            decode=None if edge == WINDOW else edge,
            canvas=canvas,
            offload=mode,
        )
        return MemoryPlan(card.id, device.type, computes, kept, own, limits, cells, available)
    least = min(n.peak(_counted(m, device.type), 1, EDGES[-1]) for m, n in by_mode.items())
    ways = ["a larger --memory"] if budget is not None else ["closing other programs"]
    if kept == "fp32":
        ways.insert(0, "--precision bf16, which halves the network's weights")
    if device.type != "cpu":
        ways += ["--device cpu, which is slow"] + ["--offload auto"] * ("blocks" not in modes)
    sizes = ", ".join(f"{name} {_gb(size)}" for name, size in needs.weights.items() if size)
    raise ModelError(
        f"{card.id} needs at least {_gb(least + canvas)} on {device.type} (weights: {sizes}) and "
        f"may take {_gb(available)}: ways out are {', '.join(ways)}"
    )
