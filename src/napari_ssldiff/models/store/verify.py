"""Whether what is installed is whole: hashes, card, shapes, numbers, and the encoder's answer."""

from __future__ import annotations

from collections.abc import Iterator

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.entries import BUNDLED, Entry, entries_in, installed, newest, read_entry
from napari_ssldiff.models.resolve import cards_of
from napari_ssldiff.models.store.work import QUIET, Work


def verify_all(work: Work = QUIET) -> dict[str, list[str]]:
    """:func:`verify` for all that is installed, and what is broken: id → problems."""
    good, broken = installed()
    found = {b.name: [b.why] for b in broken}
    return found | {entry.id: verify(entry, work) for entry in good}


def find(name: str) -> list[Entry]:
    """Installed cards with an id, all versions of it, or one; behind them their components.

    Raises
    ------
    ModelError
        If there is none, or its card is broken.
    """
    good, broken = installed()
    plain = name.partition(":")[0]
    found = [entry for entry in good if plain in (entry.id, entry.name)]
    found = found or [entry for entry in entries_in(BUNDLED) if entry.id == plain]
    for b in broken:
        if plain in (b.name, b.name.partition("@")[0]):
            raise ModelError(b.why)
    for entry in [*found]:
        found += [part for part in _components(entry) if part not in found]
    if not found:
        have = ", ".join(entry.id for entry in good) or "nothing"
        raise ModelError(f"{name} is not installed: installed is {have}")
    return found


def _components(entry: Entry) -> list[Entry]:
    """The installed components that a model is put together with."""
    if entry.kind != "model":
        return []
    try:
        used = cards_of(entry)[0].extra.get("components", {})
    except ModelError:  # verify tells of it
        return []
    found = (newest(facts["id"]) for facts in used.values())
    return [part for part in found if part is not None]


def verify(entry: Entry, work: Work = QUIET) -> list[str]:
    """What is wrong with an installed model or component, a line each; empty where all is well.

    Looked at are: the card; every file's sha256; names and shapes of all tensors against the
    modules that the card describes; that all numbers are finite; what the encoder answers to two
    pictures. Components that a model names have cards of their own, see :func:`find`.
    """
    return list(_problems(entry, work))


def _problems(entry: Entry, work: Work) -> Iterator[str]:
    from napari_ssldiff.models.store.component import card_for, own_parts
    from napari_ssldiff.models.store.shards import digest

    try:
        read_entry(entry.path)  # every field
        card = card_for(entry)
    except ModelError as error:
        yield str(error)
        return
    weights, whole = dict(entry.data.get("weights") or {}), True
    for number, (name, wanted) in enumerate(weights.items()):
        work.progress(f"{entry.id}: sha256", number, len(weights))
        path = entry.folder / name
        if not path.is_file():
            whole = False
            yield f"{path} is missing: install it again"
        elif digest(path, work) != wanted:
            whole = False
            yield f"{path} is damaged: its sha256 is not the card's; install it again"
    work.progress(f"{entry.id}: sha256", 1, 1)
    for part in own_parts(entry) if whole else ():
        work.progress(f"{entry.id}: {part}", 0, 1)
        try:
            _check_part(entry, card, part, work)
        except ModelError as error:
            yield str(error)
        work.progress(f"{entry.id}: {part}", 1, 1)


def _check_part(entry: Entry, card: ModelCard, part: str, work: Work) -> None:
    import torch

    from napari_ssldiff.models.convert.layout import check_fit
    from napari_ssldiff.models.foreign import check_finite
    from napari_ssldiff.models.foreign.tensors import MappedTensors
    from napari_ssldiff.models.load import load_encoder
    from napari_ssldiff.models.store.modules import module_of

    own = card.parts[part]
    files = [entry.folder / name for name in own["weights"] if name.endswith(".safetensors")]
    if not files:
        raise ModelError(f"the card of {entry.id} names no weights of its {part}")
    tensors = MappedTensors({"": tuple(files)})
    check_finite(tensors, check=work.check)
    if part == "encoder":
        load_encoder(card, torch.device("cpu"))  # its width, and what it answers to pictures
        return
    check_fit(module_of(card, part), tensors, f"the {part} of {entry.id}")
