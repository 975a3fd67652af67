"""Train the denoiser on cached latents and embedding fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from PIL import Image
from torch import nn

from napari_ssldiff.diffusion.bundle import to_x0
from napari_ssldiff.diffusion.conditioning import Condition, TokenProjection, concatenate
from napari_ssldiff.diffusion.solvers import DPMSolver2M
from napari_ssldiff.errors import InputError
from napari_ssldiff.training.ahead import Ahead
from napari_ssldiff.training.loop import Runtime, Schedule, Trainer
from napari_ssldiff.training.samples import (
    Batch,
    Sample,
    Windows,
    draw_batch,
    embed_cells,
    load_samples,
    prepare,
    save_samples,
)
from napari_ssldiff.training.sheets import grid, spread
from napari_ssldiff.training.validation import fixed_batches
from napari_ssldiff.training.weights import restore

__all__ = [
    "Denoiser",
    "Sample",
    "Windows",
    "build_network",
    "denoising_terms",
    "embed_cells",
    "load_samples",
    "prepare",
    "result",
    "sample_windows",
    "save_samples",
    "train",
]


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

    #: Children whose weights may be given without the others': a U-Net from another laboratory
    #: goes on with projections of one's own encoder.
    separable = ("unet", "projections")

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


#: Share of timesteps that stay uniform where ``timesteps`` favours the middle: the ends are met
#: by every sampler and must not be forgotten.
UNIFORM = 0.2


def draw_timesteps(
    count: int, length: int, favour: Mapping[str, float] | None = None
) -> torch.Tensor:
    """``(count,)`` int64 timesteps in [0, length), stratified: a batch sees the whole range.

    Parameters
    ----------
    favour
        ``mean`` and ``std`` of a normal whose logistic is the place in the range (Esser et al.
        2024), for all but :data:`UNIFORM` of the timesteps; ``None``: uniform.
    """
    u = (torch.randperm(count) + torch.rand(count)) / count
    if favour is not None:
        inner = ((u - UNIFORM) / (1 - UNIFORM)).clamp(1e-6, 1 - 1e-6)
        normal = favour["mean"] + favour["std"] * torch.special.ndtri(inner)
        u = torch.where(u < UNIFORM, u / UNIFORM, torch.sigmoid(normal))
    return (u * length).long().clamp_max(length - 1)


class Task:
    """What the denoiser is to answer to noisy latents.

    The noisy latents are x = sqrt(a)·x0 + sqrt(1-a)·noise; the answer is the noise, x0, or
    v = sqrt(a)·noise - sqrt(1-a)·x0 (Salimans and Ho 2022), as ``prediction`` says.

    Parameters
    ----------
    config
        The section ``diffusion``.
    device
        Where the levels of noise are kept.
    """

    def __init__(self, config: Mapping[str, Any], device: torch.device) -> None:
        kind: Any = DDPMScheduler  # its methods are added by a decorator
        scheduler = kind(prediction_type=config["prediction"], **config["scheduler"])
        self.prediction = str(config["prediction"])
        self.length = int(scheduler.config.num_train_timesteps)
        # On the device once: a look-up there instead of a copy and a wait in every step.
        self._kept = scheduler.alphas_cumprod.to(device)

    def __call__(
        self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``(noisy latents, what is to be answered)`` at timesteps ``t``."""
        kept = self._kept[t][:, None, None, None]
        alpha, sigma = kept.sqrt(), (1 - kept).sqrt()
        targets = {"epsilon": noise, "sample": x0}
        target = targets.get(self.prediction)
        if target is None:
            target = alpha * noise - sigma * x0
        return alpha * x0 + sigma * noise, target


def denoising_terms(
    model: Denoiser,
    trainer: Trainer,
    batch: Batch,
    task: Task,
    favour: Mapping[str, float] | None = None,
) -> dict[str, torch.Tensor]:
    """The loss on a batch; ``favour`` is that of :func:`draw_timesteps`."""
    conditions = [model.projections[n](k.to(trainer.device)) for n, k in batch.tokens.items()]
    x0 = batch.latents.to(trainer.device)
    t = draw_timesteps(len(x0), task.length, favour).to(trainer.device)
    xt, target = task(x0, torch.randn_like(x0), t)
    with trainer.autocast():
        made = model(xt.contiguous(memory_format=torch.channels_last), t, concatenate(conditions))
    error = F.mse_loss(made.float(), target, reduction="none").mean(dim=(1, 2, 3))
    shares = [len(tokens) for tokens in batch.tokens.values()]
    parts = {f"loss_{n}": e.mean() for n, e in zip(batch.tokens, error.split(shares), strict=True)}
    return {"loss": error.mean(), **parts}


