"""From a card of the catalogue to an installed model, over the hub."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.entries import Entry, known, newest
from napari_ssldiff.models.store.facts import licence_of
from napari_ssldiff.models.store.hub import fetch_source, source_commit, source_size
from napari_ssldiff.models.store.sizes import Amount, download_amount
from napari_ssldiff.models.store.work import QUIET, Work

_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")


def fetch(
    model: str,
    *,
    accept_licence: bool,
    trust_unknown: bool = False,
    source: int | None = None,
    work: Work = QUIET,
) -> Entry:
    """Download a model or a component and install it. What is installed already is not fetched.

    Parameters
    ----------
    model
        An id of the catalogue.
    accept_licence
        Whether the user has seen size, licence and gating, and agrees.
    trust_unknown
        Whether to take files of which the card knows neither a revision nor a hash.
    source
        Which of the card's sources, from 1; ``None`` for the first that a program can fetch.
    work
        Whom to tell and to ask.

    Returns
    -------
    The installed card.

    Raises
    ------
    ModelError
        If it is unknown, cannot be fetched by a program, its terms are not accepted, or something
        is wrong with what came.
    OutputError
        If the disk is full; what came is kept, and a later call goes on.
    """
    from napari_ssldiff.models.store.importing import import_model

    entry = known(model)
    chosen = fetchable(entry, source)
    if not accept_licence:
        licence = licence_of(entry.data)
        gate = f"; it is gated, see {licence.get('gate_url')}" if licence.get("gated") else ""
        raise ModelError(
            f"{entry.id} is under the licence {licence['name']!r}, which has to be accepted first: "
            f"read 'napari-ssldiff models show {entry.id}', then fetch with --accept-licence{gate}"
        )
    pinned = str(chosen.get("revision") or "")
    pinned = pinned if _COMMIT.fullmatch(pinned) else ""  # branches and tags move
    if pinned and (here := newest(f"{entry.id}@{pinned[:12]}", entry.kind)):
        return here
    if here := newest(f"{entry.id}@{source_commit(chosen)[:12]}", entry.kind):
        return here
    got = fetch_source(chosen, work)
    found = import_model(
        entry.id,
        what_to_read(got.folder, chosen),
        trust_unknown=trust_unknown,
        origin={"repo": chosen["repo"], "revision": got.commit, "pinned": bool(pinned)},
        work=work,
    )
    shutil.rmtree(got.folder, ignore_errors=True)
    return found


def fetchable(entry: Entry, number: int | None = None) -> Mapping[str, Any]:
    """A source of a card, counted from 1, or the first that a program can fetch.

    Raises
    ------
    ModelError
        If there is none; with the link and the command for what was downloaded by hand.
    """
    sources = entry.data.get("sources") or []
    if not sources:
        raise ModelError(
            f"the card of {entry.id} names no source: import a file that you have with "
            f"'napari-ssldiff models import {entry.id} FILE'"
        )
    if number is not None and not 1 <= number <= len(sources):
        have = "one source" if len(sources) == 1 else f"the sources 1 to {len(sources)}"
        raise ModelError(
            f"{entry.id} has no source {number}: it has {have}, see "
            f"'napari-ssldiff models show {entry.id}'"
        )
    wanted = sources if number is None else [sources[number - 1]]
    for source in wanted:
        if source["kind"] == "hub":
            return dict(source)
    file = next((f["name"] for f in wanted[0].get("files") or []), "FILE")
    raise ModelError(
        f"{entry.id} cannot be fetched by a program: download it from {wanted[0]['url']} in a "
        f"browser, then 'napari-ssldiff models import {entry.id} {Path(file).name}'"
    )


def number_of(entry: Entry, source: int | None) -> int:
    """The number, from 1, of the source that :func:`fetch` takes.

    Raises
    ------
    ModelError
        As :func:`fetchable`.
    """
    chosen = fetchable(entry, source)
    return source or [dict(each) for each in entry.data["sources"]].index(dict(chosen)) + 1


def what_to_read(folder: Path, source: Mapping[str, Any]) -> Path:
    """What a source's files are to the reader: one file of weights, or the folder."""
    names = [Path(file["name"]) for file in source["files"]]
    weights = [name for name in names if name.suffix in _WEIGHTS]
    configured = {name.parent for name in names if name.name == "config.json"}
    if len(weights) == 1 and weights[0].parent not in configured:
        return folder / weights[0]
    return folder


def size_of(entry: Entry, source: int | None = None) -> Amount | None:
    """How large a download is: as the card says exactly, as the hub has it, or about; ``None``
    where nobody can tell.

    Raises
    ------
    ModelError
        If no program can fetch it.
    """
    chosen, said = fetchable(entry, source), download_amount(entry, number_of(entry, source))
    if said is None or not said.exact:
        with suppress(ModelError):  # no network, or gated: the download itself says so
            return Amount(source_size(chosen))
    return said
