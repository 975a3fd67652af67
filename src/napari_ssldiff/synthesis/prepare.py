"""From a scene and a region to a complete request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.cache import cache_dir
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.embeddings.extract import embed_box, grid_scale, read_grid
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.embeddings.slide import CELLS, Sampled, sample_scene
from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.geometry import Region
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.models.priors import Words
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.synthesis.cancel import CancelToken
from napari_ssldiff.synthesis.cells import CellMask
from napari_ssldiff.synthesis.coarse import CoarsePicture, averaged, coarse_shape
from napari_ssldiff.synthesis.frame import Frame, plan_frame
from napari_ssldiff.synthesis.imagine import Imagined, Prompt, imagine
from napari_ssldiff.synthesis.request import EVERYWHERE, Grid, Sampler, Source, SynthesisRequest

Report = Callable[[str, float, float], None]
#: What ``lazy`` takes where the request does not say: small enough for a tile not to wait for
#: windows that nobody asked for, and one thread, which every machine has.
LAZY_BATCH, LAZY_THREADS = 8, 1


def source_of(scene: Scene) -> Source:
    """The part of a scene that a request records."""
    size = scene.encoder_pixel_size
    return Source(scene.path, scene.shape, (size.y, size.x), size.unit)


def frame_of(
    scene: Scene,
    region: Region,
    bundle: ModelBundle,
    grid: Grid,
    context: int = 0,
    grow: int = 0,
) -> Frame:
    """Geometry of varying ``region`` with a model; ``context`` and ``grow`` as for
    :func:`~napari_ssldiff.synthesis.frame.plan_frame`.

    Raises
    ------
    InputError
        If the region leaves the image, or the scene's unit is not the model's.
    """
    scale = grid_scale(scene, bundle.encoder.spec)
    spec = bundle.spec
    return plan_frame(
        region, scene.shape, scale, spec.window, spec.latent_factor, grid, context, grow
    )


def embed_region(
    scene: Scene,
    region: Region,
    bundle: ModelBundle,
    *,
    grid: Grid = "source",
    context: int = 0,
    grow: int = 0,
    cache: Path | None = None,
    progress: Report | None = None,
    cancel: CancelToken | None = None,
) -> EmbeddingField:
    """Embed the canvas of a region, as the model paints it; cells start at the canvas's corner.

    A model that draws another stain has the embeddings translated into it; how is told by the
    bundle's ``embedded``.

    Parameters
    ----------
    grid, context, grow
        As in :class:`SynthesisRequest`, for a field that reaches beyond the region.
    cache
        Folder of finished fields; by default one in the user's cache folder.
    progress
        Told ``("embedding", cells done, cells)``, then ``("translating", cells done, cells)``.
    """
    frame = frame_of(scene, region, bundle, grid, context, grow)
    check = cancel.raise_if_cancelled if cancel else lambda: None
    tell = progress or (lambda stage, done, total: None)
    field = embed_box(
        scene,
        frame.canvas,
        bundle.encoder,
        cache=cache or cache_dir() / "fields",
        progress=lambda done, total: tell("embedding", done, total),
        check=check,
    )
    if bundle.translation is None:
        return field
    return bundle.translation(
        field, progress=lambda done, total: tell("translating", done, total), check=check
    )


def sample_slide(
    scene: Scene,
    bundle: ModelBundle,
    count: int = CELLS,
    *,
    cache: Path | None = None,
    progress: Report | None = None,
    cancel: CancelToken | None = None,
) -> Sampled:
    """Embed cells of a whole scene, ``count`` at most and evenly over what is no background; those
    of a model that draws another stain translated as by :func:`embed_region`.

    Parameters
    ----------
    cache
        Folder of finished samples; by default one in the user's cache folder.
    progress
        Told ``("sampling the slide", cells done, cells)``.

    Raises
    ------
    InputError
        If the scene holds nothing but background, or its unit is not the model's.
    """
    check = cancel.raise_if_cancelled if cancel else lambda: None
    tell = progress or (lambda stage, done, total: None)
    sampled = sample_scene(
        scene, bundle.encoder, count, cache=cache or cache_dir() / "fields", check=check,
        progress=lambda done, total: tell("sampling the slide", done, total),
    )  # fmt: skip
    if bundle.translation is None:
        return sampled
    field = bundle.translation(
        sampled.field, progress=lambda done, total: tell("translating", done, total), check=check
    )
    return replace(sampled, field=field)


def imagine_region(
    scene: Scene,
    region: Region,
    bundle: ModelBundle,
    words: Words,
    prompt: Prompt,
    *,
    grid: Grid = "source",
    context: int = 0,
    grow: int = 0,
    progress: Report | None = None,
    cancel: CancelToken | None = None,
) -> Imagined:
    """A field of a prompt over the canvas of a region, in the place of :func:`embed_region`.

    Parameters
    ----------
    words
        A prior of the bundle's encoder.
    progress
        Told ``("imagining", steps done, steps)``.

    Raises
    ------
    InputError
        If the prompt is empty or says nothing that the text encoder knows.
    ModelError
        If the prior makes fields of another encoder.
    """
    spec = bundle.encoder.spec
    if words.prior.facts.encoder != spec.id:
        raise ModelError(
            f"{words.card.id} makes fields of {words.prior.facts.encoder}, {bundle.card.id} is "
            f"conditioned on {spec.id}: use the prior that belongs to it"
        )
    frame = frame_of(scene, region, bundle, grid, context, grow)
    (sy, sx), canvas, cell = grid_scale(scene, spec), frame.canvas, spec.cell
    return imagine(
        words,
        prompt,
        (-(-canvas.h // cell), -(-canvas.w // cell)),
        (canvas.y * sy, canvas.x * sx),
        (cell * sy, cell * sx),
        check=cancel.raise_if_cancelled if cancel else lambda: None,
        progress=lambda done, total: progress("imagining", done, total) if progress else None,
    )


def source_guide(
    scene: Scene,
    region: Region,
    bundle: ModelBundle,
    resolution: float,
    *,
    strength: float = 1.0,
    grid: Grid = "source",
    around: int = 0,
    grow: int = 0,
) -> CoarsePicture:
    """The source itself as a guide: a variation then keeps what is to be seen from afar.

    Where the source is coarser than the model this is super-resolution: what is known is kept, and
    the model adds what its pixels are too large to show.

    Parameters
    ----------
    resolution
        Length of the guide's pixels, in the model's unit.
    around, grow
        Of the request, as for :func:`frame_of`.

    Raises
    ------
    InputError
        If the guide would not be coarser than the model.
    """
    canvas = frame_of(scene, region, bundle, grid, around, grow).canvas
    shape = coarse_shape(canvas.shape, resolution / bundle.card.resolution)
    return CoarsePicture(averaged(read_grid(scene, canvas, bundle.encoder.spec), shape), strength)


def picture_guide(
    picture: NDArray[np.uint8],
    scene: Scene,
    region: Region,
    bundle: ModelBundle,
    *,
    strength: float = 1.0,
    grid: Grid = "source",
    around: int = 0,
    grow: int = 0,
) -> CoarsePicture:
    """A picture of a region as a guide, such as a variation of lower magnification.

    Parameters
    ----------
    picture
        ``(h, w, 3)`` uint8 of the region's bounds. Beyond them its border goes on.
    around, grow
        Of the request, as for :func:`frame_of`.

    Raises
    ------
    InputError
        If the picture is not coarser than the model.
    """
    canvas = frame_of(scene, region, bundle, grid, around, grow).canvas
    sy, sx = grid_scale(scene, bundle.encoder.spec)
    bounds = region.bounds
    # Pixels of the picture per pixel of the model.
    per = picture.shape[0] * sy / bounds.h, picture.shape[1] * sx / bounds.w
    shape = coarse_shape(canvas.shape, 1 / max(per))
    y = (canvas.y + (np.arange(shape[0]) + 0.5) * canvas.h / shape[0] - bounds.y / sy) * per[0]
    x = (canvas.x + (np.arange(shape[1]) + 0.5) * canvas.w / shape[1] - bounds.x / sx) * per[1]
    rows = np.clip(np.floor(y).astype(int), 0, picture.shape[0] - 1)
    columns = np.clip(np.floor(x).astype(int), 0, picture.shape[1] - 1)
    return CoarsePicture(np.ascontiguousarray(picture[rows][:, columns]), strength)


def resolve(sampler: Sampler, bundle: ModelBundle) -> Sampler:
    """The sampler with steps and guidance filled in: its own, else the preset's or the model's.

    Raises
    ------
    InputError
        If the preset is the model's student, and steps or guidance are not the student's.
    """
    preset, student = PRESETS[sampler.preset], bundle.spec.student
    steps, guidance = preset.steps, preset.guidance
    if student is not None and preset.uses_student(bundle.spec):
        steps, guidance = student.steps, 1.0
        if sampler.guidance not in (None, guidance):
            raise InputError(
                f"guidance {sampler.guidance:g} cannot be had with preset {sampler.preset}: the "
                f"student of {bundle.card.id} is fixed at {student.guidance:g}; leave the guidance "
                "out (or 1), or use preset bulk"
            )
        if sampler.steps not in (None, steps):
            raise InputError(
                f"{sampler.steps} steps cannot be had with preset {sampler.preset}: the student of "
                f"{bundle.card.id} takes {steps}; leave the steps out, or use preset bulk"
            )
    if sampler.guidance is not None:
        guidance = sampler.guidance
    batch = threads = precision = None
    if preset.phases is not None:
        rows = bundle.denoiser.limits.rows
        room = LAZY_BATCH if rows is None else max(1, min(LAZY_BATCH, rows // 2))
        batch, threads = sampler.batch or room, sampler.threads or LAZY_THREADS
        precision = sampler.precision or bundle.denoiser.precision
    elif (sampler.batch, sampler.threads, sampler.precision) != (None, None, None):
        raise InputError(
            "batch, threads and precision belong to the preset lazy; with preset "
            f"{sampler.preset} they follow from device and memory: leave them out"
        )
    return replace(
        sampler,
        batch=batch,
        threads=threads,
        precision=precision,
        steps=sampler.steps or steps,
        guidance=bundle.card.guidance if guidance is None else guidance,
        guidance_interval=sampler.guidance_interval or preset.guidance_interval or EVERYWHERE,
    )


def refining(sampler: Sampler, bundle: ModelBundle, timestep: int = 300) -> Sampler:
    """The sampler, drawing its source anew from a training timestep on.

    At 300 what a picture shows stays, and seams and flaws go: the pass that ZoomLDM puts behind
    large images (Yellapragada et al., CVPR 2025).

    Raises
    ------
    InputError
        If the model's schedule has no such timestep.
    """
    try:
        strength = PRESETS[sampler.preset].strength_at(bundle.spec, timestep)
    except ValueError as error:
        raise InputError(f"cannot refine from there: {error}") from None
    return replace(sampler, strength=strength)


def make_request(
    scene: Scene,
    region: Region,
    bundle: ModelBundle,
    sampler: Sampler | None = None,
    *,
    field: EmbeddingField | None = None,
    grid: Grid = "source",
    feather: int = 0,
    context: int = 0,
    grow: int = 0,
    match: int = 0,
    history: tuple[str, ...] = (),
    guide: CoarsePicture | None = None,
    cells: CellMask | None = None,
    progress: Report | None = None,
    cancel: CancelToken | None = None,
) -> SynthesisRequest:
    """A request to vary a region, with every default filled in.

    Parameters
    ----------
    field, history
        What to paint, and how it came about; by default the region's own embeddings, translated
        where the model draws another stain. A field that is given is painted as it is.
    guide
        What it is to look like from afar: :func:`source_guide` or :func:`picture_guide`.
    cells
        Where its cells are to lie: see :mod:`napari_ssldiff.synthesis.cell_masks`.

    Raises
    ------
    InputError
        If the region leaves the image, the scene does not suit the model, the sampler asks for
        what the preset cannot do, or colours are to match those of another stain.
    """
    sampler = resolve(sampler or Sampler(), bundle)
    if match and bundle.translation is not None:
        raise InputError(
            f"match {match} would bring {bundle.translation.target} back to the colours of "
            f"{bundle.translation.source}: leave it out with {bundle.card.id}"
        )
    if field is None:
        history = (*bundle.embedded, *history)
        field = embed_region(
            scene, region, bundle, grid=grid, context=max(context, match), grow=grow,
            progress=progress, cancel=cancel,
        )  # fmt: skip
    return SynthesisRequest(
        model=bundle.card.id,
        model_hash=bundle.hash,
        field=field,
        region=region,
        source=source_of(scene),
        sampler=sampler,
        grid=grid,
        feather=feather,
        context=context,
        grow=grow,
        match=match,
        history=history,
        guide=guide,
        cells=cells,
    )
