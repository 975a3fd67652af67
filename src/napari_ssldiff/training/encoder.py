"""Train a small self-supervised encoder of cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn

from napari_ssldiff.training.augment import view
from napari_ssldiff.training.data import ImageSet, draw_crops
from napari_ssldiff.training.loop import Schedule, Trainer


def build(network: dict[str, Any], width: int) -> nn.Module:
    """An untrained timm model whose head is ``Linear(features, width)``."""
    options = dict(network)
    if "channels" in options:
        options["channels"] = tuple(options["channels"])
    model: nn.Module = timm.create_model(
        options.pop("name"), num_classes=width, pretrained=False, **options
    )
    return model


class Pretext(nn.Module):
    """Backbone and the projector that only training needs."""

    def __init__(self, network: dict[str, Any], width: int, projector: int) -> None:
        super().__init__()
        self.backbone = build(network, width)
        features = int(self.backbone.num_features)  # type: ignore[arg-type]
        self.projector = nn.Sequential(
            nn.Linear(features, projector, bias=False),
            nn.BatchNorm1d(projector),
            nn.ReLU(),
            nn.Linear(projector, projector),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(n, 3, s, s)`` normalised images → ``(n, projector)``."""
        features = self.backbone.forward_head(  # type: ignore[operator]
            self.backbone.forward_features(images),  # type: ignore[operator]
            pre_logits=True,
        )
        return self.projector(features.float())  # type: ignore[no-any-return]


def vicreg(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Variance-invariance-covariance loss (Bardes, Ponce and LeCun 2022), weights 25, 25, 1."""
    total = 25 * F.mse_loss(a, b)
    for z in (a, b):
        centred = z - z.mean(0)
        spread = F.relu(1 - torch.sqrt(centred.var(0) + 1e-4)).mean()
        covariance = centred.T @ centred / (len(z) - 1)
        off = covariance.square().sum() - covariance.diagonal().square().sum()
        total = total + 12.5 * spread + off / z.shape[1]
    return total


def simclr(a: torch.Tensor, b: torch.Tensor, temperature: float = 0.2) -> torch.Tensor:
    """Normalised temperature-scaled cross entropy (Chen et al. 2020)."""
    z = F.normalize(torch.cat([a, b]), dim=1)
    similarity = z @ z.T / temperature
    similarity = similarity.masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
    target = torch.cat([torch.arange(len(a), len(z)), torch.arange(len(a))])
    return F.cross_entropy(similarity, target)


OBJECTIVES = {"vicreg": vicreg, "simclr": simclr}


def normalise_input(images: torch.Tensor) -> torch.Tensor:
    """[0, 1] → the range that the bundled encoders take (mean 0.5, deviation 0.25)."""
    return (images - 0.5) / 0.25


def train(
    groups: Sequence[tuple[Sequence[ImageSet], dict[str, Any]]],
    config: dict[str, Any],
    schedule: Schedule,
    directory: Path,
) -> Iterator[dict[str, Any]]:
    """Train; yields metric rows.

    Each batch comes from one domain, in turn: with mixed batches the objective is content to
    tell domains apart.
    """
    torch.manual_seed(int(config["seed"]))
    model = Pretext(config["network"], int(config["width"]), int(config["projector"]))
    trainer = Trainer(model, directory, schedule, int(config["seed"]))
    objective, size = OBJECTIVES[config["objective"]], int(config["input"])

    def loss(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        sets, aug = groups[step % len(groups)]
        crops = draw_crops(sets, size * 3 // 2, int(config["batch"]), rng)
        views = [normalise_input(view(crops, size, rng, **config["view"], **aug)) for _ in range(2)]
        images = torch.cat(views).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            z = model(images)
        a, b = z.float().chunk(2)
        return {"loss": objective(a, b)}

    yield from trainer.run(loss)


@torch.no_grad()
def result(
    sets: Sequence[Sequence[ImageSet]],
    config: dict[str, Any],
    directory: Path,
    cells: int = 6000,
) -> tuple[nn.Module, dict[str, Any]]:
    """The averaged encoder, its head set to the leading principal axes of training features.

    Centring matters: the features of a ReLU network share a large common direction, and
    cosines between unrelated cells would all be near 1.

    Returns
    -------
    The timm model (head ``features → width``), and figures: explained variance and the mean
    cosine between unrelated cells.
    """
    model = Pretext(config["network"], int(config["width"]), int(config["projector"]))
    trainer = Trainer(model, directory, Schedule(steps=0))
    backbone = trainer.averaged.get_submodule("backbone").eval()
    rng = np.random.default_rng(int(config["seed"]))
    size = int(config["input"])
    features = []
    for group in sets:
        crops = draw_crops(group, size, cells // len(sets), rng)
        for part in crops.split(256):
            x = normalise_input(part.float() / 255)
            maps = backbone.forward_features(x)  # type: ignore[operator]
            features.append(backbone.forward_head(maps, pre_logits=True))  # type: ignore[operator]
    f = torch.cat(features)
    mean = f.mean(0)
    _, s, axes = torch.linalg.svd(f - mean, full_matrices=False)
    head = axes[: int(config["width"])]
    backbone.fc.weight.copy_(head)  # type: ignore[union-attr,operator]
    backbone.fc.bias.copy_(-(head @ mean))  # type: ignore[union-attr,operator]
    unit = F.normalize((f - mean) @ head.T, dim=1)
    other = unit[torch.randperm(len(unit))]
    kept = float(s[: len(head)].square().sum() / s.square().sum())
    cosine = float((unit * other).sum(1).mean())
    return backbone, {"explained_variance": kept, "unrelated_cosine": cosine}
