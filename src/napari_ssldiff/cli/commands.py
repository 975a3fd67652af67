"""What the commands of ``napari-ssldiff`` do, one function each."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from napari_ssldiff.cli.cells import cells_of, check_option
from napari_ssldiff.cli.coarse import field_of, guide_of
from napari_ssldiff.cli.deliver import Meter, picture, render, say, write_result
from napari_ssldiff.cli.sources import load_model, open_source, region_of
from napari_ssldiff.errors import InputError

if TYPE_CHECKING:
    from napari_ssldiff.synthesis import Sampler


def info(arguments: argparse.Namespace) -> None:
    """Versions, devices, models."""
    from napari_ssldiff.diagnostics import collect, format_text

    facts = collect()
    print(json.dumps(facts, indent=2) if arguments.json else format_text(facts))


def inspect(arguments: argparse.Namespace) -> None:
    """Facts of one scene."""
    from napari_ssldiff.scenes import describe, open_scene

    with open_scene(arguments.path) as scene:
        facts = describe(scene)
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        print(f"{key}: {json.dumps(value) if isinstance(value, (dict, list)) else value}")


def _interval(text: str | None) -> tuple[float, float] | None:
    from napari_ssldiff.synthesis.request import EVERYWHERE

    if text in (None, "all"):
        return None if text is None else EVERYWHERE
    try:
        low, high = (float(part) for part in str(text).split(","))
    except ValueError:
        raise InputError(
            f"--guidance-interval takes two numbers with a comma between, or all; got {text!r}"
        ) from None
    return low, high


def sampler_of(arguments: argparse.Namespace) -> Sampler:
    """The sampler options."""
    from napari_ssldiff.synthesis import Sampler

    return Sampler(
        preset=arguments.preset,
        steps=arguments.steps,
        guidance=arguments.guidance,
        guidance_interval=_interval(arguments.guidance_interval),
        strength=arguments.strength,
        seed=arguments.seed,
    )


def embed(arguments: argparse.Namespace) -> None:
    """A region's field."""
    from napari_ssldiff.export import check_output
    from napari_ssldiff.synthesis import embed_region

    check_output(arguments.output, suffix=arguments.output.suffix.lower())
    with open_source(arguments) as scene:
        region = region_of(arguments, scene)
        bundle = load_model(arguments, scene)
        field = embed_region(scene, region, bundle, progress=Meter())
    field.save(arguments.output, bundle.embedded)
    rows, columns = field.shape
    print(f"{arguments.output}: {rows} × {columns} cells of {field.width}, by {field.encoder}")


def invert(arguments: argparse.Namespace) -> None:
    """A region's field, from its pixels and the model alone."""
    from napari_ssldiff.export import check_output
    from napari_ssldiff.synthesis.invert import inversion_record, invert_region

    check_output(arguments.output, suffix=arguments.output.suffix.lower())
    if not 1 <= arguments.batch <= 1024:
        raise InputError(f"--batch is between 1 and 1024, got {arguments.batch}")
    with open_source(arguments) as scene:
        region = region_of(arguments, scene)
        bundle = load_model(arguments, scene)
        field = invert_region(
            scene, region, bundle, steps=arguments.steps, batch=arguments.batch,
            seed=arguments.seed, progress=Meter(),
        )  # fmt: skip
    field.save(arguments.output, (inversion_record(bundle, arguments.steps, arguments.seed),))
    rows, columns = field.shape
    print(f"{arguments.output}: {rows} × {columns} cells of {field.width}, by {bundle.card.id}")


