from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "diffusers", "transformers", "timm", "open_clip"}


@pytest.mark.parametrize(
    "code",
    [
        "import napari_ssldiff.viewer.widget",
        "from napari_ssldiff.viewer.backend import EngineBackend; EngineBackend().models()",
        "from napari_ssldiff.viewer.backend import EngineBackend; b = EngineBackend();"
        "assert 'Woodland' in b.choices('demo-naip').classes; assert b.choices('demo-naip').words;"
        "assert not b.choices('demo-histology').columns",
        "import napari_ssldiff.viewer.jobs, napari_ssldiff.viewer.workbench",
    ],
)
def test_the_widget_and_its_list_of_models_need_no_torch(code: str) -> None:
    """Loading torch takes seconds; the worker does it when the first variation is asked for."""
    program = f"import sys; {code}; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_package_is_imported_in_a_moment_and_without_qt() -> None:
    program = (
        "import sys, time; t = time.perf_counter(); import napari_ssldiff.viewer;"
        "print(time.perf_counter() - t, sorted({'qtpy', 'napari'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    seconds, modules = done.stdout.strip().split(" ", 1)
    assert float(seconds) < 1
    assert modules == "[]"
