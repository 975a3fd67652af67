"""Outputs that appear whole or not at all, and say in one line why they cannot be written."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_ssldiff.errors import OutputError

_active: set[Path] = set()
_active_lock = threading.Lock()


def check_output(path: str | Path, overwrite: bool = False, suffix: str = ".zarr") -> Path:
    """The absolute output path, checked before the long work begins.

    Parameters
    ----------
    path
        Where the output will be.
    overwrite
        Whether an existing output may be replaced.
    suffix
        Required ending, ``".zarr"`` for OME-Zarr (``.ome.zarr`` included) or ``".png"``.

    Raises
    ------
    OutputError
        If the ending is wrong, the output exists, or its folder is missing or not writable.
    """
    if "://" in str(path):
        raise OutputError(f"cannot write {path}: only local files can be written")
    target = Path(path).expanduser().absolute()
    if target.suffix.lower() != suffix:
        wanted = ".ome.zarr" if suffix == ".zarr" else suffix
        raise OutputError(f"cannot write {path}: name an output that ends in {wanted}")
    if os.path.lexists(target):
        if not overwrite:
            raise OutputError(
                f"{path} exists already: choose another name, remove it, or allow overwriting"
            )
        if not _replaceable(target, suffix):
            raise OutputError(
                f"{path} exists and is no {suffix} output: it will not be overwritten, "
                "choose another name"
            )
    parent = target.parent
    if not parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {parent} does not exist")
    try:
        # Permission bits do not tell (root, read-only mounts, quotas); an attempt does.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise output_error(path, error) from error
    return target


def _replaceable(target: Path, suffix: str) -> bool:
    """Whether an existing thing is of the kind that would replace it."""
    if suffix != ".zarr":
        return target.is_file()
    if target.is_symlink() or not target.is_dir():
        return False
    marks = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
    return not any(target.iterdir()) or any((target / mark).exists() for mark in marks)


def output_error(path: str | Path, error: OSError) -> OutputError:
    """One line about ``error``, met while writing ``path``; keeps the error number."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = f"the disk is full while writing {path}: free some space or choose another folder"
    else:
        reason = error.strerror or str(error) or type(error).__name__
        text = f"cannot write {path}: {reason}; choose another folder"
    result = OutputError(text)
    result.errno = error.errno
    return result


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn every :class:`OSError` inside into an :class:`OutputError` that names ``path``."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise output_error(path, error) from error


@contextmanager
def whole_output(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary sibling that becomes ``path`` if the block ends well and vanishes if not.

    The caller makes a file or a folder at the yielded place, ``.<name>.partial-<pid>``.

    Raises
    ------
    OutputError
        If this process is writing ``path`` already, or the last step fails.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with _active_lock:
        if partial in _active:
            raise OutputError(f"{path} is being written already: wait for it or name another")
        _active.add(partial)
    try:
        remove(partial)  # left by a process of the same number that was killed
        yield partial
        with writing(path):
            _publish(partial, path, overwrite)
    finally:
        remove(partial)
        with _active_lock:
            _active.discard(partial)


def _publish(partial: Path, path: Path, overwrite: bool) -> None:
    """Rename ``partial`` to ``path``; what stood there goes only once that has worked."""
    if not os.path.lexists(path):
        os.rename(partial, path)
        return
    if not overwrite:
        raise OutputError(f"{path} has appeared meanwhile: choose another name")
    if not partial.is_dir():
        os.replace(partial, path)
        return
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    remove(old)
    os.rename(path, old)
    try:
        os.rename(partial, path)
    except OSError:
        os.rename(old, path)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Delete a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
