"""What a list of models shows, and what has to be known before one is fetched. Asks no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from napari_ssldiff.models import entries
from napari_ssldiff.models.entries import (
    BUNDLED,
    Entry,
    catalogue,
    entries_in,
    installed,
    way_to,
)
from napari_ssldiff.models.registry import problems
from napari_ssldiff.models.store.places import in_words
from napari_ssldiff.models.store.sizes import Amount, download_amount, source_amount


@dataclass(frozen=True)
class Row:
    """A line of the list.

    Parameters
    ----------
    id
        Of installed ones with version.
    kind
        ``"model"``, ``"encoder"`` or ``"autoencoder"``.
    name, licence
        In words.
    state
        ``"bundled"``, ``"installed"``, ``"known"`` or ``"broken"``.
    gated
        Whether its authors have to let one in first.
    size
        Bytes on this disk, or those of the download; ``None`` where nobody has said.
    approximate
        Whether they are rounded, or counted from the parameters.
    note
        What is wrong, or how to get it.
    """

    id: str
    kind: str
    name: str
    licence: str
    state: str
    gated: bool
    size: int | None
    approximate: bool = False
    note: str = ""

    @property
    def size_text(self) -> str:
        """``"704 MB"``, ``"~2.43 GB"``, or nothing."""
        if self.size is None:
            return ""
        return f"{'~' if self.approximate else ''}{in_words(self.size)}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def licence_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The licence of a card as a mapping."""
    licence = data.get("licence") or "none stated"
    return licence if isinstance(licence, Mapping) else {"name": str(licence)}


def _row(entry: Entry, state: str, amount: Amount | None, note: str = "") -> Row:
    licence = licence_of(entry.data)
    return Row(
        entry.id, entry.kind, str(entry.data["name"]), str(licence["name"]), state,
        bool(licence.get("gated", False)), None if amount is None else amount.size,
        amount is not None and not amount.exact, note,
    )  # fmt: skip


def _here(entry: Entry) -> Amount:
    """What a card's weights take on this disk; bundled ones share files."""
    if _bundled(entry):
        paths = [entry.folder / name for name in entry.data.get("weights") or {}]
        return Amount(sum(path.stat().st_size for path in paths if path.is_file()))
    return Amount(entry.size)


def _bundled(entry: Entry) -> bool:
    return entry.folder.parent == BUNDLED.resolve()


def _known(entry: Entry) -> bool:
    return entry.folder == entries.CATALOGUE.resolve()


def rows() -> list[Row]:
    """All that is bundled, installed, broken or known."""
    good, broken = installed()
    wrong = problems()
    found = [_row(entry, "bundled", _here(entry)) for entry in entries_in(BUNDLED)]
    for entry in good:
        why = wrong.get(entry.folder.name, "")
        found.append(_row(entry, "broken" if why else "installed", _here(entry), why))
    for b in broken:
        size = sum(p.stat().st_size for p in b.path.parent.rglob("*") if p.is_file())
        found.append(Row(b.name, "?", "", "", "broken", False, size, note=b.why))
    here = {entry.name for entry in good}
    for entry in catalogue().values():
        if entry.id not in here:
            found.append(_row(entry, "known", download_amount(entry), way_to(entry)))
    return found


def terms(entry: Entry) -> list[str]:
    """Licence and gating of a card, one line each."""
    licence = licence_of(entry.data)
    lines = [f"licence: {licence['name']}"]
    if licence.get("terms"):
        lines.append(f"terms: {' '.join(str(licence['terms']).split())}")
    if licence.get("url"):
        lines.append(f"read them at: {licence['url']}")
    use = {True: "allowed", False: "not allowed"}.get(licence.get("commercial", "unknown"))
    lines.append(f"commercial use: {use or 'not known'}")
    if licence.get("gated"):
        where = licence.get("gate_url") or "its page"
        lines.append(f"gated: its authors have to let you in first, at {where}")
    else:
        lines.append("gated: no")
    return lines


def consent(entry: Entry, amount: Amount | None = None, number: int = 1) -> list[str]:
    """What has to be shown before a download: size, source, licence, gating; one line each.

    Parameters
    ----------
    amount
        Bytes to fetch, where somebody knows better than the card.
    number
        Of the source, from 1.
    """
    amount, sources = amount or download_amount(entry, number), entry.data.get("sources") or []
    lines = [
        f"{entry.id}: {entry.data['name']}",
        f"download: {'size not known' if amount is None else amount.told}",
    ]
    if len(sources) > 1 and 0 < number <= len(sources):
        lines.append(f"from: {_place(sources[number - 1])} (source {number} of {len(sources)})")
    return lines + terms(entry)


