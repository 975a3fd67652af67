"""Position embeddings of another image size, stretched as the authors' own code does it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F

from napari_ssldiff.errors import ModelError


def stretched(grid: torch.Tensor, side: int, registers: bool) -> torch.Tensor:
    """Embeddings of a square of patches for a square of another size.

    DINO and DINOv2 interpolate in their forward pass: bicubic, by the factor
    ``(side + 0.1) / old``, without antialiasing; DINOv2 with registers to the size itself, with
    antialiasing (``interpolate_offset``, ``interpolate_antialias`` in its ``hub/backbones.py``).
    timm does neither, so it is done once, here.

    Parameters
    ----------
    grid
        ``(1, old², d)``.
    side
        Patches per side that are wanted.
    registers
        Whether the network has register tokens.

    Returns
    -------
    torch.Tensor
        ``(1, side², d)`` in the dtype of ``grid``.
    """
    old = math.isqrt(grid.shape[1])
    square = grid.float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    if registers:
        out = F.interpolate(square, size=(side, side), mode="bicubic", antialias=True)
    else:
        factor = (side + 0.1) / old
        out = F.interpolate(square, scale_factor=(factor, factor), mode="bicubic")
    return out.permute(0, 2, 3, 1).reshape(1, side * side, -1).to(grid.dtype)


def fit_positions(
    tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], registers: bool
) -> dict[str, torch.Tensor]:
    """``pos_embed`` as a network takes it: of its size, with or without the class token's.

    Where the network has none for the class token, that of the source joins the token itself.

    Raises
    ------
    ModelError
        If they are not those of a square.
    """
    out = dict(tensors)
    if "pos_embed" not in out or "pos_embed" not in wanted:
        return out
    own, shape = out["pos_embed"], wanted["pos_embed"].shape
    if own.shape == shape:
        return out
    if own.ndim != 3 or own.shape[-1] != shape[-1]:
        return out  # another network: the check that follows says so
    has_class, wants_class = (_prefix(n) for n in (own.shape[1], shape[1]))
    if has_class is None or wants_class is None or (wants_class and not has_class):
        raise ModelError(
            f"the encoder's pos_embed has {own.shape[1]} places, its card needs {shape[1]}: "
            "it is of another image or patch size"
        )
    first, grid = own[:, :has_class], own[:, has_class:]
    side = math.isqrt(shape[1] - wants_class)
    if grid.shape[1] != side * side:
        grid = stretched(grid, side, registers)
    if has_class and not wants_class:
        out["cls_token"] = out["cls_token"] + first
    out["pos_embed"] = torch.cat([first, grid], dim=1) if wants_class else grid
    return out


def _prefix(places: int) -> int | None:
    """1 where one place stands before a square of patches, 0 where none does."""
    return next((n for n in (0, 1) if math.isqrt(places - n) ** 2 == places - n), None)
