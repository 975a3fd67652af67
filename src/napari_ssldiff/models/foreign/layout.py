"""Which files of a path hold weights and configurations."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.foreign.pairs import pair_in, pair_of

#: Names that libraries give to the weights of a component; the first that is there is taken.
_STEMS = ("diffusion_pytorch_model", "model", "open_clip_model", "pytorch_model")
_INDEX = ".index.json"
#: Endings of safe weights, then of pickled ones; plain files go before sharded ones.
_SAFE = (".safetensors", ".safetensors" + _INDEX)
_PICKLED = (".bin", ".bin" + _INDEX, ".ckpt", ".pt", ".pth")
LARGEST_JSON = 16 * 2**20


@dataclass
class Layout:
    """The files of a checkpoint.

    Parameters
    ----------
    root
        The folder that names are relative to.
    weights
        Component (``""``: the checkpoint itself) → files of weights.
    configs
        Component → what its ``config.json`` says.
    others
        Further files that were read: configurations and indices.
    expected
        Names that indices promise → the index.
    """

    root: Path
    weights: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    configs: dict[str, Any] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)
    expected: dict[str, Path] = field(default_factory=dict)

    def files(self) -> list[Path]:
        """Every file that the checkpoint consists of."""
        return [*self.others, *(file for files in self.weights.values() for file in files)]

    def add(self, component: str, path: Path) -> None:
        """Add a file of weights, or an index and the files that it names.

        Raises
        ------
        ModelError
            If the index is damaged, or points out of its folder.
        """
        if not path.name.endswith(_INDEX):
            self.weights[component] = (path,)
            return
        index = read_json(path)
        places = index.get("weight_map")
        if not isinstance(places, dict) or not places:
            raise ModelError(f"{path} is no index of shards (no weight_map); fetch it again")
        names = {str(name) for name in places.values()}
        if odd := [name for name in names if not name or Path(name).name != name or "\\" in name]:
            raise ModelError(f"{path} points to {odd[0]!r}, which is not beside it; refused")
        files = tuple(path.parent / name for name in sorted(names))
        if lost := [file.name for file in files if not file.is_file()]:
            raise ModelError(f"{path} names {lost[0]!r}, which is missing; fetch all its shards")
        self.others.append(path)
        self.weights[component] = files
        prefix = f"{component}." if component else ""
        self.expected |= {prefix + str(name): path for name in places}

    def add_config(self, component: str, path: Path) -> None:
        """Add a ``config.json``, if it is there."""
        if path.is_file():
            self.configs[component] = read_json(path)
            self.others.append(path)

    def check_complete(self, names: Collection[str] | Mapping[str, Any]) -> None:
        """Refuse a sharded checkpoint that lacks what its index promises."""
        for name, index in self.expected.items():
            if name not in names:
                raise ModelError(f"{index} promises {name!r}, which no shard has; fetch it again")


def lay_out(path: Path) -> Layout:
    """Find the weights of a file, of an index of shards, or of a folder.

    Raises
    ------
    ModelError
        If there is nothing to read, or several files are equally good.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist; check its name")
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise ModelError(f"{path} is no regular file; name a file or a folder")
    if pair := pair_of(path):
        return _paired(Path(os.path.commonpath([file.parent for file in pair.values()])), pair)
    layout = Layout(path.parent)
    layout.add("", path)
    return layout


def _paired(root: Path, pair: Mapping[str, Path]) -> Layout:
    layout = Layout(root)
    for word, file in pair.items():
        layout.add(word, file)
    return layout


def _folder(path: Path) -> Layout:
    if pair := pair_in(path):
        return _paired(path, pair)
    layout = Layout(path)
    layout.add_config("", path / "config.json")
    if weights := _weights(path):
        layout.add("", weights)
        return layout
    folders = sorted(entry for entry in _listed(path) if entry.is_dir())
    for folder in folders:
        if not (folder / "config.json").is_file():
            continue
        layout.add_config(folder.name, folder / "config.json")
        if weights := _weights(folder):
            layout.add(folder.name, weights)
    if not layout.weights:
        others = [file for folder in folders if (file := _weights(folder))]
        hint = f"; name {others[0]} itself" if others else "; name a file of weights"
        raise ModelError(f"{path} holds no weights, nor do components with a config.json{hint}")
    return layout


def _listed(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError as fault:
        raise ModelError(f"{path} cannot be listed ({fault.strerror}); check its rights") from fault


def _weights(path: Path) -> Path | None:
    """The file of weights, or index of shards, of a component's folder."""
    files = [entry for entry in _listed(path) if entry.is_file()]
    names = {file.name: file for file in files}
    for common in (_SAFE, _PICKLED[:2]):
        for stem in _STEMS:
            for ending in common:
                if stem + ending in names:
                    return names[stem + ending]
    choices: tuple[tuple[str, ...], ...] = (_SAFE, _PICKLED)
    for endings in choices:
        indices = [file for file in files if file.name.endswith(endings[1])]
        found = indices or [file for file in files if file.name.endswith(endings)]
        if len(found) > 1:
            listed = ", ".join(file.name for file in found[:4])
            raise ModelError(f"{path} holds several files of weights ({listed}); name one of them")
        if found:
            return found[0]
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object out of a file of sane size.

    Raises
    ------
    ModelError
        If it cannot be read or is something else.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ModelError(f"{path} is larger than {LARGEST_JSON:,} bytes; fetch it again")
        out = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        raise ModelError(f"{path} cannot be read ({fault}); fetch it again") from fault
    if not isinstance(out, dict):
        raise ModelError(f"{path} holds no JSON object; fetch it again")
    return out
