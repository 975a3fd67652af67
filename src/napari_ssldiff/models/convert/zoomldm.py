"""ZoomLDM's two layouts: its checkpoint, and the community's folders that keep its names."""

from __future__ import annotations

import re

import torch

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.convert.layout import Converted, Layout, Tensors
from napari_ssldiff.models.convert.ldm import (
    AUTOENCODER,
    UNET,
    check_schedule,
    leftover,
    sources,
    unet_tensors,
    vq_tensors,
)
from napari_ssldiff.models.convert.ldm_unet import unet_names
from napari_ssldiff.models.convert.ldm_vq import vq_names

CONDITION = "cond_stage_model."
#: A folder's component → what its names begin with in the checkpoint.
_COMPONENTS = {"unet.": UNET, "vae.": AUTOENCODER, "conditioning_encoder.": CONDITION}
_MARK = "mag_embedding.weight"

#: The condition transformer's names → ours.
_STEMS = {
    "mag_embedding": "magnifications",
    "dim_reduce": "reduce",
    "encoder.ln": "encoder.norm",
    "final_proj": "final",
    "layer_norm": "norm",
}
_LAYER = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.(.+)\.(weight|bias)")
#: In a layer; torchvision had other names for a perceptron's two matrices before 0.12.
_IN_LAYER = {
    "ln_1": "norm1",
    "ln_2": "norm2",
    "self_attention.out_proj": "self_attn.out_proj",
    "mlp.0": "linear1",
    "mlp.3": "linear2",
    "mlp.linear_1": "linear1",
    "mlp.linear_2": "linear2",
}
_IN_PROJECTION = re.compile(
    r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.(in_proj_weight|in_proj_bias)"
)


def condition_tensors(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The condition transformer's tensors, without prefix, in our names.

    Raises
    ------
    ModelError
        If a name is not one of theirs.
    """
    return dict(_condition(name, tensor) for name, tensor in tensors.items())


def _condition(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    if name in ("pad_token", "encoder.pos_embedding"):
        places = tensor.squeeze(0)
        return ("pad", places.squeeze(0)) if name == "pad_token" else ("position", places)
    found = _IN_PROJECTION.fullmatch(name)
    if found:
        return f"encoder.layers.{found[1]}.self_attn.{found[2]}", tensor
    found = _LAYER.fullmatch(name)
    if found and found[2] in _IN_LAYER:
        return f"encoder.layers.{found[1]}.{_IN_LAYER[found[2]]}.{found[3]}", tensor
    stem, _, leaf = name.rpartition(".")
    if stem not in _STEMS:
        raise ModelError(f"ZoomLDM's condition transformer has no tensor named {name}")
    return f"{_STEMS[stem]}.{leaf}", tensor


def _in_one(tensors: Tensors) -> Tensors:
    """A folder's tensors as if they stood in one checkpoint."""
    if CONDITION + _MARK in tensors:
        return tensors
    return {_as_checkpoint(name): tensor for name, tensor in tensors.items()}


def _as_checkpoint(name: str) -> str:
    for ours, theirs in _COMPONENTS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _convert(tensors: Tensors, card: ModelCard) -> Converted:
    tensors = _in_one(tensors)
    unet, vq = (card.parts[part]["config"] for part in ("denoiser", "autoencoder"))
    condition = {k: v for k, v in tensors.items() if k.startswith(CONDITION)}
    parts = {
        "denoiser": unet_tensors(tensors, unet),
        "autoencoder": vq_tensors(tensors, vq),
        "conditioning": condition_tensors(
            {k.removeprefix(CONDITION): v for k, v in condition.items()}
        ),
    }
    check_schedule(tensors, card)
    used = {*sources(tensors, unet_names(unet)).values(), *vq_names(vq).values(), *condition}
    return Converted(parts, leftover(tensors, used))


def _is_zoomldm(tensors: Tensors) -> bool:
    return any(prefix + _MARK in tensors for prefix in (CONDITION, "conditioning_encoder."))


#: ``weights.ckpt`` as published, or a folder of ``unet/``, ``vae/`` and ``conditioning_encoder/``.
#: Where there are moving averages of the U-Net's weights, those are taken.
ZOOMLDM = Layout("zoomldm", _is_zoomldm, _convert)
