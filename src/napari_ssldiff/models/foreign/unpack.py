"""A pickle's tensors as a safetensors file, read by a child process that can do little else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from napari_ssldiff.errors import ModelError, OutputError

#: Bytes that the tensors of a file may have together: a multiple of the file's and some.
EXPANSION, SLACK = 4, 16 * 2**20
#: Bytes that the child may take by default: some, and a multiple of the file's (its largest
#: storage, and a copy of that). Files of sane storages need far less.
BASE_MEMORY, MEMORY_PER_BYTE = 512 * 2**20, 2
#: Seconds that the child may take: some, and one for so many bytes.
BASE_SECONDS, BYTES_PER_SECOND = 60, 5 * 2**20
LONGEST_REPLY = 2**20
_START = "import sys; sys.path.append(sys.argv[1]); from sandbox.main import main; main()"


@dataclass(frozen=True)
class Unpacked:
    """A safetensors file made of a pickle."""

    path: Path
    ignored: tuple[str, ...]
    #: Bytes of memory that the child used at most.
    peak: int


def unpack(
    source: Path,
    scratch: Path,
    *,
    memory: int | None = None,
    check: Callable[[], None],
) -> Unpacked:
    """Convert a ``torch.save`` file in a child process.

    The child is Python without environment, input, site packages or user's folders. It has limits
    on memory, processor time, files and processes where the system knows such limits: Linux, most
    of them on macOS. On Windows the clock alone limits it.

    Parameters
    ----------
    source
        The file.
    scratch
        A folder; the result lies in a new folder below it. After an error nothing is left.
    memory
        Bytes that the child may take beyond the interpreter; by default
        ``BASE_MEMORY + MEMORY_PER_BYTE · size``.
    check
        Called twenty times a second; what it raises ends the child.

    Raises
    ------
    ModelError
        If the file is refused.
    OutputError
        If ``scratch`` cannot be written.
    """
    size = source.stat().st_size
    if memory is None:
        memory = BASE_MEMORY + MEMORY_PER_BYTE * size
    seconds = BASE_SECONDS + size // BYTES_PER_SECOND
    try:
        folder = Path(tempfile.mkdtemp(prefix="unpacked-", dir=scratch)).absolute()
    except OSError as fault:
        raise OutputError(f"{scratch} cannot be written ({fault.strerror})") from fault
    target = folder / "weights.safetensors"
    order = {
        "source": str(source.absolute()),
        "target": str(target),
        "memory": memory,
        "seconds": seconds,
        "most": EXPANSION * size + SLACK,
    }
    try:
        reply = _reply(source, _run(order, folder, seconds, check, source), memory, scratch)
        if not target.is_file():
            raise ModelError(f"{source}: the process that reads it wrote nothing; try again")
        return Unpacked(target, tuple(map(str, reply["ignored"])), int(reply["peak"]))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _run(
    order: dict[str, Any], folder: Path, seconds: int, check: Callable[[], None], source: Path
) -> str:
    """Start the child, wait for it, and give what it printed."""
    keep = ("SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _START]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                [*command, str(Path(__file__).parent), json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={name: os.environ[name] for name in keep if name in os.environ},
            )
        except OSError as fault:
            raise ModelError(
                f"{source}: no process could be started to read it ({fault}); convert it elsewhere"
            ) from fault
        end = time.monotonic() + seconds
        try:
            while child.poll() is None:
                check()
                if time.monotonic() > end:
                    raise ModelError(
                        f"{source}: not read within {seconds} s, which is far too long for its "
                        "size; save it again as safetensors"
                    )
                try:
                    child.wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            child.kill()
            child.wait()
        if child.returncode:
            raise ModelError(
                f"{source}: the process that reads it ended with {child.returncode} "
                f"({_last_line(err)}); the file is damaged or hostile, or memory is short"
            )
        out.seek(0)
        return out.read(LONGEST_REPLY).decode(errors="replace")


def _last_line(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
    lines = file.read().decode(errors="replace").split("\n")
    return next((ascii(line)[1:-1][:200] for line in reversed(lines) if line.strip()), "no word")


def _reply(source: Path, text: str, memory: int, scratch: Path) -> dict[str, Any]:
    """The child's answer; its refusals are raised."""
    try:
        reply = json.loads(text)
    except ValueError:
        reply = None
    match reply:
        case {"error": "MemoryError" | "RecursionError"}:
            raise ModelError(
                f"{source}: reading it needs more than {memory / 2**20:.0f} MB of memory; a "
                "checkpoint of its size should not; save it again as safetensors"
            )
        case {"error": str(reason)}:
            raise ModelError(f"{source}: {reason}")
        case {"write": str(reason)}:
            raise OutputError(f"{scratch}: no room for the tensors of {source.name} ({reason})")
        case {"ignored": list(), "peak": int()}:
            return dict(reply)
        case _:
            raise ModelError(f"{source}: the process that reads it gave no answer; try again")
