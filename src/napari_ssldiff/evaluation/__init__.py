"""Honest figures."""

from __future__ import annotations

from napari_ssldiff.evaluation.fidelity import embedding_fidelity
from napari_ssldiff.evaluation.regions import evaluation_scenes

__all__ = ["embedding_fidelity", "evaluation_scenes"]
