"""Half precision where the device gains by it: measured on CUDA, known of CPUs."""

from __future__ import annotations

from functools import partial

import torch

from napari_ssldiff.diffusion.batches import seconds_per_window
from napari_ssldiff.diffusion.bundle import Denoiser, Precision
from napari_ssldiff.diffusion.memory import attempt

#: Windows per call that is timed: enough for a GPU to show what it has.
ROWS = 8
#: The other precision must take no more than this share of the time to be taken: noise in two calls
#: must not decide what pixels look like.
GAIN = 0.75


def native_bf16() -> bool:
    """Whether this CPU multiplies in bf16 itself (AVX512-BF16 or AMX).

    The demo models then take 0.6 of the time of fp32; where it is emulated they take seven times
    as much (benchmarks/network_calls.py). Asked of the processor and not of a clock: the pixels of
    a request are the same in every process.
    """
    # None of these is public, and older torch has neither.
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    has_it = any(getattr(torch.cpu, name, lambda: False)() for name in asks)
    return has_it and torch.backends.mkldnn.is_available()


def other_precision(device: torch.device) -> Precision | None:
    """What may be faster than a device's usual precision: fp32 on CUDA, elsewhere not measured."""
    return "fp32" if device.type == "cuda" else None


def measured_precision(model: Denoiser) -> Precision:
    """The precision that the model computes in, or the other one where that is clearly faster.

    Two calls of each, one to warm up; none where there is no choice, or where weights come and go
    and would be timed instead.
    """
    usual, other = model.precision, other_precision(model.device)
    if other is None or model.limits.offload != "none":
        return usual
    seconds = list[float]()
    for precision in (usual, other):
        call = partial(seconds_per_window, model, 1, ROWS, precision=precision)
        taken = attempt(call, model.device)
        seconds.append(float("inf") if taken is None else taken)
    return other if seconds[1] < GAIN * seconds[0] else usual
