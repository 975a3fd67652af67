"""Distil the guided denoiser into a few-step student that needs no guidance: a LoRA.

Time is cut into ``steps`` phases of equal length. From any point of a phase the student learns
to reach the phase's end in one call. Its target is where the teacher, with classifier-free
guidance at a fixed scale, gets to by several DPM-Solver++ steps: the deterministic phases of
Wang et al. 2024 (*Phased consistency models*) with the plain targets of progressive distillation
(Salimans and Ho 2022). All points of a teacher's trajectory share its end, so one trajectory
teaches the student as many times as it has steps, and no answer of the student's own is learned
from, which makes short training sound.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from torch import nn

from napari_ssldiff.diffusion.bundle import to_x0
from napari_ssldiff.diffusion.conditioning import Condition, concatenate
from napari_ssldiff.errors import InputError
from napari_ssldiff.training.diffusion import Denoiser
from napari_ssldiff.training.loop import Runtime, Schedule, Trainer
from napari_ssldiff.training.samples import Sample, Windows, draw_batch
from napari_ssldiff.training.trajectories import Course, columns, courses, follow
from napari_ssldiff.training.validation import fixed_batches
from napari_ssldiff.training.weights import read_weights

#: What the card calls it.
METHOD = "phased distillation of the guided ODE (deterministic, DPM-Solver++ targets)"


class Adapter(nn.Module):
    """The LoRA's tensors and nothing else, shared with the network that they change.

    What the trainer optimises, averages and keeps; the frozen network stays out of its state.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        for name, parameter in parameters.items():
            self.register_parameter(name.replace(".", "/"), parameter)  # it refuses dots


def adapt(network: nn.Module, rank: int, alpha: float) -> Adapter:
    """Lay a LoRA over all convolutions and linear layers of a network; freeze the rest.

    Parameters
    ----------
    network
        Of diffusers; changed in place. ``disable_adapters()`` makes it what it was.
    """
    network.requires_grad_(False)
    layers = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    options: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": layers}
    network.add_adapter(LoraConfig(**options))  # type: ignore[operator]
    return Adapter({n: p for n, p in network.named_parameters() if p.requires_grad})


