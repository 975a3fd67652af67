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

from napari_ssldiff.processor import processor


def provenance() -> dict[str, Any]:
    """Command, machine, versions and date of this run, without paths of the machine."""
    arguments = [Path(a).name if os.path.isabs(a) else a for a in sys.argv]
    return {
        "command": "python " + shlex.join(arguments),
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "versions": {n: version(n) for n in ("napari-ssldiff", "torch", "diffusers", "numpy")},
    }
