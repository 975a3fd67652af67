"""What goes to a device, and what goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from napari_ssldiff.diffusion.transfer import PINNED, to_device

CUDA = torch.device("cuda")


class Values:
    """A tensor of the host as far as a copy asks; notes how it was copied."""

    device = torch.device("cpu")

    def __init__(self, nbytes: int, pins: bool = True) -> None:
        self.nbytes, self.pins, self.copied = nbytes, pins, list[str]()

    def pin_memory(self) -> Any:
        if not self.pins:
            raise RuntimeError("CUDA error: out of memory")
        return SimpleNamespace(
            to=lambda device, non_blocking: self.copied.append(f"pinned, {non_blocking}")
        )

    def to(self, device: torch.device) -> None:
        self.copied.append("plain")


@pytest.mark.parametrize(
    ("values", "how"),
    [
        (Values(1000), "pinned, True"),
        (Values(PINNED), "pinned, True"),
        (Values(PINNED + 1), "plain"),
        (Values(0), "plain"),
        (Values(1000, pins=False), "plain"),
    ],
)
def test_small_blocks_are_pinned_and_all_are_copied_once(values: Values, how: str) -> None:
    to_device(values, CUDA)  # type: ignore[arg-type]
    assert values.copied == [how]


def test_on_the_host_nothing_is_copied() -> None:
    values = torch.zeros(3)
    assert to_device(values, torch.device("cpu")) is values


FRAGMENTS = """
import torch
from pathlib import Path
from napari_ssldiff.diffusion.memory import trim

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

torch.ones(7 * 2**20).add_(1)  # 28 MB: from now on what is smaller comes from the heap
blocks = [torch.ones(2**18) for _ in range(200)]
low = [torch.ones(2**18) for _ in range(1)]
del blocks[::2], blocks[::3]  # what is left holds the heap's end up
before = held()
trim()
print(before - held())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what is held")
def test_what_the_c_library_keeps_goes_back_to_the_system() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this C library gives back by itself")
    command = [sys.executable, "-c", FRAGMENTS]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) > 50_000  # of some 130 MB, in kB
