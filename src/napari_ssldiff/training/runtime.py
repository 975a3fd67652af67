"""Where a network is trained, how precisely, and how a run is interrupted."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from napari_ssldiff.errors import InputError
from napari_ssldiff.models.load import resolve_device
from napari_ssldiff.processor import processor

PRECISIONS = ("auto", "bf16", "fp16", "no")


@dataclass(frozen=True)
class Runtime:
    """What the machine lends to a run; nothing of it defines the model.

    Parameters
    ----------
    device
        ``auto`` (CUDA, then MPS, then CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    precision
        Of the networks' forward pass: ``bf16``, ``fp16`` (CUDA only, gradients scaled), ``no``
        for float32, or ``auto``: bf16 where it is quick, else fp16 on CUDA and float32 elsewhere.
    init
        Weights to start from: a safetensors file or one shard of several, their common prefix,
        a folder of them, a model's folder, or another run's. A run that goes on ignores it.
    threads
        CPU threads; ``None`` leaves torch's number.
    """

    device: str = "auto"
    precision: str = "auto"
    init: Path | None = None
    threads: int | None = None

    def resolve(self) -> Hardware:
        """The device and precision that this means here.

        Raises
        ------
        InputError
            If the precision or the number of threads cannot be had.
        ModelError
            If the device is not there.
        """
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{self.threads} threads cannot train; use 1 or more")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError("training runs in one process; start it without a launcher")
        device = resolve_device(self.device)
        return Hardware(device, _precision(self.precision, device))


def _precision(name: str, device: torch.device) -> str:
    if name not in PRECISIONS:
        raise InputError(f"unknown precision {name!r}: use {', '.join(PRECISIONS)}")
    # ROCm presents itself as CUDA and has bf16 on every GPU that torch supports.
    new = device.type == "cuda" and (
        torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    )
    if name == "auto":
        if device.type == "cuda":
            return "bf16" if new else "fp16"
        return "bf16" if device.type == "cpu" and _cpu_bf16() else "no"
    if name == "fp16" and device.type != "cuda":
        raise InputError(f"precision fp16 needs a CUDA GPU, not {device.type}; use bf16 or no")
    if name == "bf16" and device.type == "cuda" and not new:
        raise InputError("this GPU has no bf16; use precision fp16 or no")
    return name


@cache
def _cpu_bf16() -> bool:
    """Whether this processor convolves in bf16 quicker than in float32; measured once, 0.1 s.

    Having the instructions is not enough: without matrix units bf16 can be the slower one.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    ask: Any = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if ask is None or not ask():
        return False
    images, kernel = torch.zeros(8, 128, 16, 16), torch.zeros(128, 128, 3, 3)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, w = images.to(dtype), kernel.to(dtype)
        times = []
        for _ in range(5):  # the first compiles the kernel
            start = time.perf_counter()
            F.conv2d(x, w, padding=1)
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] < seconds[torch.float32]


@dataclass(frozen=True)
class Hardware:
    """A device and the precision (``bf16``, ``fp16`` or ``no``) that networks run in on it."""

    device: torch.device
    precision: str

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Mixed precision for the forward passes inside."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        with torch.autocast(self.device.type, dtype, enabled=self.precision != "no"):
            yield

    def accelerator(self) -> Accelerator:
        """Accelerate on this device, with gradient scaling if the precision needs it.

        Raises
        ------
        InputError
            If Accelerate refuses the precision on this device.
        """
        # Accelerate keeps one device and precision per process and refuses a second run that
        # wants others; what it keeps describes no open resource here (one process), so drop it.
        if PartialState._shared_state:
            other = PartialState().device != self.device
            if AcceleratorState._shared_state:
                other = other or AcceleratorState().mixed_precision != self.precision
            if other:
                AcceleratorState._reset_state(reset_partial_state=True)
        before = os.environ.get("ACCELERATE_TORCH_DEVICE")
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(self.device)
        try:
            return Accelerator(mixed_precision=self.precision, cpu=self.device.type == "cpu")
        except ValueError as error:
            raise InputError(f"cannot train on {self.device}: {error}") from None
        finally:
            if before is None:
                del os.environ["ACCELERATE_TORCH_DEVICE"]
            else:
                os.environ["ACCELERATE_TORCH_DEVICE"] = before

    def describe(self) -> str:
        """The processor or GPU by its name."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{processor()}, {os.cpu_count()} cores"


class Interrupts:
    """Holds SIGINT and SIGTERM back inside a ``with`` block of the main thread.

    ``caught`` tells which one came; whoever asks saves and raises it again. A second one is
    obeyed at once. Elsewhere than in the main thread, where Python has no say over signals,
    nothing is held back.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                # None is a handler that C code set; an ignored signal stays ignored.
                if handler is not None and handler is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            self.__exit__(None, None, None)
            signal.raise_signal(number)
        self.caught = number
