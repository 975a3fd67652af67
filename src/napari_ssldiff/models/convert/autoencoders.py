"""diffusers' autoencoders, as the engine's own class has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models import parts
from napari_ssldiff.models.convert.layout import Tensors, check_fit

#: Attention as diffusers named it before 0.18, in folders that were saved then.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(rf"(attentions\.\d+)\.({'|'.join(_OLD)})\.")


def stock_autoencoder(tensors: Tensors, part: Mapping[str, Any]) -> Tensors:
    """The tensors of a diffusers autoencoder and the buffers that bring its latents to scale.

    Parameters
    ----------
    tensors
        With the names of the part's class.
    part
        The card's. Its configuration's ``scaling_factor`` and ``shift_factor`` (diffusers'
        defaults where it has none) say what the denoiser takes: (z - shift) · scaling.

    Returns
    -------
    The state dict of :func:`~napari_ssldiff.models.parts.autoencoder`. The preview's map is zeros:
    it is fitted on pictures when a model is imported.

    Raises
    ------
    ModelError
        If the tensors are not those of the part.
    """
    named = {f"network.{_current(name)}": tensor for name, tensor in tensors.items()}
    with torch.device("meta"):
        module = parts.autoencoder(part)
    config: Any = module.network.config
    scaling, shift = float(config["scaling_factor"]), config.get("shift_factor")
    if scaling <= 0:
        raise ModelError(f"the scaling factor of an autoencoder is positive, not {scaling:g}")
    channels = len(module.scale)
    whole = {
        **named,
        "shift": torch.full((channels,), float(shift or 0)),
        "scale": torch.full((channels,), 1 / scaling),
        "preview_weight": torch.zeros(3, channels),
        "preview_bias": torch.zeros(3),
    }
    check_fit(module, whole, f"the {part['class']}")
    return whole


def _current(name: str) -> str:
    return _OLD_NAME.sub(lambda found: f"{found[1]}.{_OLD[found[2]]}.", name)
