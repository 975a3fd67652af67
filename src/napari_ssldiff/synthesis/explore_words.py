"""From words to a slide without bounds: its field is sampled by a prior, its tiles by the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.control_points import ControlPoints
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.scenes.blank import blank_scene
from napari_ssldiff.scenes.scene import PixelSize
from napari_ssldiff.synthesis.cancel import CancelToken
from napari_ssldiff.synthesis.endless import LazyScene
from napari_ssldiff.synthesis.events import TileDone
from napari_ssldiff.synthesis.imagine import Prompt, guidance_of
from napari_ssldiff.synthesis.meaning import meaning
from napari_ssldiff.synthesis.palette import fit_palette
from napari_ssldiff.synthesis.prepare import Report, make_request, resolve
from napari_ssldiff.synthesis.request import Sampler
from napari_ssldiff.synthesis.run import synthesize
from napari_ssldiff.text.places import PriorPlaces, typical_cells

if TYPE_CHECKING:
    from napari_ssldiff.models.priors import Words

#: Edge of the field that the map's colours are taken from, in cells; at least a window's.
_SAMPLE = 8


def explore_words(
    prompt: str | Prompt,
    bundle: ModelBundle,
    words: Words | None = None,
    sampler: Sampler | None = None,
    *,
    shape: tuple[int, int] = (2**20, 2**20),
    cache_bytes: int | None = None,
    progress: Report | None = None,
    cancel: CancelToken | None = None,
) -> LazyScene:
    """An endless slide of what words say, the same everywhere; no part of it is repeated.

    Colours of the map, and what it shows where no cell was sampled, come from a small field that
    the prior samples and the model draws in preset ``draft``.

    Parameters
    ----------
    prompt
        What it shows. Words that place things ("A beside B") are taken as a whole, because a
        plane without bounds has no left and no middle. A string has the sampler's seed.
    words
        The prior; by default the one installed for the model's encoder.
    sampler
        Preset ``lazy``.
    shape
        ``(h, w)`` of the slide, in pixels of the model.
    cache_bytes
        As for :class:`~napari_ssldiff.synthesis.endless.LazyScene`.
    progress
        Told the stage in words, the work done and the work in all.

    Raises
    ------
    InputError
        If the prompt is empty, has regions, or says nothing that the prior takes; if there is no
        prior for the model; or if the sampler does not suit.
    ModelError
        If the prior makes fields of another encoder.
    """
    sampler = resolve(sampler or Sampler("lazy"), bundle)
    if sampler.threads is None:
        raise InputError(f"an endless slide needs the preset lazy, not {sampler.preset}")
    prompt = Prompt(prompt, seed=sampler.seed) if isinstance(prompt, str) else prompt
    if prompt.regions:
        raise InputError("an endless slide has no regions to fill: leave their prompts out")
    spec, check = bundle.encoder.spec, cancel.raise_if_cancelled if cancel else lambda: None
    words = words or _installed(prompt, bundle)
    prior = words.prior
    if prior.facts.encoder != spec.id:
        raise ModelError(
            f"{words.card.id} makes fields of {prior.facts.encoder}, {bundle.card.id} is "
            f"conditioned on {spec.id}: use the prior that belongs to it"
        )
    said, guided = meaning(words, prompt.root), guidance_of(words, prompt)
    side = max(_SAMPLE, bundle.spec.tokens)
    vectors = prior.sample(
        said.vector, (side, side), prompt.seed, guided.scale, negative=guided.away, check=check,
        progress=lambda done, total: progress("imagining", done, total) if progress else None,
    )  # fmt: skip
    cell = float(spec.cell)
    field = EmbeddingField(vectors, (0, 0), (cell, cell), spec.id, spec.resolution, spec.unit)
    condition = ControlPoints(
        np.zeros((1, 2)),
        said.vector[None],
        words.card.id if words.text is None else words.text.name,
    )
    places = PriorPlaces(
        prior,
        words.card.hash,
        condition,
        prompt.seed,
        typical_cells(condition, [field.vectors], spec.id),
        guidance=guided.scale,
        guidance_interval=guided.interval,
        negative=guided.away,
        threads=sampler.threads,
        record={
            "text": prompt.text, "condition": dict(said.record), "negative": prompt.negative,
            "notes": [*said.notes, *guided.notes],
        },
    )  # fmt: skip
    palette = fit_palette(field, _drawn(field, bundle, sampler.seed, progress, cancel))
    return LazyScene(bundle, places, palette, shape, sampler, cache_bytes=cache_bytes)


def _installed(prompt: Prompt, bundle: ModelBundle) -> Words:
    from napari_ssldiff.models.priors import load_words, prior_for

    card = prior_for(bundle.encoder.spec.id, prompt.root.needs, bundle.card.folder)
    return load_words(card, str(bundle.device))


def _drawn(
    field: EmbeddingField,
    bundle: ModelBundle,
    seed: int,
    progress: Report | None,
    cancel: CancelToken | None,
) -> NDArray[np.float32]:
    """``(rows, columns, 3)``: mean colours of a field's cells as the model draws them."""
    spec, (rows, columns) = bundle.encoder.spec, field.shape
    size = PixelSize(spec.resolution, spec.resolution, spec.unit)
    scene = blank_scene((rows * spec.cell, columns * spec.cell), size, "palette")
    if progress:
        progress("finding the map's colours", 0, 1)
    request = make_request(
        scene, Region.from_box(scene.box), bundle, Sampler("draft", seed=seed), field=field
    )
    image = np.zeros((*scene.shape, 3), np.float32)
    for event in synthesize(request, bundle=bundle, scene=scene, cancel=cancel):
        if isinstance(event, TileDone):
            both = event.box.intersect(Box(0, 0, *scene.shape))
            part = event.pixels[both.shift(-event.box.y, -event.box.x).slices]
            image[both.slices] = part[..., :3]
    if progress:
        progress("finding the map's colours", 1, 1)
    cells = image.reshape(rows, spec.cell, columns, spec.cell, 3)
    return np.asarray(cells.mean((1, 3)), np.float32)
