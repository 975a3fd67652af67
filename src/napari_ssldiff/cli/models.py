"""``napari-ssldiff models``: list, show, card, fetch, import, verify, remove."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ssldiff.cli.deliver import Meter, say
from napari_ssldiff.errors import InputError, ModelError

if TYPE_CHECKING:
    from napari_ssldiff.models.entries import Entry
    from napari_ssldiff.models.store.work import Work


def add_parser(commands: Any) -> None:
    """The grammar of the command."""
    parser = commands.add_parser("models", help="list, fetch, import, check and remove models")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="what is installed or known; asks no network")
    listing.add_argument("--json", action="store_true")

    show = actions.add_parser("show", help="all of a card, in plain words")
    show.add_argument("id", metavar="ID", nargs="?")
    show.add_argument(
        "--template", nargs="?", const="model", choices=("model", "encoder"),
        help="a card of your own to fill in",
    )  # fmt: skip

    card = actions.add_parser("card", help="a card to complete, from a library's configuration")
    card.add_argument("library", choices=("timm", "transformers", "diffusers"))
    card.add_argument("name", metavar="NAME", help="an architecture of timm, or a folder")
    card.add_argument("--folder", type=Path, help="where timm's config.json lies")

    fetch = actions.add_parser("fetch", help="download a model and install it")
    fetch.add_argument("id", metavar="ID")
    fetch.add_argument(
        "--accept-licence", action="store_true", help="you have read its terms, and agree"
    )
    fetch.add_argument(
        "--accept-licence-of", metavar="ID", action="append", default=[],
        help="the same for an encoder or autoencoder that it names; may be repeated",
    )  # fmt: skip
    fetch.add_argument(
        "--only", action="store_true", help="without the encoder and autoencoder that it names"
    )
    fetch.add_argument(
        "--source", type=int, metavar="N", help="which of the card's sources, as 'show' counts them"
    )
    trust = "take a file whose hash the card does not know; what it draws will say so"
    fetch.add_argument("--trust-unknown", action="store_true", help=trust)

    importing = actions.add_parser("import", help="install a checkpoint that lies on this disk")
    importing.add_argument(
        "what", metavar="[ID] PATH", nargs="+",
        help="id of the card and a file or folder; without an id, the card that fits",
    )  # fmt: skip
    importing.add_argument("--card", type=Path, metavar="FILE.yaml", help="a card of your own")
    importing.add_argument("--trust-unknown", action="store_true", help=trust)

    verify = actions.add_parser("verify", help="check hashes, shapes and numbers")
    verify.add_argument("id", metavar="ID", nargs="?", help="default: all that is installed")

    remove = actions.add_parser("remove", help="delete an installed model")
    remove.add_argument("id", metavar="ID", help="id, for all versions, or id@version")


def run(arguments: argparse.Namespace) -> None:
    """Run an action of ``models``."""
    actions = {
        "list": _list, "show": _show, "fetch": _fetch, "import": _import, "verify": _verify,
        "remove": _remove, "card": _card,
    }  # fmt: skip
    actions[arguments.action](arguments)


def _work() -> Work:
    from napari_ssldiff.models.store.work import Work

    return Work(progress=Meter(), ask=_ask)


def _ask(question: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    say(question)
    return input("yes or no? ").strip().lower() in ("y", "yes")


def _list(arguments: argparse.Namespace) -> None:
    from napari_ssldiff.models.entries import models_dir
    from napari_ssldiff.models.store.facts import rows
    from napari_ssldiff.models.store.places import in_words

    found = rows()
    used = sum(row.size or 0 for row in found if row.state in ("installed", "broken"))
    if arguments.json:
        folder = str(models_dir())
        text = {"models": [row.to_dict() for row in found], "folder": folder, "bytes": used}
        print(json.dumps(text, indent=2))
        return
    wide = max(len(row.id) for row in found)
    print(f"{'id':<{wide}}  {'kind':<11}  {'state':<9}  {'size':>8}  {'gated':<5}  licence")
    for row in found:
        gated = "yes" if row.gated else "no"
        line = f"{row.id:<{wide}}  {row.kind:<11}  {row.state:<9}  {row.size_text:>8}  {gated:<5}"
        print(f"{line}  {row.licence}")
    for row in found:
        if row.state == "broken":
            say(f"broken: {row.id}: {row.note}")
    if any(row.approximate for row in found):
        print("~ about: as published, or counted from the parameters")
    print(f"installed in {models_dir()}: {in_words(used)}")


def _show(arguments: argparse.Namespace) -> None:
    from napari_ssldiff.models.store.facts import explain

    if arguments.template:
        from napari_ssldiff.models import entries

        folder = Path(entries.__file__).parent / "templates"
        text = (folder / f"{arguments.template}.yaml").read_text(encoding="utf-8")
        print(text, end="")
        return
    if not arguments.id:
        raise InputError("name a model, or ask for --template")
    entry, state = _entry(arguments.id)
    print("\n".join(explain(entry, state)))


def _card(arguments: argparse.Namespace) -> None:
    import yaml

    from napari_ssldiff.models.store.describe import describe

    card = describe(arguments.library, arguments.name, arguments.folder)
    print(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=100), end="")


def _entry(name: str) -> tuple[Entry, str]:
    """A card by id, installed ones first, and its state in words."""
    from napari_ssldiff.models.entries import BUNDLED, catalogue, known, way_to
    from napari_ssldiff.models.store.verify import find

    plain = name.partition(":")[0]
    try:
        own = [entry for entry in find(plain) if plain in (entry.id, entry.name)]
        found = max(own, key=lambda entry: entry.order)
    except ModelError:
        if plain.partition("@")[0] not in catalogue() and "@" in plain:
            raise
        entry = known(plain)
        return entry, f"not installed: {way_to(entry)}"
    bundled = found.folder.parent == BUNDLED.resolve()
    return found, "comes with the package" if bundled else f"installed in {found.folder}"


def _fetch(arguments: argparse.Namespace) -> None:
    from napari_ssldiff.models.entries import known
    from napari_ssldiff.models.store.facts import consent
    from napari_ssldiff.models.store.fetch import fetch, number_of, size_of
    from napari_ssldiff.models.store.together import fetch_parts, missing_parts

    entry, source = known(arguments.id), arguments.source
    missing = [] if arguments.only else missing_parts(entry)
    accepted_for = set(arguments.accept_licence_of)
    if stray := accepted_for - {part.id for part in missing_parts(entry)}:
        name = stray.pop()
        raise InputError(
            f"--accept-licence-of {name}: {entry.id} names no component {name} that is missing"
        )
    for line in consent(entry, size_of(entry, source), number_of(entry, source)):
        say(line)
    work = _work()
    if missing:
        names = " and ".join(f"the {part.kind} {part.id}" for part in missing)
        say(f"It names {names}, not installed either: asked for next (--only leaves that out).")
    accepted = arguments.accept_licence or work.ask("Do you accept these terms?")
    # All is asked before anything comes, which may take an hour.
    wanted = [part for part in missing if accepted and _part_wanted(part, accepted_for, work)]
    how: dict[str, Any] = {"trust_unknown": arguments.trust_unknown, "work": work}
    found = fetch(arguments.id, accept_licence=accepted, source=source, **how)
    print(found.id)
    for outcome in fetch_parts(wanted, **how):
        if outcome.entry is None:
            say(f"{outcome.id} is not installed: {outcome.why}")
        else:
            print(outcome.entry.id)
    _still_to_come(found)


def _part_wanted(part: Entry, accepted_for: set[str], work: Work) -> bool:
    """Show a component's terms, and ask."""
    from napari_ssldiff.models.store.facts import consent
    from napari_ssldiff.models.store.fetch import number_of, size_of

    try:
        lines = consent(part, size_of(part), number_of(part, None))
    except ModelError as error:  # not by a program
        say(str(error))
        return False
    say(f"The {part.kind} that it names:")
    for line in lines:
        say(line)
    if part.id in accepted_for or work.ask("Fetch it too, and do you accept its terms?"):
        return True
    say(f"{part.id} is left out; --accept-licence-of {part.id} accepts its terms in a script")
    return False


