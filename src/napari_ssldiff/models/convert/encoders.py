"""Encoders in the layouts that their authors publish → the state dict of the library's network.

All end as a timm network's names, so that a card needs one library: ViT of DINO, HIPT, iBOT,
DINOv2, DINOv3 and MAE, transformers' folders of ViT, DINOv2 and DINOv3, Swin of timm 0.5
(CTransPath), and timm's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from napari_ssldiff.embeddings.networks import outline
from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.convert.layout import Converted, Layout, Tensors, check_fit
from napari_ssldiff.models.convert.positions import fit_positions

#: Where every network of these layouts begins; what stands before it is a wrapper's name.
_ANCHORS = (
    "patch_embed.proj.weight",
    "patch_embed.proj.0.weight",
    "embeddings.cls_token",
)
#: Beside the encoder in a checkpoint of its training, or in it without use after training.
_KNOWN = re.compile(
    r"(^|\.)(head|heads|dino_head|ibot_head|dino_loss|ibot_patch_loss|predictor|projector|student"
    r"|optimizer|center|center2|fp16_scaler|decoder\w*|mask_token|classifier|pooler|attn_mask"
    r"|relative_position_index|rope_embed|bias_mask|local_cls_norm)(\.|$)"
)
#: Biases that the published networks have as zeros and timm's have not at all.
_ZERO = re.compile(r"blocks\.\d+\.attn\.qkv\.bias$")


_Rules = Mapping[str, str | Callable[[re.Match[str]], str]]


def _renamed(tensors: Tensors, rules: _Rules) -> dict[str, torch.Tensor]:
    out = {}
    for name, tensor in tensors.items():
        for pattern, text in rules.items():
            name = re.sub(pattern, text, name)
        out[name] = tensor
    return out


#: DINOv2 as torch.hub has it; ``w12`` and ``w3`` are of the networks with SwiGLU.
_DINOV2: _Rules = {
    r"^register_tokens$": "reg_token",
    r"^blocks\.\d+\.(\d+)\.": r"blocks.\1.",
    r"\.mlp\.w12\.": ".mlp.fc1.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
}
_DINOV3: _Rules = {r"^storage_tokens$": "reg_token", r"\.ls([12])\.gamma$": r".gamma_\1"}
#: Swin once shrank at the end of a stage, and shrinks at the beginning of the next now.
_SWIN: _Rules = {r"^layers\.(\d)\.downsample\.": lambda m: f"layers.{int(m[1]) + 1}.downsample."}
#: transformers' ViT, DINOv2 and DINOv3.
_FOLDER: _Rules = {
    r"^embeddings\.(cls_token)$": r"\1",
    r"^embeddings\.position_embeddings$": "pos_embed",
    r"^embeddings\.register_tokens$": "reg_token",
    r"^embeddings\.patch_embeddings(\.projection)?\.(weight|bias)$": r"patch_embed.proj.\2",
    r"^(encoder\.|model\.)?layer\.": "blocks.",
    r"^layernorm\.": "norm.",
    r"\.(norm1|layernorm_before)\.": ".norm1.",
    r"\.(norm2|layernorm_after)\.": ".norm2.",
    r"\.attention\.(attention\.)?(query|q_proj)\.": ".attn.q.",
    r"\.attention\.(attention\.)?(key|k_proj)\.": ".attn.k.",
    r"\.attention\.(attention\.)?(value|v_proj)\.": ".attn.v.",
    r"\.attention\.(output\.dense|o_proj)\.": ".attn.proj.",
    r"\.(mlp\.up_proj|intermediate\.dense)\.": ".mlp.fc1.",
    r"\.(mlp\.down_proj|(?<!attention\.)output\.dense)\.": ".mlp.fc2.",
    r"\.mlp\.weights_in\.": ".mlp.fc1.",
    r"\.mlp\.weights_out\.": ".mlp.fc2.",
    r"\.layer_scale([12])\.lambda1$": r".ls\1.gamma",
}


def _joined(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Query, key and value of each block as one; a bias that one of them lacks is zero there."""
    out = {k: v for k, v in tensors.items() if not re.search(r"\.attn\.[qkv]\.", k)}
    for name in tensors:
        if name.endswith(".attn.q.weight"):
            stem = name.removesuffix("q.weight")
            three = [tensors.get(f"{stem}{p}.weight") for p in "qkv"]
            if any(t is None for t in three):
                raise ModelError(f"the encoder's {stem}* lacks a query, key or value")
            out[f"{stem}qkv.weight"] = torch.cat([t for t in three if t is not None])
            biases = [tensors.get(f"{stem}{p}.bias") for p in "qkv"]
            if any(b is not None for b in biases):
                none = torch.zeros_like(next(b for b in biases if b is not None))
                out[f"{stem}qkv.bias"] = torch.cat([none if b is None else b for b in biases])
    return out


