"""Threads of runs: gone with them, or kept for the next; and how far they run ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch

from napari_ssldiff.errors import Cancelled
from napari_ssldiff.synthesis.cancel import CancelToken
from napari_ssldiff.synthesis.stream import WAITING, in_thread, on_its_thread
from napari_ssldiff.synthesis.threads import start


def ident(keep: bool) -> int | None:
    found: list[int | None] = []
    start(lambda: found.append(threading.current_thread().ident), keep)()
    return found[0]


def test_a_thread_of_its_own_is_gone_with_the_work() -> None:
    before = threading.active_count()
    assert ident(keep=False) != threading.get_ident()
    assert threading.active_count() == before


def test_a_kept_thread_does_the_next_work_too() -> None:
    first = ident(keep=True)
    assert {ident(keep=True) for _ in range(20)} == {first}


def test_works_at_once_have_threads_of_their_own() -> None:
    together = threading.Barrier(3, timeout=10)
    waits = [start(lambda: together.wait() and None, keep=True) for _ in range(2)]  # type: ignore[func-returns-value]
    together.wait()
    for wait in waits:
        wait()
    before = threading.active_count()
    waits = [start(lambda: None, keep=True) for _ in range(2)]
    for wait in waits:
        wait()
    assert threading.active_count() == before


def test_what_is_asked_before_a_run_is_asked_on_its_thread() -> None:
    # Where torch keeps plans per thread; nothing here touches the device.
    cuda, token = torch.device("cuda"), CancelToken()
    before = on_its_thread(lambda check: threading.get_ident(), token, cuda)

    def work(check: Callable[[], None], tell: Callable[[int], None]) -> None:
        tell(threading.get_ident())

    assert list(in_thread(work, token, cuda)) == [before]
    assert before != threading.get_ident()


class Counting:
    """A work that tells numbers, each as soon as it is asked whether to stop."""

    def __init__(self, count: int) -> None:
        self.count, self.told = count, 0

    def __call__(self, check: Callable[[], None], tell: Callable[[int], None]) -> None:
        for n in range(self.count):
            check()
            tell(n)
            self.told += 1

    def settled(self) -> int:
        """How many it has told when it tells no more."""
        before = -1
        while before != self.told:
            before = self.told
            time.sleep(0.2)
        return self.told


def test_a_work_waits_for_a_slow_consumer_and_nothing_is_lost() -> None:
    work = Counting(3 * WAITING)
    messages = in_thread(work, CancelToken(), torch.device("cpu"))
    assert next(messages) == 0
    assert work.settled() == WAITING + 1
    assert list(messages) == list(range(1, 3 * WAITING))


def test_what_was_told_before_a_cancel_is_delivered() -> None:
    work, cancel = Counting(3 * WAITING), CancelToken()
    messages = in_thread(work, cancel, torch.device("cpu"))
    got = [next(messages)]
    work.settled()
    cancel.cancel()
    with pytest.raises(Cancelled):
        got.extend(messages)
    # The last one had no room left when it was finished.
    assert got == list(range(WAITING + 2))


def test_a_work_that_waits_ends_when_it_is_abandoned() -> None:
    before, work = threading.active_count(), Counting(3 * WAITING)
    messages = in_thread(work, CancelToken(), torch.device("cpu"))
    next(messages)
    work.settled()
    messages.close()
    assert threading.active_count() == before
    assert work.told < 3 * WAITING


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_work_that_breaks_does_not_leave_anybody_waiting() -> None:
    def breaks() -> None:
        raise ValueError("it must not")

    start(breaks, keep=True)()
    assert ident(keep=True) is not None
