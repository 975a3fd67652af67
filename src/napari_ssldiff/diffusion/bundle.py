"""One contract for every representation-guided latent diffusion model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.diffusion.conditioning import Condition, TokenProjection

Prediction = Literal["epsilon", "v_prediction", "sample"]


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
    """

    window: int
    tokens: int
    token_width: int
    latent_channels: int
    latent_factor: int
    prediction: Prediction
    schedule: Mapping[str, Any]

    @property
    def cell(self) -> int:
        """Edge of a cell in pixels."""
        return self.window // self.tokens

    @property
    def window_latents(self) -> int:
        """Edge of a window in latents."""
        return self.window // self.latent_factor


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
    """

    def __init__(
        self,
        spec: ModelSpec,
        autoencoder: Autoencoder,
        network: nn.Module,
        projection: TokenProjection,
        device: torch.device,
    ) -> None:
        self.spec, self.device = spec, device
        self.autoencoder = autoencoder.eval().to(device)
        self.network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.projection = projection.eval().to(device)

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
        if self.spec.prediction == "v_prediction":
            return alpha * x - sigma * out
        if self.spec.prediction == "epsilon":
            return (x - sigma * out) / alpha
        return out
