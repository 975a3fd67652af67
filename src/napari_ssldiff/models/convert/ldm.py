"""Checkpoints of latent diffusion (Rombach et al. 2022), and of the paper's models, made with it.

The names of U-Net and autoencoder are derived from the numbers in a card (:mod:`.ldm_unet`,
:mod:`.ldm_vq`), so a checkpoint of any width converts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from napari_ssldiff.diffusion.solvers import cumulative_alphas
from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.convert.layout import Converted, Layout, Tensors
from napari_ssldiff.models.convert.ldm_unet import Names, unet_names
from napari_ssldiff.models.convert.ldm_vq import vq_names

UNET = "model.diffusion_model."
AUTOENCODER = "first_stage_model."

#: What latent diffusion keeps beside its networks: numbers that follow from the noise schedule.
_BUFFERS = {
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
    "scale_factor",
    "model_ema.decay",
    "model_ema.num_updates",
}
# Networks that training judged with.
_JUDGES = ("inception.", "loss.", "first_stage_model.loss.")


def ema_names(names: Iterable[str]) -> dict[str, str]:
    """Where latent diffusion keeps the moving average of each tensor under ``model.``.

    Its names are those of the tensors without their dots.
    """
    return {
        name: "model_ema." + name.removeprefix("model.").replace(".", "")
        for name in names
        if name.startswith("model.")
    }


def sources(tensors: Tensors, names: Names) -> Names:
    """``names``, with the average in place of each tensor that has one in ``tensors``."""
    averages = ema_names(names.values())
    return {
        target: average if (average := averages.get(source, "")) in tensors else source
        for target, source in names.items()
    }


def take(tensors: Tensors, names: Names, what: str) -> dict[str, torch.Tensor]:
    """The tensors that ``names`` maps, under their new names.

    Raises
    ------
    ModelError
        If some are missing, with the first ten.
    """
    lacking = [source for source in names.values() if source not in tensors]
    if lacking:
        more = f" and {len(lacking) - 10} more" if len(lacking) > 10 else ""
        raise ModelError(f"the checkpoint lacks {', '.join(lacking[:10])}{more} of the {what}")
    return {target: tensors[source] for target, source in names.items()}


def unet_tensors(
    tensors: Tensors, config: Mapping[str, Any], prefix: str = UNET
) -> dict[str, torch.Tensor]:
    """The state dict of a ``UNet2DConditionModel``; moving averages where there are some.

    Parameters
    ----------
    tensors
        A checkpoint's.
    config
        Of the card's denoiser.
    prefix
        What the U-Net's names begin with.

    Raises
    ------
    ModelError
        If tensors are missing.
    """
    out = take(tensors, sources(tensors, unet_names(config, prefix)), "U-Net")
    linear = bool(config.get("use_linear_projection", False))
    for name, value in out.items():
        if name.endswith(("proj_in.weight", "proj_out.weight")):
            # A 1 × 1 convolution and a linear layer hold the same numbers.
            out[name] = value.reshape(*value.shape[:2], *(() if linear else (1, 1)))
    return out


def vq_tensors(
    tensors: Tensors, config: Mapping[str, Any], prefix: str = AUTOENCODER
) -> dict[str, torch.Tensor]:
    """The state dict of an :class:`Autoencoder` around a ``VQModel``.

    Its ``scale`` undoes the checkpoint's ``scale_factor``, if it has one. The map of previews is
    zero: it has to be fitted on pictures.

    Parameters
    ----------
    tensors
        A checkpoint's.
    config
        Of the card's autoencoder.
    prefix
        What the autoencoder's names begin with.

    Raises
    ------
    ModelError
        If tensors are missing, or ``scale_factor`` is not above 0.
    """
    out = {}
    for name, value in take(tensors, vq_names(config, prefix), "autoencoder").items():
        linear = ".attentions.0.to_" in name and value.ndim == 4
        out[f"network.{name}"] = value.reshape(value.shape[:2]) if linear else value
    channels = int(config["latent_channels"])
    factor = float(tensors.get("scale_factor", torch.ones(())))
    if not factor > 0:
        raise ModelError(f"the checkpoint's scale_factor has to be above 0, it is {factor}")
    return out | {
        "shift": torch.zeros(channels),
        "scale": torch.full((channels,), 1 / factor),
        "preview_weight": torch.zeros(3, channels),
        "preview_bias": torch.zeros(3),
    }


def leftover(tensors: Tensors, used: Iterable[str]) -> tuple[str, ...]:
    """Names that are not needed, such as a trainer's buffers or what its averages replace.

    Raises
    ------
    ModelError
        If some are neither used nor known, with the first ten.
    """
    used = set(used)
    averaged = {name for name, average in ema_names(tensors).items() if average in used}
    unused = [name for name in tensors if name not in used]
    strange = [
        name
        for name in unused
        if name not in _BUFFERS and name not in averaged and not name.startswith(_JUDGES)
    ]
    if strange:
        more = f" and {len(strange) - 10} more" if len(strange) > 10 else ""
        raise ModelError(
            f"the checkpoint has tensors that the card knows no place for: "
            f"{', '.join(sorted(strange)[:10])}{more}"
        )
    return tuple(unused)


def check_schedule(tensors: Tensors, card: ModelCard) -> None:
    """Refuse a checkpoint that was trained with another noise schedule than its card says.

    Raises
    ------
    ModelError
        If ``alphas_cumprod`` is there and another.
    """
    if "alphas_cumprod" not in tensors:
        return
    found = tensors["alphas_cumprod"].double().numpy()
    wanted = cumulative_alphas(card.parts["scheduler"])
    if found.shape != wanted.shape or not np.abs(found - wanted).max() <= 1e-3:
        raise ModelError(
            f"the checkpoint was trained with another noise schedule than {card.id} has (its "
            "alphas_cumprod differ): import it with a card of its own"
        )


def _is_lrdm(tensors: Tensors) -> bool:
    return any(n.startswith(UNET) for n in tensors) and any(
        n.startswith("cond_stage_model.patch_fc.") for n in tensors
    )


def _convert_lrdm(tensors: Tensors, card: ModelCard) -> Converted:
    unet, vq = (card.parts[part]["config"] for part in ("denoiser", "autoencoder"))
    projection = {
        "project.weight": "cond_stage_model.patch_fc.weight",
        "project.bias": "cond_stage_model.patch_fc.bias",
    }
    used = {*sources(tensors, unet_names(unet)).values(), *vq_names(vq).values()}
    region = bool(card.parts["conditioning"].get("region", False))
    if region:
        projection["region"] = "cond_stage_model.region_fc.bias"
        used.add("cond_stage_model.region_fc.weight")  # times the zero vector, always
    parts = {
        "denoiser": unet_tensors(tensors, unet),
        "autoencoder": vq_tensors(tensors, vq),
        "conditioning": take(tensors, projection, "conditioning"),
    }
    check_schedule(tensors, card)
    unused = leftover(tensors, used.union(projection.values()))
    return Converted(parts, unused + (("cond_stage_model.region_fc.weight",) if region else ()))


LRDM = Layout("lrdm", _is_lrdm, _convert_lrdm)
