"""Card files where they lie: bundled, known from the catalogue, installed. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from napari_ssldiff.cache import cache_dir
from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.card import CATALOGUE as CATALOGUE
from napari_ssldiff.models.card import read_data

#: Models that come with the package.
BUNDLED = Path(__file__).parent / "bundled"

Kind = Literal["model", "encoder", "autoencoder"]


def models_dir() -> Path:
    """Where installed models lie; it need not exist."""
    return cache_dir() / "models"


@dataclass(frozen=True)
class Entry:
    """A card file of any kind.

    Parameters
    ----------
    path
        The file.
    data
        What it holds. Do not change it.
    """

    path: Path
    data: Mapping[str, Any]

    @property
    def id(self) -> str:
        """As the card says; of installed ones with ``@version``."""
        return str(self.data["id"])

    @property
    def name(self) -> str:
        """The id without version."""
        return self.id.partition("@")[0]

    @property
    def version(self) -> str:
        """What stands behind the ``@``, or nothing."""
        return self.id.partition("@")[2]

    @property
    def kind(self) -> Kind:
        """Model or component."""
        kind: Kind = self.data.get("kind", "model")
        return kind

    @property
    def folder(self) -> Path:
        """Where the weights lie."""
        return self.path.parent.resolve()

    @property
    def order(self) -> tuple[str, int]:
        """Later is newer: the date of its import, else that of the file."""
        imported = self.data.get("imported") or {}
        return str(imported.get("date", "")), self.path.stat().st_mtime_ns

    @property
    def size(self) -> int:
        """Bytes of all files in the folder."""
        return sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())


@dataclass(frozen=True)
class Broken:
    """An installed card that cannot be used.

    Parameters
    ----------
    name
        Of its folder.
    path
        The file.
    why
        In one line.
    """

    name: str
    path: Path
    why: str


@lru_cache(maxsize=512)
def _read(path: Path, stamp: int, full: bool) -> dict[str, Any] | str:
    try:
        return read_data(path, full)
    except ModelError as error:
        return str(error)


def read_entry(path: Path, full: bool = True) -> Entry:
    """The card of a file, checked as :func:`napari_ssldiff.models.card.read_data` does.

    Raises
    ------
    ModelError
        If it is not a card.
    """
    try:
        stamp = path.stat().st_mtime_ns
    except OSError as error:
        raise ModelError(f"cannot read the model card {path}: {error.strerror}") from None
    found = _read(path, stamp, full)
    if isinstance(found, str):
        raise ModelError(found)
    return Entry(path, found)


def entries_in(folder: Path) -> list[Entry]:
    """The cards of all folders in a folder. A broken one is an error."""
    return [read_entry(path, full=False) for path in sorted(folder.glob("*/card.yaml"))]


def catalogue() -> dict[str, Entry]:
    """Cards of what is known, by id.

    They come with the package, so tests have checked them in full.
    """
    entries = [read_entry(path, full=False) for path in sorted(CATALOGUE.glob("*.yaml"))]
    return {entry.id: entry for entry in entries}


def bundled(name: str) -> bool:
    """Whether a model of that id comes with the package."""
    return (BUNDLED / name / "card.yaml").is_file()


def known(model: str) -> Entry:
    """A card of the catalogue.

    Raises
    ------
    ModelError
        If there is none.
    """
    entries = catalogue()
    name = model.partition(":")[0].partition("@")[0]
    if name not in entries:
        import difflib

        if bundled(name):
            raise ModelError(f"{name} comes with the package: there is nothing to install")
        near = difflib.get_close_matches(name, entries, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "see 'napari-ssldiff models list'"
        raise ModelError(f"no card of the catalogue has the id {name!r}: {hint}")
    return entries[name]


def installed() -> tuple[list[Entry], list[Broken]]:
    """What lies in the user's folder: what can be used, and what cannot."""
    good: list[Entry] = []
    bad: list[Broken] = []
    for path in sorted(models_dir().glob("*/card.yaml")):
        if path.parent.name.startswith("."):
            continue  # an import that did not end
        try:
            good.append(read_entry(path, full=False))
        except ModelError as error:
            bad.append(Broken(path.parent.name, path, str(error)))
    return good, bad


def newest(name: str, kind: Kind | None = None) -> Entry | None:
    """The newest installed card with an id, or the one with this id and version."""
    found = [
        entry
        for entry in installed()[0]
        if name in (entry.id, entry.name) and kind in (None, entry.kind)
    ]
    return max(found, key=lambda entry: entry.order, default=None)


def way_to(entry: Entry) -> str:
    """The command that installs what a card of the catalogue describes."""
    sources = entry.data.get("sources") or []
    if any(source.get("kind") == "hub" for source in sources):
        return f"napari-ssldiff models fetch {entry.id}"
    where = next((f" (from {s['url']})" for s in sources if s.get("url")), "")
    return f"napari-ssldiff models import {entry.id} FILE{where}"
