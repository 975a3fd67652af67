"""Weights of a card's files, checked by sha256, into modules that were made without."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from napari_ssldiff.diffusion.bundle import Precision
from napari_ssldiff.diffusion.halves import HALVES, half_names
from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.card import ModelCard


def checked(card: ModelCard, name: str) -> Path:
    """A weight file whose sha256 is the card's.

    Raises
    ------
    ModelError
        If it is missing or damaged.
    """
    path = card.weight_path(name)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != card.weights[name]:
            raise ModelError(f"{path} is damaged: its sha256 is not the card's; install it again")
    return path


def tensors_of(
    card: ModelCard,
    names: Iterable[str],
    dtypes: Mapping[str, torch.dtype] | None = None,
    copied: bool = False,
) -> dict[str, torch.Tensor]:
    """Tensors of files, in fp32 or what ``dtypes`` says; in their files unless ``copied``.

    Raises
    ------
    ModelError
        If a file is missing or damaged.
    """
    out: dict[str, torch.Tensor] = {}
    for name in names:
        path = checked(card, name)
        try:
            for key, value in load_file(path).items():
                dtype = (dtypes or {}).get(key, torch.float32)
                out[key] = value.to(dtype, copy=copied)
        except SafetensorError as error:
            raise ModelError(f"cannot read the weights {path}: {error}") from None
    return out


@dataclass(frozen=True)
class Filling:
    """Gives modules without weights those of a card's files.

    Parameters
    ----------
    copied
        Read them into memory of their own, so that files may change afterwards.
    halved, kept
        A network, and what its layers are kept in.
    """

    copied: bool = True
    halved: nn.Module | None = None
    kept: Precision = "fp32"

    def __call__(self, card: ModelCard, module: nn.Module, names: Iterable[str]) -> None:
        """Fill ``module`` with the tensors of the files ``names``."""
        dtypes = {key: value.dtype for key, value in module.state_dict().items()}
        if module is self.halved and self.kept != "fp32":
            dtypes |= dict.fromkeys(half_names(module), HALVES[self.kept])
        try:
            module.load_state_dict(tensors_of(card, names, dtypes, self.copied), assign=True)
        except RuntimeError as error:
            detail = str(error).splitlines()[-1].strip()
            raise ModelError(f"the weights of {card.id} do not fit its card: {detail}") from None


#: Whole, in fp32.
IN_MEMORY = Filling()
