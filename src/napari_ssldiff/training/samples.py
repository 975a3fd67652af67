"""Training samples of the denoiser: cached latents and embedding fields, and windows of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.embeddings.field import EmbeddingField, slerp
from napari_ssldiff.training.augment import (
    jitter_density,
    jitter_light,
    jitter_stain,
    shrink,
    symmetry,
    turn,
)
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

    Each form gets its own symmetry, stain, density, light and cell phase, so that the network
    meets conditions at every offset between windows and cells; from the ninth on it is shrunk by
    up to ``shrink`` and turned by up to ``turn`` degrees besides, where the augmentation has that.
    The networks work on the runtime's device, in its precision, and are on the CPU afterwards.
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
                    x = symmetry(x.to(hardware.device), version % 8).float() / 255
                    if version >= 8:
                        x = _bend(x, augmentation, int(config["window"]), rng)
                    x, phase = _vary(x, augmentation, cell, rng)
                    with hardware.autocast():
                        vectors = embed_cells(encoder, x[0, :, phase[0] :, phase[1] :], cell)
                        z = autoencoder.encode(x * 2 - 1)
                    field = EmbeddingField(
                        vectors,
                        origin=phase,
                        cell=(cell, cell),
                        encoder="training",
                        resolution=1.0,
                        unit="pixel",
                    )
                    yield Sample(z[0].half().cpu(), field)
    finally:
        encoder.cpu()
        autoencoder.cpu()


def _bend(
    image: torch.Tensor, augmentation: Mapping[str, float], window: int, rng: np.random.Generator
) -> torch.Tensor:
    """Smaller and at another angle, as far as a window still fits."""
    x = image
    # Turned by 45 degrees the square inside has 0.71 of the edge; sides are cut to multiples of 8.
    least = (window + 8) * (math.sqrt(2) if augmentation.get("turn") else 1)
    if augmentation.get("shrink"):
        factor = 1 - rng.uniform(0, augmentation["shrink"])
        x = shrink(x, min(1.0, max(factor, least / min(x.shape[-2:]))))
    if augmentation.get("turn") and min(x.shape[-2:]) >= least - 1:
        x = turn(x, rng.uniform(-augmentation["turn"], augmentation["turn"]))
    return x


def _vary(
    images: torch.Tensor, augmentation: Mapping[str, float], cell: int, rng: np.random.Generator
) -> tuple[torch.Tensor, tuple[int, int]]:
    """[0, 1] in another stain and light, sides multiples of 8; and where cells begin."""
    x = images
    if augmentation.get("stain"):
        x = jitter_stain(x, augmentation["stain"], rng)
    if augmentation.get("density"):
        x = jitter_density(x, augmentation["density"], rng)
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


class Windows:
    """Windows of one domain's samples, drawn a batch at a time.

    Parameters
    ----------
    samples
        At least one.
    config
        ``window`` and ``cell`` in model pixels.
    factor
        Model pixels per latent.
    """

    def __init__(self, samples: Sequence[Sample], config: Mapping[str, Any], factor: int) -> None:
        window, self._cell = int(config["window"]), int(config["cell"])
        self._side, self._edge, self._factor = window // self._cell, window // factor, factor
        self._latents = [sample.latents for sample in samples]
        fields = [sample.field for sample in samples]
        self._room = np.array([z.shape[1:] for z in self._latents]) - self._edge
        self._origin = np.array([field.origin for field in fields])
        self._shape = np.array([field.shape for field in fields])
        # One table of vectors for all: a batch is then one look-up, not hundreds.
        self._begin = np.cumsum([0, *self._shape.prod(1)])[:-1]
        self._vectors = np.concatenate([f.vectors.reshape(-1, f.width) for f in fields])

    def draw(self, count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """``(count, c, w, w)`` float32 latent windows and their ``(count, k², d)`` tokens.

        Half of the windows sit on the cells, half anywhere on the latent lattice; tokens are
        sampled as by :meth:`~napari_ssldiff.embeddings.field.EmbeddingField.sample`.
        """
        which = rng.integers(len(self._latents), size=count)
        room = self._room[which]
        share, on_cells = rng.random((count, 2)), rng.random((count, 1)) < 0.5
        step, first = self._cell // self._factor, self._origin[which].astype(int) // self._factor
        slots = np.maximum((room - first) // step + 1, 1)
        sitting = first + step * np.floor(share * slots).astype(int)
        place = np.where(on_cells, sitting, np.floor(share * (room + 1)).astype(int))
        place = np.minimum(place, room)
        n = self._edge
        latents = [
            self._latents[i][:, y : y + n, x : x + n]
            for i, (y, x) in zip(which.tolist(), place.tolist(), strict=True)
        ]
        return torch.stack(latents).float(), torch.from_numpy(self._tokens(which, place))

    def _tokens(self, which: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.float32]:
        """``(n, k², d)`` at the cells' centres of the windows at ``place``, in latents."""
        centres = (np.arange(self._side) + 0.5) * self._cell
        points = place[:, :, None] * self._factor + centres  # (n, 2, k)
        last = self._shape[which][:, :, None] - 1
        at = np.clip((points - self._origin[which][:, :, None]) / self._cell - 0.5, 0, last)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, last)
        ty, tx = (at - low)[:, 0, :, None], (at - low)[:, 1, None, :]
        begin, columns = self._begin[which][:, None, None], self._shape[which, 1][:, None, None]

        def corner(rows: NDArray[np.int64], across: NDArray[np.int64]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = self._vectors[
                begin + rows[:, 0, :, None] * columns + across[:, 1, None, :]
            ]
            return found

        upper = slerp(corner(low, low), corner(low, high), tx)
        lower = slerp(corner(high, low), corner(high, high), tx)
        return slerp(upper, lower, ty).reshape(len(which), self._side**2, -1)


@dataclass(frozen=True)
class Batch:
    """Windows of all domains.

    Parameters
    ----------
    latents
        ``(n, c, w, w)`` float32, domain after domain.
    tokens
        ``(share, k², d)`` float32 per domain; zero where the condition was dropped.
    """

    latents: torch.Tensor
    tokens: dict[str, torch.Tensor]


def draw_batch(
    domains: Mapping[str, Windows],
    count: int,
    drop: float,
    rng: np.random.Generator,
    shares: Mapping[str, float] | None = None,
) -> Batch:
    """``count`` windows; conditions go with probability ``drop``.

    Parameters
    ----------
    shares
        How many of them are of a domain, in any unit; ``None``: equal parts. Each gets at least
        one.
    """
    latents, tokens = [], {}
    for name, share in _parts(list(domains), count, shares).items():
        z, k = domains[name].draw(share, rng)
        latents.append(z)
        tokens[name] = k * torch.from_numpy(rng.random(share) >= drop).float()[:, None, None]
    return Batch(torch.cat(latents), tokens)


def _parts(names: Sequence[str], count: int, shares: Mapping[str, float] | None) -> dict[str, int]:
    """Whole numbers in proportion to the shares, their sum ``count`` (largest remainders)."""
    weights = np.array([1.0 if shares is None else float(shares[name]) for name in names])
    exact = count * weights / weights.sum()
    whole = np.maximum(1, np.floor(exact + 1e-9).astype(int))
    for i in np.argsort(whole - exact, kind="stable")[: max(0, count - int(whole.sum()))]:
        whole[i] += 1
    return dict(zip(names, whole.tolist(), strict=True))
