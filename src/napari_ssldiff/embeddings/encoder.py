"""The encoder contract, on timm and transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from napari_ssldiff.embeddings.networks import build_network
from napari_ssldiff.errors import ModelError

__all__ = [
    "TOKENS",
    "AbsentEncoder",
    "Encoder",
    "EncoderSpec",
    "NetworkEncoder",
    "build_network",
    "check_preprocessing",
]


@dataclass(frozen=True)
class EncoderSpec:
    """What a field must know of the encoder that made it.

    Parameters
    ----------
    id
        Name, with enough of the weights' hash to tell versions apart.
    resolution, unit
        Length of one input pixel: ``"micrometer"`` or ``"meter"``.
    cell
        Edge in pixels, at ``resolution``, of the square that one embedding describes.
    input
        Edge in pixels that the network takes; cells are resized to it.
    mean, std
        Normalisation of [0, 1] RGB.
    width
        Length of an embedding.
    token
        What is taken of the last layer, see :data:`TOKENS`.
    detail
        Pixels that are read of a scene per pixel of ``resolution``: more than 1 where an encoder
        sees finer than the model that it conditions.
    patches
        Per side of a cell: the network sees each, and a cell is the mean of their unit vectors.
    resize
        How pixels become the input: ``"bicubic"`` or ``"bilinear"``.
    crop
        Fraction of the edge that the network sees, from the middle; 1 is all.
    """

    id: str
    resolution: float
    unit: str
    cell: int
    input: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    width: int
    token: str = "pooled"
    detail: int = 1
    patches: int = 1
    resize: str = "bicubic"
    crop: float = 1.0


#: The library's pooled output (of a timm model: of ``forward``); the class token; the class token
#: and the mean of the patches' tokens, one behind the other. Registers never count as patches.
TOKENS = ("pooled", "cls", "cls+mean")
_RESIZE = ("bicubic", "bilinear")


class Encoder(Protocol):
    """Turns cells into unit vectors."""

    @property
    def spec(self) -> EncoderSpec: ...

    def embed(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``(n, s, s, 3)`` uint8 → ``(n, width)`` float32 on the unit sphere; ``s`` is
        ``cell · detail``, and other sizes are resized.
        """
        ...


