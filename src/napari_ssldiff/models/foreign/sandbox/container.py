"""Writing safetensors one storage at a time.

The format is a header's length (64 bits, little endian), the header (JSON: type, shape and bytes
of each tensor) and the bytes. The library's writer wants all tensors in memory; this one holds one
storage at most, and mostly a block of it.
"""

from __future__ import annotations

import itertools
import json
from array import array
from typing import BinaryIO, Literal

from .archive import Storages
from .records import Refused
from .state_dict import View, shown

_CODES: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
#: The library's own limit on a header.
LONGEST_HEADER = 100_000_000


def write(target: str, views: dict[str, View], storages: Storages, most: int) -> None:
    """Copy tensors out of their storages into one safetensors file.

    Parameters
    ----------
    target
        The file; it must not exist.
    views
        The tensors by name.
    storages
        Where their bytes lie.
    most
        Bytes that all tensors together, and each storage, may have.
    """
    total = sum(view.nbytes for view in views.values())
    largest = max(view.storage_bytes for view in views.values())
    if max(total, largest) > most:
        raise Refused(
            f"its tensors claim {max(total, largest):,} bytes, more than the {most:,} that a file "
            "of its size may hold (a zip bomb?); save it again as safetensors"
        )
    # The largest elements come first, so that every tensor lies on a multiple of its element.
    order = sorted(views, key=lambda name: (-views[name].itemsize, name))
    header: dict[str, object] = {}
    starts: dict[str, int] = {}
    end = 0
    for name in order:
        view = views[name]
        starts[name], end = end, end + view.nbytes
        span = [starts[name], end]
        header[name] = {"dtype": view.code, "shape": list(view.size), "data_offsets": span}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise Refused("its tensors' names and shapes take more than 100 MB")

    sharing: dict[str, list[str]] = {}
    for name in order:
        if views[name].nbytes:
            sharing.setdefault(views[name].storage, []).append(name)
    with open(target, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for key, names in sharing.items():
            here = [(views[name], 8 + len(text) + starts[name]) for name in names]
            try:
                _copy(file, key, here, storages)
            except Refused as fault:
                raise Refused(f"{shown(names[0])!r}: {fault}") from None


def _copy(file: BinaryIO, key: str, here: list[tuple[View, int]], storages: Storages) -> None:
    """Copy all views of one storage to their places."""
    view, place = here[0]
    if storages.size(key) != view.storage_bytes:
        raise Refused(
            f"its storage has {storages.size(key):,} bytes instead of {view.storage_bytes:,}: "
            "the file is damaged"
        )
    whole = view.nbytes == view.storage_bytes and view.contiguous and not view.offset
    if whole and len(here) == 1 and not storages.big_endian:
        file.seek(place)
        done = sum(file.write(block) for block in storages.chunks(key))
        if done != view.nbytes:
            raise Refused("it ends too early: the file is truncated; fetch it again")
        return
    raw = bytearray(view.storage_bytes)
    done = 0
    for block in storages.chunks(key):
        raw[done : done + len(block)] = block
        done += len(block)
    if not done == len(raw) == view.storage_bytes:
        raise Refused("it ends too early: the file is truncated; fetch it again")
    for view, place in here:
        file.seek(place)
        file.write(gathered(raw, view, storages.big_endian))


def gathered(raw: bytearray, view: View, big_endian: bool = False) -> memoryview:
    """The elements of a view in order, as little-endian bytes."""
    width = view.itemsize
    code = _CODES[width]
    source = memoryview(raw)[: len(raw) // width * width].cast(code)
    axes = list(zip(view.size, view.stride, view.canonical, strict=True))
    if view.contiguous:
        out = source[view.offset : view.offset + view.nbytes // width].cast("B")
    else:
        out = memoryview(bytearray(view.nbytes))
        target = out.cast(code)
        # One slice along the longest axis for every place on the others.
        axes.sort()
        n, step, stride = axes.pop()
        for place in itertools.product(*(range(axis[0]) for axis in axes)):
            start = view.offset + sum(i * axis[1] for i, axis in zip(place, axes, strict=True))
            to = sum(i * axis[2] for i, axis in zip(place, axes, strict=True))
            if step:
                line = source[start : start + (n - 1) * step + 1 : step]
            else:
                line = memoryview(bytes(source[start : start + 1]) * n).cast(code)
            target[to : to + (n - 1) * stride + 1 : stride] = line
    if big_endian and width > 1:
        part = 4 if view.code == "C64" else width
        swapped = array(_CODES[part], out.tobytes())
        swapped.byteswap()
        out = memoryview(swapped).cast("B")
    return out
