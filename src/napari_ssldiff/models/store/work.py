"""What long work in the store is given: whom to tell, and whom to ask whether to go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _silent(stage: str, done: float, total: float) -> None:
    """Tells nobody."""


def _never() -> None:
    """Stops nothing."""


def _nobody(question: str) -> bool:
    """There is nobody to ask, so the answer is no."""
    return False


@dataclass(frozen=True)
class Work:
    """How a long piece of work reaches who asked for it.

    Parameters
    ----------
    progress
        Called with the stage in words, the work done and the work in all.
    check
        Called often; what it raises ends the work.
    ask
        Asks a question that a person has to answer with yes before the work goes on.
    """

    progress: Callable[[str, float, float], None] = _silent
    check: Callable[[], None] = _never
    ask: Callable[[str], bool] = _nobody


QUIET = Work()
