"""What a figure's file says of where and how it was measured."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from napari_ssldiff.processor import processor

_PACKAGES = ("napari-ssldiff", "torch", "diffusers", "torch-fidelity", "scikit-learn", "numpy")


def _version(package: str) -> str | None:
    """``None`` where it is not installed: a bench needs less than an evaluation."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def provenance(command: Sequence[str], device: torch.device) -> dict[str, Any]:
    """Command, date, machine and versions. Paths are cut to their last name: they are no facts."""

    def short(word: str) -> str:
        name, equals, value = word.rpartition("=")
        return f"{name}{equals}{Path(value).name}" if os.path.isabs(value) else word

    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "command": shlex.join(short(word) for word in command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "device": str(device),
            "accelerator": accelerator,
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "versions": {name: _version(name) for name in _PACKAGES},
    }