def train(
    domains: Mapping[str, Sequence[Sample]],
    config: Mapping[str, Any],
    diffusion: Mapping[str, Any],
    factor: int,
    schedule: Schedule,
    directory: Path,
    *,
    teacher: Denoiser,
    runtime: Runtime | None = None,
    validation: Mapping[str, Sequence[Sample]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Train a student of ``teacher`` on all domains; yields metric rows.

    Parameters
    ----------
    config
        ``rank`` and ``alpha`` of the LoRA; ``steps`` (phases), ``guidance`` that is baked in;
        ``batch`` trajectories of ``teacher_steps`` steps per optimiser step, each of which
        teaches the student that many times; ``seed``.
    diffusion
        The teacher's own section.
    teacher
        Left as it is.
    validation
        Samples of images that are not trained on; their loss is the averaged student's.

    Raises
    ------
    InputError
        If the configuration holds a number that cannot be, or the samples' latents are not the
        teacher's.
    """
    _check(config, domains, teacher)
    seed = int(config["seed"])
    torch.manual_seed(seed)
    lesson = _Lesson(copy.deepcopy(teacher), config, diffusion)
    trainer = Trainer(lesson.adapter, directory, schedule, seed, runtime or Runtime())
    lesson.model.to(trainer.device)
    seen = {name: Windows(part, diffusion, factor) for name, part in domains.items()}
    apart = {name: Windows(part, diffusion, factor) for name, part in (validation or {}).items()}

    def loss(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return lesson.loss(seen, trainer, rng)

    def held_out(averaged: Any, step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        with _lent(averaged, lesson.adapter):
            return lesson.loss(apart, trainer, rng)

    yield from trainer.run(loss, validate=fixed_batches(held_out, 4, seed) if validation else None)


class _Lesson:
    """Teacher and student: one network, its adapters off and on."""

    def __init__(
        self, model: Denoiser, config: Mapping[str, Any], diffusion: Mapping[str, Any]
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.model.to(memory_format=torch.channels_last)
        self.network: Any = model.unet
        self.adapter = adapt(self.network, int(config["rank"]), float(config["alpha"]))
        self.scheduler = diffusion["scheduler"]
        self.prediction = diffusion["prediction"]
        self.phases, self.steps = int(config["steps"]), int(config["teacher_steps"])
        self.batch, self.guidance = int(config["batch"]), float(config["guidance"])

    def _answer(
        self, trainer: Trainer, x: torch.Tensor, t: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        with trainer.autocast():
            out = self.model(x.contiguous(memory_format=torch.channels_last), t, condition)
        made: torch.Tensor = out.float()
        return made

    @torch.no_grad()
    def _draw(
        self,
        domains: Mapping[str, Windows],
        device: torch.device,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, Condition, Condition]:
        """Clean windows, their conditions and the null conditions, in equal parts per domain."""
        batch = draw_batch(domains, self.batch, 0.0, rng)
        given, empty = [], []
        for name, tokens in batch.tokens.items():
            tokens = tokens.to(device)
            given.append(self.model.projections[name](tokens))
            empty.append(self.model.projections[name](torch.zeros_like(tokens)))
        return batch.latents.to(device), concatenate(given), concatenate(empty)

    @torch.no_grad()
    def _teach(
        self, trainer: Trainer, x: torch.Tensor, course: Course, given: Condition, null: Condition
    ) -> tuple[torch.Tensor, torch.Tensor]:
        both = concatenate([given, null])

        def guided(
            x: torch.Tensor, t: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
        ) -> torch.Tensor:
            out = self._answer(trainer, torch.cat([x, x]), torch.cat([t, t]), both)
            with_, without = out.chunk(2)
            # Guidance on the answer equals guidance on x0, which is affine in it.
            return to_x0(
                self.prediction, without + self.guidance * (with_ - without), x, alpha, sigma
            )

        self.network.disable_adapters()
        try:
            return follow(guided, course, x)
        finally:
            self.network.enable_adapters()

    def loss(
        self, domains: Mapping[str, Windows], trainer: Trainer, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """The student's error on one batch; ``loss_first`` where the trajectories begin."""
        device = trainer.device
        x0, given, null = self._draw(domains, device, rng)
        course = courses(self.scheduler, self.phases, self.steps, len(x0), rng)
        alpha, sigma = columns(course.alpha, device), columns(course.sigma, device)
        begin = alpha[0] * x0 + sigma[0] * torch.randn_like(x0)
        x, wanted = (
            part.flatten(0, 1) for part in self._teach(trainer, begin, course, given, null)
        )
        t = columns(course.t, device)[:-1].flatten()
        alpha, sigma = alpha[:-1].flatten(0, 1), sigma[:-1].flatten(0, 1)
        out = self._answer(trainer, x, t, concatenate([given] * self.steps))
        made = to_x0(self.prediction, out, x, alpha, sigma)
        # As the error of v (of noise, where that is predicted): no level drowns the others.
        scale = alpha / sigma if self.prediction == "epsilon" else 1 / sigma
        error = ((made - wanted) * scale).square().mean(dim=(1, 2, 3))
        first = error.unflatten(0, (self.steps, -1))[0]
        return {"loss": error.mean(), "loss_first": first.mean()}


@contextmanager
def _lent(source: nn.Module, target: nn.Module) -> Iterator[None]:
    """``target`` with the parameters of ``source`` inside, its own again afterwards."""
    own = {k: v.clone() for k, v in target.state_dict().items()}
    target.load_state_dict(source.state_dict())
    try:
        yield
    finally:
        target.load_state_dict(own)


def _check(
    config: Mapping[str, Any], domains: Mapping[str, Sequence[Sample]], teacher: Denoiser
) -> None:
    for key, least in (("rank", 1), ("steps", 1), ("teacher_steps", 1), ("batch", len(domains))):
        if int(config[key]) < least:
            raise InputError(f"distil: {key} must be at least {least}, got {config[key]}")
    network: Any = teacher.unet
    wanted = int(network.config.out_channels)
    for name, samples in domains.items():
        found = len(samples[0].latents) if samples else 0
        if found != wanted:
            raise InputError(
                f"distil: samples of {name} have {found} latent channels, the trained network "
                f"{wanted}; train the diffusion stage on these samples first"
            )


def lora_state(directory: Path) -> dict[str, torch.Tensor]:
    """The averaged LoRA of a run in ``directory``: float32 tensors in peft's naming.

    Raises
    ------
    InputError
        If nothing was distilled there, or its state is damaged.
    """
    if not directory.is_dir():
        raise InputError(f"nothing was distilled in {directory} yet; train the stage distil first")
    state = next(iter(read_weights(directory).values()))
    return {k.replace("/", ".").replace(".default.", "."): v.float() for k, v in state.items()}
