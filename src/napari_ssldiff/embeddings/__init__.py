"""Embeddings of cells, and fields of them. Importing this package does not import torch."""

from __future__ import annotations

from napari_ssldiff.embeddings.field import EmbeddingField, normalise, slerp

__all__ = ["EmbeddingField", "normalise", "slerp"]
