"""Vary regions of gigapixel images by diffusion guided with self-supervised embeddings."""

from __future__ import annotations

__version__ = "0.1.0"
