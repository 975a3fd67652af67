"""What the parts of a card become: library networks behind the engine's contracts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import diffusers
from torch import nn

from napari_ssldiff.diffusion.autoencoder import BORDER, Autoencoder
from napari_ssldiff.diffusion.bundle import ModelSpec
from napari_ssldiff.diffusion.conditioning import TokenProjection
from napari_ssldiff.diffusion.control import ControlledPixCell, PixCellControl
from napari_ssldiff.diffusion.pixcell import PixCellNetwork, PixCellProjection
from napari_ssldiff.diffusion.projections import VectorProjection
from napari_ssldiff.diffusion.zoomldm import ZoomProjection
from napari_ssldiff.embeddings.flow import FlowNetwork
from napari_ssldiff.errors import ModelError

Part = Mapping[str, Any]


def stock(part: Part) -> nn.Module:
    """The diffusers network that a part names, without weights.

    Raises
    ------
    ModelError
        If diffusers has none of that name.
    """
    kind = getattr(diffusers, str(part["class"]), None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ModelError(f"diffusers has no network of the class {part['class']!r}")
    module: nn.Module = kind(**part["config"])
    return module


def autoencoder(part: Part) -> Autoencoder:
    """The autoencoder of a card, without weights.

    Raises
    ------
    ModelError
        If it is a component that is not installed.
    """
    if "absent" in part:
        raise ModelError(str(part["absent"]))
    return Autoencoder(
        stock(part),
        int(part.get("patch", 1)),
        int(part["channels"]),
        int(part.get("linear", 0)),
        int(part.get("border", BORDER)),
    )


def network(part: Part) -> nn.Module:
    """The denoiser of a card, without weights: ``network(x, t, context).sample``."""
    network, control = stock(part), part.get("control")
    if isinstance(network, diffusers.PixArtTransformer2DModel):
        if not control:
            return PixCellNetwork(network)
        second = PixCellControl(part["config"], int(control["blocks"]))
        return ControlledPixCell(network, second)
    if control:
        raise ModelError(f"a control is known for PixArt transformers only, not {part['class']}")
    return network


def translation(part: Part, width: int) -> FlowNetwork:
    """The translation of a card, without weights; ``width`` is the length of an embedding."""
    return FlowNetwork(width, int(part["hidden"]), int(part["blocks"]))


def _grid(part: Part, spec: ModelSpec) -> nn.Module:
    return TokenProjection(
        spec.tokens,
        spec.token_width,
        int(part["context"]),
        int(part["spatial"]),
        spec.window_latents,
    )


def _lrdm(part: Part, spec: ModelSpec) -> nn.Module:
    return VectorProjection(spec.token_width, int(part["context"]), bool(part.get("region", False)))


def _pixcell(part: Part, spec: ModelSpec) -> nn.Module:
    return PixCellProjection(spec.tokens, spec.token_width, float(part["scale"]))


def _zoomldm(part: Part, spec: ModelSpec) -> nn.Module:
    sizes = {name: int(part[name]) for name in ("layers", "heads", "hidden") if name in part}
    return ZoomProjection(
        spec.tokens,
        spec.token_width,
        int(part["context"]),
        int(part["magnification"]),
        int(part["levels"]),
        **sizes,
    )


#: Kinds of conditioning, each an ``nn.Module`` that :class:`Projects` describes.
PROJECTIONS: dict[str, Callable[[Part, ModelSpec], nn.Module]] = {
    "grid": _grid,
    "lrdm": _lrdm,
    "pixcell": _pixcell,
    "zoomldm": _zoomldm,
}


def projection(part: Part, spec: ModelSpec) -> nn.Module:
    """The conditioning of a card, without weights.

    Raises
    ------
    ModelError
        If its kind is unknown.
    """
    kind = str(part.get("kind", "grid"))
    if kind not in PROJECTIONS:
        known = ", ".join(PROJECTIONS)
        raise ModelError(f"unknown kind of conditioning {kind!r}: known are {known}")
    return PROJECTIONS[kind](part, spec)