def sample_windows(
    model: Denoiser,
    domain: str,
    tokens: torch.Tensor,
    config: Mapping[str, Any],
    shape: tuple[int, ...],
    trainer: Trainer,
    steps: int = 12,
) -> torch.Tensor:
    """Single windows from noise and ``(n, k², d)`` tokens: ``(n, *shape)`` latents.

    DPM-Solver++ with the configuration's guidance, no canvas: for a look in between only.
    """
    solver = DPMSolver2M(config["scheduler"], steps, 1.0)
    projection = model.projections[domain]
    tokens = tokens.to(trainer.device)
    both = concatenate([projection(tokens), projection(torch.zeros_like(tokens))])
    guidance, prediction = float(config.get("guidance", 1.0)), config["prediction"]
    x = torch.randn((len(tokens), *shape), device=trainer.device)
    for i, t in enumerate(solver.timesteps):
        alpha, sigma = solver.level(i)
        times = torch.full((2 * len(x),), t, device=x.device)
        with trainer.autocast():
            out = model(torch.cat([x, x]), times, both).float()
        given, null = out.chunk(2)
        out = null + guidance * (given - null)
        out = to_x0(prediction, out, x, alpha, sigma)
        x = solver.step(i, out, x, lambda _: torch.zeros(()))  # it draws no noise
    return x


def _sheet(
    model: Denoiser,
    trainer: Trainer,
    domains: Mapping[str, Windows],
    config: Mapping[str, Any],
    decoder: Callable[[torch.Tensor], torch.Tensor],
) -> Image.Image:
    """Four windows per domain, and three samples from the tokens of each."""
    rng, columns = np.random.default_rng(0), 4
    rows = []
    for name, windows in domains.items():
        z, tokens = windows.draw(64, rng)
        apart = spread(tokens.flatten(1), 4)  # four that show different things
        z, tokens = z[apart], tokens[apart]
        made = sample_windows(
            model, name, tokens.repeat(columns - 1, 1, 1), config, tuple(z.shape[1:]), trainer
        )
        latents = torch.cat([z, made.cpu()])
        rows.append(decoder(latents).unflatten(0, (columns, len(z))))
    pictures = torch.cat(rows, 1)
    names = ["real, decoded", "sample", "another", "a third"]
    return grid(list(zip(names, pictures, strict=True)), max(128, int(config["window"])), len(rows))


def _shape(*parts: Mapping[str, Sequence[Sample]]) -> tuple[int, int]:
    """Latent channels and embedding width that all samples share."""
    found: dict[tuple[int, int], str] = {}
    for name, samples in (pair for domains in parts for pair in domains.items()):
        if not samples:
            raise InputError(f"there are no samples of {name}: prepare some, or leave it out")
        for sample in samples:
            found.setdefault((sample.latents.shape[0], sample.field.width), name)
    if len(found) > 1:
        (a, one), (b, other) = list(found.items())[:2]
        raise InputError(
            f"samples of {one} have {a[0]} latent channels and embeddings of {a[1]}, those of "
            f"{other} {b[0]} and {b[1]}: prepare all with one autoencoder and one width of encoders"
        )
    return next(iter(found))


def train(
    domains: Mapping[str, Sequence[Sample]],
    config: Mapping[str, Any],
    factor: int,
    schedule: Schedule,
    directory: Path,
    *,
    runtime: Runtime | None = None,
    validation: Mapping[str, Sequence[Sample]] | None = None,
    decoder: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[dict[str, Any]]:
    """Train one denoiser on all domains; yields metric rows.

    Conditions are dropped (zeroed) with probability ``unconditional``, for classifier-free
    guidance.

    Parameters
    ----------
    validation
        Samples of images that are not trained on, of these domains or some of them. Their
        loss is taken with conditions, on the same windows, noise and stratified noise levels
        every time.
    decoder
        Latents ``(n, c, w, w)``, float32 on the CPU → images ``(n, 3, h, w)`` in [-1, 1], for
        the sample sheets; ``None``: no sheets.

    Raises
    ------
    InputError
        If a domain has no samples, or they are not of one width and number of channels.
    """
    seed = int(config["seed"])
    torch.manual_seed(seed)
    channels, width = _shape(domains, validation or {})
    model = Denoiser(config, list(domains), width, channels, factor)
    model = model.to(memory_format=torch.channels_last)
    trainer = Trainer(model, directory, schedule, seed, runtime or Runtime())
    task, favour = Task(config, trainer.device), config.get("timesteps")
    drop, count, shares = float(config["unconditional"]), int(config["batch"]), config.get("shares")
    seen = {name: Windows(part, config, factor) for name, part in domains.items()}
    apart = {name: Windows(part, config, factor) for name, part in (validation or {}).items()}

    def batch(step: int) -> Batch:
        return draw_batch(seen, count, drop, np.random.default_rng([seed, step]), shares)

    def held_out(module: Any, step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return denoising_terms(module, trainer, draw_batch(apart, count, 0.0, rng), task)

    def sheet(module: Any) -> Image.Image:
        assert decoder is not None
        return _sheet(module, trainer, apart or seen, config, decoder)

    with ThreadPoolExecutor(1) as pool:
        batches = Ahead(batch, pool)
        yield from trainer.run(
            lambda step, _: denoising_terms(model, trainer, batches(step), task, favour),
            validate=fixed_batches(held_out, 4, seed) if apart else None,
            sheet=sheet if decoder else None,
        )


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
    restore(model, directory)
    return model.eval()
