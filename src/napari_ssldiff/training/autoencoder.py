"""Train the autoencoder: reconstruction at several scales, with latents kept fit for diffusion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.training.augment import jitter_light, jitter_stain, symmetry
from napari_ssldiff.training.data import ImageSet, draw_crops
from napari_ssldiff.training.loop import Runtime, Schedule, Trainer
from napari_ssldiff.training.sheets import grid
from napari_ssldiff.training.validation import Groups, fixed_batches
from napari_ssldiff.training.weights import restore


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


def ring_power(images: torch.Tensor, rings: int = 12) -> torch.Tensor:
    """``(n, rings)``: natural log of the mean spectral power of each image in rings of equal
    width up to the Nyquist frequency, channels averaged.
    """
    size = images.shape[-1]
    power = torch.fft.rfft2(images, norm="ortho").abs().square().mean(1)
    radius = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None, :])
    ring = (radius * 2 * rings).long()
    ring[0, 0] = rings  # brightness is no texture
    member = F.one_hot(ring.clamp_max(rings), rings + 1)[..., :rings].float().flatten(0, 1)
    member = (member / member.sum(0)).to(power.device)
    return torch.log(power.flatten(1) @ member + 1e-5)


def reconstruction_loss(made: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
    """Terms between ``(n, 3, s, s)`` images in [-1, 1].

    ``l1``; ``edge``, L1 of the image gradients at full and half resolution, which L1 alone
    blurs; ``spectrum``, L1 between log amplitude spectra; and ``power``, L1 between the log
    power of rings of the spectrum, which asks for the right energy at every scale where its
    phase cannot be known.
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
    power = F.l1_loss(ring_power(made), ring_power(real))
    return {"l1": pixel, "edge": edge, "spectrum": F.l1_loss(fa, fb), "power": power}


def augment(
    crops: torch.Tensor, config: Mapping[str, Any], rng: np.random.Generator
) -> torch.Tensor:
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
def significance(model: Autoencoder, latents: torch.Tensor, amount: float = 0.5) -> torch.Tensor:
    """``(c,)``: root mean square of the pixels' change per unit of noise in each latent channel.

    Parameters
    ----------
    latents
        ``(n, c, h, w)``, as :meth:`Autoencoder.encode` returns them.
    """
    generator = torch.Generator().manual_seed(0)
    noise = amount * torch.randn(latents[:, 0].shape, generator=generator)
    base, out = model.decode(latents), []
    for channel in range(latents.shape[1]):
        changed = latents.clone()
        changed[:, channel] += noise
        out.append((model.decode(changed) - base).square().mean().sqrt() / amount)
    return torch.stack(out)


