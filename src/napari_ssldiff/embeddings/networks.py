"""Encoder networks by name: timm architectures and folders of transformers, without our weights."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from napari_ssldiff.errors import ModelError


class ConvStem(nn.Module):
    """The patch embedding of CTransPath (Wang et al. 2022, Medical Image Analysis 81:102559).

    Two 3×3 convolutions of stride 2, each with batch norm and ReLU, then 1×1 to the width, in
    place of Swin's 4×4 patches.

    Parameters
    ----------
    img_size
        Edge in pixels, as timm passes it.
    patch_size
        Must be 4.
    in_chans, embed_dim
        Channels in and out; ``embed_dim`` is a multiple of 8.
    norm_layer
        Over the channels at the end, or none.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        if patch_size != 4 or embed_dim % 8:
            raise ValueError("a ConvStem has patches of 4 and a width that 8 divides")
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.img_size, self.patch_size = (height, width), (4, 4)
        self.grid_size = (height // 4, width // 4)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        layers: list[nn.Module] = []
        for before, after in ((in_chans, embed_dim // 8), (embed_dim // 8, embed_dim // 4)):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after)]
            layers.append(nn.ReLU())
        self.proj = nn.Sequential(*layers, nn.Conv2d(embed_dim // 4, embed_dim, 1))
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(n, in_chans, h, w)`` → ``(n, h / 4, w / 4, embed_dim)``."""
        out: torch.Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return out


def _layers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options for timm: lists become tuples, and layers are looked up by their names."""
    from timm.layers.mlp import SwiGLUPacked

    known: dict[str, dict[str, Any]] = {
        "mlp_layer": {"SwiGLUPacked": SwiGLUPacked},
        "act_layer": {"SiLU": nn.SiLU, "GELU": nn.GELU},
        "embed_layer": {"ConvStem": ConvStem},
    }
    out: dict[str, Any] = {}
    for key, value in options.items():
        if key in known:
            if value not in known[key]:
                names = ", ".join(known[key])
                raise ModelError(f"unknown {key} {value!r} of an encoder: known are {names}")
            value = known[key][value]
        out[key] = tuple(value) if isinstance(value, list) else value
    return out


def _timm(name: str, options: Mapping[str, Any], width: int) -> nn.Module:
    import timm

    arguments = _layers(options)
    arguments.setdefault("num_classes", width)
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    except RuntimeError as error:
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        like = f"; it knows {', '.join(near)}" if near else ""
        raise ModelError(
            f"timm {timm.__version__} does not know the architecture {name!r}{like}: correct the "
            f"card, or update timm (pip install --upgrade timm) ({error})"
        ) from None
    except (TypeError, AttributeError) as error:
        raise ModelError(
            f"timm {timm.__version__} cannot build {name} with the card's options ({error}): "
            "correct them, or update timm (pip install --upgrade timm)"
        ) from None
    return model


def _transformers(folder: str, options: Mapping[str, Any]) -> nn.Module:
    from transformers import AutoModel

    # A card is data: it must not make the library import code from the folder.
    options = {k: v for k, v in options.items() if k != "trust_remote_code"}
    try:
        loaded: nn.Module = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"cannot load the encoder from {folder}: {reason}") from None
    return loaded


def build_network(library: str, name: str, options: Mapping[str, Any], width: int) -> nn.Module:
    """An encoder network without weights.

    Parameters
    ----------
    library
        ``"timm"`` (``name`` is a timm architecture) or ``"transformers"`` (``name`` is a local
        folder in the hub's layout, whose weights are loaded).
    options
        Passed to ``timm.create_model``; lists become tuples, and the values of ``mlp_layer``,
        ``act_layer`` and ``embed_layer`` are names of layers: ``SwiGLUPacked``, ``SiLU``,
        ``GELU``, ``ConvStem``. ``num_classes`` is ``width`` unless it is given: 0 for an encoder
        without a projection of its own.

    Raises
    ------
    ModelError
        If the library, the architecture or a layer is unknown, or this version of the library
        cannot build it.
    """
    if library == "timm":
        return _timm(name, options, width)
    if library == "transformers":
        return _transformers(name, options)
    raise ModelError(f"unknown encoder library {library!r}: timm and transformers are known")


def outline(part: Mapping[str, Any]) -> nn.Module:
    """The network of a card's ``encoder`` for its names and shapes, without memory if possible.

    Raises
    ------
    ModelError
        As :func:`build_network`.
    """
    arguments = part["library"], part["name"], part.get("options", {}), int(part["width"])
    try:
        with torch.device("meta"):
            return build_network(*arguments)
    except (NotImplementedError, RuntimeError):  # some networks compute while they are built
        return build_network(*arguments)
