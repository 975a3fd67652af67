"""Model cards and loading. Importing this package does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_ssldiff.models.card import ModelCard, read_card
from napari_ssldiff.models.registry import (
    choose_model,
    get_card,
    list_models,
    problems,
    variant_for,
)

if TYPE_CHECKING:
    from napari_ssldiff.models.load import ModelBundle, load_bundle, resolve_device

__all__ = [
    "ModelBundle",
    "ModelCard",
    "choose_model",
    "get_card",
    "list_models",
    "load_bundle",
    "problems",
    "read_card",
    "resolve_device",
    "variant_for",
]


def __getattr__(name: str) -> Any:
    if name in ("ModelBundle", "load_bundle", "resolve_device"):
        from napari_ssldiff.models import load

        return getattr(load, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
