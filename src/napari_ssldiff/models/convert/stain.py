"""PixCell's virtual staining: its transformer with an adapter, and the flow between stains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.convert.adapter import has_adapter, is_alone, merge_adapter
from napari_ssldiff.models.convert.folder import component
from napari_ssldiff.models.convert.layout import Converted, Layout, Tensors
from napari_ssldiff.models.convert.pixcell import PIXCELL_DIFFUSERS

#: What :mod:`napari_ssldiff.models.foreign.pairs` puts before the names of a pair of files.
ADAPTER, FLOW = "lora.", "mlp."
_FLOW_MARK = "res_blocks.0.in_layers.0.weight"


def split(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Tensors of the transformer, and those of the flow; either may be none."""
    if _FLOW_MARK in tensors:
        return {}, tensors
    if not any(name.startswith((ADAPTER, FLOW)) for name in tensors):
        return tensors, {}
    return component(tensors, ADAPTER[:-1]), component(tensors, FLOW[:-1])


def _matches(tensors: Tensors) -> bool:
    return has_adapter(tensors) or FLOW + _FLOW_MARK in tensors or _FLOW_MARK in tensors


def _convert(tensors: Tensors, card: ModelCard) -> Converted:
    network, flow = split(tensors)
    out: dict[str, Tensors] = {}
    if network:
        out |= PIXCELL_DIFFUSERS.convert(_merged(network, card), card).parts
    if flow:
        if "translation" not in card.parts:
            raise ModelError("the card translates nothing, and there is a flow between stains")
        out["translation"] = flow
    return Converted(out)


def _merged(network: Tensors, card: ModelCard) -> Tensors:
    adapter: Mapping[str, Any] | None = card.parts["denoiser"].get("adapter")
    if not has_adapter(network):
        raise ModelError("beside the flow there is no LoRA, but a plain network")
    if adapter is None:
        raise ModelError(
            "it holds a LoRA, of which the card says no rank and no alpha: write a card of its own "
            f"with 'like: {card.id}' and 'denoiser: {{adapter: {{rank: …, alpha: …}}}}'"
        )
    if is_alone(network):
        base = adapter.get("base")
        raise ModelError(
            "it holds the LoRA without the network that it changes"
            + (f": install {base} first, and import this again" if base else "")
        )
    merged = merge_adapter(network, adapter)
    if not PIXCELL_DIFFUSERS.matches(merged):
        raise ModelError("the network lacks caption_projection.uncond_embedding")
    return merged


#: ``…_lora.pth`` and ``…_mlp.pth`` as a pair; or the former alone, for cards without translation.
PIXCELL_STAIN = Layout("pixcell-stain", _matches, _convert)
