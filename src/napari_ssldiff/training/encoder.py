"""Train a small self-supervised encoder of cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from napari_ssldiff.training.augment import view
from napari_ssldiff.training.data import ImageSet, draw_crops
from napari_ssldiff.training.loop import Runtime, Schedule, Trainer
from napari_ssldiff.training.sheets import grid, lattice_cells, nearest
from napari_ssldiff.training.validation import Groups, fixed_batches
from napari_ssldiff.training.weights import restore


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

    #: Children whose weights may be given without the others'.
    separable = ("backbone", "projector")

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

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """``(n, 3, s, s)`` normalised images → ``(n, features)`` before the head."""
        maps = self.backbone.forward_features(images)  # type: ignore[operator]
        out: torch.Tensor = self.backbone.forward_head(maps, pre_logits=True)  # type: ignore[operator]
        return out

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(n, 3, s, s)`` normalised images → ``(n, projector)``."""
        return self.projector(self.features(images).float())  # type: ignore[no-any-return]


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
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    similarity = similarity.masked_fill(itself, -1e9)
    return F.cross_entropy(similarity, torch.arange(len(z), device=z.device).roll(len(a)))


OBJECTIVES = {"vicreg": vicreg, "simclr": simclr}


def normalise_input(images: torch.Tensor) -> torch.Tensor:
    """[0, 1] → the range that the bundled encoders take (mean 0.5, deviation 0.25)."""
    return (images - 0.5) / 0.25


def _terms(
    model: Pretext,
    trainer: Trainer,
    groups: Groups,
    config: Mapping[str, Any],
    step: int,
    rng: np.random.Generator,
) -> dict[str, torch.Tensor]:
    """The objective on the batch of ``step``, which comes from one domain."""
    sets, aug = groups[step % len(groups)]
    size = int(config["input"])
    crops = draw_crops(sets, size * 3 // 2, int(config["batch"]), rng).to(trainer.device)
    # Views turn and zoom anyway, and how dense a section is shall be told.
    changes = {k: v for k, v in aug.items() if k not in ("turn", "shrink", "density")}
    views = [normalise_input(view(crops, size, rng, **config["view"], **changes)) for _ in range(2)]
    images = torch.cat(views).contiguous(memory_format=torch.channels_last)
    with trainer.autocast():
        z = model(images)
    a, b = z.float().chunk(2)
    return {"loss": OBJECTIVES[config["objective"]](a, b)}


def _sheet(model: Pretext, trainer: Trainer, groups: Groups, size: int) -> Image.Image:
    """Six cells per domain, each with those of 600 whose features are nearest."""
    queries, neighbours = 6, 8
    rows = []
    for sets, _ in groups:
        cells = lattice_cells(sets, size, 600, seed=0)
        if len(cells) <= neighbours:  # images smaller than a few cells
            cells = draw_crops(sets, size, 2 * neighbours, np.random.default_rng(0))
        parts = normalise_input(cells.to(trainer.device).float() / 255).split(200)
        with trainer.autocast():
            features = torch.cat([model.features(part) for part in parts])
        order = nearest(features.float().cpu(), queries, neighbours)
        rows.append(cells[order].float() / 127.5 - 1)
    pictures = torch.cat(rows).unbind(1)
    names = ["query", *(str(i + 1) for i in range(neighbours))]
    return grid(list(zip(names, pictures, strict=True)), max(size, 64), len(groups))


def train(
    groups: Groups,
    config: dict[str, Any],
    schedule: Schedule,
    directory: Path,
    *,
    runtime: Runtime | None = None,
    validation: Groups | None = None,
) -> Iterator[dict[str, Any]]:
    """Train; yields metric rows.

    Each batch comes from one domain, in turn: with mixed batches the objective is content to
    tell domains apart.

    Parameters
    ----------
    groups
        Domains, each with its image sets and its augmentation (``stain``, ``season``, …).
    config
        ``network``, ``width``, ``input``, ``objective``, ``projector``, ``batch``, ``view``.
    validation
        The same of images that are not trained on.
    """
    seed, size = int(config["seed"]), int(config["input"])
    torch.manual_seed(seed)
    model = Pretext(config["network"], int(config["width"]), int(config["projector"]))
    trainer = Trainer(model, directory, schedule, seed, runtime or Runtime())
    apart = validation or ()

    def loss(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return _terms(model, trainer, groups, config, step, rng)

    def held_out(module: Any, step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return _terms(module, trainer, apart, config, step, rng)

    yield from trainer.run(
        loss,
        validate=fixed_batches(held_out, max(4, len(apart)), seed) if apart else None,
        sheet=lambda module: _sheet(module, trainer, apart or groups, size),  # type: ignore[arg-type]
    )


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
    restore(model, directory)
    backbone = model.eval().backbone
    rng = np.random.default_rng(int(config["seed"]))
    size = int(config["input"])
    features = []
    for group in sets:
        crops = draw_crops(group, size, cells // len(sets), rng)
        for part in crops.split(256):
            x = normalise_input(part.float() / 255)
            features.append(model.features(x))
    f = torch.cat(features)
    mean = f.mean(0)
    _, s, axes = torch.linalg.svd(f - mean, full_matrices=False)
    head = axes[: int(config["width"])]
    backbone.fc.weight.copy_(head)  # type: ignore[union-attr,operator]
    backbone.fc.bias.copy_(-(head @ mean))  # type: ignore[union-attr,operator]
    unit = F.normalize((f - mean) @ head.T, dim=1)
    other = unit[torch.from_numpy(rng.permutation(len(unit)))]
    kept = float(s[: len(head)].square().sum() / s.square().sum())
    cosine = float((unit * other).sum(1).mean())
    return backbone, {"explained_variance": kept, "unrelated_cosine": cosine}
