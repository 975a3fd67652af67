"""Seconds and memory of a run, read from outside: nothing of what is measured knows of it."""

from __future__ import annotations

import copy
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from napari_ssldiff.diffusion.memory import trim

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Stopwatch:
    """Seconds inside watched calls.

    On CUDA a call returns before its work is done, so events in the stream are read afterwards,
    which gives the device's own seconds and holds nothing up. On other accelerators the seconds
    are unknown.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        #: Largest first axis of a call's first argument: windows, or windows × passes.
        self.largest = 0
        self._host = 0.0
        self._ended: float | None = None
        self._events: list[tuple[Any, Any]] = []

    @property
    def seconds(self) -> float | None:
        """All calls together; waits for a CUDA device to finish. ``None`` where unknown."""
        if self.device.type == "cpu":
            return self._host
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize(self.device)
        inside = sum(start.elapsed_time(end) for start, end in self._events)
        return self._host + float(inside) / 1e3

    def follow(self) -> None:
        """Count the host's seconds since the last call, for work that a call only begins."""
        if self._ended is not None:
            self._host += time.perf_counter() - self._ended
        self._ended = None

    def run(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A call, counted."""
        if args and isinstance(args[0], torch.Tensor):
            self.largest = max(self.largest, len(args[0]))
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            out = call(*args, **options)
            end.record()
            self._events.append((start, end))
            self._ended = time.perf_counter()
            return out
        began = time.perf_counter()
        out = call(*args, **options)
        self._ended = time.perf_counter()
        self._host += self._ended - began
        return out


class _Watched:
    """A callable that is counted, and otherwise itself."""

    def __init__(self, call: Any, watch: Stopwatch) -> None:
        self._call, self._watch = call, watch

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._watch.run(self._call, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copy of a model that is made meanwhile runs elsewhere, and is nobody's to count.
        return copy.deepcopy(self._call, memo)


@contextmanager
def watched(owner: Any, name: str, watch: Stopwatch) -> Iterator[None]:
    """Count the calls of ``owner.name`` inside.

    Shadows the attribute of this one object and puts back what was there.
    """
    own = vars(owner)
    before = own.get(name)
    own[name] = _Watched(getattr(owner, name), watch)
    try:
        yield
    finally:
        if before is None:
            del own[name]
        else:
            own[name] = before


def _kilobytes(field: str) -> int | None:
    """A line of ``/proc/self/status``, where there is one."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return None


def _highest_ever() -> float | None:
    """Peak resident MB of the process's life; ``None`` where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)


class PeakMemory:
    """Peak memory since it was made, weights and libraries included.

    Linux lets a process set back its own high-water mark (``/proc/self/clear_refs``). Where that
    is not allowed, and on other systems, the mark of the whole process is given and said to be
    that: it is an upper bound for a row, and the row's own for the largest so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # So that rows before this one do not count as its own; what stays is in rss_before_mb.
        gc.collect()
        trim()
        self.before = _kilobytes("VmRSS")
        self.own = self._set_back()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)

    def _set_back(self) -> bool:
        try:
            _CLEAR.write_text("5")
        except OSError:
            return False
        # Some sandboxes take the word and do nothing.
        peak, now = _kilobytes("VmHWM"), _kilobytes("VmRSS")
        return peak is not None and now is not None and peak - now < 16 * 2**10

    def read(self) -> dict[str, Any]:
        """The row's fields on memory, in MB of 2**20 bytes; ``None`` for what cannot be known.

        ``peak_rss_mb`` with its ``peak_rss_scope`` (``"row"`` or ``"process"``),
        ``rss_before_mb``, ``peak_vram_mb``.
        """
        peak: float | None
        if self.own:
            high = _kilobytes("VmHWM")
            peak = None if high is None else high / 2**10
        else:
            peak = _highest_ever()
        vram = None
        if self.device.type == "cuda":
            vram = torch.cuda.max_memory_allocated(self.device) / 2**20
        return {
            "peak_rss_mb": peak,
            "peak_rss_scope": "row" if self.own else "process",
            "rss_before_mb": None if self.before is None else self.before / 2**10,
            "peak_vram_mb": vram,
        }