def card_of_row(row: Row) -> Entry | None:
    """The card of a row; ``None`` where it is broken."""
    good = [*entries_in(BUNDLED), *installed()[0], *catalogue().values()]
    return next((entry for entry in good if entry.id == row.id), None)


def lacking(entry: Entry) -> list[str]:
    """Components that an installed model names and that are not installed, with the way to each."""
    from napari_ssldiff.models.resolve import cards_of

    if entry.kind != "model":
        return []
    parts = cards_of(entry)[0].parts
    found = (parts[name].get("absent") for name in ("autoencoder", "encoder"))
    return [str(why) for why in found if why]


def explain(entry: Entry, state: str) -> list[str]:
    """All of a card in plain words."""
    data = entry.data
    lines = [f"{entry.id}: {data['name']}", str(data["description"]), f"state: {state}"]
    if _known(entry):
        amount = download_amount(entry)
        lines.append(f"download: {'size not known' if amount is None else amount.told}")
    else:
        lines.append(f"on this disk: {_here(entry).short}")
    lines += terms(entry)
    for text in (data.get("citation") and _list(data["citation"])) or ():
        lines.append(f"cite: {' '.join(text.split())}")
    if entry.kind == "model":
        unit = {"micrometer": "µm", "meter": "m"}.get(str(data["unit"]), data["unit"])
        lines.append(
            f"pixels: {data['resolution']:g} {unit}; windows of {data['window']} pixels, "
            f"one embedding for {data['cell']} × {data['cell']}"
        )
        low_high = data.get("guidance_range")
        span = f", useful from {low_high[0]:g} to {low_high[1]:g}" if low_high else ""
        lines.append(f"guidance: {data['guidance']:g}{span}")
    for part in ("encoder", "autoencoder", "denoiser", "conditioning", "translation"):
        if isinstance(data.get(part), Mapping):
            lines.append(f"{part}: {_part(data[part])}")
    if variants := data.get("variants"):
        lines.append("variants: " + ", ".join(f"{entry.id}:{name}" for name in variants))
    for name, number in (data.get("sizes") or {}).items():
        lines.append(f"{name.replace('_', ' ')}: {number:,}")
    sources = data.get("sources") or []
    for number, source in enumerate(sources, 1):
        lines.append(f"source{f' {number}' if len(sources) > 1 else ''}: {_source(source)}")
    if imported := data.get("imported"):
        known = "known to the card" if imported["hash_known"] else "NOT known to the card"
        lines.append(f"imported: {imported['file']} on {imported['date']}")
        lines.append(f"sha256: {imported['sha256']} ({known})")
    for key in ("data", "published", "limits", "intended_use", "homepage"):
        for text in _list(data.get(key)):
            lines.append(f"{key.replace('_', ' ')}: {' '.join(str(text).split())}")
    for key, word in (("verified", "checked"), ("open_questions", "open")):
        for text in _list(data.get(key)):
            lines.append(f"{word}: {' '.join(str(text).split())}")
    return lines


def _list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _part(part: Mapping[str, Any]) -> str:
    if "ref" in part:
        return f"the component {part['ref']}"
    if "blocks" in part:
        return f"embeddings of {part['from']} as those of {part['to']}, in {part['steps']} steps"
    what = part.get("name") or part.get("class") or part.get("kind") or "grid"
    library = f" of {part['library']}" if "library" in part else ""
    null = f"; no condition is {part['null_condition']}" if "null_condition" in part else ""
    return f"{what}{library}{null}"


def _place(source: Mapping[str, Any]) -> str:
    where = source.get("repo") or source.get("url")
    at = f" at {source['revision']}" if source.get("revision") else ""
    return f"{source['kind']} {where}{at}"


def _source(source: Mapping[str, Any]) -> str:
    files = ", ".join(file["name"] for file in source.get("files") or [])
    amount = source_amount(source)
    size = "" if amount is None else f"; {amount.told}"
    note = f" ({' '.join(source['note'].split())})" if source.get("note") else ""
    return f"{_place(source)}: {files}{size}{note}"


def source_names(entry: Entry) -> dict[int, str]:
    """The sources that a program can fetch: their numbers, from 1, and where they are."""
    names = {}
    for number, source in enumerate(entry.data.get("sources") or [], 1):
        if source["kind"] == "hub":
            amount = source_amount(source)
            size = "" if amount is None else f" ({amount.short})"
            names[number] = f"{source['repo']}{size}"
    return names
