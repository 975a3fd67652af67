"""``synthesize``: the one door that widget, command line and tests go through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import torch

from napari_ssldiff.diffusion.bands import sampling_bytes
from napari_ssldiff.diffusion.canvas import CanvasTask, Counters, plan
from napari_ssldiff.diffusion.decode import encode_parts
from napari_ssldiff.diffusion.lazy import LazyPlan, tiles_of
from napari_ssldiff.diffusion.memory import release
from napari_ssldiff.diffusion.presets import PRESETS, Preset
from napari_ssldiff.diffusion.steer import Guide
from napari_ssldiff.embeddings.extract import read_grid
from napari_ssldiff.errors import Cancelled, InputError, ModelError
from napari_ssldiff.geometry import Box
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.scenes import Scene
from napari_ssldiff.synthesis.cancel import CancelToken
from napari_ssldiff.synthesis.cell_masks import encode_cells, refuse_unless_heard
from napari_ssldiff.synthesis.events import Event, Finished, Progress, Started
from napari_ssldiff.synthesis.frame import Frame, denoise_mask, held_on_canvas, inside_on_canvas
from napari_ssldiff.synthesis.match import enough
from napari_ssldiff.synthesis.prepare import frame_of, resolve
from napari_ssldiff.synthesis.request import SynthesisRequest
from napari_ssldiff.synthesis.tiles import Tiles
from napari_ssldiff.synthesis.tiles import from_uint8 as from_uint8
from napari_ssldiff.synthesis.tiles import to_uint8 as to_uint8
from napari_ssldiff.synthesis.tokens import window_tokens
from napari_ssldiff.synthesis.ways import Compared, Focus, Run


def _task(
    request: SynthesisRequest, bundle: ModelBundle, frame: Frame, scene: Scene | None
) -> CanvasTask:
    """The engine's task, its known latents still missing."""
    spec, f = bundle.spec, bundle.spec.latent_factor
    box = Box(frame.canvas.y // f, frame.canvas.x // f, frame.canvas.h // f, frame.canvas.w // f)
    steps, guidance = request.sampler.steps, request.sampler.guidance
    assert steps is not None
    assert guidance is not None
    mask = None
    if request.context:
        held = Box(0, 0, *request.source.shape) if scene is None else scene.held
        mask = torch.from_numpy(denoise_mask(frame, f, held))
    return CanvasTask(
        box=box,
        tokens=window_tokens(request.field, spec, frame.scale),
        steps=steps,
        guidance=guidance,
        strength=request.sampler.strength,
        seed=request.sampler.seed,
        mask=mask,
        batch=request.sampler.batch,
        guidance_interval=request.sampler.guidance_interval,
        guide=Guide(from_uint8(request.guide.pixels), request.guide.strength)
        if request.guide
        else None,
    )


def _needs_source(request: SynthesisRequest) -> bool:
    return request.sampler.strength < 1 or request.context > 0


def _known(
    bundle: ModelBundle,
    scene: Scene | None,
    frame: Frame,
    check: Callable[[], None] = lambda: None,
    counters: Counters | None = None,
) -> torch.Tensor:
    if scene is None:
        raise InputError(
            "a strength below 1 and a context need the source's pixels: give the scene"
        )

    def read(box: Box) -> torch.Tensor:
        check()
        place = box.shift(frame.canvas.y, frame.canvas.x)
        return from_uint8(read_grid(scene, place, bundle.encoder.spec))

    return encode_parts(bundle.denoiser, read, frame.canvas.shape, check=check, counters=counters)


def canvas_task(
    request: SynthesisRequest, bundle: ModelBundle, scene: Scene | None, frame: Frame
) -> CanvasTask:
    """The engine's task for a request: tokens by place, and known latents where needed.

    Raises
    ------
    InputError
        If the source's pixels are needed and no scene is given.
    """
    task = _task(request, bundle, frame, scene)
    if not _needs_source(request):
        return task
    return replace(task, known=_known(bundle, scene, frame))


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
    if request.cells is not None:
        refuse_unless_heard(bundle)


def synthesize(
    request: SynthesisRequest,
    *,
    bundle: ModelBundle,
    scene: Scene,
    cancel: CancelToken | None = None,
    budget: int | None = None,
    focus: Focus | None = None,
) -> Iterator[Event]:
    """Carry out a request.

    Parameters
    ----------
    bundle
        The request's model, loaded.
    scene
        The request's source. Its pixels are read only for a strength below 1 or a context.
    cancel
        Stops or holds the run before the next network call.
    focus
        Where the viewer looks: ``(y, x)`` on the output grid, asked before every tile and from
        any thread, or ``None`` for the middle of the canvas. The nearest tile comes first.
    budget
        Bytes that canvas and unfinished tiles may take; by default the model's own
        limit. A canvas whose solver state alone is more is sampled band by band, from one end of
        its longer side, to the same result; so is one that is long enough for its first tiles
        to come far earlier like that (:func:`napari_ssldiff.diffusion.bands.early`).

    Yields
    ------
    :class:`Started`, then :class:`Progress` and one :class:`Preview` per step, then
    :class:`TileDone` outwards from the focus, then :class:`Finished`. For a canvas in bands they
    come between each other: :class:`TileDone` from the end that was nearer to the focus at the
    beginning (of those that can be finished by then the nearest to the focus comes first),
    :class:`Preview` of as much of the canvas as has begun, and none where the budget has no room
    for it. With the preset ``lazy`` every tile is made alone, without previews.

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
    budget = bundle.denoiser.limits.canvas if budget is None else budget
    check, counters = cancel.hold, Counters()
    preset = PRESETS[request.sampler.preset]
    frame = frame_of(scene, request.region, bundle, request.grid, request.around, request.grow)
    check()
    task = _task(request, bundle, frame, scene)
    total = _evaluations(task, preset, bundle, frame)
    large = sampling_bytes(bundle.denoiser, task, preset) > budget
    if request.cells and preset.phases is not None:
        raise InputError(
            "a mask of cells is shown to a canvas, not with the preset lazy: choose another preset"
        )
    if request.match and preset.phases is not None:
        # Whichever tile is asked for first would need the ring around all of them.
        raise InputError(
            "colours are matched on a canvas that has an end, not with the preset lazy, which "
            "makes every tile alone: leave match out, or choose another preset"
        )
    if request.guide and (large or preset.phases is not None):
        what = "the preset lazy" if preset.phases is not None else f"more than {budget} bytes"
        raise InputError(
            f"a guide steers a canvas that is sampled at once, not with {what}: leave guide out, "
            "or draw a smaller region"
        )
    yield Started(frame.output, task.steps, total)
    known = None
    if _needs_source(request) or request.match:
        yield Progress("encoding the source", 0, 1)
        known = _known(bundle, scene, frame, check, counters)
    if _needs_source(request):
        task = replace(task, known=known)
    if request.cells:
        yield Progress("reading the cells", 0, 1)
        shape = frame.canvas.shape
        control = encode_cells(bundle, request.cells, shape, check=check, counters=counters)
        task = replace(task, control=control)
    compared = _compared(scene, frame, bundle, request, known)
    run = Run(request, bundle, frame, task, preset, total, cancel, counters, budget, focus)
    if preset.phases is not None:
        way = run.tile_by_tile()
    elif large:
        way = run.in_bands(compared)
    elif not request.match and (least := run.early()):
        way = run.early_bands(least)
    else:
        way = run.whole(compared)
    try:
        with closing(way) as events:
            yield from events
    except (Cancelled, GeneratorExit):
        if bundle.denoiser.device.type != "cpu":
            release(bundle.denoiser.device)
        raise
    yield Finished(
        time.perf_counter() - started,
        counters.evaluations,
        counters.network_seconds,
        counters.decode_seconds,
    )


def _compared(
    scene: Scene,
    frame: Frame,
    bundle: ModelBundle,
    request: SynthesisRequest,
    known: torch.Tensor | None,
) -> Compared | None:
    """What a request with ``match`` compares its colours with: the ring, as far as the image."""
    if not request.match or known is None:
        return None
    f, canvas = bundle.spec.latent_factor, frame.canvas
    ring = inside_on_canvas(frame, request.match) & ~inside_on_canvas(frame)
    ring &= held_on_canvas(frame, scene.held)
    whole = torch.from_numpy(ring.reshape(canvas.h // f, f, canvas.w // f, f).all(axis=(1, 3)))
    enough(whole)  # before hours of work, not behind them
    return known, whole


def _evaluations(task: CanvasTask, preset: Preset, bundle: ModelBundle, frame: Frame) -> int:
    """What the run will take."""
    if preset.phases is None:
        return plan(task, preset, bundle.spec).evaluations
    tiles = Tiles(frame, 0)
    lazy = LazyPlan(task, preset, bundle.spec)
    needs, centre = tiles.needs, frame.output.centre
    order = (needs[n] for n in tiles.outwards(lambda: centre))
    needs = [need.shift(frame.canvas.y, frame.canvas.x) for need in order]
    asked = dict.fromkeys(key for need in needs for key in tiles_of(need))
    return lazy.evaluations(lazy.tile_latents(key) for key in asked)
