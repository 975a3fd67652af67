"""PixCell's two layouts: its diffusers folder, and the original checkpoints in PixArt's names."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from diffusers.models.embeddings import PatchEmbed

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.convert.autoencoders import stock_autoencoder
from napari_ssldiff.models.convert.folder import component
from napari_ssldiff.models.convert.layout import Converted, Layout, Tensors

_TRANSFORMER = "transformer."
#: Of the projection inside the transformer, where it is a buffer; diffusers' class has none.
_NULL = "caption_projection.uncond_embedding"
_PLACES = "y_pos_embed.y_pos_embed"

_CONTROL = "controlnet."
#: What a transformer does behind its last block.
_END = ("proj_out.", "scale_shift_table")

#: The original's name → diffusers', outside the blocks.
_OUTSIDE = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "t_block.1": "adaln_single.linear",
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.scale_shift_table": "scale_shift_table",
}
#: The same inside a block. Several names: the original keeps their rows in one tensor.
_INSIDE = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "cross_attn.q_linear": ("attn2.to_q",),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "cross_attn.proj": ("attn2.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
    "scale_shift_table": ("scale_shift_table",),
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def _parts(network: Tensors, null: torch.Tensor, places: torch.Tensor | None) -> dict[str, Tensors]:
    if places is None and len(null) > 1:
        raise ModelError(f"the transformer reads {len(null)} tokens, but their places are missing")
    position = torch.zeros_like(null) if places is None else places.squeeze(0)
    return {
        "denoiser": {_TRANSFORMER + k: v for k, v in network.items()},
        "conditioning": {"null": null, "position": position},
    }


def _own_folder(tensors: Tensors, card: ModelCard) -> Converted:
    prefix = _TRANSFORMER if _TRANSFORMER + _NULL in tensors else ""
    network = component(tensors, "transformer") if prefix else tensors
    network = {k: v for k, v in network.items() if not k.startswith(("vae.", _CONTROL))}
    null, places = network.pop(_NULL), network.pop(_PLACES, None)
    out = _parts(network, null, places)
    second, unused = _control(component(tensors, "controlnet"), card)
    out["denoiser"] = {**out["denoiser"], **second}
    vae, part = component(tensors, "vae"), card.parts["autoencoder"]
    if vae and "absent" in part:  # the card names a component, which is installed on its own
        unused += tuple(f"vae.{name}" for name in vae)
    elif vae:
        out["autoencoder"] = stock_autoencoder(vae, part)
    known = (prefix, "vae.", _CONTROL)
    strange = sorted(k for k in tensors if prefix and not k.startswith(known))
    if strange:
        raise ModelError(f"the folder has tensors that nothing needs: {', '.join(strange[:10])}")
    return Converted(out, unused)


def _control(tensors: Tensors, card: ModelCard) -> tuple[Tensors, tuple[str, ...]]:
    """A folder's ControlNet under the denoiser's names, and the names that nothing needs.

    It is a transformer of its own, of which the end is never asked, and the null condition and the
    places of tokens are those of the first one.
    """
    if not card.parts["denoiser"].get("control"):
        return {}, tuple(_CONTROL + name for name in tensors)
    if not tensors:
        raise ModelError(f"{card.id} needs the folder controlnet/ beside transformer/")
    out, unused = {}, []
    for name, tensor in tensors.items():
        # The authors' later code keeps the transformer's own layers one level down.
        own = name.removeprefix(_TRANSFORMER)
        if own.startswith(_END) or own in (_NULL, _PLACES):
            unused.append(_CONTROL + name)
        else:
            out[f"control.{own}"] = tensor
    return out, tuple(unused)


def pixart_tensors(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The weights of a PixArt transformer in its authors' names → in diffusers'.

    Raises
    ------
    ModelError
        If a name is not one of theirs.
    """
    return dict(pair for name, tensor in tensors.items() for pair in _renamed(name, tensor))


def _renamed(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    block = _BLOCK.fullmatch(name)
    inner = block[2] if block else name
    stem, _, leaf = inner.rpartition(".")
    if inner.endswith("scale_shift_table"):
        stem, leaf = inner, ""
    known = _INSIDE.get(stem) if block else ((_OUTSIDE[stem],) if stem in _OUTSIDE else None)
    if known is None or leaf not in ("weight", "bias", ""):
        raise ModelError(f"a PixArt transformer has no tensor named {name}")
    before, after = f"transformer_blocks.{block[1]}." if block else "", f".{leaf}" if leaf else ""
    for target, rows in zip(known, tensor.chunk(len(known)), strict=True):
        yield f"{before}{target}{after}", rows.contiguous() if len(known) > 1 else rows


def _original(tensors: Tensors, card: ModelCard) -> Converted:
    network = dict(tensors)
    null, places = network.pop("y_embedder.y_embedding"), network.pop("y_pos_embed", None)
    fixed = network.pop("pos_embed", None)
    out = _parts(pixart_tensors(network), null, places)
    if fixed is not None:
        _check_places(fixed, card)
    return Converted(out, ("pos_embed",) if fixed is not None else ())


def _check_places(fixed: torch.Tensor, card: ModelCard) -> None:
    """Refuse where the card's places of patches are not those that the checkpoint brings."""
    config = card.parts["denoiser"]["config"]
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    size, patch = int(config["sample_size"]), int(config["patch_size"])
    scale = config.get("interpolation_scale") or max(size // 64, 1)
    own: torch.Tensor = PatchEmbed(
        size, size, patch, in_channels=1, embed_dim=width, interpolation_scale=scale
    ).pos_embed  # type: ignore[assignment]
    if own.shape != fixed.shape or not torch.allclose(own, fixed.float(), atol=5e-3):
        raise ModelError(
            f"the places of patches in the checkpoint are not those of the card, whose "
            f"interpolation_scale is {scale:g} at {size} latents: it is the card of another model"
        )


#: ``transformer/`` and, optionally, ``vae/`` of the published folders; or the transformer alone.
PIXCELL_DIFFUSERS = Layout(
    "pixcell-diffusers",
    lambda tensors: _NULL in tensors or _TRANSFORMER + _NULL in tensors,
    _own_folder,
)
#: ``pixcell_256.ckpt`` and ``pixcell_1024.ckpt``.
PIXART_ORIGINAL = Layout(
    "pixart-original",
    lambda tensors: "y_embedder.y_embedding" in tensors and "x_embedder.proj.weight" in tensors,
    _original,
)
