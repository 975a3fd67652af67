"""Folders of the store: room on the disk, work aside, installing whole or not at all, removing."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_ssldiff.errors import ModelError, OutputError
from napari_ssldiff.models.entries import bundled, installed, models_dir

_ASIDE = ".aside-"
_STALE = 24 * 3600.0  # seconds after which work aside is somebody's who is gone
#: The file systems' own needs, and what else goes on meanwhile.
_MARGIN = 64 * 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder, which need not exist."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def in_words(size: float) -> str:
    """A number of bytes for a person."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"


def need(folder: Path, size: float, what: str) -> None:
    """Refuse what the disk has no room for.

    Raises
    ------
    OutputError
        With what is needed and what is free.
    """
    free = free_bytes(folder)
    if size + _MARGIN > free:
        raise OutputError(
            f"{what} needs {in_words(size + _MARGIN)}, and the disk of {folder} has "
            f"{in_words(free)} free: make room, or move the cache with NAPARI_SSLDIFF_CACHE"
        )


@contextmanager
def room(folder: Path, what: str) -> Iterator[None]:
    """Say in one line that the disk became full, or cannot be written.

    Raises
    ------
    OutputError
        In place of the system's error.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        if error.errno in _FULL or "No space left" in str(error):
            raise OutputError(
                f"the disk is full while {what}: {folder} has {in_words(free_bytes(folder))} left; "
                "make room and start again"
            ) from None
        raise OutputError(f"cannot write to {folder} while {what}: {error}") from None


@contextmanager
def aside() -> Iterator[Path]:
    """A folder on the store's disk that is gone afterwards, whatever happens."""
    folder = models_dir()
    with room(folder, "a folder for it is made"):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{_ASIDE}*"):
            if time.time() - old.stat().st_mtime > _STALE:
                shutil.rmtree(old, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def install(made: Path, name: str) -> Path:
    """Move a finished folder to its place in one step; what was there is replaced."""
    target = models_dir() / name
    with room(models_dir(), f"{name} is put in its place"):
        if target.exists():
            old = made.with_name(f"{made.name}.old")
            os.replace(target, old)
        os.replace(made, target)
    return target


def remove(name: str) -> tuple[list[str], int]:
    """Delete an installed model or component.

    Parameters
    ----------
    name
        An id, for all its versions, or ``id@version``; also the name of a folder whose card is
        broken.

    Returns
    -------
    The names of what was deleted, and the bytes that this freed.

    Raises
    ------
    ModelError
        If none is installed, or it comes with the package.
    """
    good, broken = installed()
    names = {entry.folder: (entry.id, entry.name) for entry in good}
    names |= {b.path.parent.resolve(): (b.name, b.name.partition("@")[0]) for b in broken}
    found = [folder for folder, own in names.items() if name in own or name == folder.name]
    if not found:
        if bundled(name):
            raise ModelError(f"{name} comes with the package and cannot be removed")
        have = ", ".join(sorted(own[0] for own in names.values())) or "nothing"
        raise ModelError(f"{name} is not installed, so it cannot be removed: installed is {have}")
    freed = 0
    with aside() as bin_:
        for folder in found:
            freed += sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            # Moved first: a folder that is half deleted would be a broken model.
            with room(folder.parent, f"{folder.name} is removed"):
                os.replace(folder, bin_ / folder.name)
    return [names[folder][0] for folder in found], freed
