"""What a result file says of where and how it was measured."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def provenance() -> dict[str, Any]:
    """Command, machine, versions and date of this run, without paths of the machine."""
    arguments = [Path(a).name if os.path.isabs(a) else a for a in sys.argv]
    return {
        "command": "python " + shlex.join(arguments),
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "versions": {n: version(n) for n in ("napari-ssldiff", "torch", "diffusers", "numpy")},
    }
