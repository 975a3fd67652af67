"""How long a network is trained, and how fast."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Parameters
    ----------
    steps
        Number of optimiser steps.
    minutes
        Time box of this run, earlier calls included; ``None`` means until ``steps``. The
        learning rate follows whichever of the two is further on, so a time-boxed run still ends
        at rate 0. Only a run without a time box is the same to the bit after a kill.
    lr
        Peak learning rate of AdamW, after ``warmup`` steps; cosine to 0 from then on.
    ema
        Decay of the exponential moving average of the weights.
    save_every, sheet_every
        Seconds between checkpoints (what a power cut can cost) and between sample sheets.
    validate_every, log_every
        Steps between evaluations on held-out data and between rows of metrics.
    """

    steps: int
    minutes: float | None = None
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.998
    clip: float = 1.0
    save_every: float = 120.0
    sheet_every: float = 600.0
    validate_every: int = 500
    log_every: int = 20

    def rate(self, step: int, progress: float) -> float:
        """Learning rate at ``step`` when ``progress`` in [0, 1] of the run is over."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    @property
    def budget(self) -> float:
        """The time box in seconds."""
        return self.minutes * 60 if self.minutes else math.inf
