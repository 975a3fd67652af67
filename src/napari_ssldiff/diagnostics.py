"""What this machine has and what is wrong with it: the facts behind ``napari-ssldiff info``."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import napari_ssldiff
from napari_ssldiff.cache import cache_dir

PACKAGES = (
    "napari", "npe2", "magicgui", "qtpy", "torch", "torchvision", "diffusers", "transformers",
    "timm", "open-clip-torch", "accelerate", "safetensors", "numpy", "zarr", "dask", "tifffile",
    "imagecodecs", "scikit-image", "pillow", "pooch", "openslide-python", "rasterio", "pyproj",
)  # fmt: skip
# napari's own order of preference is qtpy's.
BINDINGS = {"PyQt5": "pyqt5", "PySide2": "pyside2", "PyQt6": "pyqt6", "PySide6": "pyside6"}
REINSTALL = "reinstall both together: pip install --upgrade --force-reinstall torch torchvision"

# Runs in a process of its own: a broken torch can take its process down, and ``info`` is the
# command that has to survive that.
_PROBE = """
import json
out = {"version": None, "cuda_build": None, "devices": [], "error": None, "torchvision_error": None}
try:
    import torch
    out["version"] = torch.__version__
    out["cuda_build"] = torch.version.cuda or torch.version.hip
    out["devices"].append({"id": "cpu", "name": "CPU", "threads": torch.get_num_threads()})
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            out["devices"].append(
                {"id": f"cuda:{i}", "name": p.name, "memory_bytes": p.total_memory})
    if torch.backends.mps.is_available():
        out["devices"].append({"id": "mps", "name": "Apple GPU"})
except Exception as error:
    out["error"] = f"{type(error).__name__}: {error}"
else:
    try:
        import torchvision
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        out["torchvision_error"] = f"{type(error).__name__}: {error}"
print(json.dumps(out))
"""


def collect() -> dict[str, Any]:
    """All facts, ready for :func:`json.dumps`.

    Returns
    -------
    dict
        ``version``; ``python``, ``platform``, ``cpu_count``; ``packages`` (name → version, or
        ``None`` where it is missing); ``qt`` (``installed``: binding → version; ``chosen``);
        ``devices`` (``id``, ``name``, where known ``memory_bytes``); ``cuda_build``;
        ``nvidia_driver`` (version or ``None``); ``models`` (a list of identifiers); ``cache``;
        ``warnings`` (sentences that each name a way out).
    """
    packages = {name: version_of(name) for name in PACKAGES}
    torch = probe_torch()
    driver = nvidia_driver()
    models, model_warnings = _models()
    qt = _qt()
    return {
        "version": napari_ssldiff.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count() or 1,
        "packages": packages,
        "qt": qt,
        "devices": torch["devices"],
        "cuda_build": torch["cuda_build"],
        "nvidia_driver": driver,
        "models": models,
        "cache": str(cache_dir()),
        "warnings": torch_warnings(torch, packages, driver) + qt_warnings(qt) + model_warnings,
    }


def format_text(facts: Mapping[str, Any]) -> str:
    """The facts of :func:`collect` for a person, a few dozen lines."""
    lines = [
        f"napari-ssldiff {facts['version']}",
        f"Python {facts['python']} on {facts['platform']}, {facts['cpu_count']} CPU cores",
        f"Qt: {facts['qt']['chosen'] or 'none'}",
        f"Cache: {facts['cache']}",
        "",
        "Devices",
    ]
    for device in facts["devices"]:
        memory = device.get("memory_bytes")
        size = f", {memory / 2**30:.1f} GiB" if memory else ""
        lines.append(f"  {device['id']:<8} {device['name']}{size}")
    lines += [f"  NVIDIA driver {facts['nvidia_driver'] or 'none'}", "", "Models"]
    lines += [f"  {model}" for model in facts["models"]] or ["  none"]
    lines += ["", "Packages"]
    lines += [f"  {name:<18} {found or 'missing'}" for name, found in facts["packages"].items()]
    if facts["warnings"]:
        lines += ["", "Warnings", *(f"  ! {warning}" for warning in facts["warnings"])]
    return "\n".join(lines)


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, ``None`` where there is none; imports nothing."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def probe_torch(timeout: float = 120.0) -> dict[str, Any]:
    """What torch says of itself, asked in a process of its own.

    Returns
    -------
    dict
        ``version``, ``cuda_build``, ``devices``, ``error`` (torch does not import) and
        ``torchvision_error`` (torchvision does not fit it); ``None`` where all is well.
    """
    found: dict[str, Any] = {
        "version": None, "cuda_build": None, "devices": [], "error": None,
        "torchvision_error": None,
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=timeout
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        found["error"] = f"{type(error).__name__} while torch was asked"
        return found
    try:
        return {**found, **json.loads(done.stdout.strip().splitlines()[-1])}
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        found["error"] = f"torch ended its process with code {done.returncode}: {last}"
        return found


def nvidia_driver() -> str | None:
    """Version of the NVIDIA driver as ``nvidia-smi`` states it, ``None`` where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def torch_warnings(
    torch: Mapping[str, Any], packages: Mapping[str, str | None], driver: str | None
) -> list[str]:
    """What is wrong between torch, torchvision and the driver, each with its way out.

    Parameters
    ----------
    torch
        As :func:`probe_torch` returns it.
    packages
        Name → version; ``torch`` and ``torchvision`` are used.
    driver
        As :func:`nvidia_driver` returns it.
    """
    pair = f"torch {packages.get('torch')} and torchvision {packages.get('torchvision')}"
    if torch["error"]:
        return [f"torch cannot be used ({torch['error']}): {REINSTALL}"]
    found = []
    if torch["torchvision_error"]:
        found.append(f"{pair} do not fit each other ({torch['torchvision_error']}): {REINSTALL}")
    on_gpu = any(device["id"].startswith("cuda") for device in torch["devices"])
    if driver and not torch["cuda_build"]:
        found.append(
            f"this machine has an NVIDIA driver ({driver}), but torch {torch['version']} is built "
            "for CPU only: install the CUDA build that pytorch.org names for this platform"
        )
    elif driver and not on_gpu:
        found.append(
            f"torch {torch['version']} is built for CUDA {torch['cuda_build']}, but finds no GPU "
            f"with NVIDIA driver {driver}: update the driver, or install a torch built for an "
            "older CUDA"
        )
    return found


def qt_warnings(qt: Mapping[str, Any]) -> list[str]:
    """Whether a window can be opened at all."""
    if qt["chosen"] is None:
        return [
            "no Qt binding is installed, so there can be no window: "
            "pip install 'napari-ssldiff[pyqt6]'"
        ]
    if not any(name.lower() == qt["chosen"] for name in qt["installed"]):
        return [f"QT_API asks for {qt['chosen']}, which is not installed: unset or install it"]
    return []


def _qt() -> dict[str, Any]:
    installed = {name: found for name in BINDINGS if (found := version_of(name))}
    named = os.environ.get("QT_API", "").lower()
    chosen = named or next((BINDINGS[name] for name in installed), None)
    return {"installed": installed, "chosen": chosen}


def _models() -> tuple[list[str], list[str]]:
    # A report must come out of a broken installation too, so whatever the import raises is told.
    try:
        from napari_ssldiff.models import list_models, problems

        return [str(card.id) for card in list_models()], [
            f"the installed model {name} cannot be used: {why}; remove it with "
            f"'napari-ssldiff models remove {name}'"
            for name, why in problems().items()
        ]
    except Exception as error:
        return [], [f"the models cannot be listed ({type(error).__name__}: {error})"]