def vary(arguments: argparse.Namespace) -> None:
    """A variation of a region."""
    from napari_ssldiff.export import check_output
    from napari_ssldiff.scenes import PixelSize
    from napari_ssldiff.scenes.extend import extend
    from napari_ssldiff.scenes.lengths import parse_length
    from napari_ssldiff.synthesis import make_request, refining

    # Everything that can be refused is refused before the model is loaded.
    check_output(arguments.output)
    if arguments.png:
        check_output(arguments.png, suffix=".png")
    if arguments.format not in ("0.5", "0.4"):
        raise InputError(f"the format is OME-Zarr 0.5 or 0.4, got {arguments.format!r}")
    sampler = sampler_of(arguments)
    if arguments.refine is not None and sampler.strength != 1:
        raise InputError(
            f"--refine chooses the strength itself, and --strength says {sampler.strength:g}: "
            "give one of them"
        )
    if not 0 <= arguments.guide_strength <= 1:
        raise InputError(f"--guide-strength is between 0 and 1, got {arguments.guide_strength}")
    check_option(arguments.cells)
    if arguments.grid not in ("source", "model"):
        raise InputError(f"the grid is source or model, got {arguments.grid!r}")
    names = ("grow", "feather", "context", "match")
    lengths = {name: parse_length(getattr(arguments, name), f"--{name}") for name in names}
    margin = parse_length(arguments.extend, "--extend")
    with open_source(arguments) as source:
        scene, own = source, source.encoder_pixel_size
        if margin.value:
            scene = extend(source, margin.pixels(own, "--extend"))
        region = region_of(arguments, scene)
        bundle = load_model(arguments, scene)
        if arguments.refine is not None:
            sampler = refining(sampler, bundle, arguments.refine)
        progress = Meter()
        spec = bundle.encoder.spec
        model = PixelSize(spec.resolution, spec.resolution, spec.unit)
        output = own if arguments.grid == "source" else model
        grow = lengths["grow"].pixels(output, "--grow")
        context = lengths["context"].pixels(model, "--context")
        match = lengths["match"].pixels(model, "--match")
        field, history = field_of(arguments.field)
        guide = guide_of(arguments, scene, region, bundle, around=max(context, match), grow=grow)
        cells = cells_of(
            arguments.cells, scene, region, bundle,
            grid=arguments.grid, around=max(context, match), grow=grow,
        )  # fmt: skip
        request = make_request(
            scene,
            region,
            bundle,
            sampler,
            field=field,
            history=history,
            guide=guide,
            cells=cells,
            grid=arguments.grid,
            grow=grow,
            feather=lengths["feather"].pixels(output, "--feather"),
            context=context,
            match=match,
            progress=progress,
        )
        drawn = render(request, bundle, scene, progress)
        store, computed = drawn.store, {**bundle.computed, **drawn.computed}
        try:
            write_result(arguments.output, request, scene, store, arguments.format, computed)
            if arguments.png:
                picture(arguments.png, request, scene, store)
        finally:
            store.close()
        for problem in scene.problems:
            say(f"warning: {problem}")
    drawn.report(arguments.output)
    print(arguments.output)
    if arguments.png:
        print(arguments.png)


def demo(arguments: argparse.Namespace) -> None:
    """The whole main job on a sample."""
    from napari_ssldiff.cli.demo import run

    run(arguments.out, headless=arguments.headless)


def train(arguments: argparse.Namespace) -> None:
    """One stage of training."""
    from napari_ssldiff.cli.train import run

    run(arguments)


def evaluate(arguments: argparse.Namespace) -> None:
    """Figures on held-out images."""
    from napari_ssldiff.cli.evaluate import run

    run(arguments, sampler_of(arguments))


def bench(arguments: argparse.Namespace) -> None:
    """Figures of the canvas engine."""
    from napari_ssldiff.cli.bench import run

    run(arguments)


def edit(arguments: argparse.Namespace) -> None:
    """A field, changed."""
    from napari_ssldiff.cli.edit import run

    run(arguments)


def index(arguments: argparse.Namespace) -> None:
    """The cells of a data set, to be asked by ``nearest``."""
    from napari_ssldiff.cli.nearest import run_index

    run_index(arguments)


def nearest(arguments: argparse.Namespace) -> None:
    """The cells of a data set that are most like a field's."""
    from napari_ssldiff.cli.nearest import run_nearest

    run_nearest(arguments)


def prototypes(arguments: argparse.Namespace) -> None:
    """What a slide consists of."""
    from napari_ssldiff.cli.prototypes import run

    run(arguments)


def render_field(arguments: argparse.Namespace) -> None:
    """A picture of a field."""
    from napari_ssldiff.cli.fields import run_render

    run_render(arguments, sampler_of(arguments))


def text(arguments: argparse.Namespace) -> None:
    """A large image from a sentence."""
    from napari_ssldiff.cli.prompts import run

    run(arguments, sampler_of(arguments))
