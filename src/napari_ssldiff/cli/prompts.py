"""``napari-ssldiff text``: a large image from a sentence."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ssldiff.cli.deliver import Meter, say
from napari_ssldiff.cli.fields import check_drawing, draw_field
from napari_ssldiff.cli.memory import options_of
from napari_ssldiff.errors import InputError

if TYPE_CHECKING:
    from napari_ssldiff.embeddings.encoder import EncoderSpec
    from napari_ssldiff.models import ModelCard
    from napari_ssldiff.synthesis.imagine import RegionPrompt


def add_parser(commands: Any, add_sampler: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the grammar of ``text`` to a parser's commands."""
    text = commands.add_parser("text", help="a large image from a description in English")
    add = text.add_argument
    add("prompt", metavar="PROMPT", help="such as 'dense nuclei beside pink stroma'")
    add("--size", default="1024x1024", metavar="WxH",
        help="in pixels of the model, or with units: 800umx600um, 1000mx500m")  # fmt: skip
    add("--negative", default="", metavar="PROMPT", help="what to keep away from")
    add(
        "--region-prompts",
        type=Path,
        metavar="FILE.geojson",
        help="polygons in pixels of the picture, each with a prompt, a name or a class",
    )
    add("--feather", type=float, default=1.0, help="cells over which meanings fade (1)")
    add("--words-guidance", type=float, metavar="SCALE",
        help="how strictly the field follows the words; default: the prior's")  # fmt: skip
    add("--model", metavar="ID", help="default: the one that knows most of the words")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add_sampler(text)
    add("--field", type=Path, metavar="FIELD", help="keep the field, for edit and render")
    add("--format", default="0.5", help="OME-Zarr 0.5 or 0.4")
    add("--png", type=Path, metavar="FILE", help="the picture alone")
    add("-o", "--output", type=Path, required=True, metavar="OUT.ome.zarr")


def choose(prompt: str) -> ModelCard:
    """The model whose prior's captions hold most of a prompt's words; the first of equals.

    Raises
    ------
    InputError
        If no model here has a prior.
    """
    from napari_ssldiff.models import list_models
    from napari_ssldiff.models.load import encoder_spec
    from napari_ssldiff.models.priors import list_priors
    from napari_ssldiff.text.captions import GLUE, vocabulary, words_of

    words = set(words_of(prompt)) - GLUE
    priors = {card.encoder: card for card in list_priors()}
    fitting = [c for c in list_models() if encoder_spec(c).id in priors]
    if not fitting:
        raise InputError("no model here understands words: train one by 'train text' and 'prior'")
    return max(fitting, key=lambda card: len(words & vocabulary(card.domain)))


def parse_size(text: str, spec: EncoderSpec) -> tuple[int, int]:
    """``WxH`` → ``(h, w)`` in pixels of a model.

    Raises
    ------
    InputError
        If it is not two lengths above 0 of the model's unit.
    """
    from napari_ssldiff.scenes import PixelSize
    from napari_ssldiff.scenes.lengths import parse_length

    parts = text.replace("×", "x").split("x")
    if len(parts) != 2:
        raise InputError(f"--size is a width and a height such as 1536x1024, got {text!r}")
    pixel = PixelSize(spec.resolution, spec.resolution, spec.unit)
    width, height = (parse_length(p, "--size").pixels(pixel, "--size") for p in parts)
    if min(width, height) < 1 or max(width, height) > 2**20:
        raise InputError(f"--size lies between 1 and {2**20} px a side, got {width} × {height}")
    return height, width


def read_region_prompts(path: Path | None) -> tuple[RegionPrompt, ...]:
    """The polygons of a GeoJSON file, each with its prompt."""
    from napari_ssldiff.scenes.geojson import read_features
    from napari_ssldiff.synthesis.imagine import RegionPrompt

    if path is None:
        return ()
    features = read_features(path)
    if not any(f.text for f in features):
        raise InputError(f"no polygon of {path} has a prompt, a name or a class")
    return tuple(RegionPrompt(f.region, f.text) for f in features)


def run(arguments: argparse.Namespace, sampler: Any) -> None:
    """Make a field of the words, and draw it."""
    from napari_ssldiff.export import check_output
    from napari_ssldiff.models import get_card
    from napari_ssldiff.models.load import encoder_spec, load_bundle
    from napari_ssldiff.models.priors import load_words, prior_for
    from napari_ssldiff.synthesis.imagine import Prompt, imagine

    check_output(arguments.output)
    check_drawing(sampler, arguments)
    options = options_of(arguments)
    for path, suffix in ((arguments.png, ".png"), (arguments.field, None)):
        if path:
            check_output(path, suffix=suffix or path.suffix.lower())
    prompt = Prompt(
        arguments.prompt,
        arguments.negative,
        read_region_prompts(arguments.region_prompts),
        seed=arguments.seed,
        guidance=arguments.words_guidance,
        feather=arguments.feather,
    )
    card = get_card(arguments.model) if arguments.model else choose(arguments.prompt)
    spec = encoder_spec(card)
    height, width = parse_size(arguments.size, spec)
    words = load_words(prior_for(spec.id), arguments.device)
    shape = -(-height // spec.cell), -(-width // spec.cell)
    meter = Meter()
    made = imagine(
        words, prompt, shape, progress=lambda done, total: meter("imagining", done, total)
    )
    for note in made.notes:
        say(note)
    if arguments.field:
        made.field.save(arguments.field, made.history)
    bundle = load_bundle(card, arguments.device, options, say)
    name = arguments.prompt if len(arguments.prompt) <= 80 else f"{arguments.prompt[:79]}…"
    draw_field(
        made.field, bundle, sampler, arguments, name=name, shape=(height, width),
        history=(made.record,),
    )  # fmt: skip
