"""What a card's networks take: weights counted, calls traced on modules without numbers.

What kernels take beside the tensors that a trace sees was measured (docs/memory.md).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import psutil
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from napari_ssldiff.diffusion.bundle import Precision
from napari_ssldiff.diffusion.decode import WINDOW
from napari_ssldiff.diffusion.halves import half_names
from napari_ssldiff.diffusion.offload import Offload
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.skeleton import Skeleton
from napari_ssldiff.models.trace import META, peak_bytes

#: What a call takes of what was traced in fp32: on CPUs kernels work in copies of their own; in
#: half precision norms and what follows them stay in fp32.
CPU_CALL, HALF_CALL = 1.5, 0.75
#: Bytes that a device's kernels take once.
KERNELS = 100 * 2**20
#: What widening layers on a CPU leaves behind in the process, of the rounded weights.
WIDENED = 1 / 3
#: Guess for what cannot be traced: weights per bytes of a call with one row.
UNTRACED = 8


@dataclass(frozen=True)
class Needs:
    """Bytes that a model takes, by what for.

    Parameters
    ----------
    weights
        Of every part in the precision that it is kept in.
    largest
        Weights of the largest layer of the network.
    row, cell
        What a call takes for one row of the network and for one cell of the encoder.
    decode
        What decoding (or encoding) a window of :data:`WINDOW` latents takes.
    border
        Latents that are put around such a window.
    base
        What is taken already: on the CPU the process itself.
    """

    weights: Mapping[str, int]
    largest: int
    row: int
    cell: int
    decode: int
    border: int
    base: int = 0

    def decoding(self, edge: int) -> int:
        """What a window of that edge takes."""
        return int(self.decode * ((edge + 2 * self.border) / (WINDOW + 2 * self.border)) ** 2)

    def stages(self, offload: Offload) -> dict[str, int]:
        """Bytes of weights that are held while each part works."""
        network, autoencoder, encoder = (
            self.weights[k] for k in ("network", "autoencoder", "encoder")
        )
        student, always = self.weights["student"], self.base + self.weights["projection"]
        always += self.weights.get("translation", 0)  # small, and not worth taking turns
        if offload == "none":
            whole = always + network + student + autoencoder + encoder
            return {"network": whole, "autoencoder": whole, "encoder": whole}
        if offload == "blocks":
            network = 2 * self.largest  # the next one comes before the last one is gone
        held = {"network": network, "autoencoder": autoencoder, "encoder": encoder}
        return {name: always + size for name, size in held.items()}

    def peak(self, offload: Offload, rows: int, edge: int, cells: int = 1) -> int:
        """Bytes at the worst moment."""
        held, calls = self.stages(offload), KERNELS
        return calls + max(
            held["network"] + rows * self.row,
            held["autoencoder"] + self.decoding(edge),
            held["encoder"] + cells * self.cell,
        )


def _size(module: nn.Module, halved: set[str] | None = None) -> int:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return sum(t.nbytes // (2 if halved and n in halved else 1) for n, t in tensors.items())


def measure(card: ModelCard, made: Skeleton, device: torch.device, kept: Precision) -> Needs:
    """What a card's networks take, from the networks without weights."""
    halved = half_names(made.network) if kept != "fp32" else set()
    spec, edge = made.spec, made.spec.window_latents
    network = _size(made.network, halved)
    weights = {
        "network": network,
        "student": network if spec.student else 0,
        "autoencoder": _size(made.autoencoder),
        "projection": _size(made.projection),
        "translation": _size(made.translation) if made.translation is not None else 0,
        "encoder": _size(made.encoder) if made.encoder is not None else _files(card),
    }
    layers = (
        sum(p.nbytes // (2 if f"{name}.{own}" in halved else 1) for own, p in own_parameters)
        for name, layer in made.network.named_modules()
        if (own_parameters := list(layer.named_parameters(recurse=False)))
    )
    f, side = spec.latent_factor, int(card.parts["encoder"]["input"])

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device=META)

    # A copy: moving to another device changes a module in place.
    projection = copy.deepcopy(made.projection).to(META)

    def denoise(network: nn.Module) -> None:
        condition = projection(empty(1, spec.tokens**2, spec.token_width))
        x = empty(1, spec.latent_channels, edge, edge)
        if spec.control:
            condition = condition.beside(torch.empty_like(x))
        x = x if condition.spatial is None else torch.cat([x, condition.spatial], 1)
        network(x, torch.empty(1, device=META, dtype=torch.long), condition.context)

    row = peak_bytes(made.network, denoise)
    decode = peak_bytes(
        made.autoencoder, lambda a: a.decode(empty(1, spec.latent_channels, WINDOW, WINDOW))
    )
    encode = peak_bytes(made.autoencoder, lambda a: a.encode(empty(1, 3, WINDOW * f, WINDOW * f)))
    cell = None
    if made.encoder is not None:
        cell = peak_bytes(made.encoder, lambda e: e(empty(1, 3, side, side)))
    more = CPU_CALL if device.type == "cpu" else 1.0
    less = HALF_CALL if device.type != "cpu" and kept != "fp32" else 1.0

    base = 0
    if device.type == "cpu":
        base = psutil.Process().memory_info().rss + int(network * WIDENED if halved else 0)

    def call(traced: int | None, part: str) -> int:
        return int((traced if traced is not None else weights[part] // UNTRACED) * more)

    return Needs(
        weights=weights,
        largest=max(layers, default=0),
        row=int(call(row, "network") * less),
        cell=call(cell, "encoder"),
        decode=max(call(decode, "autoencoder"), call(encode, "autoencoder")),
        border=made.autoencoder.border,
        base=base,
    )


def _files(card: ModelCard) -> int:
    """Bytes of an encoder's files; of one that is absent none."""
    part = card.parts["encoder"]
    return sum(card.weight_path(n).stat().st_size for n in part["weights"] if "absent" not in part)


def left_in_files(card: ModelCard, needs: Needs, kept: Precision) -> Needs:
    """The same on a CPU that leaves in their files weights that it computes with as they are."""
    named = {"network": "denoiser", "autoencoder": "autoencoder", "encoder": "encoder"}
    free = {
        part
        for part, key in named.items()
        if not (part == "network" and kept != "fp32") and _holds_fp32(card, key)
    }
    weights = {name: 0 if name in free else size for name, size in needs.weights.items()}
    return replace(needs, weights=weights, base=needs.base + 2 * needs.largest)


def _holds_fp32(card: ModelCard, key: str) -> bool:
    names = card.parts[key].get("weights", [])
    try:
        for name in names:
            with safe_open(card.weight_path(name), "pt") as file:
                if any(file.get_slice(k).get_dtype() != "F32" for k in file.keys()):  # noqa: SIM118
                    return False
    except SafetensorError:  # told where it is loaded
        return False
    return bool(names)
