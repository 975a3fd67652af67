"""The name of the processor, for those who ask where a figure was measured."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """As the system calls it: ``AMD EPYC …``, or at least its architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
