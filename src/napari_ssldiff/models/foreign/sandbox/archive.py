"""The two forms of ``torch.save``: a zip archive, and the bare pickles of before PyTorch 1.6."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from .machine import Machine
from .records import Dict, Refused, Storage

#: Bytes of a pickle stream (tensors lie beside it); a large checkpoint's has some 10⁵.
LONGEST_PICKLE = 64 * 2**20
CHUNK = 2**20
#: How a legacy file begins: ``torch.serialization.MAGIC_NUMBER`` and ``PROTOCOL_VERSION``.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Storages(Protocol):
    """The blocks of bytes of an archive."""

    big_endian: bool

    def size(self, key: str) -> int:
        """Bytes of a storage."""

    def chunks(self, key: str) -> Iterator[bytes]:
        """A storage's bytes in pieces; a file that is damaged there raises ``Refused``."""


def storage(identity: object) -> Storage:
    """The record of a persistent id: ``("storage", type, key, location, numel)``.

    A legacy id has a sixth item, which is ``None``.
    """
    if type(identity) is tuple and len(identity) in (5, 6) and identity[0] == "storage":
        _, kind, key, _, numel, *view = identity
        dtype = getattr(kind, "dtype", None)
        sane = type(key) is str and type(numel) is int and numel >= 0 and not any(view)
        if dtype is not None and sane:
            return Storage(key, dtype, numel)
    raise Refused("its pickle refers to something other than a storage: the file is damaged")


def opened(path: str, machine: Machine) -> tuple[object, Storages]:
    """The object that a ``torch.save`` file describes, and its storages."""
    file = open(path, "rb")  # noqa: SIM115 - read until the child ends
    if file.read(4) == b"PK\x03\x04":
        archive = ZipArchive(file)
        return machine.run(io.BytesIO(archive.pickle())), archive
    file.seek(0)
    return legacy(file, machine)


class ZipArchive:
    """``…/data.pkl``, ``…/data/0``, ``…/data/1`` … and perhaps ``…/byteorder``."""

    def __init__(self, file: BinaryIO) -> None:
        self.zip = zipfile.ZipFile(file)
        self.entries = {entry.filename: entry for entry in self.zip.infolist()}
        if len(self.entries) != len(self.zip.infolist()):
            raise Refused("two entries of its zip archive have one name")
        pickles = [name for name in self.entries if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise Refused("it is a zip archive, but none that torch.save makes (no data.pkl)")
        self.root = pickles[0].removesuffix("data.pkl")
        if f"{self.root}constants.pkl" in self.entries:
            raise Refused("it is a TorchScript program; save its state_dict() as safetensors")
        order = self.root + "byteorder"
        self.big_endian = order in self.entries and self._whole(order, 16) == b"big"

    def pickle(self) -> bytes:
        """The pickle stream."""
        return self._whole(self.root + "data.pkl", LONGEST_PICKLE)

    def size(self, key: str) -> int:
        return self._entry(self._name(key)).file_size

    def chunks(self, key: str) -> Iterator[bytes]:
        return self._chunks(self._name(key))

    def _name(self, key: str) -> str:
        return f"{self.root}data/{key}"

    def _entry(self, name: str) -> zipfile.ZipInfo:
        if name not in self.entries:
            raise Refused(f"{ascii(name)[1:-1]} is missing in it: the file is damaged")
        return self.entries[name]

    def _chunks(self, name: str) -> Iterator[bytes]:
        entry = self._entry(name)
        if entry.flag_bits & 1 or entry.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise Refused("it is encrypted or compressed in an odd way; save it again")
        with self.zip.open(entry) as part:
            while block := part.read(CHUNK):
                yield block

    def _whole(self, name: str, most: int) -> bytes:
        if self._entry(name).file_size > most:
            raise Refused(f"{ascii(name)[1:-1]} in it is larger than {most:,} bytes")
        return b"".join(self._chunks(name))


class _Bounded:
    """A stream of which no more than a number of bytes can be read."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self.file, self.left = file, most

    def _count(self, block: bytes) -> bytes:
        self.left -= len(block)
        if not self.left:
            raise Refused(f"its pickle is longer than {LONGEST_PICKLE:,} bytes")
        return block

    def read(self, size: int, /) -> bytes:
        return self._count(self.file.read(min(size, self.left)))

    def readline(self) -> bytes:
        return self._count(self.file.readline(self.left))


class LegacyStorages:
    """Raw blocks at the end of a legacy file."""

    def __init__(self, file: BinaryIO, blocks: dict[str, tuple[int, int]], big_endian: bool):
        self.file, self.blocks, self.big_endian = file, blocks, big_endian

    def size(self, key: str) -> int:
        if key not in self.blocks:
            raise Refused(f"storage {key!a} is missing in it: the file is damaged")
        return self.blocks[key][1]

    def chunks(self, key: str) -> Iterator[bytes]:
        start, length = self.blocks[key]
        self.file.seek(start)
        for done in range(0, length, CHUNK):
            yield self.file.read(min(CHUNK, length - done))


def legacy(file: BinaryIO, machine: Machine) -> tuple[object, Storages]:
    """Five pickles: magic number, protocol, system, object, storage keys; then the storages.

    Each storage is its number of elements (64 bits) and its bytes.
    """
    stream = _Bounded(file, LONGEST_PICKLE)
    if machine.run(stream) != MAGIC:
        raise Refused("it is a pickle, but none that torch.save makes")
    if machine.run(stream) != PROTOCOL:
        raise Refused("it is of a version of torch.save that is not known")
    system = machine.run(stream)
    little = system.get("little_endian", True) if isinstance(system, Dict) else True
    order = "little" if little else "big"

    described: dict[str, Storage] = {}
    inner = machine.persistent

    def remembered(identity: object) -> object:
        record = inner(identity)
        if isinstance(record, Storage):
            described[record.key] = record
        return record

    machine.persistent = remembered
    root = machine.run(stream)
    keys = machine.run(stream)

    blocks: dict[str, tuple[int, int]] = {}
    end, position = os.fstat(file.fileno()).st_size, file.tell()
    for key in keys if isinstance(keys, list) else []:
        file.seek(position)
        head = file.read(8)
        record = described.get(key) if type(key) is str else None
        if record is None or int.from_bytes(head, order) != record.numel:  # type: ignore[arg-type]
            raise Refused(f"storage {ascii(key)[:40]} in it is not as described: truncated?")
        length = record.numel * record.dtype.itemsize
        blocks[record.key] = position + 8, length
        position += 8 + length
        if position > end:
            raise Refused("it ends too early: the file is truncated; fetch it again")
    return root, LegacyStorages(file, blocks, not little)
