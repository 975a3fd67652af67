"""From a bare clone to a finished demo or a passed test suite, in one command.

    python3 tools/bootstrap.py demo     varies a region of a sample slide and exports it
    python3 tools/bootstrap.py test     installs and runs the tests, on PyQt5 and on PyQt6
    python3 tools/bootstrap.py lint     installs and runs ruff and mypy

Needs Python >= 3.11 with pip, and nothing else: no venv module, no ensurepip, no compiler. All
that it installs goes into ``.tools`` and ``.venv`` beside this repository's files (and, on Debian
and its kin as root, system libraries by apt-get). Further arguments go to the demo or to pytest.
Stopped half-way, it can simply be run again.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
VENV = ROOT / ".venv"
STAMP = VENV / ".installed"
UNFINISHED = VENV / ".unfinished"

LINUX = sys.platform.startswith("linux")
WINDOWS = sys.platform == "win32"
SCRIPTS = VENV / ("Scripts" if WINDOWS else "bin")
PYTHON = SCRIPTS / ("python.exe" if WINDOWS else "python")

# PyQt5 has no wheels for Linux on ARM.
HAS_PYQT5 = not (LINUX and platform.machine() in ("aarch64", "arm64"))
BINDINGS = ("pyqt5", "pyqt6") if HAS_PYQT5 else ("pyqt6",)

#: Processes that run tests side by side; each takes up to 2 GB.
WORKERS = 4
#: pytest's exit code where nothing was collected.
NO_TESTS = 5

# What Qt, OpenGL and the tests' virtual display load, and the Debian package that has it.
LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libfontconfig.so.1": "libfontconfig1",
    "libdbus-1.so.3": "libdbus-1-3",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-xinerama.so.0": "libxcb-xinerama0",
}
PROGRAMS = {"Xvfb": "xvfb", "xvfb-run": "xvfb", "xauth": "xauth"}


class Failed(Exception):
    """A step that did not succeed; its text says which."""


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    commands = {"demo": demo, "test": test, "lint": lint}
    if not arguments or arguments[0] not in commands:
        print(__doc__)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    try:
        return commands[arguments[0]](list(arguments[1:]))
    except Failed as error:
        say(f"FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; run the same command to go on")
        return 130


def demo(arguments: list[str]) -> int:
    """Install what the demo needs and run it, in a window where there is a display."""
    system_libraries()
    install(extras=(BINDINGS[0], "openslide", "geo"), groups=())
    if not has_display() and "--headless" not in arguments:
        say("there is no display: the demo runs without a window")
        arguments = ["--headless", *arguments]
    environment = {**os.environ, "QT_API": os.environ.get("QT_API", BINDINGS[0])}
    return run([str(SCRIPTS / "napari-ssldiff"), "demo", *arguments], environment)


def test(arguments: list[str]) -> int:
    """Install what the tests need; run those without a window side by side, then those that drive
    one, on each Qt.
    """
    missing = system_libraries()
    install(extras=(*BINDINGS, "openslide", "geo"), groups=("test",))
    display: list[str] = []
    can_show = has_display()
    if not can_show and shutil.which("xvfb-run") and not missing:
        display, can_show = ["xvfb-run", "-a", "-s", "-screen 0 1600x1200x24"], True
    if not can_show:
        say("NO DISPLAY and no Xvfb: tests marked gui are left out; see the list above")
    codes = []
    for binding, options in runs_of(can_show, bool(arguments)):
        say(f"pytest {' '.join(options)} on {binding}")
        command = [*display, str(PYTHON), "-m", "pytest", *options, *arguments]
        code = run(command, environment_of(binding, can_show, parallel="-n" in options))
        # Arguments may choose tests of one kind only.
        codes.append(0 if arguments and code == NO_TESTS else code)
    # Nothing is printed after this: pytest's summary is the last line.
    return next((code for code in codes if code), 0)


def runs_of(can_show: bool, chosen: bool) -> list[tuple[str, list[str]]]:
    """``(binding, options of pytest)`` of each run.

    A window has keyboard and mouse to itself; all other tests share the cores, unless somebody has
    ``chosen`` some, who wants to see what they print.
    """
    shared = [] if chosen else ["-n", str(min(os.cpu_count() or 1, WORKERS))]
    runs = [(BINDINGS[0], ["-m", "not gui", *shared])]
    return runs + [(binding, ["-m", "gui"]) for binding in BINDINGS if can_show]


def lint(arguments: list[str]) -> int:
    """Install and run ruff and mypy."""
    install(extras=(*BINDINGS, "openslide", "geo"), groups=("test", "dev"))
    checks = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])
    codes = []
    for check in checks:
        say(" ".join(check))
        codes.append(run([str(PYTHON), "-m", *check, *arguments], dict(os.environ)))
    return next((code for code in codes if code), 0)


def environment_of(binding: str, can_show: bool, parallel: bool = False) -> dict[str, str]:
    """Environment of a pytest run on ``binding``."""
    environment = {**os.environ, "QT_API": binding, "PYTEST_QT_API": binding}
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):
        # A dozen processes load torch and napari, and compiling them anew takes each 15 s.
        environment["PYTHONPYCACHEPREFIX"] = str(TOOLS / "bytecode")
    if parallel:
        cores = os.cpu_count() or 1
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // min(cores, WORKERS))))
    if can_show:
        # A test that quietly skips would hide a broken window: see the plugin of that name.
        environment["PYTEST_ADDOPTS"] = (
            f"{os.environ.get('PYTEST_ADDOPTS', '')} -p no_gui_skips".strip()
        )
        paths = [str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    if LINUX and can_show:
        environment["QT_QPA_PLATFORM"] = "xcb"  # "offscreen" has no OpenGL
        environment.pop("WAYLAND_DISPLAY", None)
    return environment


# --- the environment -------------------------------------------------------------------------


def install(extras: Sequence[str], groups: Sequence[str]) -> None:
    """Make ``.venv`` hold the project with ``extras`` and dependency ``groups``."""
    wanted = [f"extra {extra}" for extra in extras] + [f"group {group}" for group in groups]
    identity = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    installed = STAMP.read_text().splitlines() if STAMP.is_file() else []
    if works(PYTHON) and installed[:1] == [identity] and set(wanted) <= set(installed[1:]):
        say("already installed")
        return
    uv = find_uv()
    if UNFINISHED.exists() or (VENV.exists() and not works(PYTHON)):
        say("an earlier set-up was not finished: starting it again (downloads are kept)")
        shutil.rmtree(VENV)
    if not VENV.exists():
        step("making .venv", [uv, "venv", "--python", sys.executable, str(VENV)])
    UNFINISHED.touch()
    command = [uv, "pip", "install", "--python", str(PYTHON)]
    command += ["-e", f"{ROOT}[{','.join(extras)}]"]
    for group in groups:
        command += ["--group", f"{ROOT / 'pyproject.toml'}:{group}"]
    step("installing napari, torch and the rest (some GB the first time)", command, tries=2)
    kept = installed[1:] if installed[:1] == [identity] else []
    STAMP.write_text("\n".join([identity, *sorted({*wanted, *kept})]) + "\n")
    UNFINISHED.unlink()


def find_uv() -> str:
    """A uv that knows dependency groups: from PATH, else one of our own in ``.tools``.

    ``pip install --target`` works where Python is externally managed (PEP 668) and where the venv
    or ensurepip module is missing; uv then needs neither.
    """
    own = TOOLS / "bin" / ("uv.exe" if WINDOWS else "uv")
    for candidate in (shutil.which("uv"), str(own)):
        if candidate and uv_version(candidate) >= (0, 8):
            return candidate
    command = [sys.executable, "-m", "pip", "install", "--target", str(TOOLS), "--upgrade"]
    command += ["--quiet", "--disable-pip-version-check", "uv>=0.8"]
    step("installing uv into .tools", command, tries=2)
    if uv_version(str(own)) < (0, 8):
        raise Failed(f"{own} does not run: remove {TOOLS} and try again")
    return str(own)


def uv_version(program: str) -> tuple[int, ...]:
    """``(major, minor)``, or ``(0,)`` where the program does not run."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    found = re.match(r"uv (\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found and done.returncode == 0 else (0,)


def works(python: Path) -> bool:
    """Whether this interpreter starts."""
    try:
        return subprocess.run([str(python), "-c", ""], capture_output=True).returncode == 0
    except OSError:
        return False


# --- the machine -----------------------------------------------------------------------------


def system_libraries() -> list[str]:
    """Install or name what Qt and OpenGL need; returns what is still missing (Linux only)."""
    missing = missing_libraries()
    if not missing:
        return []
    packages = sorted({{**LIBRARIES, **PROGRAMS}[name] for name in missing})
    if shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        get = ["apt-get", "-o", "Acquire::Retries=1", "-qq"]
        try:
            step("apt-get update", [*get, "update"], environment=quiet, tries=2)
            step(
                f"installing system libraries: {' '.join(packages)}",
                [*get, "install", "-y", "--no-install-recommends", *packages],
                environment=quiet,
                tries=2,
            )
        except Failed as error:
            say(f"going on without a window: {error}")
        missing = missing_libraries()
    elif shutil.which("apt-get"):
        say(f"a window needs: sudo apt-get install {' '.join(packages)}")
    if missing:
        say(f"missing on this system, so there may be no window: {', '.join(missing)}")
    return missing


def missing_libraries() -> list[str]:
    """Names of the libraries and programs that this Linux lacks."""
    if not LINUX:
        return []
    missing = [name for name in LIBRARIES if not loads(name)]
    if not has_display():
        missing += [name for name in PROGRAMS if not shutil.which(name)]
    return missing


def loads(library: str) -> bool:
    """Whether the dynamic linker finds a shared library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def has_display() -> bool:
    """Whether a window can appear."""
    return not LINUX or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


# --- running and telling ---------------------------------------------------------------------


def step(
    title: str, command: Sequence[str], environment: Mapping[str, str] | None = None, tries: int = 1
) -> None:
    """Run a command of the set-up, with its title, its time and a sign of life.

    Raises
    ------
    Failed
        If it fails ``tries`` times.
    """
    environment = {"UV_HTTP_TIMEOUT": "180", **(os.environ if environment is None else environment)}
    for attempt in range(1, tries + 1):
        say(title if attempt == 1 else f"{title}: once more")
        if attempt > 1:
            # uv brings its own certificates; a network that inspects TLS needs the system's.
            environment = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1", **environment}
        start = time.monotonic()
        code = run(command, environment, heartbeat=20.0)
        if code == 0:
            say(f"  done in {time.monotonic() - start:.0f} s")
            return
    raise Failed(f"{title} (exit code {code}): {' '.join(command)}")


def run(
    command: Sequence[str], environment: Mapping[str, str], heartbeat: float | None = None
) -> int:
    """Run a command in the repository with its output passed through; returns its exit code.

    Where nobody watches a terminal (uv and apt-get draw no progress there), ``heartbeat`` is the
    time in seconds between two lines that say it still runs.
    """
    try:
        process = subprocess.Popen(list(command), env=dict(environment), cwd=ROOT)
    except OSError as error:
        say(f"{command[0]} does not start: {error}")
        return 127
    pause = heartbeat if heartbeat and not sys.stderr.isatty() else None
    start = time.monotonic()
    while True:
        try:
            return process.wait(pause)
        except subprocess.TimeoutExpired:
            say(f"  … {time.monotonic() - start:.0f} s")
        except KeyboardInterrupt:
            process.wait()
            raise


def say(text: str) -> None:
    """One line of our own, told apart from what the tools print."""
    print(f"[bootstrap] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036  (whoever runs this has not installed us yet)
        sys.exit(f"napari-ssldiff needs Python 3.11 or newer, this is {platform.python_version()}")
    sys.exit(main(sys.argv[1:]))
