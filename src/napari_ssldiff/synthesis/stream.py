"""The sampler beside its consumer: callbacks of a thread as a stream."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator

import torch

from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.canvas import CanvasTask, Counters, sample
from napari_ssldiff.diffusion.presets import Preset
from napari_ssldiff.geometry import Box
from napari_ssldiff.synthesis.events import Preview, Progress
from napari_ssldiff.synthesis.tiles import to_uint8


def sample_in_thread(
    model: Denoiser,
    task: CanvasTask,
    preset: Preset,
    *,
    total: int,
    place: Box,
    check: Callable[[], None],
    counters: Counters,
) -> Generator[Progress | Preview | torch.Tensor, None, None]:
    """Run :func:`napari_ssldiff.diffusion.canvas.sample` in a thread of its own.

    The consumer's pace never holds the network up. Abandoning the generator stops the run; the
    thread has ended when the generator has.

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
    messages: queue.SimpleQueue[Progress | Preview | torch.Tensor | Exception]
    messages = queue.SimpleQueue()
    stop = threading.Event()

    def stopping() -> None:
        check()
        if stop.is_set():
            raise GeneratorExit

    def show(step: int, x0: torch.Tensor) -> None:
        # As pixels: latents waiting for a slow consumer would be many times as large.
        pixels = to_uint8(model.autoencoder.preview(x0[None])[0])
        messages.put(Preview(place, pixels, step + 1, task.steps))

    def work() -> None:
        try:
            latents = sample(
                model,
                task,
                preset,
                check=stopping,
                on_step=show,
                on_batch=lambda n: messages.put(Progress("denoising", n, total, n)),
                counters=counters,
            )
            messages.put(latents.cpu())
        except GeneratorExit:
            pass
        except Exception as error:
            messages.put(error)

    thread = threading.Thread(target=work, name="napari-ssldiff-sampler", daemon=True)
    thread.start()
    try:
        while True:
            message = messages.get()
            if isinstance(message, Exception):
                try:
                    raise message
                finally:
                    # Its traceback names this frame: a circle that would hold the run's tensors.
                    del message
            yield message
            if isinstance(message, torch.Tensor):
                return
    finally:
        stop.set()
        thread.join()
