"""Whether a file is one that a card knows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.entries import Entry
from napari_ssldiff.models.store.work import Work

if TYPE_CHECKING:
    from napari_ssldiff.models.foreign import Checkpoint


def known_hashes(entry: Entry) -> Iterator[tuple[str, str]]:
    """File names and hashes that a card knows: of files, and of folders as they are read."""
    for source in entry.data.get("sources") or []:
        files = source.get("files") or []
        for file in files:
            if file.get("sha256"):
                yield Path(file["name"]).name, file["sha256"]
        if len(files) > 1 and all(file.get("sha256") for file in files):
            lines = "".join(
                f"{file['sha256']}  {file['name']}\n"
                for file in sorted(files, key=lambda file: str(file["name"]))
            )
            yield "", hashlib.sha256(lines.encode()).hexdigest()


def is_known(entry: Entry, checkpoint: Checkpoint, origin: Mapping[str, Any] | None) -> bool:
    """Whether the content is one that the card names: by its hash, or by a pinned revision."""
    if origin is not None and origin.get("pinned"):
        return True
    return checkpoint.sha256 in {digest for _, digest in known_hashes(entry)}


def require_trust(entry: Entry, checkpoint: Checkpoint, trusted: bool, work: Work) -> None:
    """Ask about a file that a card does not know.

    Raises
    ------
    ModelError
        If nobody says yes.
    """
    name = checkpoint.path.name
    same = [digest for file, digest in known_hashes(entry) if file == name]
    if same:
        what = f"the card of {entry.id} knows {name} with the sha256 {same[0]}; this one differs"
    elif any(known_hashes(entry)):
        what = f"the card of {entry.id} knows other files"
    else:
        what = f"the card of {entry.id} knows no hash"
    said = f"{name} has the sha256 {checkpoint.sha256}, and {what}"
    if trusted or work.ask(f"{said}. Are you sure that it is the file you mean?"):
        return
    raise ModelError(
        f"{said}: make sure that it is the file you mean, then import with --trust-unknown; what "
        "it draws will say so"
    )
