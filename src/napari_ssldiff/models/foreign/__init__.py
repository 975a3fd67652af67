"""Reading checkpoints that others made, without running what is in them.

Importing this package does not import torch. See ``docs/foreign-checkpoints.md``.
"""

from __future__ import annotations

from napari_ssldiff.models.foreign.checkpoint import Checkpoint, read_checkpoint
from napari_ssldiff.models.foreign.tensors import check_finite

__all__ = ["Checkpoint", "check_finite", "read_checkpoint"]
