"""Threads of runs: gone with them, or kept for the next."""

from __future__ import annotations

import threading

import pytest

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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_work_that_breaks_does_not_leave_anybody_waiting() -> None:
    def breaks() -> None:
        raise ValueError("it must not")

    start(breaks, keep=True)()
    assert ident(keep=True) is not None
