"""Where the state of a canvas lies, and what is done when memory runs out there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from napari_ssldiff.diffusion.memory import Limit, attempt, in_parts, release

_logger = logging.getLogger(__name__)

T = TypeVar("T")

CPU = torch.device("cpu")
#: Rows of a canvas below which a strip of it is not halved.
LEAST_ROWS = 8


class Home:
    """The device that holds a canvas: the networks' own, until memory runs out there.

    Then the state moves to the CPU and stays; windows go to the networks from there, batch by
    batch. Where it is there already, a stage is tried once more, after all that nobody holds was
    given back.

    Parameters
    ----------
    device
        To begin with.

    Attributes
    ----------
    device
        Where the state lies now.
    tenants
        Each moves what it holds to the device that it is given.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.tenants: list[Callable[[torch.device], None]] = []
        self._rows = Limit(2**30, LEAST_ROWS)

    @property
    def is_last(self) -> bool:
        """Whether there is nowhere to retreat to."""
        return self.device == CPU

    def retreat(self, what: str) -> None:
        """Move everything to the CPU; nothing where it is there."""
        if self.is_last:
            return
        _logger.warning("out of memory in %s: the canvas moves to the CPU", what)
        full, self.device = self.device, CPU
        for move in self.tenants:
            move(self.device)
        self._rows = Limit(2**30, LEAST_ROWS)
        release(full)

    def guarded(self, what: str, call: Callable[[], T]) -> T:
        """What ``call`` returns, at the second try where memory runs out in the first.

        Parameters
        ----------
        what
            Names the stage in the log.
        call
            Reads the state anew at every try, since it may have moved, and changes none of it
            before all that it needs is there.
        """
        made = attempt(lambda: (call(),), self.device)
        if made is not None:
            return made[0]
        self.retreat(what)
        return call()

    def by_rows(self, what: str, height: int, call: Callable[[slice], None]) -> None:
        """``call`` for strips of ``height`` rows, each once: one strip if memory allows.

        Strips become smaller where it does not, and at last the state moves. ``call`` is as for
        :meth:`guarded`.
        """

        def here(part: slice) -> bool:
            call(part)
            return True  # None would mean that memory ran out

        limit = self._rows

        def elsewhere(part: slice) -> bool:
            self.retreat(what)
            limit.lost = False  # there are strips to come, and they lie elsewhere now
            return here(part)

        on_cpu = None if self.is_last else elsewhere
        for _ in in_parts(height, limit, self.device, what, here, on_cpu):
            pass
