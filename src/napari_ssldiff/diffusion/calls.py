"""A model's networks as one run calls them: counted, timed, cancelled, and careful of memory.

Every way out of a fault repeats the one call that failed and nothing before it:

- out of memory: the call in halves, down to one window; where that does not fit on a GPU, the
  call on the CPU. What fitted is remembered for the run.
- an answer that is not finite in half precision: the call in fp32.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from napari_ssldiff.diffusion.blend import blend, cover, scaled
from napari_ssldiff.diffusion.bundle import Denoiser, Precision
from napari_ssldiff.diffusion.conditioning import Condition, concatenate
from napari_ssldiff.diffusion.memory import Limit, attempt, in_parts
from napari_ssldiff.diffusion.transfer import to_device
from napari_ssldiff.errors import ModelError
from napari_ssldiff.geometry import Box

T = TypeVar("T")

#: Windows whose conditions are projected at once.
PROJECTED = 256
#: Edge in latents below which the autoencoder's windows are not halved.
LEAST_WINDOW = 8
#: No limit.
ANY = 2**30


@dataclass
class Counters:
    """What a run cost.

    Attributes
    ----------
    evaluations
        Windows that the network was asked for; calls that had to be repeated count once.
    network_seconds
        Inside the network, the device's work included.
    decode_seconds
        Inside the autoencoder, both ways.
    """

    evaluations: int = 0
    network_seconds: float = 0.0
    decode_seconds: float = 0.0


class NotFiniteError(ModelError):
    """The network's answer is not finite even in fp32.

    Attributes
    ----------
    row
        The first such row of the batch.
    """

    def __init__(self, row: int) -> None:
        super().__init__("the network's answer is not finite, not even in fp32")
        self.row = row

    def at(self, window: Box, step: int, steps: int) -> ModelError:
        """The error with its place: a window in latents of the global lattice, a step from 0."""
        return ModelError(
            f"{self} (window at latent row {window.y}, column {window.x}, step {step + 1} of "
            f"{steps}): lower the guidance, or install the model again"
        )


class Calls:
    """The networks of one model for one run.

    Parameters
    ----------
    model
        Whose.
    check
        Called before every call of a network; raises to cancel.
    counters
        Where costs are added up.
    spare
        Gives the model that does what finds no memory; by default ``model``'s copy on the CPU,
        and none if it is there already.
    fixed
        No call is ever made in smaller parts: what does not fit goes to the spare or fails.
    precision
        What the network computes in, on the spare too; by default what each is made for.
    """

    def __init__(
        self,
        model: Denoiser,
        check: Callable[[], None] = lambda: None,
        counters: Counters | None = None,
        *,
        spare: Callable[[], Denoiser] | None = None,
        fixed: bool = False,
        precision: Precision | None = None,
    ) -> None:
        self.model, self.check = model, check
        self.counters = counters if counters is not None else Counters()
        self._precision = precision
        self._spare = spare
        if spare is None and model.device.type != "cpu":
            self._spare = lambda: model.on_cpu
        least, window = (ANY, ANY) if fixed else (1, LEAST_WINDOW)
        rows = (not fixed and model.limits.rows) or ANY
        self._projected, self._rows = Limit(max(PROJECTED, least), least), Limit(rows, least)
        self._decoded, self._encoded = Limit(ANY, window), Limit(ANY, window)

    def condition(self, tokens: torch.Tensor) -> Condition:
        """:meth:`Denoiser.condition` of any number of windows."""

        def call(part: slice, model: Denoiser) -> Condition:
            self.check()
            return model.condition(tokens[part]).to(self.model.device)

        return concatenate(list(self._in_parts(len(tokens), self._projected, "projection", call)))

    def predict_x0(
        self, x: torch.Tensor, t: int, level: tuple[float, float], condition: Condition
    ) -> torch.Tensor:
        """:meth:`Denoiser.predict_x0` of any number of rows.

        Raises
        ------
        NotFiniteError
            If the answer is not finite in fp32.
        """

        def call(part: slice, model: Denoiser) -> torch.Tensor:
            self.check()
            with self._timed("network_seconds"):
                precision = self._precision or model.precision
                made = model.predict_x0(x[part], t, level, condition[part], precision)
                fine = _finite(made)
                if not fine and precision != "fp32":
                    made = model.predict_x0(x[part], t, level, condition[part], "fp32")
                    fine = _finite(made)
                made = made.to(x.device)
                if not fine:
                    bad = ~torch.isfinite(made).flatten(1).all(1)
                    raise NotFiniteError(part.start + int(bad.nonzero()[0]))
            self.counters.evaluations += len(made)
            return made

        parts = list(self._in_parts(len(x), self._rows, "a network call", call))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def decode(self, latents: torch.Tensor, clamp: bool = True) -> torch.Tensor:
        """``(c, h, w)`` → ``(3, h·f, w·f)`` float32 in [-1, 1] on the CPU; see ``clamp`` there.

        At once, or in windows that overlap by a quarter where that is more than memory holds.
        What GroupNorm sees at once is then another part of the image, which makes a small
        difference.
        """

        def call(box: Box, model: Denoiser) -> torch.Tensor:
            part = latents[(slice(None), *box.slices)][None]
            decode = model.at_work(model.autoencoder).decode
            return decode(to_device(part, model.device), clamp)[0].cpu()

        factor = self.model.spec.latent_factor
        whole = Box(0, 0, latents.shape[1], latents.shape[2])
        return self._autoencoder(whole, self._decoded, "decoding", call, factor)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """``(3, h·f, w·f)`` in [-1, 1] → ``(c, h, w)`` float32 on the CPU; as for decoding."""
        factor = self.model.spec.latent_factor

        def call(box: Box, model: Denoiser) -> torch.Tensor:
            part = pixels[(slice(None), *scaled(box, factor).slices)][None]
            return model.at_work(model.autoencoder).encode(to_device(part, model.device))[0].cpu()

        whole = Box(0, 0, pixels.shape[1] // factor, pixels.shape[2] // factor)
        return self._autoencoder(whole, self._encoded, "encoding", call, 1)

    def _autoencoder(
        self,
        box: Box,
        limit: Limit,
        what: str,
        call: Callable[[Box, Denoiser], torch.Tensor],
        scale: int,
    ) -> torch.Tensor:
        """``call`` for a window, in smaller ones if it does not fit."""
        size = max(box.shape)

        def once(model: Denoiser) -> torch.Tensor:
            self.check()
            with self._timed("decode_seconds"):
                return call(box, model)

        if size <= limit.size:
            last = not limit.can_halve(size)
            device = self.model.device
            if not limit.lost:
                out = attempt(lambda: once(self.model), device)
                if out is not None:
                    return out
            if last and self._spare is None:
                return once(self.model)  # memory was given back
            if last:
                assert self._spare is not None
                limit.lost = True
                return once(self._spare())
            limit.halve(size, what)
        parts = cover(box.shape, limit.size, limit.size - limit.size // 4)
        made = (
            (part, self._autoencoder(part.shift(box.y, box.x), limit, what, call, scale))
            for part in parts
        )
        return blend(made, box.shape, scale, "cos2")

    def _in_parts(
        self, count: int, limit: Limit, what: str, call: Callable[[slice, Denoiser], T]
    ) -> Iterator[T]:
        spare = self._spare
        return in_parts(
            count,
            limit,
            self.model.device,
            what,
            lambda part: call(part, self.model),
            None if spare is None else lambda part: call(part, spare()),
        )

    @contextmanager
    def _timed(self, counter: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            setattr(self.counters, counter, getattr(self.counters, counter) + spent)


def _finite(values: torch.Tensor) -> bool:
    # One number decides nearly always; a sum can overflow where no value is at fault. Asking
    # for it also waits for the device, so that the time measured around is the device's.
    return math.isfinite(float(values.sum())) or bool(torch.isfinite(values).all())
