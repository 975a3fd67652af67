"""One contract for every representation-guided latent diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.diffusion.conditioning import Condition, TokenProjection

Prediction = Literal["epsilon", "v_prediction", "sample"]


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
    """

    window: int
    tokens: int
    token_width: int
    latent_channels: int
    latent_factor: int
    prediction: Prediction
    schedule: Mapping[str, Any]
    student: StudentSpec | None = None

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


class Denoiser:
    """Autoencoder, network and projection of one model, on one device.

    Parameters
    ----------
    spec
        The model's numbers.
    autoencoder, network, projection
        Modules with their weights loaded. ``network(x, t, context).sample``.
    device
        Where they run.
    make_student
        Makes the network of the few-step student that ``spec`` tells of.
    """

    def __init__(
        self,
        spec: ModelSpec,
        autoencoder: Autoencoder,
        network: nn.Module,
        projection: TokenProjection,
        device: torch.device,
        make_student: Callable[[], nn.Module] | None = None,
    ) -> None:
        self._make_student = make_student
        self._student: Denoiser | None = None
        self.spec, self.device = spec, device
        self.autoencoder = autoencoder.eval().to(device)
        self.network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.projection = projection.eval().to(device)

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
                self.spec, self.autoencoder, self._make_student(), self.projection, self.device
            )
        return self._student

    def condition(self, tokens: torch.Tensor) -> Condition:
        """``(n, tokens², width)`` unit vectors, row-major → projected conditions."""
        out: Condition = self.projection(tokens.to(self.device))
        return out

    def null_condition(self, count: int) -> Condition:
        """The unconditional batch: the projection of zero vectors."""
        side = self.spec.tokens**2
        return self.condition(torch.zeros(count, side, self.spec.token_width))

    def predict_x0(
        self, x: torch.Tensor, t: int, level: tuple[float, float], condition: Condition
    ) -> torch.Tensor:
        """One network call: noisy windows ``(n, c, w, w)`` → predicted clean windows.

        Parameters
        ----------
        t
            Training timestep.
        level
            ``(alpha, sigma)`` of ``x``.
        """
        alpha, sigma = level
        times = torch.full((len(x),), t, device=self.device)
        inputs = x if condition.spatial is None else torch.cat([x, condition.spatial], 1)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        out: torch.Tensor = self.network(inputs, times, condition.context).sample.float()
        return to_x0(self.spec.prediction, out, x, alpha, sigma)
