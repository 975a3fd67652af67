"""What all layouts share: the result of a conversion, and its check against a card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models import parts
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.skeleton import model_spec

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Converted:
    """State dicts by the part of a card that they fill.

    Parameters
    ----------
    parts
        ``"autoencoder"``, ``"denoiser"``, ``"conditioning"``, ``"translation"`` or
        ``"encoder"``: as the modules of :mod:`napari_ssldiff.models.parts` name their tensors. A
        source need not hold all parts.
    unused
        Names in the source that are known and not needed, such as a trainer's buffers.
    """

    parts: Mapping[str, Tensors]
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One way to name tensors.

    Parameters
    ----------
    name
        For messages and cards.
    matches
        Whether a source with these tensors is of this layout.
    convert
        ``(tensors, card)`` to what the card's modules take; raises ModelError.
    """

    name: str
    matches: Callable[[Tensors], bool]
    convert: Callable[[Tensors, ModelCard], Converted]


def check_fit(module: nn.Module, tensors: Tensors, what: str) -> None:
    """Refuse tensors that are not exactly a module's; the module may be on the device ``meta``.

    Raises
    ------
    ModelError
        Naming up to ten that are missing, left over or of another shape.
    """
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in tensors.items()}
    problems = [f"{k} is missing" for k in sorted(wanted.keys() - found.keys())]
    problems += [f"{k} is not known" for k in sorted(found.keys() - wanted.keys())]
    problems += [
        f"{k} is {found[k]}, not {wanted[k]}"
        for k in sorted(wanted.keys() & found.keys())
        if wanted[k] != found[k]
    ]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ModelError(f"{what} does not fit: {'; '.join(problems[:10])}{more}")


def check_parts(converted: Converted, card: ModelCard) -> None:
    """Refuse parts that are not exactly what a card's modules take; an encoder is not looked at.

    Raises
    ------
    ModelError
        As :func:`check_fit`.
    """
    with torch.device("meta"):  # shapes only: nothing is allocated
        modules: dict[str, Callable[[], nn.Module]] = {
            "autoencoder": lambda: parts.autoencoder(card.parts["autoencoder"]),
            "denoiser": lambda: parts.network(card.parts["denoiser"]),
            "conditioning": lambda: parts.projection(card.parts["conditioning"], model_spec(card)),
            "translation": lambda: parts.translation(
                card.parts["translation"], int(card.parts["encoder"]["width"])
            ),
        }
        for name, make in modules.items():
            if name in converted.parts:
                check_fit(make(), converted.parts[name], f"the {name} of {card.id}")
