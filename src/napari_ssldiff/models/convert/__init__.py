"""From foreign state dicts to the modules that a card describes.

A layout is a way in which somebody names tensors. Each stands in a module of its own and is a pure
function of names and tensors; nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.convert.encoders import ENCODER
from napari_ssldiff.models.convert.folder import DIFFUSERS
from napari_ssldiff.models.convert.layout import Converted, Layout, check_parts
from napari_ssldiff.models.convert.ldm import LRDM
from napari_ssldiff.models.convert.pixcell import PIXART_ORIGINAL, PIXCELL_DIFFUSERS
from napari_ssldiff.models.convert.stain import PIXCELL_STAIN
from napari_ssldiff.models.convert.zoomldm import ZOOMLDM

if TYPE_CHECKING:
    from napari_ssldiff.models.card import ModelCard

__all__ = ["LAYOUTS", "Converted", "Layout", "convert", "layout_of"]

#: All that is known, asked in this order.
LAYOUTS: tuple[Layout, ...] = (
    LRDM, ZOOMLDM, PIXCELL_STAIN, PIXCELL_DIFFUSERS, PIXART_ORIGINAL, DIFFUSERS, ENCODER,
)  # fmt: skip


def layout_of(tensors: Mapping[str, torch.Tensor]) -> Layout:
    """The layout that names tensors like these.

    Raises
    ------
    ModelError
        If none does, with the first ten names.
    """
    for layout in LAYOUTS:
        if layout.matches(tensors):
            return layout
    names = ", ".join(sorted(tensors)[:10]) or "none"
    known = ", ".join(layout.name for layout in LAYOUTS)
    raise ModelError(f"no known layout ({known}) has tensors such as {names}")


def convert(tensors: Mapping[str, torch.Tensor], card: ModelCard) -> Converted:
    """Every tensor at its place in the card's modules.

    Raises
    ------
    ModelError
        If the layout is unknown, or tensors are missing, left over, or of another shape than the
        card's modules: the first ten are named.
    """
    converted = layout_of(tensors).convert(tensors, card)
    check_parts(converted, card)
    return converted
