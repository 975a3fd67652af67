"""The two commands' script: standard library only, and what it makes can be made again."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="shell scripts stand in for uv")

# A uv that notes what it is asked and makes an interpreter that starts.
UV = """#!/bin/sh
echo "$@" >> "{log}"
case "$1" in
  --version) echo "uv {version}" ;;
  venv) mkdir -p "$4/bin" && ln -s "$3" "$4/bin/python" ;;
  pip) exit {pip} ;;
esac
"""


@pytest.fixture
def bootstrap(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module that works in an empty folder."""
    spec = importlib.util.spec_from_file_location("bootstrap", root / "tools" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    venv = tmp_path / ".venv"
    places = {
        "ROOT": tmp_path,
        "TOOLS": tmp_path / ".tools",
        "VENV": venv,
        "STAMP": venv / module.STAMP.name,
        "UNFINISHED": venv / module.UNFINISHED.name,
        "SCRIPTS": venv / "bin",
        "PYTHON": venv / "bin" / "python",
    }
    for name, value in places.items():
        monkeypatch.setattr(module, name, value)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    return module


def put_uv(
    folder: Path, monkeypatch: pytest.MonkeyPatch, version: str = "0.9.1", pip: int = 0
) -> Path:
    """Put a stand-in for uv first on PATH; returns its log."""
    log = folder / "uv.log"
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    program = bin_folder / "uv"
    program.write_text(UV.format(log=log, version=version, pip=pip))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    return log


def test_it_imports_the_standard_library_only(root: Path) -> None:
    tree = ast.parse((root / "tools" / "bootstrap.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom):
            assert str(node.module).split(".")[0] in sys.stdlib_module_names


def test_an_unknown_command_prints_the_known_ones_and_exits_2(root: Path) -> None:
    command = [sys.executable, str(root / "tools" / "bootstrap.py"), "dmeo"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "bootstrap.py demo" in done.stdout
    assert "bootstrap.py test" in done.stdout


def test_a_first_install_makes_the_environment_with_extras_and_groups(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = put_uv(tmp_path, monkeypatch)
    bootstrap.install(("pyqt5", "geo"), ("test",))
    asked = log.read_text().splitlines()
    assert any(line.startswith("venv ") for line in asked)
    assert asked[-1].endswith(f"-e {tmp_path}[pyqt5,geo] --group {tmp_path}/pyproject.toml:test")
    assert not bootstrap.UNFINISHED.exists()


def test_a_second_install_of_the_same_asks_for_nothing(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = put_uv(tmp_path, monkeypatch)
    bootstrap.install(("pyqt5", "geo"), ("test",))
    log.unlink()
    bootstrap.install(("geo",), ("test",))
    assert not log.exists()
    bootstrap.install(("geo",), ("test", "dev"))
    assert "pip install" in log.read_text()


def test_changed_dependencies_are_installed_again(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = put_uv(tmp_path, monkeypatch)
    bootstrap.install(("geo",), ())
    log.unlink()
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'y'\n")
    bootstrap.install(("geo",), ())
    assert "pip install" in log.read_text()


def test_a_failing_download_is_tried_twice_and_the_next_run_starts_clean(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = put_uv(tmp_path, monkeypatch, pip=1)
    with pytest.raises(bootstrap.Failed, match="exit code 1"):
        bootstrap.install(("geo",), ())
    assert log.read_text().count("pip install") == 2
    left_over = bootstrap.VENV / "half-installed"
    left_over.touch()
    put_uv(tmp_path, monkeypatch)
    bootstrap.install(("geo",), ())
    assert not left_over.exists()
    assert bootstrap.works(bootstrap.PYTHON)


def test_a_uv_that_is_too_old_is_passed_over(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_uv(tmp_path, monkeypatch, version="0.4.30")
    own = bootstrap.TOOLS / "bin" / "uv"
    own.parent.mkdir(parents=True)
    own.write_text(UV.format(log=tmp_path / "own.log", version="0.9.1", pip=0))
    own.chmod(0o755)
    assert bootstrap.find_uv() == str(own)


def test_each_test_run_names_its_binding_to_napari_and_to_pytest_qt(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-x")
    environment = bootstrap.environment_of("pyqt6", can_show=True)
    assert environment["QT_API"] == environment["PYTEST_QT_API"] == "pyqt6"
    assert environment["PYTEST_ADDOPTS"] == "-x -p no_gui_skips"
    assert bootstrap.environment_of("pyqt5", can_show=False)["PYTEST_ADDOPTS"] == "-x"


def test_windows_are_driven_alone_and_on_every_binding_while_other_tests_share_the_cores(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "BINDINGS", ("pyqt5", "pyqt6"))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    windows = [("pyqt5", ["-m", "gui"]), ("pyqt6", ["-m", "gui"])]
    first = ("pyqt5", ["-m", "not gui", "-n", "2"])
    assert bootstrap.runs_of(can_show=True, chosen=False) == [first, *windows]
    assert bootstrap.runs_of(can_show=False, chosen=False) == [first]
    assert bootstrap.runs_of(can_show=True, chosen=True)[0] == ("pyqt5", ["-m", "not gui"])
    assert bootstrap.environment_of("pyqt5", True, parallel=True)["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in bootstrap.environment_of("pyqt5", True)


def test_what_is_compiled_once_is_kept_though_not_beside_the_sources(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environment = bootstrap.environment_of("pyqt5", can_show=False)
    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert environment["PYTHONPYCACHEPREFIX"] == str(bootstrap.TOOLS / "bytecode")
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE")
    assert "PYTHONPYCACHEPREFIX" not in bootstrap.environment_of("pyqt5", can_show=False)


def test_a_library_that_no_system_has_counts_as_missing(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "LINUX", True)
    monkeypatch.setattr(bootstrap, "LIBRARIES", {"libno-such-thing.so.9": "libno-such-thing9"})
    monkeypatch.setattr(bootstrap, "PROGRAMS", {"no-such-program": "nothing"})
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert bootstrap.missing_libraries() == ["libno-such-thing.so.9", "no-such-program"]


GUI_TEST = """
import pytest
@pytest.mark.gui
def test_window():
    pytest.skip("no display")
def test_other():
    pytest.skip("no data")
"""


def test_a_gui_test_that_skips_where_a_display_is_promised_has_failed(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(GUI_TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gui: drives a window\n")
    command = [sys.executable, "-m", "pytest", "-p", "no_gui_skips", "-p", "no:napari", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(root / "tools"), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 skipped" in done.stdout
    assert "must not be skipped here" in done.stdout
