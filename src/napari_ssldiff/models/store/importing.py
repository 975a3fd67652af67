"""From somebody's checkpoint to an installed model: read, converted, checked, put in place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.entries import Entry, known, models_dir, newest, read_entry
from napari_ssldiff.models.store.component import card_for, own_parts
from napari_ssldiff.models.store.places import aside, in_words, install, need
from napari_ssldiff.models.store.work import QUIET, Work

if TYPE_CHECKING:
    import torch

    from napari_ssldiff.models.foreign import Checkpoint

Tensors = Mapping[str, "torch.Tensor"]


def import_model(
    model: str | None,
    path: Path,
    *,
    card: Path | None = None,
    trust_unknown: bool = False,
    origin: Mapping[str, Any] | None = None,
    work: Work = QUIET,
) -> Entry:
    """Install a checkpoint that lies on this disk. The original is never run, and not needed after.

    Parameters
    ----------
    model
        An id of the catalogue. ``None``: that of ``card``, or the only card that fits.
    path
        A file or a folder, of any form that :mod:`napari_ssldiff.models.foreign` reads.
    card
        A card file of one's own instead of the catalogue's.
    trust_unknown
        Whether to take a file whose hash the card does not know.
    origin
        ``repo``, ``revision`` and whether the latter is ``pinned``, for what was fetched.
    work
        Whom to tell and to ask.

    Returns
    -------
    The installed card, whose id has a version: the beginning of the revision, or of the file's
    sha256.

    Raises
    ------
    ModelError
        If the file is damaged, hostile, of another model, not finite, or not trusted.
    OutputError
        If the disk is full. Nothing is then installed.
    """
    from napari_ssldiff.models.foreign import read_checkpoint
    from napari_ssldiff.models.store.trust import is_known, require_trust

    path = path.expanduser()
    entry = read_entry(card) if card else known(model) if model else None
    if not path.exists():
        raise ModelError(f"{path} does not exist: name the file or folder to import")
    if entry is not None:
        card_for(entry)  # refused before minutes of reading
    need(models_dir(), 2.2 * _size(path), f"the import of {path.name}")
    with aside() as folder:
        work.progress("reading", 0, 1)
        scratch = folder / "scratch"
        scratch.mkdir()
        checkpoint = read_checkpoint(path, scratch, check=work.check)
        work.progress("reading", 1, 1)
        entry = entry or _guessed(checkpoint)
        trusted = is_known(entry, checkpoint, origin)
        if not trusted:
            require_trust(entry, checkpoint, trust_unknown, work)
        version = (origin["revision"] if origin else checkpoint.sha256)[:12]
        name = f"{(model or entry.name).partition('@')[0]}@{version}"
        here = newest(name, entry.kind)
        if here and not card:
            return here
        layout, base, parts = _converted(entry, checkpoint, work)
        made = folder / name
        made.mkdir()
        data = _written(entry, parts, checkpoint, made, work)
        data["id"] = name
        data["imported"] = {
            "file": path.name,
            "sha256": checkpoint.sha256,
            "form": checkpoint.form,
            "layout": layout,
            **({"base": base} if base else {}),
            **({k: str(origin[k]) for k in ("repo", "revision")} if origin else {}),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "package": _package(),
            "hash_known": trusted,
        }
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
        (made / "card.yaml").write_text(text, encoding="utf-8")
        for file in made.rglob("*.safetensors"):  # made for our eyes only by a library
            shutil.copymode(made / "card.yaml", file)
        read_entry(made / "card.yaml")  # what is installed is valid
        work.check()
        place = install(made, name)
        del checkpoint, parts  # files in the scratch folder are open as long as they are held
    return read_entry(place / "card.yaml")


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def _package() -> str:
    import napari_ssldiff

    return f"napari-ssldiff {napari_ssldiff.__version__}"


def _guessed(checkpoint: Checkpoint) -> Entry:
    from napari_ssldiff.models.store.nearest import fitting, nearest

    found = fitting(checkpoint.tensors)
    if len(found) == 1:
        return known(found[0])
    names = ", ".join(sorted(checkpoint.tensors)[:10])
    if found:
        raise ModelError(
            f"{checkpoint.path.name} fits several cards ({', '.join(found)}): name the one it is"
        )
    near = nearest(checkpoint.tensors)
    raise ModelError(
        f"{checkpoint.path.name} fits no card; it has tensors such as {names}"
        f"{f'; {near}' if near else ''}; write a card of its own, see 'models show --template'"
    )


def _converted(
    entry: Entry, checkpoint: Checkpoint, work: Work
) -> tuple[str, str | None, dict[str, Tensors]]:
    """The layout's name, the installed model that was built on, and the state dicts of the card's
    own parts, checked.
    """
    from napari_ssldiff.models.convert import convert, layout_of
    from napari_ssldiff.models.convert.encoders import convert_encoder, layout_name
    from napari_ssldiff.models.convert.folder import check_configs
    from napari_ssldiff.models.foreign import check_finite
    from napari_ssldiff.models.store.base import with_base
    from napari_ssldiff.models.store.nearest import nearest

    card, wanted = card_for(entry), own_parts(entry)
    if wanted == ["encoder"] and card.parts["encoder"]["library"] == "transformers":
        work.progress("checking", 0, 1)
        check_finite(checkpoint.tensors, check=work.check)
        return "transformers", None, {"encoder": checkpoint.tensors}
    work.progress("converting", 0, 3)
    try:
        if wanted == ["encoder"]:  # the card says what it is, whatever its names look like
            found = dict(convert_encoder(checkpoint.tensors, card.parts["encoder"]).parts)
            check_finite(found["encoder"], check=work.check)
            return layout_name(checkpoint.tensors), None, found
        tensors, base = with_base(checkpoint.tensors, card)
        layout = layout_of(tensors).name
        check_configs(checkpoint.configs, card, wanted)
        found = dict(convert(tensors, card).parts)
        if missing := [part for part in wanted if part not in found]:
            raise ModelError(f"it holds no {' and no '.join(missing)}")
    except ModelError as error:
        near = nearest(checkpoint.tensors)
        raise ModelError(
            f"{checkpoint.path.name} is not {entry.id}: {error}{f'; {near}' if near else ''}"
        ) from None
    parts = {part: found[part] for part in wanted}
    work.progress("checking", 1, 3)
    for tensors in parts.values():
        check_finite(tensors, check=work.check)
    if "autoencoder" in parts:
        work.progress("fitting the preview", 2, 3)
        parts["autoencoder"] = _with_preview(card.parts["autoencoder"], parts["autoencoder"])
    work.progress("fitting the preview", 3, 3)
    return layout, base, parts


def _with_preview(part: Mapping[str, Any], tensors: Tensors) -> Tensors:
    if bool(tensors["preview_weight"].any()):
        return tensors
    from napari_ssldiff.models import parts
    from napari_ssldiff.models.store.preview import fit_preview

    module = parts.autoencoder(part).eval()
    module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    factor = int(part["factor"])
    edge = max(factor * 8, 192 // factor * factor)
    return {**tensors, **fit_preview(module, factor, edge)}


def _written(
    entry: Entry, parts: Mapping[str, Tensors], checkpoint: Checkpoint, made: Path, work: Work
) -> dict[str, Any]:
    """Write the weights; the card's data with their names and hashes."""
    from napari_ssldiff.models.store.shards import digest, write

    total = sum(t.numel() * t.element_size() for part in parts.values() for t in part.values())
    need(made, total, f"installing {entry.id}")
    data = {key: value for key, value in entry.data.items() if key not in ("weights", "imported")}
    hashes: dict[str, str] = {}
    for number, (part, tensors) in enumerate(parts.items()):
        work.progress(f"writing {in_words(total)}", number, len(parts))
        own = dict(data[part])
        if part == "encoder" and own["library"] == "transformers":
            config = checkpoint.configs.get("")
            if config is None:
                raise ModelError(
                    f"{checkpoint.path} has no config.json, which transformers needs: import the "
                    "folder that holds it"
                )
            (made / "encoder").mkdir()
            (made / "encoder" / "config.json").write_text(json.dumps(config, indent=1))
            files = dict(write(made / "encoder", "model", tensors, work, limit=10**15))
            files = {f"encoder/{name}": value for name, value in files.items()}
            files["encoder/config.json"] = digest(made / "encoder" / "config.json", work)
            own["name"] = "encoder"
        else:
            files = dict(write(made, part, tensors, work))
        hashes |= files
        data[part] = {**own, "weights": list(files)}
    work.progress(f"writing {in_words(total)}", len(parts), len(parts))
    return {**data, "weights": hashes}