def _import(arguments: argparse.Namespace) -> None:
    from napari_ssldiff.models.store.importing import import_model

    if len(arguments.what) > 2:
        raise InputError(f"one id and one path, got {' '.join(arguments.what)}")
    model = arguments.what[0] if len(arguments.what) == 2 else None
    found = import_model(
        model, Path(arguments.what[-1]), card=arguments.card,
        trust_unknown=arguments.trust_unknown, work=_work(),
    )  # fmt: skip
    print(found.id)
    _still_to_come(found)


def _still_to_come(entry: Entry) -> None:
    """Say which components a model lacks, and the way to each."""
    from napari_ssldiff.models.store.facts import lacking

    for line in lacking(entry):
        say(f"still to come: {line}")


def _verify(arguments: argparse.Namespace) -> None:
    from napari_ssldiff.models.store.verify import find, verify, verify_all

    work = _work()
    if arguments.id:
        found = {entry.id: verify(entry, work) for entry in find(arguments.id)}
    else:
        found = verify_all(work)
    for name, problems in found.items():
        print(f"{name}: {'sound' if not problems else 'NOT sound'}")
        for line in problems:
            print(f"  {line}")
    if wrong := [name for name, problems in found.items() if problems]:
        raise ModelError(f"not sound: {', '.join(wrong)}")
    if not found:
        say("nothing is installed")


def _remove(arguments: argparse.Namespace) -> None:
    from napari_ssldiff.models.store.places import in_words, remove

    names, freed = remove(arguments.id)
    print(f"removed {', '.join(names)}: {in_words(freed)} freed")
