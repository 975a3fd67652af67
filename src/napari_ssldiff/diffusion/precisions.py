"""Half precision where the device gains by it: measured, once per loaded model."""

from __future__ import annotations

from functools import partial

import torch

from napari_ssldiff.diffusion.batches import seconds_per_window
from napari_ssldiff.diffusion.bundle import Denoiser, Precision, default_precision
from napari_ssldiff.diffusion.memory import attempt

#: Windows per call that is timed: enough for a GPU to show what it has.
ROWS = 8
#: The other precision must take no more than this share of the time to be taken: noise in two calls
#: must not decide what pixels look like.
GAIN = 0.75


def other_precision(device: torch.device) -> Precision | None:
    """What may be faster than :func:`~napari_ssldiff.diffusion.bundle.default_precision`.

    fp32 on CUDA. Elsewhere nothing is measured: on a CPU the pixels of a request are the same in
    every process, which a clock must not decide, and those that emulate bf16 take seven times as
    long (benchmarks/network_calls.py). Who has one that does not asks for it by ``--precision``.
    """
    return "fp32" if device.type == "cuda" else None


def measured_precision(model: Denoiser) -> Precision:
    """The device's usual precision, or the other one where that is clearly faster.

    Two calls of each, one to warm up; none where there is no choice, or where weights come and go
    and would be timed instead.
    """
    usual, other = default_precision(model.device), other_precision(model.device)
    if other is None or model.limits.offload != "none":
        return usual
    seconds = list[float]()
    for precision in (usual, other):
        call = partial(seconds_per_window, model, 1, ROWS, precision=precision)
        taken = attempt(call, model.device)
        seconds.append(float("inf") if taken is None else taken)
    return other if seconds[1] < GAIN * seconds[0] else usual
