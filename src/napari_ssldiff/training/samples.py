"""Training samples of the denoiser: cached latents and embedding fields, and windows of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.training.augment import jitter_light, jitter_stain, symmetry
from napari_ssldiff.training.data import ImageSet
from napari_ssldiff.training.encoder import normalise_input
from napari_ssldiff.training.runtime import Runtime
from napari_ssldiff.training.state import read_tensors, write_tensors


@dataclass(frozen=True)
class Sample:
    """One augmented image: ``(c, h, w)`` fp16 latents and its field, in model pixels."""

    latents: torch.Tensor
    field: EmbeddingField


@torch.no_grad()
def embed_cells(encoder: nn.Module, image: torch.Tensor, cell: int) -> np.ndarray[Any, Any]:
    """``(3, h, w)`` in [0, 1] → ``(h // cell, w // cell, d)`` float32, cells from the corner."""
    rows, columns = image.shape[1] // cell, image.shape[2] // cell
    cut = image[:, : rows * cell, : columns * cell]
    cells = cut.unflatten(1, (rows, cell)).unflatten(3, (columns, cell))
    cells = cells.permute(1, 3, 0, 2, 4).flatten(0, 1)
    parts = [encoder(normalise_input(part)).float() for part in cells.split(512)]
    return torch.cat(parts).reshape(rows, columns, -1).cpu().numpy()


@torch.no_grad()
def prepare(
    sets: Sequence[ImageSet],
    augmentation: Mapping[str, float],
    encoder: nn.Module,
    autoencoder: Autoencoder,
    config: Mapping[str, Any],
    versions: int,
    *,
    runtime: Runtime | None = None,
) -> Iterator[Sample]:
    """Encode every image in ``versions`` augmented forms, times the weight of its set.

    Each form gets its own symmetry, stain, light and cell phase, so that the network meets
    conditions at every offset between windows and cells. The networks work on the runtime's
    device and are on the CPU afterwards.
    """
    hardware = (runtime or Runtime()).resolve()
    encoder, autoencoder = encoder.to(hardware.device), autoencoder.to(hardware.device)
    cell, rng = int(config["cell"]), np.random.default_rng(int(config["seed"]))
    try:
        for group in sets:
            count = max(1, round(versions * group.weight))
            for image in group.images:
                for version in range(count):
                    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
                    x = symmetry(x.to(hardware.device), version % 8)
                    x, phase = _vary(x, augmentation, cell, rng)
                    field = EmbeddingField(
                        embed_cells(encoder, x[0, :, phase[0] :, phase[1] :], cell),
                        origin=phase,
                        cell=(cell, cell),
                        encoder="training",
                        resolution=1.0,
                        unit="pixel",
                    )
                    with hardware.autocast():
                        z = autoencoder.encode(x * 2 - 1)
                    yield Sample(z[0].half().cpu(), field)
    finally:
        encoder.cpu()
        autoencoder.cpu()


def _vary(
    images: torch.Tensor, augmentation: Mapping[str, float], cell: int, rng: np.random.Generator
) -> tuple[torch.Tensor, tuple[int, int]]:
    """uint8 → [0, 1] in another stain and light, sides multiples of 8; and where cells begin."""
    x = images.float() / 255
    if augmentation.get("stain"):
        x = jitter_stain(x, augmentation["stain"], rng)
    if augmentation.get("light"):
        x = jitter_light(x, augmentation["light"], rng)
    x = x.clamp(0, 1)[..., : x.shape[-2] // 8 * 8, : x.shape[-1] // 8 * 8]
    # Small tiles keep phase 0 most of the time: another phase costs them a row.
    large = min(x.shape[-2:]) >= 8 * cell
    y, x0 = rng.integers(0, cell // 8, 2) * 8 * (large or rng.random() < 0.25)
    return x, (int(y), int(x0))


def save_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Keep prepared samples for the next start; one safetensors file, whole or absent."""
    tensors = {}
    for i, sample in enumerate(samples):
        tensors[f"{i}.latents"] = sample.latents.contiguous()
        tensors[f"{i}.vectors"] = torch.from_numpy(sample.field.vectors.copy()).half()
        tensors[f"{i}.place"] = torch.tensor([*sample.field.origin, *sample.field.cell])
    write_tensors(path, tensors)


def load_samples(path: Path) -> list[Sample]:
    """What :func:`save_samples` wrote."""
    tensors = read_tensors(path)
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
