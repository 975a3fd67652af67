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
    print(f"{'id':<{wide}}  {'kind':<11}  {'state':<9}  {'size':>7}  {'gated':<5}  licence")
    for row in found:
        size = "" if row.size is None else in_words(row.size)
        gated = "yes" if row.gated else "no"
        line = f"{row.id:<{wide}}  {row.kind:<11}  {row.state:<9}  {size:>7}  {gated:<5}"
        print(f"{line}  {row.licence}")
    for row in found:
        if row.state == "broken":
            say(f"broken: {row.id}: {row.note}")
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
    from napari_ssldiff.models.entries import catalogue, known, way_to
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
    return found, f"installed in {found.folder}"


def _fetch(arguments: argparse.Namespace) -> None:
    from napari_ssldiff.models.entries import known
    from napari_ssldiff.models.store.facts import consent
    from napari_ssldiff.models.store.fetch import fetch, size_of

    entry = known(arguments.id)
    for line in consent(entry, size_of(entry)):
        say(line)
    work = _work()
    accepted = arguments.accept_licence or work.ask("Do you accept these terms?")
    found = fetch(
        arguments.id, accept_licence=accepted, trust_unknown=arguments.trust_unknown, work=work
    )
    _installed(found)


def _import(arguments: argparse.Namespace) -> None:
    from napari_ssldiff.models.store.importing import import_model

    if len(arguments.what) > 2:
        raise InputError(f"one id and one path, got {' '.join(arguments.what)}")
    model = arguments.what[0] if len(arguments.what) == 2 else None
    found = import_model(
        model, Path(arguments.what[-1]), card=arguments.card,
        trust_unknown=arguments.trust_unknown, work=_work(),
    )  # fmt: skip
    _installed(found)


def _installed(entry: Entry) -> None:
    from napari_ssldiff.models.store.facts import lacking

    for line in lacking(entry):
        say(f"still to come: {line}")
    print(entry.id)


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
