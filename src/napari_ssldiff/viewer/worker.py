"""One thread that owns the model: jobs in, messages out, cancel at any time.

Where there is no job, it serves chores: work without an end, such as the tiles that the view of an
endless slide lacks. A job does not wait for a chore.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from napari_ssldiff.errors import Cancelled, SSLDiffError
from napari_ssldiff.viewer.backend import Backend, Cancel
from napari_ssldiff.viewer.messages import (
    ChoreFailed,
    DevicesFound,
    JobCancelled,
    JobDone,
    JobFailed,
    JobStarted,
    Message,
)
from napari_ssldiff.viewer.told import line_of, out_of_memory

logger = logging.getLogger(__name__)


class JobControl:
    """Stops one job, whether it waits, loads a model or samples; holds it where it samples.

    Safe from threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = self._paused = False
        self._token: Cancel | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the job shall stop."""
        return self._cancelled

    def cancel(self) -> None:
        """Ask the job to stop. Safe to call twice."""
        with self._lock:
            self._cancelled = True
            if self._token is not None:
                self._token.cancel()

    def pause(self, paused: bool) -> None:
        """Hold the engine, or let it go on."""
        with self._lock:
            self._paused = paused
            if self._token is not None:
                (self._token.pause if paused else self._token.resume)()

    def attach(self, token: Cancel) -> None:
        """Pass the wish on to the engine's own token.

        That token is made late, on the worker's thread, because making it loads the engine.
        """
        with self._lock:
            self._token = token
            if self._paused:
                token.pause()
            if self._cancelled:
                token.cancel()

    def raise_if_cancelled(self) -> None:
        """Raise :class:`Cancelled` if the job shall stop."""
        if self._cancelled:
            raise Cancelled("cancelled")


class Engine:
    """What the worker keeps between jobs: the backend and the model loaded last."""

    def __init__(self, backend: Backend, post: Callable[[Message], None]) -> None:
        self.backend = backend
        self._post = post
        self._loaded: tuple[tuple[str, str], Any] | None = None
        self._asked = False

    def bundle(self, model_id: str, device: str) -> Any:
        """The model, loaded at most once in a row."""
        key = (model_id, device)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # two models at once may not fit
            self._loaded = (key, self.backend.load(model_id, device))
        if not self._asked:
            self._asked = True
            self._post(DevicesFound(self.backend.devices()))
        return self._loaded[1]

    def drop(self) -> None:
        """Forget the model, and with it the memory it holds."""
        self._loaded = None


class Job(Protocol):
    """Something for the worker to do."""

    @property
    def id(self) -> int: ...

    def run(self, engine: Engine, control: JobControl, post: Callable[[Message], None]) -> str:
        """Do it on the worker's thread; say in one line what came of it, or raise."""


class Chore(Protocol):
    """Work for whenever there is no job."""

    @property
    def id(self) -> int: ...

    @property
    def ready(self) -> bool:
        """Whether there is something to do. Called with the worker's lock held: takes none."""

    def step(self, check: Callable[[], None], post: Callable[[Message], None]) -> None:
        """Do a little of it on the worker's thread; ``check`` raises to stop."""


