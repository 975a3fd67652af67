"""When memory runs out: less at once, and never from the start again."""

from __future__ import annotations

import ctypes
import gc
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import torch

_logger = logging.getLogger(__name__)

T = TypeVar("T")

# CUDA's own error is torch.cuda.OutOfMemoryError in every torch that we allow. The CPU and Apple
# allocators, cuDNN and cuBLAS (which allocate beside torch) say it in a plain RuntimeError.
_WORDS = (
    "DefaultCPUAllocator",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device or the machine has no memory left."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def release(device: torch.device) -> None:
    """Give back what nobody holds any more, to the device too."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def trim() -> None:
    """Return to the system what the C library keeps of memory that is free.

    glibc keeps freed blocks of up to 32 MB for the next time, in fragments as tall as the highest
    tide. Elsewhere nothing happens.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def attempt(call: Callable[[], T], device: torch.device) -> T | None:
    """What ``call`` returns, or ``None`` if memory ran out; other errors pass.

    The failed call's tensors live in the frames of its traceback. These are cleared and the
    error is gone when this returns, so that a second try finds their memory free.
    """
    try:
        return call()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
    release(device)
    return None


def twice(call: Callable[[], T]) -> T:
    """What ``call`` returns on the CPU, at the second try where memory runs out in the first.

    ``call`` must change nothing before all that it needs is there.
    """
    made = attempt(lambda: (call(),), torch.device("cpu"))
    return call() if made is None else made[0]


class Limit:
    """How much of something fits at once: halved when memory runs out, and kept for the run.

    Parameters
    ----------
    size
        To begin with.
    least
        Below this there is no halving.
    """

    def __init__(self, size: int, least: int = 1) -> None:
        self.size, self.least = size, least
        #: Not even the least fits: it is not tried again.
        self.lost = False

    def can_halve(self, size: int) -> bool:
        """Whether something of ``size`` that did not fit can be tried in smaller parts."""
        return min(size, self.size) > self.least

    def halve(self, size: int, what: str) -> None:
        """Remember that ``size`` was too much."""
        self.size = max(self.least, min(size, self.size) // 2)
        _logger.warning("out of memory in %s of %d: going on with %d", what, size, self.size)


def in_parts(
    count: int,
    limit: Limit,
    device: torch.device,
    what: str,
    call: Callable[[slice], T],
    on_cpu: Callable[[slice], T] | None,
) -> Iterator[T]:
    """``call`` over ``[0, count)`` in slices as large as memory allows.

    Parameters
    ----------
    limit
        Largest slice; halved on the way where memory runs out.
    what
        Names the calls in the log.
    on_cpu
        What is done where even the least slice finds no memory on ``device``; ``None``: it is
        tried once more, after all that nobody holds was given back, and then the error passes.
    """
    first = 0
    while first < count:
        part = slice(first, min(first + limit.size, count))
        size = part.stop - first
        out = None
        if not limit.lost:
            out = attempt(lambda part=part: call(part), device)  # type: ignore[misc]
        if out is None:
            if limit.can_halve(size):
                limit.halve(size, what)
                continue
            if on_cpu is not None and not limit.lost:
                _logger.warning("out of memory in %s of %d: on the CPU instead", what, size)
                limit.lost = True
            out = call(part) if on_cpu is None else on_cpu(part)
        yield out
        first = part.stop
