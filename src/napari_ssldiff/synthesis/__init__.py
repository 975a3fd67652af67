"""Requests and how they are carried out. Importing this package does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_ssldiff.synthesis.cancel import CancelToken
from napari_ssldiff.synthesis.events import Event, Finished, Preview, Progress, Started, TileDone
from napari_ssldiff.synthesis.request import Sampler, Source, SynthesisRequest

if TYPE_CHECKING:
    from napari_ssldiff.synthesis.prepare import embed_region, make_request, refining
    from napari_ssldiff.synthesis.run import synthesize

__all__ = [
    "CancelToken",
    "Event",
    "Finished",
    "Preview",
    "Progress",
    "Sampler",
    "Source",
    "Started",
    "SynthesisRequest",
    "TileDone",
    "embed_region",
    "make_request",
    "refining",
    "synthesize",
]


def __getattr__(name: str) -> Any:
    if name in ("embed_region", "make_request", "refining"):
        from napari_ssldiff.synthesis import prepare

        return getattr(prepare, name)
    if name == "synthesize":
        from napari_ssldiff.synthesis import run

        return run.synthesize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
