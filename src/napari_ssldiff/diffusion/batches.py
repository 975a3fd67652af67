"""How many windows a network call takes: measured once where it matters."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from napari_ssldiff.diffusion.bundle import Denoiser, Precision
from napari_ssldiff.diffusion.memory import attempt

#: Rows of a network call (windows × passes) on a CPU. Fewer cost more each, more gain nothing there
#: (benchmarks/network_calls.py) and make a run later to stop. A number that is the same everywhere
#: keeps results the same to the last digit.
CPU_ROWS = 16
#: Beyond it a card that still gains has run out of windows or memory sooner.
LARGEST = 256
#: A batch twice as large has to be this much faster per window to be worth its memory.
WORTH = 0.95


def choose_batch(
    model: Denoiser, passes: int, count: int, check: Callable[[], None] = lambda: None
) -> int:
    """Windows per network call for a run of ``count`` windows, at most ``count``.

    Parameters
    ----------
    passes
        Evaluations per window: 2 with guidance, else 1.
    check
        Called before every network call; raises to cancel.
    """
    if model.device.type == "cpu":
        return max(1, min(CPU_ROWS // passes, count, _room(model, passes)))
    return measured_batch(model, passes, count, check)


def measured_batch(
    model: Denoiser, passes: int, count: int, check: Callable[[], None] = lambda: None
) -> int:
    """The power of two up to :data:`LARGEST` after which doubling gains little time per window.

    Every size is timed once per model, device and process, after a call to warm up; sizes that
    do not fit into memory or exceed ``count`` are not tried.
    """
    best, seconds = 1, float("inf")
    size = 1
    while size <= min(LARGEST, _room(model, passes)) and (size < 2 * count or size == 1):
        key = (passes, size)
        if key not in model.window_seconds:
            taken = attempt(partial(seconds_per_window, model, passes, size, check), model.device)
            model.window_seconds[key] = float("inf") if taken is None else taken
        if not model.window_seconds[key] < WORTH * seconds:
            break
        best, seconds = size, model.window_seconds[key]
        size *= 2
    return max(1, min(best, count))


def call_cost(model: Denoiser, passes: int) -> Callable[[float], float]:
    """What a network call of so many windows takes, relative to calls of other sizes.

    Between the sizes that :func:`measured_batch` has timed on this device it is interpolated; where
    none was, a call costs as much as its rows and one more, which is how CPUs answered
    (benchmarks/network_calls.py: 36 ms a row in calls of 2, 30 of 8, 25 of 16).
    """
    timed = sorted(
        (size, size * seconds)
        for (key, size), seconds in model.window_seconds.items()
        if key == passes and seconds < float("inf")
    )
    if not timed:
        return lambda count: count + 1 / passes
    sizes, seconds = zip(*timed, strict=True)
    return lambda count: float(np.interp(count, sizes, seconds))


def _room(model: Denoiser, passes: int) -> int:
    """Windows that memory has room for."""
    rows = model.limits.rows
    return LARGEST if rows is None else max(1, rows // passes)


@torch.inference_mode()
def seconds_per_window(
    model: Denoiser,
    passes: int,
    size: int,
    check: Callable[[], None] = lambda: None,
    precision: Precision | None = None,
) -> float:
    """Seconds that a network call takes per window, after a call to warm up.

    Parameters
    ----------
    size
        Windows of the call.
    precision
        Instead of the model's own.
    """
    spec, rows = model.spec, size * passes
    edge = spec.window_latents
    x = torch.zeros(rows, spec.latent_channels, edge, edge, device=model.device)
    condition = model.null_condition(rows)
    taken = 0.0
    for _ in range(2):
        check()
        started = time.perf_counter()
        # Reading a number waits for the device.
        float(model.predict_x0(x, 0, (0.6, 0.8), condition, precision).sum())
        taken = time.perf_counter() - started
    return taken / size