def _folder(tensors: Tensors) -> dict[str, torch.Tensor]:
    out = _joined(_renamed(tensors, _FOLDER))
    if "pos_embed" not in out:  # DINOv3 turns queries and keys instead
        out = _renamed(out, _DINOV3)
    return out


@dataclass(frozen=True)
class _Names:
    """A layout of names: what tells it, and how it becomes timm's."""

    name: str
    tell: Callable[[Tensors], bool]
    rename: Callable[[Tensors], dict[str, torch.Tensor]]


_NAMES = (
    _Names("transformers folder", lambda t: "embeddings.cls_token" in t, _folder),
    _Names("DINOv3", lambda t: "storage_tokens" in t, lambda t: _renamed(t, _DINOV3)),
    _Names(
        "Swin of timm 0.5",
        lambda t: "layers.0.downsample.reduction.weight" in t,
        lambda t: _renamed(t, _SWIN),
    ),
    _Names("masked autoencoder", lambda t: "decoder_embed.weight" in t, dict),
    _Names("DINOv2", lambda t: "mask_token" in t, lambda t: _renamed(t, _DINOV2)),
    _Names("DINO or timm", lambda t: True, dict),
)


def _wrapper(tensors: Tensors) -> str | None:
    """What stands before the encoder's names; a teacher is the better network of two."""
    found = [name[: -len(a)] for name in tensors for a in _ANCHORS if name.endswith(a)]
    # A decoder of its own, or a student, is never the encoder.
    found = [p for p in found if not re.search(r"(^|\.)(decoder|student)\b", p)] or found
    return min(found, key=lambda p: ("teacher" not in p, len(p)), default=None)


def convert_encoder(tensors: Tensors, part: Mapping[str, Any]) -> Converted:
    """An encoder's tensors by the names of a card's network.

    Position embeddings of another size are brought to that of the card's input, see
    :func:`~napari_ssldiff.models.convert.positions.fit_positions`.

    Parameters
    ----------
    tensors
        As the authors publish them.
    part
        The mapping ``encoder`` of a card, whose library is timm.

    Raises
    ------
    ModelError
        If a tensor is missing, left over, or of another shape than the card's network.
    """
    if part["library"] != "timm":
        raise ModelError("a card with library: transformers keeps its folder; nothing is converted")
    prefix = _wrapper(tensors)
    if prefix is None:  # a network that is not a transformer: its own names, or none
        prefix = ""
    own = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    beside = [k for k in tensors if not k.startswith(prefix)]
    if strange := [k for k in beside if not _KNOWN.search(k)]:
        raise ModelError(f"unknown tensors beside the encoder: {', '.join(sorted(strange)[:10])}")
    named = next(names for names in _NAMES if names.tell(own)).rename(own)
    network = outline(part)
    wanted = network.state_dict()
    spare = set(_spare(named, wanted))
    kept = {k: v for k, v in named.items() if k not in spare}
    kept = fit_positions(kept, wanted, registers="reg_token" in kept)
    check_fit(network, kept, "the encoder")
    unused = (*beside, *(prefix + k for k in sorted(spare)))
    return Converted({"encoder": kept}, tuple(sorted(unused)))


def _spare(tensors: Tensors, wanted: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Names that are known and that the network has no use for."""
    for name, tensor in tensors.items():
        if name in wanted:
            continue
        if _KNOWN.search(name) or (_ZERO.search(name) and not tensor.any()):
            yield name


def layout_name(tensors: Tensors) -> str:
    """What the layout of an encoder is called, for messages and provenance."""
    prefix = _wrapper(tensors) or ""
    own = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    return next(names for names in _NAMES if names.tell(own)).name


def _convert(tensors: Tensors, card: ModelCard) -> Converted:
    return convert_encoder(tensors, card.parts["encoder"])


#: One layout for all: which names it has is found out while it converts.
ENCODER = Layout("encoder", lambda tensors: _wrapper(tensors) is not None, _convert)
