"""Files of weights that others made, as tensors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ssldiff.errors import ModelError, SSLDiffError
from napari_ssldiff.models.foreign.layout import Layout, lay_out
from napari_ssldiff.models.foreign.tensors import MappedTensors, nothing
from napari_ssldiff.models.foreign.unpack import unpack

if TYPE_CHECKING:
    import torch

#: How files that are often mistaken for weights begin.
_OTHERS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the weights; fetch them: git lfs pull",
    b"<": "a web page, not weights; the download went wrong, fetch it again",
    b"\x89HDF": "an HDF5 file; save the weights as safetensors",
    b"GGUF": "a GGUF file; take the safetensors of the model",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"PK\x05\x06": "an empty zip archive; fetch it again",
}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a foreign file, read safely.

    Parameters
    ----------
    path
        The original: a file or a folder.
    sha256
        Of the file. Of a folder or shards: of the lines ``<sha256>  <name>\\n`` of all files that
        were read, in the order of their names (relative, with ``/``), as ``sha256sum`` prints them.
    form
        ``"safetensors"``, ``"pickle"`` or ``"folder"``.
    tensors
        Name → tensor on the CPU, mapped into memory when it is asked for. While it is held, files
        in the scratch folder stay open; Windows cannot remove them before.
    ignored
        Globals that were replaced by placeholders, for example
        ``pytorch_lightning.callbacks.ModelCheckpoint``.
    configs
        Component → ``config.json`` of a folder; ``""`` is the folder itself.
    """

    path: Path
    sha256: str
    form: str
    tensors: Mapping[str, torch.Tensor]
    ignored: tuple[str, ...] = ()
    configs: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(
    path: Path,
    scratch: Path,
    *,
    memory: int | None = None,
    check: Callable[[], None] = nothing,
) -> Checkpoint:
    """Read a checkpoint of any common form without running anything that is in it.

    Parameters
    ----------
    path
        A safetensors file or the index of a sharded one, what ``torch.save`` wrote (zip or
        legacy), or a folder as diffusers and transformers lay them out. Names of tensors in a
        folder's component begin with ``<component>.``.
    scratch
        A folder for the safetensors made of pickles; the caller removes it.
    memory
        Bytes that the process which reads a pickle may take beyond the interpreter, see
        :func:`~napari_ssldiff.models.foreign.unpack.unpack`; there is no such limit on Windows.
    check
        Called often; what it raises ends the work.

    Returns
    -------
    Checkpoint
        Weights may still be NaN, see :func:`~napari_ssldiff.models.foreign.check_finite`.

    Raises
    ------
    ModelError
        If the file is missing, damaged, hostile or no checkpoint.
    OutputError
        If ``scratch`` cannot be written.
    """
    layout = lay_out(path)
    try:
        before = {file: _stamp(file) for file in layout.files()}
        sums = {file: _sha256(file, check) for file in before}
        ignored: set[str] = set()
        mapped: dict[str, tuple[Path, ...]] = {}
        pickled = False
        for component, files in layout.weights.items():
            ready = []
            for file in files:
                if _is_pickle(file):
                    pickled = True
                    unpacked = unpack(file, scratch, memory=memory, check=check)
                    ignored |= set(unpacked.ignored)
                    file = unpacked.path
                ready.append(file)
            mapped[f"{component}." if component else ""] = tuple(ready)
        changed = [file for file, stamp in before.items() if _stamp(file) != stamp]
    except SSLDiffError:
        raise
    except OSError as fault:
        where = fault.filename or path
        raise ModelError(f"{where} cannot be read ({fault.strerror}); check its rights") from fault
    if changed:
        raise ModelError(f"{changed[0]} changed while it was read; wait until it is complete")
    tensors = MappedTensors(mapped)
    layout.check_complete(tensors)
    form = "folder" if path.is_dir() else "pickle" if pickled else "safetensors"
    return Checkpoint(
        path, _digest(path, layout, sums), form, tensors, tuple(sorted(ignored)), layout.configs
    )


def _is_pickle(path: Path) -> bool:
    """Whether a file is of ``torch.save``; it is safetensors otherwise, or refused."""
    with path.open("rb") as file:
        head = file.read(32)
    size = path.stat().st_size
    # A safetensors file begins with the length of its header, one in 32 of which has a low byte of
    # 0x80, as pickles begin; no pickle is such a length and a brace behind it.
    length = int.from_bytes(head[:8], "little")
    headed = len(head) > 8 and head[8:9] == b"{" and length <= 100_000_000
    if headed and 8 + length <= size:
        return False
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        return True
    if headed:
        raise ModelError(f"{path} ends within its header; fetch it again")
    if not size:
        raise ModelError(f"{path} is empty; fetch it again")
    for start, what in _OTHERS.items():
        if head.lstrip().startswith(start):
            raise ModelError(f"{path} is {what}")
    raise ModelError(
        f"{path} is no checkpoint that can be read, or its beginning is damaged; take safetensors "
        "or a file of torch.save"
    )


def _stamp(path: Path) -> tuple[int, int]:
    info = os.stat(path)
    return info.st_size, info.st_mtime_ns


def _sha256(path: Path, check: Callable[[], None]) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            check()
            total.update(block)
    return total.hexdigest()


def _digest(path: Path, layout: Layout, sums: Mapping[Path, str]) -> str:
    if path in sums and len(sums) == 1:
        return sums[path]
    names = {os.path.relpath(file, layout.root).replace(os.sep, "/"): file for file in sums}
    lines = "".join(f"{sums[names[name]]}  {name}\n" for name in sorted(names))
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
