"""``napari-ssldiff info``: true facts, and a way out for what is wrong."""

from __future__ import annotations

import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from napari_ssldiff import diagnostics

CPU = {"id": "cpu", "name": "CPU"}
GPU = {"id": "cuda:0", "name": "A GPU", "memory_bytes": 8 * 2**30}
VERSIONS = {"torch": "2.9.0", "torchvision": "0.20.0"}


def torch_says(**changes: Any) -> dict[str, Any]:
    well = {
        "version": "2.9.0",
        "cuda_build": None,
        "devices": [CPU],
        "error": None,
        "torchvision_error": None,
    }
    return {**well, **changes}


def shadow(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module in front of the installed one, for processes started from here."""
    (folder / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return diagnostics.collect()


def test_facts_survive_json(facts: dict[str, Any]) -> None:
    assert json.loads(json.dumps(facts)) == facts


def test_versions_are_the_installed_ones_and_the_cpu_is_a_device(facts: dict[str, Any]) -> None:
    assert facts["packages"]["torch"] == metadata.version("torch")
    assert facts["packages"]["scikit-image"] == metadata.version("scikit-image")
    assert facts["devices"][0]["id"] == "cpu"
    assert facts["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")


def test_text_tells_versions_devices_models_cache_and_warnings(facts: dict[str, Any]) -> None:
    told = {**facts, "devices": [CPU, GPU], "models": ["demo-x"], "warnings": ["beware"]}
    text = diagnostics.format_text(told)
    for word in ("torch", facts["packages"]["torch"], "A GPU, 8.0 GiB", "demo-x", facts["cache"]):
        assert word in text
    assert text.endswith("! beware")


def test_a_missing_package_is_said_to_be_missing(facts: dict[str, Any]) -> None:
    assert diagnostics.version_of("no-such-distribution-here") is None
    told = {**facts, "packages": {"torch": None}}
    assert "missing" in diagnostics.format_text(told)


def test_the_bundled_models_are_listed(facts: dict[str, Any]) -> None:
    assert {"demo-histology", "demo-naip"} <= set(facts["models"])


def test_a_healthy_cpu_machine_and_a_healthy_gpu_machine_get_no_warning() -> None:
    assert diagnostics.torch_warnings(torch_says(), VERSIONS, None) == []
    on_gpu = torch_says(cuda_build="12.6", devices=[CPU, GPU])
    assert diagnostics.torch_warnings(on_gpu, VERSIONS, "560.1") == []


def test_cpu_only_torch_beside_an_nvidia_driver_is_told_with_a_way_out() -> None:
    (warning,) = diagnostics.torch_warnings(torch_says(), VERSIONS, "560.1")
    assert "560.1" in warning
    assert "CPU only" in warning
    assert "install the CUDA build" in warning


def test_a_driver_too_old_for_torchs_cuda_is_told_with_a_way_out() -> None:
    old = torch_says(cuda_build="13.0", devices=[CPU])
    (warning,) = diagnostics.torch_warnings(old, VERSIONS, "450.2")
    assert "update the driver" in warning


def test_a_torchvision_that_does_not_fit_is_found_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "operator torchvision::nms does not exist"
    shadow(tmp_path, "torchvision", f"raise RuntimeError({text!r})", monkeypatch)
    found = diagnostics.probe_torch()
    assert text in found["torchvision_error"]
    (warning,) = diagnostics.torch_warnings(found, VERSIONS, None)
    assert "torch 2.9.0 and torchvision 0.20.0 do not fit" in warning
    assert "pip install" in warning


def test_a_torch_that_does_not_import_is_told_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow(tmp_path, "torch", "raise OSError('libcudart.so: cannot open')", monkeypatch)
    found = diagnostics.probe_torch()
    assert "libcudart.so" in found["error"]
    assert "pip install" in diagnostics.torch_warnings(found, VERSIONS, None)[0]


def test_a_torch_that_kills_its_process_does_not_kill_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow(tmp_path, "torch", "import os; os._exit(77)", monkeypatch)
    assert "code 77" in diagnostics.probe_torch()["error"]


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for nvidia-smi")
def test_the_driver_is_read_from_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert diagnostics.nvidia_driver() is None
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 560.35.03\n")
    program.chmod(0o755)
    assert diagnostics.nvidia_driver() == "560.35.03"


def test_no_qt_binding_is_a_warning_that_names_the_extra() -> None:
    (warning,) = diagnostics.qt_warnings({"installed": {}, "chosen": None})
    assert "napari-ssldiff[pyqt6]" in warning
    assert diagnostics.qt_warnings({"installed": {"PyQt6": "6.9"}, "chosen": "pyqt6"}) == []
    (warning,) = diagnostics.qt_warnings({"installed": {"PyQt6": "6.9"}, "chosen": "pyqt5"})
    assert "QT_API" in warning
