"""Everything that a result depends on, in one frozen, serialisable, hashable value."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Region
from napari_ssldiff.synthesis.cells import CellMask
from napari_ssldiff.synthesis.coarse import CoarsePicture

Grid = Literal["source", "model"]
PRESETS = ("bulk", "draft", "lazy", "paper")
PRECISIONS = ("fp32", "bf16", "fp16")
#: The guidance interval that holds every step.
EVERYWHERE = (-1000.0, 1000.0)


@dataclass(frozen=True)
class Source:
    """The scene that a request refers to.

    ``shape`` is ``(h, w)`` of level 0; ``pixel_size`` is ``(y, x)`` in ``unit`` as the encoder
    sees it (on the ground for map projections).
    """

    path: str
    shape: tuple[int, int]
    pixel_size: tuple[float, float]
    unit: str


@dataclass(frozen=True)
class Sampler:
    """How to sample.

    Parameters
    ----------
    preset
        ``"bulk"``, ``"draft"``, ``"lazy"`` or ``"paper"``; see
        :mod:`napari_ssldiff.diffusion.presets`.
    steps
        Solver steps, at least 1; ``None`` takes the preset's.
    guidance
        Classifier-free guidance scale as diffusers defines it (1 = none); ``None`` takes the
        preset's or else the model's. A draft by the model's student is always at 1: what the
        student learned from was guided already.
    guidance_interval
        ``(low, high)`` in log(alpha / sigma), low below high: steps that begin outside are not
        guided. ``None`` takes the preset's; :data:`EVERYWHERE` guides all.
    strength
        1 starts from pure noise, 0 is the autoencoder round trip.
    seed
        0 … 2**63 - 1.
    batch, threads, precision
        Windows per network call, CPU threads, and what the network computes in (``"fp32"``,
        ``"bf16"`` or ``"fp16"``), for ``lazy`` only, whose pixels are the same to the bit where
        these and the processor are (kernels round differently for other shapes and numbers of
        threads). ``None`` takes 8, 1 and what the model is loaded for, and says so in the
        request, so that it means the same elsewhere.
    """

    preset: str = "bulk"
    steps: int | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    strength: float = 1.0
    seed: int = 0
    batch: int | None = None
    threads: int | None = None
    precision: Literal["fp32", "bf16", "fp16"] | None = None

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InputError(f"unknown preset {self.preset!r}: choose one of {', '.join(PRESETS)}")
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise InputError(f"steps must be between 1 and 1000, got {self.steps}")
        if self.guidance is not None and not 0 <= self.guidance <= 100:
            raise InputError(f"guidance must be between 0 and 100, got {self.guidance}")
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            if not -1000 <= low < high <= 1000:
                raise InputError(
                    "the guidance interval runs from a low to a high log(alpha / sigma), got "
                    f"{low:g} … {high:g}"
                )
        if not 0 <= self.strength <= 1:
            raise InputError(f"strength must be between 0 and 1, got {self.strength}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"the seed must be between 0 and 2**63 - 1, got {self.seed}")
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 1024:
                raise InputError(f"{name} must be between 1 and 1024, got {value}")
        if self.precision not in (None, *PRECISIONS):
            raise InputError(
                f"unknown precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}"
            )


@dataclass(frozen=True)
class SynthesisRequest:
    """One synthesis, complete: the same request gives the same pixels.

    To the bit on the same machine; elsewhere as far as its arithmetic is the same (in bf16 and in
    fp32 they differ by some 58 dB PSNR). The provenance says what was computed in.

    Parameters
    ----------
    model, model_hash
        Identifier of the bundle and sha256 over its weights.
    field
        What to paint: the grid of embeddings.
    region
        Where to paint it, in level-0 pixels of the source.
    source
        The scene; its pixels are read only where ``sampler.strength`` < 1.
    sampler
        Preset, steps, guidance, strength and seed.
    grid
        ``"source"``: output in level-0 pixels; ``"model"``: at the model's resolution.
    feather
        Width in output pixels over which the composite mask fades in, inside the grown region.
    context
        Model pixels around the region that the network sees as they are in the source, so
        that the variation continues them. 0 (the default): no source pixel is used at
        strength 1.
    grow
        Output pixels by which the region is grown before all else, as far as the image goes.
        With a feather of the same width, the region as drawn is wholly synthetic and the ring
        around it fades.
    match
        Model pixels around the region that are synthesised too, to be compared with the source:
        brightness and stain are then corrected so that both agree there. Not together with
        ``context``, which leaves nothing to compare.
    history
        How the field came about where it is not the region's own: JSON objects, the oldest first.
    guide
        What the canvas is to look like from afar, such as the source itself or a variation of
        lower magnification; ``None`` for nothing.
    cells
        Where its cells are to lie, for a model that takes such a mask; ``None`` leaves it to the
        model.
    """

    model: str
    model_hash: str
    field: EmbeddingField
    region: Region
    source: Source
    sampler: Sampler = Sampler()
    grid: Grid = "source"
    feather: int = 0
    context: int = 0
    grow: int = 0
    match: int = 0
    history: tuple[str, ...] = ()
    guide: CoarsePicture | None = None
    cells: CellMask | None = None

    def __post_init__(self) -> None:
        if self.grid not in ("source", "model"):
            raise InputError(f"grid must be 'source' or 'model', got {self.grid!r}")
        for name in ("feather", "context", "grow", "match"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0 pixels, got {getattr(self, name)}")
        if self.context and self.match:
            raise InputError(
                "a context keeps the surroundings as they are, which leaves nothing to match the "
                "colours with: give context or match"
            )

    @property
    def around(self) -> int:
        """Model pixels that the canvas reaches beyond the grown region."""
        return max(self.context, self.match)

    def with_(self, **changes: Any) -> SynthesisRequest:
        """A copy with fields replaced."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible form; :meth:`from_dict` restores an equal request."""
        return {
            "model": self.model,
            "model_hash": self.model_hash,
            "field": self.field.to_dict(),
            "region": self.region.to_list(),
            "source": asdict(self.source),
            "sampler": asdict(self.sampler),
            "grid": self.grid,
            "feather": self.feather,
            "context": self.context,
            "grow": self.grow,
            "match": self.match,
            "history": [json.loads(step) for step in self.history],
            **({"guide": self.guide.to_dict()} if self.guide else {}),
            **({"cells": self.cells.to_dict()} if self.cells else {}),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SynthesisRequest:
        """The request that :meth:`to_dict` described.

        Raises
        ------
        InputError
            If it is not a request.
        """
        try:
            return cls._read(data)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a synthesis request: {error!r}") from None

    @classmethod
    def _read(cls, data: dict[str, Any]) -> SynthesisRequest:
        source = dict(data["source"])
        source["shape"] = tuple(source["shape"])
        source["pixel_size"] = tuple(source["pixel_size"])
        # Requests of before were guided in all steps.
        sampler = {"guidance_interval": EVERYWHERE, **data["sampler"]}
        if sampler["guidance_interval"] is not None:
            low, high = sampler["guidance_interval"]
            sampler["guidance_interval"] = (float(low), float(high))
        return cls(
            model=data["model"],
            model_hash=data["model_hash"],
            field=EmbeddingField.from_dict(data["field"]),
            region=Region.from_vertices(data["region"]),
            source=Source(**source),
            sampler=Sampler(**sampler),
            grid=data["grid"],
            feather=data["feather"],
            context=data["context"],
            grow=data.get("grow", 0),  # requests of before had neither
            match=data.get("match", 0),
            history=tuple(json.dumps(step, sort_keys=True) for step in data.get("history", ())),
            guide=CoarsePicture.from_dict(data["guide"]) if "guide" in data else None,
            cells=CellMask.from_dict(data["cells"]) if "cells" in data else None,
        )

    @property
    def digest(self) -> str:
        """sha256 over the canonical JSON form."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