class Worker:
    """Runs jobs one after another on a thread of its own, started by the first of them.

    Parameters
    ----------
    backend
        The engine.
    deliver
        Called on the worker's thread with every message; must hand it over and return.
    """

    def __init__(self, backend: Backend, deliver: Callable[[Message], None]) -> None:
        self._deliver = deliver
        self._engine = Engine(backend, self._post)
        self._condition = threading.Condition()
        self._waiting: deque[tuple[Job, JobControl]] = deque()
        self._active: tuple[Job, JobControl] | None = None
        self._chores: tuple[Chore, ...] = ()
        self._serving: tuple[Chore, JobControl] | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Jobs not taken up yet."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a job is running or waiting."""
        with self._condition:
            return bool(self._waiting) or self._active is not None

    def submit(self, job: Job) -> None:
        """Queue a job behind the others.

        Raises
        ------
        RuntimeError
            If the worker was closed.
        """
        with self._condition:
            if self._closed:
                raise RuntimeError("the worker is closed")
            self._waiting.append((job, JobControl()))
            if self._serving is not None:
                self._serving[1].cancel()
            self._start()
            self._condition.notify()

    def serve(self, chores: Iterable[Chore]) -> None:
        """Serve these chores and no others from now on, the first that is ready first."""
        with self._condition:
            if self._closed:
                return
            self._chores = tuple(chores)
            if self._serving is not None and self._serving[0] not in self._chores:
                self._serving[1].cancel()
            if self._chores:
                self._start()
            self._condition.notify()

    def wake(self) -> None:
        """A chore may have become ready. Safe from any thread."""
        with self._condition:
            self._condition.notify()

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: a model stuck in a driver must not keep Python from ending.
            self._thread = threading.Thread(
                target=self._loop, name="napari-ssldiff-worker", daemon=True
            )
            self._thread.start()

    def cancel(self, which: Callable[[Job], bool] = lambda job: True) -> int:
        """Stop the jobs that ``which`` picks, running or waiting; how many there were.

        A waiting job gives its :class:`JobCancelled` when its turn comes, which is at once.
        """
        with self._condition:
            jobs = [*self._waiting, *([self._active] if self._active else [])]
        chosen = [control for job, control in jobs if which(job)]
        for control in chosen:
            control.cancel()
        return len(chosen)

    def pause(self, paused: bool) -> None:
        """Hold the jobs that there are, running or waiting, or let them go on."""
        with self._condition:
            jobs = [*self._waiting, *([self._active] if self._active else [])]
        for _, control in jobs:
            control.pause(paused)

    def close(self, timeout: float = 10.0) -> bool:
        """Cancel everything and end the thread; no message is delivered any more.

        Returns
        -------
        Whether the thread has ended within ``timeout`` seconds.
        """
        with self._condition:
            self._closed = True
            self._waiting.clear()
            self._chores = ()
            running, thread = (self._active, self._serving), self._thread
            self._condition.notify()
        for one in running:
            if one is not None:
                one[1].cancel()
        if thread is None:
            self._deliver = _nowhere
            return True
        if thread is not threading.current_thread():
            thread.join(timeout)
        ended = not thread.is_alive()
        if ended:
            self._deliver = _nowhere  # holds nobody alive any more
        return ended

    def _post(self, message: Message) -> None:
        if not self._closed:
            self._deliver(message)

    def _loop(self) -> None:
        while True:
            with self._condition:
                while not (self._waiting or self._closed or self._ready()):
                    self._condition.wait()
                if self._closed:
                    break
                if self._waiting:
                    self._active = self._waiting.popleft()
                else:
                    self._serving = (self._ready()[0], JobControl())
            if self._serving is not None:
                self._serve(*self._serving)
                continue
            assert self._active is not None
            last = self._run(*self._active)
            with self._condition:
                self._active = None
            # After the job has left the queue: who hears of the end finds the worker free.
            self._post(last)
        self._engine.drop()

    def _ready(self) -> list[Chore]:
        return [chore for chore in self._chores if chore.ready]

    def _serve(self, chore: Chore, control: JobControl) -> None:
        """One step of a chore; one that fails is not served again."""
        failure = None
        try:
            with _window_first():
                chore.step(control.raise_if_cancelled, self._post)
        except Cancelled:
            pass
        except Exception as error:
            if not isinstance(error, SSLDiffError):
                logger.exception("chore %s failed", chore.id)
            failure = ChoreFailed(chore.id, line_of(error))
        with self._condition:
            self._serving = None
            if failure is not None:
                self._chores = tuple(other for other in self._chores if other is not chore)
        if failure is not None:
            self._post(failure)

    def _run(self, job: Job, control: JobControl) -> Message:
        """Run one job; the message that reports its end."""
        try:
            control.raise_if_cancelled()
            self._post(JobStarted(job.id))
            with _window_first():
                return JobDone(job.id, job.run(self._engine, control, self._post))
        except Cancelled as stop:
            text = str(stop)
            return JobCancelled(job.id, "" if text == "cancelled" else text)
        except SSLDiffError as error:
            return JobFailed(job.id, str(error))
        except Exception as error:  # whatever breaks in the engine must not take napari down
            if control.cancelled:
                return JobCancelled(job.id, "")
            logger.exception("job %s failed", job.id)
            if out_of_memory(error):
                self._engine.drop()
            return JobFailed(job.id, line_of(error))


def _nowhere(message: Message) -> None:
    """Where a closed worker's messages go."""


@contextmanager
def _window_first() -> Iterator[None]:
    """Hand the interpreter over sooner while a job runs.

    Every OpenGL call gives the interpreter lock up and then queues for it behind the worker, 5 ms
    each by default: some hundred calls a frame would stop the window for seconds.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, 0.0002))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
