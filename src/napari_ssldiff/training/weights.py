"""Weights as fp16 safetensors in shards, and networks that start from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.models.card import read_card
from napari_ssldiff.training.state import read_marker, read_tensors, write_tensors

#: No weight file is larger than this, in bytes, unless a single tensor is.
SHARD = 15 * 2**20

_PART = re.compile(r"(.+)-(\d+)-of-(\d+)")
_AVERAGE = "average.module."


def shards(
    state: Mapping[str, torch.Tensor], shard_bytes: int = SHARD
) -> list[dict[str, torch.Tensor]]:
    """fp16 tensors on the CPU, in order, in groups of at most ``shard_bytes``.

    A tensor that is larger on its own makes a group of its own; integers stay integers.
    """
    groups: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        value = tensor.detach().cpu()
        if value.is_floating_point():
            value = value.half()
        length = value.numel() * value.element_size()
        if size + length > shard_bytes and groups[-1]:
            groups.append({})
            size = 0
        groups[-1][name] = value.clone().contiguous()
        size += length
    return groups


def write_shards(
    prefix: Path, state: Mapping[str, torch.Tensor], shard_bytes: int = SHARD
) -> list[Path]:
    """Write ``PREFIX-1-of-N.safetensors`` …; other shards of the prefix are removed.

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    groups = shards(state, shard_bytes)
    paths = [
        prefix.with_name(f"{prefix.name}-{i + 1}-of-{len(groups)}.safetensors")
        for i in range(len(groups))
    ]
    for path, group in zip(paths, groups, strict=True):
        write_tensors(path, group)
    for other in _shards_of(prefix):
        if other not in paths:
            other.unlink()
    return paths


def _shards_of(prefix: Path) -> list[Path]:
    found = sorted(prefix.parent.glob("*-of-*.safetensors"))
    return [p for p in found if (m := _PART.fullmatch(p.stem)) and m[1] == prefix.name]


def _files(path: Path) -> list[Path]:
    """The files that ``path`` names: itself, its sister shards, or what a folder holds."""
    if path.is_dir():
        marker = read_marker(path)
        if marker is not None:
            return [path / marker["file"]]
        if (path / "card.yaml").is_file():
            try:
                card = read_card(path / "card.yaml")
                return [card.weight_path(name) for name in card.weights]
            except ModelError as error:
                raise InputError(f"cannot start from the model {path}: {error}") from None
        return sorted(p for p in path.glob("*.safetensors") if not p.name.startswith("."))
    part = _PART.fullmatch(path.stem) if path.suffix == ".safetensors" else None
    if part:
        return _shards_of(path.with_name(part[1]))
    if path.is_file():
        return [path]
    whole = path.with_name(f"{path.name}.safetensors")
    return [whole] if whole.is_file() else _shards_of(path)


