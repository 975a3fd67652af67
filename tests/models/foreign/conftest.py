"""Checkpoints as other programs write them, friendly and not."""

from __future__ import annotations

import struct
import sys
import types
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_ssldiff.models.foreign import Checkpoint, read_checkpoint


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def read(scratch: Path) -> Callable[..., Checkpoint]:
    """``read_checkpoint`` into the scratch folder."""
    return lambda path, **more: read_checkpoint(path, scratch, **more)


@pytest.fixture
def foreign_class(monkeypatch: pytest.MonkeyPatch) -> Callable[..., type]:
    """Make a class of a module that exists only while a file is written."""

    def make(name: str, **members: Any) -> type:
        module_name, _, class_name = name.rpartition(".")
        module = types.ModuleType(module_name)
        made = type(class_name, (), {"__module__": module_name, **members})
        setattr(module, class_name, made)
        parts = module_name.split(".")
        for end in range(1, len(parts)):
            package = ".".join(parts[:end])
            monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        monkeypatch.setitem(sys.modules, module_name, module)
        return made

    return make


@pytest.fixture
def write_zip(tmp_path: Path) -> Callable[..., Path]:
    """Write an archive with a given pickle stream and given storages, as ``torch.save`` lays it."""

    def write(
        pickle: bytes,
        storages: Mapping[str, bytes] | None = None,
        compression: int = zipfile.ZIP_STORED,
    ) -> Path:
        path = tmp_path / "made.ckpt"
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("made/data.pkl", pickle)
            for key, block in (storages or {}).items():
                archive.writestr(f"made/data/{key}", block)
        return path

    return write


def _number(value: int) -> bytes:
    block = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(block)]) + block


def _text(value: str) -> bytes:
    block = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(block)) + block


@pytest.fixture
def tensor_pickle() -> Callable[..., bytes]:
    """The pickle of ``{name: tensor}`` for one tensor whose numbers may be anything."""

    def make(
        size: tuple[int, ...] = (4,),
        stride: tuple[int, ...] = (1,),
        offset: int = 0,
        numel: int = 4,
        kind: str = "FloatStorage",
        key: str = "0",
        name: str = "weight",
    ) -> bytes:
        identity = b"(" + _text("storage") + f"ctorch\n{kind}\n".encode() + _text(key)
        identity += _text("cpu") + _number(numel) + b"tQ"
        numbers = [b"(" + b"".join(map(_number, row)) + b"t" for row in (size, stride)]
        tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + _number(offset)
        tensor += numbers[0] + numbers[1] + b"\x89ccollections\nOrderedDict\n)RtR"
        return b"\x80\x02}" + _text(name) + tensor + b"s."

    return make


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """A small state dict of every plain type, with views that share storages."""
    torch.manual_seed(3)
    base = torch.randn(6, 8, 3, 3)
    return {
        "conv.weight": base,
        "conv.part": base[2:5, ::2],
        "turned": torch.randn(5, 7).T,
        "turned.whole": torch.randn(4, 3, 2).permute(2, 0, 1),
        "channels_last": torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last),
        "expanded": torch.randn(1, 3).expand(5, 3),
        "tied": base,
        "none": torch.empty(0, 4),
        "scalar": torch.tensor(2.5),
        "offset": torch.arange(20)[7:],
        "half": torch.randn(9).half(),
        "bf16": torch.randn(3, 5).bfloat16().T,
        "double": torch.randn(3, dtype=torch.float64),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "i8": torch.arange(-3, 4, dtype=torch.int8),
        "i16": torch.arange(4, dtype=torch.int16),
        "i32": torch.arange(4, dtype=torch.int32),
        "flags": torch.tensor([True, False, True]),
        "bias": torch.nn.Parameter(torch.randn(7)),
    }
