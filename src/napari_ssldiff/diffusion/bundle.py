"""One contract for every representation-guided latent diffusion model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.diffusion.conditioning import Condition
from napari_ssldiff.diffusion.halves import keep, keep_and_widen, widened
from napari_ssldiff.diffusion.offload import Limits, Turns, streamed
from napari_ssldiff.diffusion.transfer import to_device

Prediction = Literal["epsilon", "v_prediction", "sample"]
Precision = Literal["fp32", "bf16", "fp16"]

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class StudentSpec:
    """What a few-step student was distilled for.

    Parameters
    ----------
    steps
        Network calls per window of a whole run.
    guidance
        Scale of the teacher's guidance that its answers contain.
    """

    steps: int
    guidance: float

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a student takes at least 1 step, not {self.steps}")


@dataclass(frozen=True)
class ModelSpec:
    """What the engine needs to know of a model.

    Parameters
    ----------
    window
        Edge in pixels of what the network denoises at once.
    tokens
        Embeddings per side of a window; a cell is ``window / tokens`` pixels.
    token_width
        Length of an embedding.
    latent_channels, latent_factor
        Of the autoencoder; the factor is pixels per latent.
    prediction
        What the network returns.
    schedule
        Noise schedule as diffusers names it.
    student
        The model's few-step student, if it has one.
    time_offset
        Added to the timesteps that the network is given by the preset ``paper``, as the model's
        published sampler does.
    control
        Whether the network can be shown a picture besides, as latents behind those that it denoises
        (:mod:`napari_ssldiff.diffusion.control`).
    """

    window: int
    tokens: int
    token_width: int
    latent_channels: int
    latent_factor: int
    prediction: Prediction
    schedule: Mapping[str, Any]
    student: StudentSpec | None = None
    time_offset: int = 0
    control: bool = False

    @property
    def cell(self) -> int:
        """Edge of a cell in pixels."""
        return self.window // self.tokens

    @property
    def window_latents(self) -> int:
        """Edge of a window in latents."""
        return self.window // self.latent_factor


def to_x0(
    prediction: Prediction,
    out: torch.Tensor,
    x: torch.Tensor,
    alpha: float | torch.Tensor,
    sigma: float | torch.Tensor,
) -> torch.Tensor:
    """The clean window that a network's answer ``out`` to x = alpha·x0 + sigma·noise means."""
    if prediction == "v_prediction":
        return alpha * x - sigma * out
    if prediction == "epsilon":
        return (x - sigma * out) / alpha
    return out


def default_precision(device: torch.device) -> Precision:
    """What the network computes in unless somebody chooses.

    Half precision on CUDA, in the number format whose range is that of fp32 where the card has
    it. fp32 elsewhere: many CPUs emulate bf16 (those that do not, models are loaded for:
    :func:`napari_ssldiff.models.memory.precisions`).
    """
    if device.type != "cuda":
        return "fp32"
    has_bf16 = torch.version.hip or torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if has_bf16 else "fp16"


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    if precision == "fp32":  # not every device that torch knows has an autocast to switch off
        return nullcontext()
    return torch.autocast(device.type, torch.float16 if precision == "fp16" else torch.bfloat16)