def read_weights(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Every set of weights that ``path`` names, by file name without shard numbers.

    Parameters
    ----------
    path
        A safetensors file or one shard of several, their common prefix, a folder of them, a
        model's folder with its card, or the folder of a training run, whose averaged weights
        are taken.

    Raises
    ------
    InputError
        If nothing is there, a shard is missing or a file is damaged.
    """
    groups: dict[str, dict[str, torch.Tensor]] = {}
    seen: dict[tuple[str, int], int] = {}
    for file in _files(path):
        part = _PART.fullmatch(file.stem)
        name = part[1] if part else file.stem
        if part:
            key = (name, int(part[3]))
            seen[key] = seen.get(key, 0) + 1
        tensors = read_tensors(file)
        if any(k.startswith(_AVERAGE) for k in tensors):
            tensors = {k.removeprefix(_AVERAGE): v for k, v in tensors.items() if _AVERAGE in k}
        groups.setdefault(name, {}).update(tensors)
    for (name, count), found in seen.items():
        if found != count:
            raise InputError(f"{path} holds {found} of {count} shards of {name}; copy all of them")
    if not groups:
        raise InputError(f"there are no weights (*.safetensors) at {path}")
    return groups


def _parts(module: nn.Module) -> list[str]:
    """Prefixes of the parts that may be loaded alone: those in the module's ``separable``."""
    prefixes = []
    for name in getattr(module, "separable", ()):
        child = module.get_submodule(name)
        inner = [f"{name}.{k}." for k in child] if isinstance(child, nn.ModuleDict) else []
        prefixes += inner or [f"{name}."]
    return prefixes or [""]


def _place(
    module: nn.Module, groups: Mapping[str, Mapping[str, torch.Tensor]], path: Path
) -> dict[str, torch.Tensor]:
    """Tensors under the module's own names, each set where most of its names belong."""
    target = module.state_dict()
    placed: dict[str, torch.Tensor] = {}
    taken: dict[str, str] = {}

    def score(prefix: str, group: str) -> tuple[int, bool]:
        named = prefix.rstrip(".").rpartition(".")[2]
        return sum(prefix + k in target for k in groups[group]), named in group

    for group, tensors in groups.items():
        # A set that holds the whole module has no prefix; ties go to the part whose name the
        # file bears (projection-naip, not projection-histology).
        best = max(dict.fromkeys(["", *_parts(module)]), key=lambda p: score(p, group))
        if score(best, group)[0] == 0:
            continue
        for key, tensor in tensors.items():
            if best + key in placed:
                raise InputError(
                    f"{path} holds more than one set of weights that fits: "
                    f"{taken[best + key]} and {group}; name one file"
                )
            placed[best + key], taken[best + key] = tensor, group
    return placed


def _misfits(
    target: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]
) -> Iterator[str]:
    for name, tensor in target.items():
        if name not in given:
            yield f"{name} is missing"
        elif given[name].shape != tensor.shape:
            want, have = tuple(tensor.shape), tuple(given[name].shape)
            yield f"{name} has the shape {have} and not {want}"
    yield from (f"{name} has no place in this network" for name in given if name not in target)


def initialise(module: nn.Module, path: Path) -> list[str]:
    """Load weights as the start of a training.

    Parameters
    ----------
    module
        If it names children in ``separable``, those may be given apart, and one of which
        nothing is given starts afresh; else all its tensors must be there.
    path
        See :func:`read_weights`; float tensors of any precision.

    Returns
    -------
    Parts that start afresh.

    Raises
    ------
    InputError
        If there are no weights, none fits, or a part does not fit; names its first tensor.
    """
    groups = read_weights(path)
    placed, target = _place(module, groups, path), module.state_dict()
    if not placed:
        theirs = next(iter(next(iter(groups.values()))), "nothing")
        raise InputError(
            f"no tensor in {path} belongs to this network: it begins with {theirs}, the network "
            f"with {next(iter(target))}; name the weights of the same network"
        )
    fresh = []
    for part in _parts(module):
        given = {k: v for k, v in placed.items() if k.startswith(part)}
        if not given:
            fresh.append(part.rstrip("."))
            continue
        own = {k: v for k, v in target.items() if k.startswith(part)}
        wrong = next(_misfits(own, given), None)
        if wrong:
            raise InputError(f"the weights {path} do not fit: {wrong}")
    module.load_state_dict({k: v for k, v in placed.items() if k in target}, strict=False)
    return fresh


def restore(module: nn.Module, directory: Path) -> None:
    """Load the averaged weights of a run, from its state or else from its weight files.

    Raises
    ------
    InputError
        If the folder holds none, or those of another network.
    """
    if not directory.is_dir():
        raise InputError(f"nothing was trained in {directory} yet; run that stage first")
    groups = read_weights(directory)
    state = next(iter(groups.values()))
    try:
        module.load_state_dict(state)
    except RuntimeError:
        raise InputError(
            f"{directory} holds the state of another network; choose another folder"
        ) from None