@torch.no_grad()
def calibrate(
    model: Autoencoder,
    images: torch.Tensor,
    factor: int,
    batch: int = 16,
    coarse_to_fine: float = 0.0,
) -> dict[str, float]:
    """Scale the latents and fit the preview map on ``(n, 3, h, w)`` in [-1, 1].

    Parameters
    ----------
    coarse_to_fine
        Channels get the standard deviation ``significance ** coarse_to_fine``, its geometric
        mean 1. At 0 all are alike, and a denoiser must settle brightness and grain at the same
        noise level; above, it settles what changes the image most first and can build detail
        on it, as diffusion on pixels does by the images' own spectrum.

    Returns
    -------
    PSNR in dB of the round trip on these images, and the preview map's.
    """
    model.eval()
    latents = torch.cat([model.encode_raw(part) for part in images.split(batch)])
    model.shift.copy_(latents.mean(dim=(0, 2, 3)))
    model.scale.copy_(latents.std(dim=(0, 2, 3)))
    if coarse_to_fine:
        few = latents[:: max(1, len(latents) // 16), :, :16, :16]
        z = (few - model.shift[:, None, None]) / model.scale[:, None, None]
        weight = significance(model, z).log() * coarse_to_fine
        model.scale.div_((weight - weight.mean()).exp())
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


def _terms(
    model: Autoencoder,
    trainer: Trainer,
    groups: Groups,
    config: Mapping[str, Any],
    step: int,
    rng: np.random.Generator,
) -> dict[str, torch.Tensor]:
    """The loss and its terms on the batch of ``step``."""
    # Small crops make many cheap steps; some large ones show the normalisation layers the
    # statistics that they will meet on a canvas.
    crop = int(config["crops"][step % len(config["crops"])])
    share = max(1, round(int(config["pixels"]) / crop**2 / len(groups)))
    parts = [
        augment(draw_crops(sets, crop, share, rng).to(trainer.device), aug, rng)
        for sets, aug in groups
    ]
    real = torch.cat(parts).contiguous(memory_format=torch.channels_last)
    with trainer.autocast():
        z = model.encode_raw(real)
        made = model.decode_raw(z + float(config["latent_noise"]) * torch.randn_like(z)).float()
    terms = reconstruction_loss(made, real)
    # Unit variance gives the added noise a meaning; no correlation keeps every channel busy.
    flat = z.float().transpose(0, 1).flatten(1)
    covariance = flat @ flat.T / flat.shape[1]
    identity = torch.eye(len(flat), device=flat.device)
    terms["whiteness"] = (covariance - identity).square().mean()
    total = sum((config["loss"].get(k, 0.0) * v for k, v in terms.items()), real.new_zeros(()))
    return {"loss": total, **terms, "mse": F.mse_loss(made.detach(), real)}


def _sheet(model: Autoencoder, trainer: Trainer, groups: Groups) -> Image.Image:
    """Real crops beside their reconstructions, a block of four rows per domain."""
    rng = np.random.default_rng(0)
    real = torch.cat([draw_crops(sets, 192, 4, rng) for sets, _ in groups]).float() / 127.5 - 1
    with trainer.autocast():
        made = model.decode_raw(model.encode_raw(real.to(trainer.device)))
    return grid([("real", real), ("reconstruction", made)], 192, len(groups))


def train(
    groups: Groups,
    config: dict[str, Any],
    schedule: Schedule,
    directory: Path,
    *,
    runtime: Runtime | None = None,
    validation: Groups | None = None,
) -> Iterator[dict[str, Any]]:
    """Train; yields metric rows. The result is :func:`result`.

    Parameters
    ----------
    groups
        Domains, each with its image sets and its augmentation (``stain``, ``light``); every
        batch holds equal parts of all.
    config
        ``network``, ``patch``, ``crops`` (edges, in turn), ``pixels`` per batch,
        ``latent_noise``, ``loss`` weights of the terms (0 for those not named).
    validation
        The same of images that are not trained on; their stain and light stay as they are.
    """
    seed = int(config["seed"])
    torch.manual_seed(seed)
    model = build(config).to(memory_format=torch.channels_last)
    if config["linear"]:
        rng = np.random.default_rng(seed)
        first = [augment(draw_crops(sets, 64, 256, rng), aug, rng) for sets, aug in groups]
        start_linear(model, torch.cat(first))
    trainer = Trainer(model, directory, schedule, seed, runtime or Runtime())
    plain: Groups = [(sets, {}) for sets, _ in validation or ()]

    def loss(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return _terms(model, trainer, groups, config, step, rng)

    def held_out(module: Any, step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return _terms(module, trainer, plain, config, step, rng)

    yield from trainer.run(
        loss,
        validate=fixed_batches(held_out, max(4, len(config["crops"])), seed) if plain else None,
        sheet=lambda module: _sheet(module, trainer, plain or groups),  # type: ignore[arg-type]
    )


def result(config: dict[str, Any], directory: Path) -> Autoencoder:
    """The averaged autoencoder of a run that was trained in ``directory``."""
    model = build(config)
    restore(model, directory)
    return model.eval()