def copy_on_cpu(module: M) -> M:
    """A copy of a module on the CPU that takes no memory of the module's own device."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        there = tensor.detach().to("cpu", copy=True)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(there, tensor.requires_grad) if is_parameter else there
    return copy.deepcopy(module, memo)


class Denoiser:
    """Autoencoder, network and projection of one model, on one device.

    Parameters
    ----------
    spec
        The model's numbers.
    autoencoder, network, projection
        Modules with their weights loaded, on the CPU if ``limits`` offloads.
        ``network(x, t, context).sample``; the projection does as
        :class:`~napari_ssldiff.diffusion.conditioning.Projects` says.
    device
        Where they run.
    make_student
        Makes the network of the few-step student that ``spec`` tells of.
    precision
        ``"fp32"``, ``"bf16"`` or ``"fp16"``: what the network computes in, by autocast;
        autoencoder and projection stay in fp32. By default :func:`default_precision`.
    kept
        What the network's weights are kept in. In half precision the network computes in the
        same, or else in fp32, to which each layer's weights are widened while it works.
    limits
        What memory leaves room for.
    turns
        Takes parts to the device and off it where ``limits`` says so; shared with what else takes
        turns there. By default its own.

    Attributes
    ----------
    window_seconds
        Measured seconds per window of a network call, by passes and windows per call: filled by
        :func:`napari_ssldiff.diffusion.batches.choose_batch`, once per process.
    """

    def __init__(
        self,
        spec: ModelSpec,
        autoencoder: Autoencoder,
        network: nn.Module,
        projection: nn.Module,
        device: torch.device,
        make_student: Callable[[], nn.Module] | None = None,
        precision: Precision | None = None,
        *,
        kept: Precision = "fp32",
        limits: Limits | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._make_student = make_student
        self._student: Denoiser | None = None
        self._on_cpu: Denoiser | None = None
        self.spec, self.device = spec, device
        self.precision: Precision = precision or default_precision(device)
        self.window_seconds: dict[tuple[int, int], float] = {}
        self.kept, self.limits = kept, limits or Limits()
        if kept != "fp32":
            (keep_and_widen if self.precision == "fp32" else keep)(network, kept)
        offload = self.limits.offload
        self.autoencoder, self.projection = autoencoder.eval(), projection.eval().to(device)
        self.network = self._resting = network.eval()
        self._turns = None
        if offload == "none":
            self.autoencoder.to(device)
            self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        elif device.type != "cpu":
            # All wait on the CPU. There a copy in this format would only leave its file.
            self._turns = turns or Turns(device)
            self.network.to(memory_format=torch.channels_last)
            if offload == "blocks":
                self.network = streamed(network, device)
        self._compiled = False

    def compile(self) -> None:
        """Have the network compiled by ``torch.compile``, its student's too.

        The first call of every batch size then takes minutes. Worth it on GPUs and long runs; a
        network that comes to the device in blocks is left as it is.
        """
        self._compiled = True
        if not self._streams:
            self.network.compile()  # in place; copies of it are not compiled
        if self._student is not None:
            self._student.compile()

    @property
    def student(self) -> Denoiser:
        """The few-step student: another network beside the same autoencoder and projection.

        Made at the first use; from then on it takes the memory of a second network.

        Raises
        ------
        ValueError
            If the model has none.
        """
        if self._student is None:
            if self._make_student is None:
                raise ValueError("the model has no student")
            self._student = Denoiser(
                self.spec,
                self.autoencoder,
                self._make_student(),
                self.projection,
                self.device,
                precision=self.precision,
                kept=self.kept,
                limits=self.limits,
                turns=self._turns,
            )
            if self._compiled:
                self._student.compile()
        return self._student

    @property
    def on_cpu(self) -> Denoiser:
        """The same model on the CPU in fp32: the way out where its own device has no memory left.

        A copy, made at the first use; on the CPU it is the model itself.
        """
        if self.device.type == "cpu":
            return self
        if self._on_cpu is None:
            self._on_cpu = Denoiser(
                self.spec,
                copy_on_cpu(self.autoencoder),
                copy_on_cpu(self._resting if self._streams else self.network).float(),
                copy_on_cpu(self.projection),
                torch.device("cpu"),
            )
        return self._on_cpu

    def compute_in(self, precision: Precision) -> None:
        """Compute in another precision from now on; weights stay rounded as they were kept."""
        if precision == "fp32" != self.precision and self.kept != "fp32":
            keep_and_widen(self.network, self.kept)
        self.precision = precision

    @property
    def _streams(self) -> bool:
        return self.limits.offload == "blocks" and self._turns is not None

    def at_work(self, part: M) -> M:
        """The autoencoder or the network, on the device and ready to be called."""
        if self._turns is None:
            return part
        if self._streams and part is self.network:
            self._turns.clear()
            return part
        return self._turns(part)

    def condition(self, tokens: torch.Tensor) -> Condition:
        """``(n, tokens², width)`` unit vectors, row-major → projected conditions."""
        out: Condition = self.projection(to_device(tokens, self.device))
        return out

    def null_condition(self, count: int) -> Condition:
        """The unconditional batch: the projection of zero vectors."""
        side = self.spec.tokens**2
        return self.condition(torch.zeros(count, side, self.spec.token_width))

    def predict_x0(
        self,
        x: torch.Tensor,
        t: int,
        level: tuple[float, float],
        condition: Condition,
        precision: Precision | None = None,
    ) -> torch.Tensor:
        """One network call: noisy windows ``(n, c, w, w)`` → predicted clean windows, float32.

        Parameters
        ----------
        t
            Training timestep.
        level
            ``(alpha, sigma)`` of ``x``.
        precision
            Instead of the model's own, for this call.
        """
        alpha, sigma = level
        precision = precision or self.precision
        x, condition = to_device(x, self.device), condition.to(self.device)
        times = torch.full((len(x),), t, device=self.device)
        inputs = x if condition.spatial is None else torch.cat([x, condition.spatial], 1)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        network, inside = self.at_work(self.network), _autocast(self.device, precision)
        if precision == "fp32" != self.precision and self.kept != "fp32":
            if self._streams:
                return self.on_cpu.predict_x0(x, t, level, condition).to(self.device)
            inside = widened(network)
        with inside:
            answer: torch.Tensor = network(inputs, times, condition.context).sample
        return to_x0(self.spec.prediction, answer.float(), x, alpha, sigma)
