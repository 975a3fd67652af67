"""The child process: what it gives up, and what its end means to the parent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from napari_ssldiff.errors import ModelError, OutputError
from napari_ssldiff.models.foreign import unpack as parent

FOREIGN = Path(parent.__file__).parent
#: Each is tried by itself after the child has confined itself; what stopped it is printed.
ATTEMPTS = """
import json, os, socket, subprocess, sys
sys.path.append(sys.argv[1])
from sandbox.main import confine
confine(2**26, 20, 1000)
def large():
    with open("large", "wb") as file:
        file.write(bytes(5000))
attempts = {
    "system": lambda: os.system("touch marker"),
    "subprocess": lambda: subprocess.run(["touch", "marker"]),
    "fork": lambda: os.fork(),
    "socket": lambda: socket.create_connection(("127.0.0.1", 9)),
    "remove": lambda: os.remove("kept"),
    "memory": lambda: bytearray(2**28),
    "file": large,
}
out = {}
for name, attempt in attempts.items():
    try:
        attempt()
    except BaseException as fault:
        out[name] = type(fault).__name__
print(json.dumps(out))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits differ elsewhere")
def test_a_confined_process_starts_and_removes_nothing_and_stays_small(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    command = [sys.executable, "-I", "-S", "-B", "-c", ATTEMPTS, str(FOREIGN)]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True).stdout
    stopped = dict.fromkeys(("system", "subprocess", "fork", "socket", "remove"), "Refused")
    assert json.loads(said) == stopped | {"memory": "MemoryError", "file": "OSError"}
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "large"}
    assert (tmp_path / "large").stat().st_size <= 1000


def test_the_child_sees_neither_the_environment_nor_site_packages(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"w": torch.zeros(1)}, path)
    monkeypatch.setenv("SECRET_OF_THE_TESTS", "1")
    look = (
        "import json, os, sys; print(json.dumps({'error': repr(["
        "sorted(os.environ), any('site-packages' in part for part in sys.path), "
        "sys.stdin.read()])}))"
    )
    monkeypatch.setattr(parent, "_START", look)
    with pytest.raises(ModelError) as fault:
        parent.unpack(path, scratch, check=lambda: None)
    assert "SECRET" not in str(fault.value)
    assert str(fault.value).endswith("False, '']")


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", ModelError, "ended with -9 (no word)"),
        ("raise ImportError('no such thing')", ModelError, "ended with 1 (ImportError: no such"),
        ("print('{')", ModelError, "gave no answer"),
        ("print('{}' * 10**6)", ModelError, "gave no answer"),
        ('print(\'{"ignored": [], "peak": 1}\')', ModelError, "wrote nothing"),
        ('print(\'{"write": "disk full"}\')', OutputError, "no room for .*disk full"),
        ("import time; time.sleep(60)", ModelError, "not read within 1 s"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_every_end_of_the_child_is_told_and_leaves_nothing(
    tmp_path: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    kind: type[Exception],
    said: str,
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"w": torch.zeros(1)}, path)
    monkeypatch.setattr(parent, "_START", code)
    monkeypatch.setattr(parent, "BASE_SECONDS", 1 if "sleep" in code else 60)
    expected = said if ".*" in said else said.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(kind, match=expected) as fault:
        parent.unpack(path, scratch, check=lambda: None)
    assert "model.ckpt" in str(fault.value)
    assert not list(scratch.iterdir())


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, read: Callable[..., object]
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"w": torch.zeros(1)}, path)
    size = path.stat().st_size

    def check() -> None:
        if path.stat().st_size == size:
            with path.open("ab") as file:
                file.write(b"\0")

    with pytest.raises(ModelError, match=r"model\.ckpt changed while it was read"):
        read(path, check=check)
