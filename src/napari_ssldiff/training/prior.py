"""Train a prior: fields of embeddings from what is known of what they show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler

from napari_ssldiff.diffusion.bundle import to_x0
from napari_ssldiff.errors import InputError
from napari_ssldiff.text.captions import Captions
from napari_ssldiff.text.encoder import TextEncoder
from napari_ssldiff.text.prior import PriorNetwork
from napari_ssldiff.training.diffusion import draw_timesteps
from napari_ssldiff.training.loop import Runtime, Schedule, Trainer
from napari_ssldiff.training.meanings import Area, Areas
from napari_ssldiff.training.validation import fixed_batches
from napari_ssldiff.training.weights import restore


class Conditioning(Protocol):
    """Makes conditions of areas: ``(n, d)`` of unit length, or zero where nothing is known."""

    def __call__(self, areas: Sequence[Area], rng: np.random.Generator) -> torch.Tensor: ...


@dataclass(frozen=True)
class Conditioner:
    """Conditions of areas, in the space of a text encoder.

    Parameters
    ----------
    encoder
        An open_clip model.
    captions
        Of the domain; one without captions is learned from pictures alone.
    said
        Share of areas whose condition is a sentence about them; that of the others is their
        picture. Both, because a text encoder's two sides do not lie on each other.
    noise
        Deviation, over the length of a unit vector, of the noise on pictures' conditions.
    """

    encoder: TextEncoder
    captions: Captions
    said: float
    noise: float

    def __call__(self, areas: Sequence[Area], rng: np.random.Generator) -> torch.Tensor:
        """``(n, d)`` unit vectors."""
        texts = [self.captions.caption(a.facts, a.label, rng) for a in areas]
        spoken = [bool(t) and rng.random() < self.said for t in texts]
        width = self.encoder.width
        out = torch.zeros(len(areas), width)
        said = [i for i, s in enumerate(spoken) if s]
        shown = [i for i, s in enumerate(spoken) if not s]
        if said:
            out[said] = torch.from_numpy(self.encoder.text([texts[i] for i in said]))
        if shown:
            vectors = torch.from_numpy(self.encoder.images([areas[i].picture for i in shown]))
            jitter = torch.from_numpy(rng.normal(size=vectors.shape)).float()
            out[shown] = F.normalize(vectors + self.noise / width**0.5 * jitter, dim=1)
        return out


def draw_windows(
    areas: Areas,
    conditioner: Conditioning,
    window: int,
    count: int,
    composed: float,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of cells and a condition for each of their cells.

    A share ``composed`` of the windows is two areas side by side or one above the other, each
    with its own condition: what lies on both sides of a border between two meanings.

    Returns
    -------
    ``(count, window, window, d)`` unit vectors and ``(count, window², condition)``.
    """
    drawn: list[Area] = []
    plans: list[tuple[int, int, bool]] = []  # first area, cut (0: one area), along columns
    for _ in range(count):
        at = int(rng.integers(1, window)) if rng.random() < composed else 0
        plans.append((len(drawn), at, bool(rng.integers(2))))
        drawn += [areas.draw(window, window, rng) for _ in range(2 if at else 1)]
    conditions = conditioner(drawn, rng)
    vectors = np.empty((count, window, window, drawn[0].vectors.shape[-1]), np.float32)
    grids = torch.empty(count, window, window, conditions.shape[1])
    for n, (first, at, columns) in enumerate(plans):
        vectors[n], grids[n] = drawn[first].vectors, conditions[first]
        if at:
            there = np.s_[:, at:] if columns else np.s_[at:]
            vectors[n][there] = drawn[first + 1].vectors[there]
            grids[n][there] = conditions[first + 1]
    return torch.from_numpy(vectors), grids.flatten(1, 2)


def _terms(
    model: PriorNetwork,
    trainer: Trainer,
    areas: Areas,
    conditioner: Conditioning,
    config: Mapping[str, Any],
    drop: float,
    rng: np.random.Generator,
) -> dict[str, torch.Tensor]:
    kind: Any = DDPMScheduler  # its methods are added by a decorator
    scheduler = kind(prediction_type=config["prediction"], **config["scheduler"])
    count = int(config["batch"])
    vectors, tokens = draw_windows(
        areas, conditioner, int(config["window"]), count, float(config["composed"]), rng
    )
    keep = torch.from_numpy(rng.random(count) >= drop).float()
    condition = model.projection((tokens * keep[:, None, None]).to(trainer.device))
    x0 = model.axes.encode(vectors.to(trainer.device)).permute(0, 3, 1, 2)
    noise = torch.randn_like(x0)
    t = draw_timesteps(count, scheduler.config.num_train_timesteps).to(trainer.device)
    x = scheduler.add_noise(x0, noise, t)
    with trainer.autocast():
        out = model.unet(torch.cat([x, condition.spatial], 1), t, condition.context).sample.float()
    alphas = scheduler.alphas_cumprod.to(trainer.device)[t][:, None, None, None]
    alpha, sigma = alphas.sqrt(), (1 - alphas).sqrt()
    made = to_x0(config["prediction"], out, x, alpha, sigma)
    # v's own weight on x0, signal over noise plus one, kept from growing without end.
    weight = (1 / (1 - alphas).clamp_min(1e-4)).clamp_max(float(config.get("most_weight", 5)))
    error = (made - x0).square()
    return {"loss": (weight * error).mean(), "x0": error.mean()}


def train(
    areas: Areas,
    conditioner: Conditioning,
    config: Mapping[str, Any],
    schedule: Schedule,
    directory: Path,
    *,
    runtime: Runtime | None = None,
    validation: Areas | None = None,
) -> Iterator[dict[str, Any]]:
    """Train one prior; yields metric rows.

    Parameters
    ----------
    config
        As for :class:`~napari_ssldiff.text.prior.PriorNetwork`, and ``prediction``,
        ``scheduler``, ``unconditional``, ``composed``, ``sharpness``, ``batch``, ``seed``.

    Raises
    ------
    InputError
        If no image is as large as a window, or embeddings are not as wide as configured.
    """
    seed, window = int(config["seed"]), int(config["window"])
    width = areas.meanings[0].vectors.shape[-1] if len(areas) else 0
    if width != int(config["width"]):
        raise InputError(
            f"the encoder's vectors have {width} numbers, prior.width says {config['width']}"
        )
    torch.manual_seed(seed)
    model = PriorNetwork(config)
    cells = np.concatenate([m.vectors.reshape(-1, width) for m in areas.meanings])
    some = np.random.default_rng(seed).permutation(len(cells))[:20_000]
    model.axes.fit(torch.from_numpy(cells[some]), float(config["sharpness"]))
    trainer = Trainer(model, directory, schedule, seed, runtime or Runtime())
    apart = validation if validation is not None and validation.largest >= window else None
    drop = float(config["unconditional"])

    def loss(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return _terms(model, trainer, areas, conditioner, config, drop, rng)

    def held_out(module: Any, step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        assert apart is not None
        return _terms(module, trainer, apart, conditioner, config, 0.0, rng)

    yield from trainer.run(loss, validate=fixed_batches(held_out, 4, seed) if apart else None)


def result(config: Mapping[str, Any], directory: Path) -> PriorNetwork:
    """The averaged network of a run."""
    model = PriorNetwork(config)
    restore(model, directory)
    return model.eval()
