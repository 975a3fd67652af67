"""Losses on images that are not trained on, the same batches every time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from napari_ssldiff.training.data import ImageSet

#: Domains: image sets and the augmentation that goes with them.
Groups = Sequence[tuple[Sequence[ImageSet], Mapping[str, Any]]]

#: Keeps these batches apart from those of training steps, which use ``[seed, step]``.
_APART = 0x5EED


def fixed_batches(
    terms: Callable[[Any, int, np.random.Generator], Mapping[str, torch.Tensor]],
    count: int,
    seed: int,
) -> Callable[[nn.Module], dict[str, torch.Tensor]]:
    """A validation for :meth:`Trainer.run`: means of ``terms(module, i, rng)``, i < ``count``."""

    def validate(module: nn.Module) -> dict[str, torch.Tensor]:
        sums: dict[str, torch.Tensor] = {}
        for i in range(count):
            for key, value in terms(module, i, np.random.default_rng([seed, i, _APART])).items():
                sums[key] = sums.get(key, torch.zeros_like(value)) + value / count
        return sums

    return validate
