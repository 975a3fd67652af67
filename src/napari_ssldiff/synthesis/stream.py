"""The sampler beside its consumer: callbacks of a thread as a stream."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.canvas import CanvasTask, Counters, sample
from napari_ssldiff.diffusion.memory import attempt, twice
from napari_ssldiff.diffusion.presets import Preset
from napari_ssldiff.geometry import Box
from napari_ssldiff.synthesis.cancel import CancelToken
from napari_ssldiff.synthesis.events import Preview, Progress
from napari_ssldiff.synthesis.threads import start
from napari_ssldiff.synthesis.tiles import to_uint8

Message = TypeVar("Message")

#: Messages that may wait for the consumer, who is given them after a cancel too; as finished tiles
#: 8 MB.
WAITING = 32
#: Seconds between two looks at whether a work that waits for its consumer shall stop.
_LOOK = 0.05


def in_thread(
    work: Callable[[Callable[[], None], Callable[[Message], None]], None],
    cancel: CancelToken,
    device: torch.device,
) -> Generator[Message, None, None]:
    """What ``work`` tells from another thread.

    The consumer's pace holds the work up only where :data:`WAITING` messages wait for it.
    Abandoning the generator stops the work; it has ended when the generator has, and so has its
    thread, but on CUDA, where it is kept for the next.

    Parameters
    ----------
    work
        Given a check to call often, which raises when it shall stop, and a function to tell
        messages. Its exceptions are raised here.
    cancel
        The caller's own reason to stop, or to wait.
    device
        Where the networks run.
    """
    messages: queue.SimpleQueue[tuple[Message] | Exception | None] = queue.SimpleQueue()
    stop, room = threading.Event(), threading.Semaphore(WAITING)

    def stopping() -> None:
        cancel.hold(stop.is_set)
        if stop.is_set():
            raise GeneratorExit

    def tell(message: Message) -> None:
        # What is told is finished: it is delivered even where the work is to stop.
        while not (room.acquire(timeout=_LOOK) or stop.is_set() or cancel.cancelled):
            pass
        messages.put((message,))

    def run() -> None:
        try:
            work(stopping, tell)
            messages.put(None)
        except GeneratorExit:
            pass
        except Exception as error:
            messages.put(error)

    wait = start(run, keep=device.type == "cuda")
    try:
        while (message := messages.get()) is not None:
            if isinstance(message, Exception):
                try:
                    raise message
                finally:
                    # Its traceback names this frame: a circle that would hold the run's tensors.
                    del message
            room.release()
            yield message[0]
    finally:
        stop.set()
        wait()


def on_its_thread(
    call: Callable[[Callable[[], None]], Message], cancel: CancelToken, device: torch.device
) -> Message:
    """What ``call`` returns on the thread of the run that follows: see :func:`in_thread`.

    Parameters
    ----------
    call
        Given a check to call often, which raises when it shall stop.
    """

    def work(stopping: Callable[[], None], tell: Callable[[Message], None]) -> None:
        tell(call(stopping))

    (answer,) = in_thread(work, cancel, device)
    return answer


def shown(model: Denoiser, latents: torch.Tensor) -> torch.Tensor:
    """``(3, h, w)`` on the CPU: ``(c, h, w)`` latents as the autoencoder shows them.

    Where their device has no memory for it, it is made on the CPU.
    """

    def show(z: torch.Tensor) -> torch.Tensor:
        return model.autoencoder.preview(z[None])[0].cpu()

    made = attempt(lambda: show(latents), latents.device)
    return show(latents.cpu()) if made is None else made


def preview_of(model: Denoiser, x0: torch.Tensor) -> NDArray[np.uint8]:
    """``(h, w, 3)`` uint8: ``(c, h, w)`` latents as a preview shows them."""
    return to_uint8(shown(model, x0))


def sample_in_thread(
    model: Denoiser,
    task: CanvasTask,
    preset: Preset,
    *,
    total: int,
    place: Box,
    cancel: CancelToken,
    counters: Counters,
) -> Generator[Progress | Preview | torch.Tensor, None, None]:
    """Run :func:`napari_ssldiff.diffusion.canvas.sample` :func:`in_thread`.

    Parameters
    ----------
    total
        Evaluations of the run.
    place
        Where previews lie on the output grid.

    Yields
    ------
    Progress and previews, and ``(c, h, w)`` latents on the CPU at the end.
    """

    def work(
        stopping: Callable[[], None], tell: Callable[[Progress | Preview | torch.Tensor], None]
    ) -> None:
        def show(step: int, x0: torch.Tensor) -> None:
            # As pixels: latents waiting for a slow consumer would be many times as large.
            pixels = preview_of(model, x0)
            tell(Preview(place, pixels, step + 1, task.steps))

        latents = sample(
            model,
            task,
            preset,
            check=stopping,
            on_step=show,
            on_batch=lambda n: tell(Progress("denoising", n, total, n)),
            counters=counters,
        )
        tell(twice(latents.cpu))

    yield from in_thread(work, cancel, model.device)
