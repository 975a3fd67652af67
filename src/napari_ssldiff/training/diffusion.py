"""Train the denoiser on cached latents and embedding fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.diffusion.conditioning import Condition, TokenProjection, concatenate
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.training.augment import jitter_light, jitter_stain, symmetry
from napari_ssldiff.training.data import ImageSet
from napari_ssldiff.training.encoder import normalise_input
from napari_ssldiff.training.loop import Schedule, Trainer


@dataclass(frozen=True)
class Sample:
    """One augmented image: ``(c, h, w)`` fp16 latents and its field, in model pixels."""

    latents: torch.Tensor
    field: EmbeddingField


def build_network(config: Mapping[str, Any], latent_channels: int, factor: int) -> nn.Module:
    """An untrained diffusers U-Net for the configuration."""
    kind: Any = UNet2DConditionModel
    network: nn.Module = kind(
        sample_size=int(config["window"]) // factor,
        in_channels=latent_channels + int(config["spatial"]),
        out_channels=latent_channels,
        cross_attention_dim=int(config["context"]),
        **config["network"],
    )
    return network


class Denoiser(nn.Module):
    """One U-Net and one projection per domain."""

    def __init__(
        self, config: Mapping[str, Any], domains: Sequence[str], width: int, channels: int, f: int
    ) -> None:
        super().__init__()
        self.unet = build_network(config, channels, f)
        side = int(config["window"]) // int(config["cell"])
        self.projections = nn.ModuleDict(
            {
                name: TokenProjection(
                    side,
                    width,
                    int(config["context"]),
                    int(config["spatial"]),
                    int(config["window"]) // f,
                )
                for name in domains
            }
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        """Noisy latents → the network's prediction."""
        if condition.spatial is not None:
            x = torch.cat([x, condition.spatial], 1)
        out: torch.Tensor = self.unet(x, t, condition.context).sample
        return out


@torch.no_grad()
def embed_cells(encoder: nn.Module, image: torch.Tensor, cell: int) -> np.ndarray[Any, Any]:
    """``(3, h, w)`` in [0, 1] → ``(h // cell, w // cell, d)`` float32, cells from the corner."""
    rows, columns = image.shape[1] // cell, image.shape[2] // cell
    cut = image[:, : rows * cell, : columns * cell]
    cells = cut.unflatten(1, (rows, cell)).unflatten(3, (columns, cell))
    cells = cells.permute(1, 3, 0, 2, 4).flatten(0, 1)
    parts = [encoder(normalise_input(part)).float() for part in cells.split(512)]
    return torch.cat(parts).reshape(rows, columns, -1).numpy()


