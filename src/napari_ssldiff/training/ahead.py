"""Batches made while the network still works on the one before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """``make(step)``, begun one step early on another thread.

    What a step gets depends on its number alone, so a run that was killed and goes on sees the
    same. A GPU would otherwise wait for the processor in every step.

    Parameters
    ----------
    make
        Must not use torch's generators, which belong to the thread that trains.
    pool
        Where it runs.
    """

    def __init__(self, make: Callable[[int], T], pool: Executor) -> None:
        self._make, self._pool = make, pool
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        """What ``make(step)`` returns; begins the next."""
        waiting, self._next = self._next, None
        made = waiting[1] if waiting and waiting[0] == step else self._pool.submit(self._make, step)
        self._next = step + 1, self._pool.submit(self._make, step + 1)
        return made.result()
