"""The child's whole life: limits on itself, one file read, one file written, one reply."""

from __future__ import annotations

import errno
import gc
import json
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

from .archive import opened, storage
from .container import write
from .machine import Machine
from .records import Refused
from .state_dict import shown, taken

#: Names of replaced globals that are reported.
MOST_NAMES = 1000
#: Nothing of this is ever needed here (names of audit events, see PEP 578).
_FORBIDDEN = (
    "os.exec", "os.fork", "os.posix_spawn", "os.putenv", "os.spawn", "os.startfile", "os.system",
    "os.remove", "os.rename", "os.rmdir", "ctypes.", "pickle.find_class", "socket.", "subprocess.",
    "shutil.", "urllib.",
)  # fmt: skip


def confine(memory: int, seconds: int, file_size: int) -> None:
    """Give up what reading a file does not need; there is no way back.

    Where there is no ``resource`` module (Windows) memory and time are not limited from inside;
    the parent's clock still is.
    """

    def hook(event: str, _: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise Refused(f"reading it tried to use {event}")

    sys.addaudithook(hook)
    if sys.platform == "win32":
        return
    import resource

    limits = {
        "RLIMIT_AS": used("VmSize") + memory,
        "RLIMIT_CPU": seconds,
        "RLIMIT_FSIZE": file_size,
        "RLIMIT_NOFILE": 32,
        "RLIMIT_NPROC": 0,
        "RLIMIT_CORE": 0,
    }
    for name, most in limits.items():
        try:
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            value = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (value, value))
        except (AttributeError, OSError, ValueError):
            pass  # macOS lacks some and refuses others


def used(field: str) -> int:
    """Bytes that Linux accounts to this process (``VmSize``, ``VmHWM``); elsewhere from getrusage.

    The peak in ``getrusage`` is no measure on Linux: a child inherits its parent's.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def convert(source: str, target: str, most: int) -> dict[str, Any]:
    """Read the checkpoint ``source`` and write its tensors to ``target``."""
    machine = Machine(storage)
    root, storages = opened(source, machine)
    views = taken(root)
    del root
    write(target, views, storages, most)
    names = sorted(shown(name) for name in machine.placeholders)
    return {"ignored": names[:MOST_NAMES], "tensors": len(views), "peak": used("VmHWM")}


def answer(source: str, target: str, most: int) -> dict[str, Any]:
    """What :func:`convert` gives, or in ``error`` or ``write`` why it gave nothing."""
    try:
        return convert(source, target, most)
    except Refused as fault:
        return {"error": str(fault)}
    except (MemoryError, RecursionError) as fault:
        return {"error": type(fault).__name__}
    except OSError as fault:
        full = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None))
        return {"write" if fault.errno in full else "error": str(fault)}
    except (zipfile.BadZipFile, zlib.error, EOFError) as fault:
        return {"error": f"it is truncated or damaged ({shown(fault)}); fetch it again"}
    except Exception as fault:
        # The boundary of the process: whatever a hostile file provokes becomes one line.
        return {"error": f"it cannot be read ({type(fault).__name__}: {shown(fault)})"}


def main() -> None:
    """Run as told by JSON in the second argument; print the outcome as JSON."""
    order = json.loads(sys.argv[2])
    # Codecs are imported when first used: before the limits, not after.
    for name in ("cp437", "latin-1", "raw-unicode-escape", "ascii"):
        b"".decode(name)
    gc.disable()  # A pickle makes many containers; looking through them for cycles is in vain.
    confine(order["memory"], order["seconds"], order["most"] + 2 * 10**8)
    print(json.dumps(answer(order["source"], order["target"], order["most"])))
