"""``synthesize``: the one door that widget, command line and tests go through."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from napari_ssldiff.diffusion.canvas import CanvasTask, Counters, plan, sample
from napari_ssldiff.diffusion.decode import decode, encode
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.embeddings.extract import read_grid
from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.geometry import Box, centre_out
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.scenes import Scene, to_source
from napari_ssldiff.synthesis.cancel import CancelToken
from napari_ssldiff.synthesis.events import Event, Finished, Preview, Progress, Started, TileDone
from napari_ssldiff.synthesis.frame import Frame, denoise_mask
from napari_ssldiff.synthesis.prepare import frame_of, resolve
from napari_ssldiff.synthesis.request import SynthesisRequest

#: Edge of delivered tiles, on a lattice anchored at the scene's origin.
TILE = 256
#: Model pixels beyond a tile that the resampling filter reads.
MARGIN = 8


def to_uint8(images: torch.Tensor) -> NDArray[np.uint8]:
    """``(3, h, w)`` float in [-1, 1] → ``(h, w, 3)`` uint8."""
    scaled = ((images.permute(1, 2, 0).float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).cpu().numpy()


def from_uint8(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """``(h, w, 3)`` uint8 → ``(3, h, w)`` float32 in [-1, 1]."""
    array = torch.from_numpy(np.ascontiguousarray(pixels))
    return array.permute(2, 0, 1).float() / 127.5 - 1


def _task(request: SynthesisRequest, bundle: ModelBundle, frame: Frame) -> CanvasTask:
    """The engine's task, its known latents still missing."""
    spec, f = bundle.spec, bundle.spec.latent_factor
    box = Box(frame.canvas.y // f, frame.canvas.x // f, frame.canvas.h // f, frame.canvas.w // f)
    centres = (np.arange(spec.tokens) + 0.5) * spec.cell

    def tokens(window: Box) -> torch.Tensor:
        y = (window.y * f + centres)[:, None] * frame.scale[0]
        x = (window.x * f + centres)[None, :] * frame.scale[1]
        return torch.from_numpy(request.field.sample(y, x).reshape(spec.tokens**2, -1))

    steps, guidance = request.sampler.steps, request.sampler.guidance
    assert steps is not None
    assert guidance is not None
    return CanvasTask(
        box=box,
        tokens=tokens,
        steps=steps,
        guidance=guidance,
        strength=request.sampler.strength,
        seed=request.sampler.seed,
        mask=torch.from_numpy(denoise_mask(frame, f)) if request.context else None,
    )


def _needs_source(request: SynthesisRequest) -> bool:
    return request.sampler.strength < 1 or request.context > 0


def _known(
    bundle: ModelBundle, scene: Scene | None, frame: Frame, check: Callable[[], None]
) -> torch.Tensor:
    if scene is None:
        raise InputError(
            "a strength below 1 and a context need the source's pixels: give the scene"
        )
    pixels = read_grid(scene, frame.canvas, bundle.encoder.spec)
    return encode(bundle.denoiser, from_uint8(pixels), check=check)


def canvas_task(
    request: SynthesisRequest, bundle: ModelBundle, scene: Scene | None, frame: Frame
) -> CanvasTask:
    """The engine's task for a request: tokens by place, and known latents where needed.

    Raises
    ------
    InputError
        If the source's pixels are needed and no scene is given.
    """
    task = _task(request, bundle, frame)
    if not _needs_source(request):
        return task
    return replace(task, known=_known(bundle, scene, frame, lambda: None))


def _check(request: SynthesisRequest, bundle: ModelBundle) -> None:
    if request.model_hash != bundle.hash:
        raise ModelError(
            f"the request was made for other weights of {request.model} "
            f"({request.model_hash[:12]}…) than the loaded {bundle.card.id} ({bundle.hash[:12]}…)"
        )
    if request.field.width != bundle.spec.token_width:
        raise ModelError(
            f"the field's vectors have {request.field.width} numbers, {bundle.card.id} takes "
            f"{bundle.spec.token_width}: embed the region with this model"
        )
    if request.field.encoder != bundle.encoder.spec.id:
        raise ModelError(
            f"the field was made by {request.field.encoder}, {bundle.card.id} is conditioned on "
            f"{bundle.encoder.spec.id}: embed the region with this model"
        )
    resolve(request.sampler, bundle)


def synthesize(
    request: SynthesisRequest,
    *,
    bundle: ModelBundle,
    scene: Scene,
    cancel: CancelToken | None = None,
) -> Iterator[Event]:
    """Carry out a request.

    Parameters
    ----------
    bundle
        The request's model, loaded.
    scene
        The request's source. Its pixels are read only for a strength below 1 or a context.
    cancel
        Stops the run before the next network call.

    Yields
    ------
    :class:`Started`, then :class:`Progress` and one :class:`Preview` per step, then
    :class:`TileDone` centre out, then :class:`Finished`.

    Raises
    ------
    Cancelled
        After a cancel.
    InputError, ModelError
        If the request does not fit the scene or the model.
    """
    _check(request, bundle)
    started = time.perf_counter()
    cancel = cancel or CancelToken()
    preset = PRESETS[request.sampler.preset]
    frame = frame_of(scene, request.region, bundle, request.grid, request.context)
    cancel.raise_if_cancelled()
    task = _task(request, bundle, frame)
    total = plan(task, preset, bundle.spec).evaluations
    yield Started(frame.output, task.steps, total)
    if _needs_source(request):
        yield Progress("encoding the source", 0, 1)
        task = replace(task, known=_known(bundle, scene, frame, cancel.raise_if_cancelled))

    counters = Counters()
    latents: torch.Tensor | None = None
    for event in _sample_in_thread(task, preset.name, bundle, cancel, counters, total):
        if isinstance(event, torch.Tensor):
            latents = event
        elif isinstance(event, Progress):
            yield event
        else:
            step, x0 = event
            pixels = to_uint8(bundle.denoiser.autoencoder.preview(x0[None])[0])
            yield Preview(_in_output(frame.canvas, frame), pixels, step + 1, task.steps)
    assert latents is not None

    f = bundle.spec.latent_factor
    pending_tiles = centre_out(frame.output.tiles(TILE), frame.output.centre)
    centre = (latents.shape[1] / 2, latents.shape[2] / 2)
    count = len(pending_tiles)
    for _, canvas, pending in decode(
        bundle.denoiser, latents, preset, centre=centre, check=cancel.raise_if_cancelled
    ):
        waiting = [p.shift(frame.canvas.y, frame.canvas.x) for p in pending]
        later = []
        for tile in pending_tiles:
            need = tile.scaled_outward(frame.model_per_output).grow(MARGIN)
            need = need.intersect(frame.canvas)
            if any(need.intersect(p).area for p in waiting):
                later.append(tile)
                continue
            inside = need.shift(-frame.canvas.y, -frame.canvas.x)
            rgb = to_uint8(canvas[(slice(None), *inside.slices)])
            per = frame.model_per_output
            rgb = to_source(rgb, need, tile, (1 / per[0], 1 / per[1]))
            alpha = frame.alpha(tile, request.feather)
            yield TileDone(tile, np.dstack([rgb, alpha]))
        pending_tiles = later
        yield Progress("decoding", count - len(later), count, counters.evaluations)
    assert not pending_tiles, f"tiles left undone: {pending_tiles} (latent factor {f})"
    yield Finished(time.perf_counter() - started, counters.evaluations, counters.network_seconds)


def _in_output(canvas: Box, frame: Frame) -> Box:
    """The canvas (model pixels) on the output grid, to the nearest pixel."""
    per = frame.model_per_output
    y0, x0 = round(canvas.y / per[0]), round(canvas.x / per[1])
    return Box(y0, x0, round(canvas.y1 / per[0]) - y0, round(canvas.x1 / per[1]) - x0)


def _sample_in_thread(
    task: CanvasTask,
    preset: str,
    bundle: ModelBundle,
    cancel: CancelToken,
    counters: Counters,
    total: int,
) -> Iterator[Progress | tuple[int, torch.Tensor] | torch.Tensor]:
    """Run the sampler beside this generator, so that its callbacks become a stream.

    The consumer's own pace never holds the network up, and abandoning the generator cancels
    the run.
    """
    messages: queue.SimpleQueue[Progress | tuple[int, torch.Tensor] | torch.Tensor | Exception]
    messages = queue.SimpleQueue()
    stop = threading.Event()

    def check() -> None:
        cancel.raise_if_cancelled()
        if stop.is_set():
            raise GeneratorExit

    def work() -> None:
        try:
            messages.put(
                sample(
                    bundle.denoiser,
                    task,
                    PRESETS[preset],
                    check=check,
                    on_step=lambda i, x0: messages.put((i, x0)),
                    on_batch=lambda n: messages.put(Progress("denoising", n, total, n)),
                    counters=counters,
                ).cpu()
            )
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
                raise message
            yield message
            if isinstance(message, torch.Tensor):
                return
    finally:
        stop.set()
        thread.join()