class NetworkEncoder:
    """An :class:`Encoder` around a timm model or a transformers vision model.

    Parameters
    ----------
    spec
        The contract.
    network
        Weights loaded; a timm model or a transformers ``PreTrainedModel``.
    device
        Where it runs.
    batch
        Cells per network call.

    Raises
    ------
    ModelError
        If the network's output is not ``spec.width`` long, not finite, or the same for different
        pictures, or if the normalisation cannot be that of [0, 1] RGB.
    """

    def __init__(
        self, spec: EncoderSpec, network: nn.Module, device: torch.device, batch: int = 128
    ) -> None:
        check_preprocessing(spec)
        self.spec, self.device, self.batch = spec, device, batch
        self.network = network.eval().to(device)
        self._mean = torch.tensor(spec.mean, device=device)[:, None, None]
        self._std = torch.tensor(spec.std, device=device)[:, None, None]
        self._check()

    @torch.inference_mode()
    def _check(self) -> None:
        """One pass over two pictures that any encoder tells apart."""
        side = self.spec.input
        ramp = torch.linspace(0, 1, side).expand(3, side, side)
        noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
        pictures = torch.stack([ramp * torch.tensor([0.9, 0.5, 0.7])[:, None, None], noise])
        out = self._forward((pictures.to(self.device) - self._mean) / self._std)
        if out.shape[-1] != self.spec.width:
            raise ModelError(
                f"the encoder {self.spec.id} gives vectors of {out.shape[-1]}, its card says "
                f"{self.spec.width}"
            )
        first, second = F.normalize(out, dim=-1)
        if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
            raise ModelError(
                f"the encoder {self.spec.id} gives numbers that are not finite: its weights are "
                "damaged; import it again"
            )
        if torch.equal(first, second):
            raise ModelError(
                f"the encoder {self.spec.id} gives the same vector for different pictures: its "
                "weights are not those of its card; import it again"
            )

    @torch.inference_mode()
    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        # Not every library network takes a keyword, so timm's are told apart by their method.
        by_timm = hasattr(self.network, "forward_features")
        if self.spec.token == "pooled":
            out: Any = self.network(images)
            if not isinstance(out, torch.Tensor):
                out = getattr(out, "pooler_output", None)
            if out is None:
                raise ModelError(f"the encoder {self.spec.id} pools nothing: its token is cls")
            return out.flatten(1).float()  # type: ignore[no-any-return]
        if by_timm:
            tokens = self.network.forward_features(images)  # type: ignore[operator]
            prefix = int(getattr(self.network, "num_prefix_tokens", 0))
        else:
            tokens = self.network(images).last_hidden_state
            config: Any = self.network.config
            prefix = 1 + int(getattr(config, "num_register_tokens", 0) or 0)
        if tokens.ndim != 3 or prefix < 1:
            raise ModelError(f"the encoder {self.spec.id} has no class token: its token is pooled")
        vector = tokens[:, 0]
        if self.spec.token == "cls+mean":
            vector = torch.cat([vector, tokens[:, prefix:].mean(1)], dim=-1)
        return vector.float()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def embed(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See :class:`Encoder`."""
        k, size = self.spec.patches, self.spec.input
        seen = max(size, round(size / self.spec.crop))
        side, edge = k * seen, (seen - size) // 2
        out = np.empty((len(cells), self.spec.width), np.float32)
        step = max(1, self.batch // k**2)
        for first in range(0, len(cells), step):
            part = np.ascontiguousarray(cells[first : first + step])
            x = torch.from_numpy(part).to(self.device).permute(0, 3, 1, 2).float() / 255
            if x.shape[-1] != side:
                x = F.interpolate(x, (side, side), mode=self.spec.resize, antialias=True)
                x = x.clamp(0, 1)
            x = ((x - self._mean) / self._std).unflatten(3, (k, -1)).unflatten(2, (k, -1))
            x = x[..., edge : edge + size, :, edge : edge + size]
            patches = x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
            each = [F.normalize(self._forward(p), dim=-1) for p in patches.split(self.batch)]
            vectors = torch.cat(each)
            if k > 1:
                vectors = F.normalize(vectors.unflatten(0, (-1, k * k)).mean(1), dim=-1)
            out[first : first + len(part)] = vectors.cpu().numpy()
        return out


class AbsentEncoder:
    """An :class:`Encoder` that is known but not installed: fields of it can be drawn, not made.

    Parameters
    ----------
    spec
        The contract.
    why
        What is missing and the way out.
    """

    def __init__(self, spec: EncoderSpec, why: str) -> None:
        self.spec, self._why = spec, why

    def embed(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Refuses.

        Raises
        ------
        ModelError
            Always.
        """
        raise ModelError(self._why)


def check_preprocessing(spec: EncoderSpec) -> None:
    """Refuse a normalisation that is not of [0, 1] RGB, and rules that are not known.

    Raises
    ------
    ModelError
        With the value.
    """
    wrong = ""
    if any(m > 1 for m in spec.mean) or any(s > 1 for s in spec.std):
        wrong = "is of pixels 0…255: divide it by 255"
    elif not all(0 <= m <= 1 for m in spec.mean) or not all(0.02 <= s <= 1 for s in spec.std):
        wrong = "is not that of [0, 1] RGB: means lie in 0…1, deviations in 0.02…1"
    if wrong:
        numbers = ", ".join(f"{v:g}" for v in (*spec.mean, *spec.std))
        raise ModelError(f"the normalisation of the encoder {spec.id} ({numbers}) {wrong}")
    for what, value, known in (("token", spec.token, TOKENS), ("resize", spec.resize, _RESIZE)):
        if value not in known:
            names = ", ".join(known)
            raise ModelError(
                f"unknown {what} {value!r} of the encoder {spec.id}: known are {names}"
            )
    if not 0.5 <= spec.crop <= 1:
        raise ModelError(f"the encoder {spec.id} crops to {spec.crop:g}: allowed is 0.5 to 1")
