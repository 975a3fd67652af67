"""The encoder contract, on timm and transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from napari_ssldiff.errors import ModelError


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
        ``"pooled"``: the library's pooled output; ``"cls"``: the first token of the last layer.
    detail
        Pixels that are read of a scene per pixel of ``resolution``: more than 1 where an encoder
        sees finer than the model that it conditions.
    patches
        Per side of a cell: the network sees each, and a cell is the mean of their unit vectors.
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
    at_work
        Makes the network ready to be called where others take turns with it on the device.

    Raises
    ------
    ModelError
        If the network's output is not ``spec.width`` long.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        network: nn.Module,
        device: torch.device,
        batch: int = 128,
        at_work: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        self.spec, self.device, self.batch, self._at_work = spec, device, batch, at_work
        self.network = network.eval()
        if at_work is None:
            self.network.to(device)
        self._mean = torch.tensor(spec.mean, device=device)[:, None, None]
        self._std = torch.tensor(spec.std, device=device)[:, None, None]
        width = self._forward(torch.zeros(1, 3, spec.input, spec.input, device=device)).shape[-1]
        if width != spec.width:
            raise ModelError(
                f"the encoder {spec.id} gives vectors of {width}, its card says {spec.width}"
            )

    @torch.inference_mode()
    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        network = self.network if self._at_work is None else self._at_work(self.network)
        out: Any = network(images)
        if isinstance(out, torch.Tensor):
            return out.float()
        if self.spec.token == "cls":
            return out.last_hidden_state[:, 0].float()  # type: ignore[no-any-return]
        return out.pooler_output.float()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def embed(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See :class:`Encoder`."""
        k, side = self.spec.patches, self.spec.patches * self.spec.input
        out = np.empty((len(cells), self.spec.width), np.float32)
        step = max(1, self.batch // k**2)
        for first in range(0, len(cells), step):
            part = np.ascontiguousarray(cells[first : first + step])
            x = torch.from_numpy(part).to(self.device).permute(0, 3, 1, 2).float() / 255
            if x.shape[-1] != side:
                x = F.interpolate(x, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
            x = ((x - self._mean) / self._std).unflatten(3, (k, -1)).unflatten(2, (k, -1))
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


def build_network(library: str, name: str, options: Mapping[str, Any], width: int) -> nn.Module:
    """An encoder network without weights.

    Parameters
    ----------
    library
        ``"timm"`` (``name`` is a timm architecture) or ``"transformers"`` (``name`` is a local
        folder in the hub's layout, whose weights are loaded).
    options
        Passed to ``timm.create_model``; lists become tuples.

    Raises
    ------
    ModelError
        If the library or the architecture is unknown.
    """
    if library == "timm":
        import timm

        arguments: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in options.items()
        }
        arguments.setdefault("num_classes", width)
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
        except RuntimeError as error:
            raise ModelError(f"timm does not know the architecture {name!r}: {error}") from None
        return model
    if library == "transformers":
        from transformers import AutoModel

        # A card is data: it must not make the library import code from the folder.
        options = {k: v for k, v in options.items() if k != "trust_remote_code"}
        try:
            loaded: nn.Module = AutoModel.from_pretrained(
                name,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                **options,
            )
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"cannot load the encoder from {name}: {reason}") from None
        return loaded
    raise ModelError(f"unknown encoder library {library!r}: timm and transformers are known")
