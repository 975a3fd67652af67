"""Train the autoencoder: reconstruction at several scales, with latents kept fit for diffusion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.training.augment import jitter_light, jitter_stain, symmetry
from napari_ssldiff.training.data import ImageSet, draw_crops
from napari_ssldiff.training.loop import Schedule, Trainer


def build(config: dict[str, Any]) -> Autoencoder:
    """An untrained :class:`Autoencoder`.

    ``config["network"]`` is ``{"class": …, **config}`` of diffusers; ``patch`` and ``linear``
    are those of :class:`Autoencoder`.
    """
    network = dict(config["network"])
    kind = getattr(diffusers, network.pop("class"))
    channels = int(network["latent_channels"])
    return Autoencoder(kind(**network), int(config["patch"]), channels, int(config["linear"]))


@torch.no_grad()
def start_linear(model: Autoencoder, images: torch.Tensor) -> float:
    """Set the linear path to the principal components of patches, and the network to silence.

    Without it the channels of a small network all learn brightness first and take thousands of
    steps to part.

    Parameters
    ----------
    images
        ``(n, 3, h, w)`` in [-1, 1].

    Returns
    -------
    The share of the patches' variance that the latents keep.
    """
    assert model.analysis is not None
    assert model.synthesis is not None
    f, c = model.analysis.kernel_size[0], model.analysis.out_channels
    patches = F.unfold(images, f, stride=f).transpose(1, 2).flatten(0, 1)
    mean = patches.mean(0)
    _, s, axes = torch.linalg.svd((patches - mean)[:40000], full_matrices=False)
    deviation = s[:c] / min(len(patches), 40000) ** 0.5
    axes = axes[:c].reshape(c, 3, f, f)
    model.analysis.weight.copy_(axes / deviation[:, None, None, None])
    model.analysis.bias.copy_(-(axes.flatten(1) @ mean) / deviation)  # type: ignore[union-attr]
    model.synthesis.weight.copy_(axes * deviation[:, None, None, None])
    model.synthesis.bias.copy_(mean.reshape(3, -1).mean(1))  # type: ignore[union-attr]
    for name, layer in model.network.named_modules():
        if name in ("encoder.conv_out", "decoder.conv_out"):
            for parameter in layer.parameters():
                parameter.zero_()
        elif name == "quant_conv" and isinstance(layer, nn.Conv2d) and layer.bias is not None:
            layer.bias.zero_()
    return float(s[:c].square().sum() / s.square().sum())


def _gradients(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return images[..., 1:, :] - images[..., :-1, :], images[..., :, 1:] - images[..., :, :-1]


def reconstruction_loss(made: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
    """Terms between ``(n, 3, h, w)`` images in [-1, 1].

    L1; L1 of the image gradients at full and half resolution, which L1 alone blurs; and L1
    between log amplitude spectra, which asks for the right energy at every frequency.
    """
    pixel = F.l1_loss(made, real)
    edge = made.new_zeros(())
    a, b = made, real
    for weight in (1.0, 0.5):
        for ga, gb in zip(_gradients(a), _gradients(b), strict=True):
            edge = edge + weight * F.l1_loss(ga, gb)
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    fa = torch.log(torch.fft.rfft2(made, norm="ortho").abs() + 0.05)
    fb = torch.log(torch.fft.rfft2(real, norm="ortho").abs() + 0.05)
    return {"l1": pixel, "edge": edge, "spectrum": F.l1_loss(fa, fb)}


def augment(crops: torch.Tensor, config: dict[str, Any], rng: np.random.Generator) -> torch.Tensor:
    """uint8 crops → float [-1, 1] with a random symmetry, stain and light."""
    images = symmetry(crops, int(rng.integers(8))).float() / 255
    if config.get("stain"):
        images = jitter_stain(images, float(config["stain"]), rng)
    if config.get("light"):
        images = jitter_light(images, float(config["light"]), rng)
    return images.clamp(0, 1) * 2 - 1


def calibration_images(sets: Sequence[ImageSet], count: int) -> torch.Tensor:
    """``(count, 3, 256, 256)`` fixed crops in [-1, 1]."""
    crops = draw_crops(sets, 256, count, np.random.default_rng(0))
    return crops.float() / 127.5 - 1


@torch.no_grad()
def calibrate(
    model: Autoencoder, images: torch.Tensor, factor: int, batch: int = 16
) -> dict[str, float]:
    """Standardise the latents and fit the preview map on ``(n, 3, h, w)`` in [-1, 1].

    Returns
    -------
    PSNR in dB of the round trip on these images, and the preview map's.
    """
    model.eval()
    latents = torch.cat([model.encode_raw(part) for part in images.split(batch)])
    model.shift.copy_(latents.mean(dim=(0, 2, 3)))
    model.scale.copy_(latents.std(dim=(0, 2, 3)))
    z = (latents - model.shift[:, None, None]) / model.scale[:, None, None]
    small = F.avg_pool2d(images, factor)
    design = torch.cat([z, torch.ones_like(z[:, :1])], 1).permute(0, 2, 3, 1).flatten(0, 2)
    target = small.permute(0, 2, 3, 1).flatten(0, 2)
    fit = torch.linalg.lstsq(design, target).solution
    model.preview_weight.copy_(fit[:-1].T)
    model.preview_bias.copy_(fit[-1])
    made = torch.cat([model.decode(part) for part in z.split(batch)])

    def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(10 * torch.log10(4 / F.mse_loss(a, b)))

    return {"psnr": psnr(made, images), "preview_psnr": psnr(model.preview(z), small)}


def train(
    groups: Sequence[tuple[Sequence[ImageSet], dict[str, Any]]],
    config: dict[str, Any],
    schedule: Schedule,
    directory: Path,
) -> Iterator[dict[str, Any]]:
    """Train; yields metric rows. The result is :func:`result`.

    Parameters
    ----------
    groups
        Domains, each with its image sets and its augmentation (``stain``, ``light``); every
        batch holds equal parts of all.
    config
        ``network``, ``patch``, ``crops`` (edges, in turn), ``pixels`` per batch,
        ``latent_noise``, ``loss`` weights.
    """
    torch.manual_seed(int(config["seed"]))
    model = build(config).to(memory_format=torch.channels_last)
    if config["linear"]:
        rng = np.random.default_rng(int(config["seed"]))
        first = [augment(draw_crops(sets, 64, 256, rng), aug, rng) for sets, aug in groups]
        start_linear(model, torch.cat(first))
    trainer = Trainer(model, directory, schedule, int(config["seed"]))
    weights, noise = config["loss"], float(config["latent_noise"])
    # Small crops make many cheap steps; some large ones show the normalisation layers the
    # statistics that they will meet on a canvas.
    crops = [int(c) for c in config["crops"]]

    def loss(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        crop = crops[step % len(crops)]
        share = max(1, round(int(config["pixels"]) / crop**2 / len(groups)))
        parts = [augment(draw_crops(sets, crop, share, rng), aug, rng) for sets, aug in groups]
        real = torch.cat(parts).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            z = model.encode_raw(real)
            made = model.decode_raw(z + noise * torch.randn_like(z)).float()
        terms = reconstruction_loss(made, real)
        # Unit variance gives the added noise a meaning; no correlation keeps every channel busy.
        flat = z.float().transpose(0, 1).flatten(1)
        covariance = flat @ flat.T / flat.shape[1]
        terms["whiteness"] = (covariance - torch.eye(len(flat))).square().mean()
        total = sum((weights[k] * v for k, v in terms.items()), real.new_zeros(()))
        terms["mse"] = F.mse_loss(made.detach(), real)
        return {"loss": total, **terms}

    yield from trainer.run(loss)


def result(config: dict[str, Any], directory: Path) -> Autoencoder:
    """The averaged autoencoder of a run that was trained in ``directory``."""
    model = build(config)
    trainer = Trainer(model, directory, Schedule(steps=0))
    averaged = trainer.averaged
    assert isinstance(averaged, Autoencoder)
    return averaged.eval()