@torch.no_grad()
def prepare(
    sets: Sequence[ImageSet],
    augmentation: Mapping[str, float],
    encoder: nn.Module,
    autoencoder: Autoencoder,
    config: Mapping[str, Any],
    versions: int,
) -> Iterator[Sample]:
    """Encode every image in ``versions`` augmented forms.

    Each form gets its own symmetry, stain, light and cell phase, so that the network meets
    conditions at every offset between windows and cells.
    """
    cell, rng = int(config["cell"]), np.random.default_rng(int(config["seed"]))
    for group in sets:
        for image in group.images:
            for version in range(versions):
                x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
                x = symmetry(x, version % 8).float() / 255
                if augmentation.get("stain"):
                    x = jitter_stain(x, augmentation["stain"], rng)
                if augmentation.get("light"):
                    x = jitter_light(x, augmentation["light"], rng)
                x = x.clamp(0, 1)
                x = x[..., : x.shape[-2] // 8 * 8, : x.shape[-1] // 8 * 8]
                # Small tiles keep phase 0 most of the time: another phase costs them a row.
                large = min(x.shape[-2:]) >= 8 * cell
                phase = rng.integers(0, cell // 8, 2) * 8 * (large or rng.random() < 0.25)
                py, px = (int(p) for p in phase)
                field = EmbeddingField(
                    embed_cells(encoder, x[0, :, py:, px:], cell),
                    origin=(py, px),
                    cell=(cell, cell),
                    encoder="training",
                    resolution=1.0,
                    unit="pixel",
                )
                with torch.autocast("cpu", torch.bfloat16):
                    z = autoencoder.encode(x * 2 - 1)
                yield Sample(z[0].half(), field)


def save_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Keep prepared samples for the next start; one safetensors file, whole or absent."""
    tensors = {}
    for i, sample in enumerate(samples):
        tensors[f"{i}.latents"] = sample.latents.contiguous()
        tensors[f"{i}.vectors"] = torch.from_numpy(sample.field.vectors.copy()).half()
        tensors[f"{i}.place"] = torch.tensor([*sample.field.origin, *sample.field.cell])
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial)
    partial.replace(path)


def load_samples(path: Path) -> list[Sample]:
    """What :func:`save_samples` wrote."""
    tensors = load_file(path)
    samples = []
    for i in range(len(tensors) // 3):
        oy, ox, ch, cw = tensors[f"{i}.place"].tolist()
        field = EmbeddingField(
            tensors[f"{i}.vectors"].float().numpy(), (oy, ox), (ch, cw), "training", 1.0, "pixel"
        )
        samples.append(Sample(tensors[f"{i}.latents"], field))
    return samples


def draw(
    samples: Sequence[Sample],
    config: Mapping[str, Any],
    factor: int,
    count: int,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(count, c, w, w)`` latent windows and their ``(count, k², d)`` tokens.

    Half of the windows sit on the cells, half anywhere on the latent lattice; tokens come from
    the same slerp sampling that synthesis uses.
    """
    window, cell = int(config["window"]), int(config["cell"])
    side, w = window // cell, window // factor
    centres = (np.arange(side) + 0.5) * cell
    latents, tokens = [], []
    for _ in range(count):
        sample = samples[int(rng.integers(len(samples)))]
        room = [n - w for n in sample.latents.shape[1:]]
        place = [int(rng.integers(r + 1)) for r in room]
        if rng.random() < 0.5:
            step = cell // factor
            for axis in (0, 1):
                first = int(sample.field.origin[axis]) // factor
                slots = (room[axis] - first) // step + 1
                place[axis] = first + step * int(rng.integers(max(1, slots)))
        y, x = (min(p, r) for p, r in zip(place, room, strict=True))
        latents.append(sample.latents[:, y : y + w, x : x + w])
        points = sample.field.sample(
            (y * factor + centres)[:, None], (x * factor + centres)[None, :]
        )
        tokens.append(points.reshape(side * side, -1))
    return torch.stack(latents).float(), torch.from_numpy(np.stack(tokens))


def train(
    domains: Mapping[str, Sequence[Sample]],
    config: Mapping[str, Any],
    factor: int,
    schedule: Schedule,
    directory: Path,
) -> Iterator[dict[str, Any]]:
    """Train one denoiser on all domains; yields metric rows.

    Conditions are dropped (zeroed) with probability ``unconditional``, for classifier-free
    guidance.
    """
    torch.manual_seed(int(config["seed"]))
    first = next(iter(domains.values()))[0]
    channels, width = first.latents.shape[0], first.field.width
    model = Denoiser(config, list(domains), width, channels, factor)
    model = model.to(memory_format=torch.channels_last)
    trainer = Trainer(model, directory, schedule, int(config["seed"]))
    kind: Any = DDPMScheduler  # its methods are added by a decorator
    scheduler = kind(prediction_type=config["prediction"], **config["scheduler"])
    share = int(config["batch"]) // len(domains)
    drop = float(config["unconditional"])

    def loss(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        clean, conditions = [], []
        for name, samples in domains.items():
            z, tokens = draw(samples, config, factor, share, rng)
            keep = torch.from_numpy(rng.random(share) >= drop).float()
            clean.append(z)
            conditions.append(model.projections[name](tokens * keep[:, None, None]))
        x0 = torch.cat(clean)
        condition = concatenate(conditions)
        noise = torch.randn_like(x0)
        # Stratified over the batch: every step sees the whole range of noise levels.
        u = (torch.randperm(len(x0)) + torch.rand(len(x0))) / len(x0)
        t = (u * scheduler.config.num_train_timesteps).long()
        xt = scheduler.add_noise(x0, noise, t)
        target = scheduler.get_velocity(x0, noise, t)
        with torch.autocast("cpu", torch.bfloat16):
            made = model(xt.contiguous(memory_format=torch.channels_last), t, condition)
        error = F.mse_loss(made.float(), target, reduction="none").mean(dim=(1, 2, 3))
        parts = {f"loss_{n}": e.mean() for n, e in zip(domains, error.split(share), strict=True)}
        return {"loss": error.mean(), **parts}

    yield from trainer.run(loss, log_every=50)


def result(
    config: Mapping[str, Any],
    domains: Sequence[str],
    width: int,
    channels: int,
    factor: int,
    directory: Path,
) -> Denoiser:
    """The averaged denoiser of a run that was trained in ``directory``."""
    model = Denoiser(config, domains, width, channels, factor)
    averaged = Trainer(model, directory, Schedule(steps=0)).averaged
    assert isinstance(averaged, Denoiser)
    return averaged.eval()
