"""What a list of models shows, and what has to be known before one is fetched. Asks no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from napari_ssldiff.models.entries import Entry, catalogue, entries_in, installed, way_to
from napari_ssldiff.models.registry import BUNDLED, problems
from napari_ssldiff.models.store.places import in_words


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
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def licence_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The licence of a card as a mapping."""
    licence = data.get("licence") or "none stated"
    return licence if isinstance(licence, Mapping) else {"name": str(licence)}


def download_size(entry: Entry) -> int | None:
    """Bytes of the first source's files, as far as the card says them."""
    for source in entry.data.get("sources") or []:
        sizes = [file.get("size") for file in source.get("files") or []]
        if sizes and all(sizes):
            return int(sum(sizes))
        break
    installed_bytes = (entry.data.get("sizes") or {}).get("installed_bytes")
    return int(installed_bytes) if installed_bytes else None


def _row(entry: Entry, state: str, size: int | None, note: str = "") -> Row:
    licence = licence_of(entry.data)
    return Row(
        entry.id, entry.kind, str(entry.data["name"]), str(licence["name"]), state,
        bool(licence.get("gated", False)), size, note,
    )  # fmt: skip


def rows() -> list[Row]:
    """All that is bundled, installed, broken or known."""
    good, broken = installed()
    wrong = problems()
    found = [_row(entry, "bundled", None) for entry in entries_in(BUNDLED)]
    for entry in good:
        why = wrong.get(entry.folder.name, "")
        found.append(_row(entry, "broken" if why else "installed", entry.size, why))
    for b in broken:
        size = sum(p.stat().st_size for p in b.path.parent.rglob("*") if p.is_file())
        found.append(Row(b.name, "?", "", "", "broken", False, size, b.why))
    here = {entry.name for entry in good}
    for entry in catalogue().values():
        if entry.id not in here:
            found.append(_row(entry, "known", download_size(entry), way_to(entry)))
    return found


def consent(entry: Entry, size: int | None = None) -> list[str]:
    """What has to be shown before a download: size, licence, gating; one line each."""
    licence = licence_of(entry.data)
    size = download_size(entry) if size is None else size
    lines = [
        f"{entry.id}: {entry.data['name']}",
        f"download: {'size not known' if size is None else in_words(size)}",
        f"licence: {licence['name']}",
    ]
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
    lines += consent(entry)[1:]
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
    for source in data.get("sources") or []:
        lines.append(f"source: {_source(source)}")
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


def _source(source: Mapping[str, Any]) -> str:
    where = source.get("repo") or source.get("url")
    at = f" at {source['revision']}" if source.get("revision") else ""
    files = ", ".join(file["name"] for file in source.get("files") or [])
    note = f" ({' '.join(source['note'].split())})" if source.get("note") else ""
    return f"{source['kind']} {where}{at}: {files}{note}"
