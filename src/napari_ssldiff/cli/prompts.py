"""``napari-ssldiff text``: a large image from a sentence, a class, pictures or numbers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ssldiff.cli.deliver import Meter, say
from napari_ssldiff.cli.fields import check_drawing, draw_field
from napari_ssldiff.cli.memory import options_of
from napari_ssldiff.errors import InputError

if TYPE_CHECKING:
    from napari_ssldiff.embeddings.encoder import EncoderSpec
    from napari_ssldiff.models import ModelCard
    from napari_ssldiff.models.priors import PriorCard
    from napari_ssldiff.synthesis.imagine import RegionPrompt
    from napari_ssldiff.text.conditions import Condition, Reference

#: A box behind a path: ``IMAGE:X,Y,W,H``.
_BOXED = re.compile(r"(.+):(-?\d+,-?\d+,-?\d+,-?\d+)")
#: A row of a table: ``TABLE.csv:ROW``.
_ROW = re.compile(r"(.+\.csv):(.+)", re.IGNORECASE)

#: Embeddings of one field: a million are some gigabytes while they are sampled.
MOST_CELLS = 2**20


def add_parser(commands: Any, add_sampler: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the grammar of ``text`` to a parser's commands."""
    text = commands.add_parser(
        "text",
        help="a large image from a description, a class, pictures or numbers",
        description="A large image of what is asked for: in words, or by exactly one of --class, "
        "--like and --numbers.",
    )
    add = text.add_argument
    add("prompt", metavar="PROMPT", nargs="?", default=None,
        help="in English, such as 'dense nuclei beside pink stroma'")  # fmt: skip
    add("--class", dest="label", metavar="NAME", help="a class that the captions know")
    add("--like", action="append", metavar="IMAGE[:X,Y,W,H]",
        help="what an image or a box of it shows; several: their mean")  # fmt: skip
    add("--numbers", metavar="NAME=VALUE,…",
        help="for a prior of numbers, or TABLE.csv:ROW; what is left out is open")  # fmt: skip
    add("--size", default="1024x1024", metavar="WxH",
        help="in pixels of the model, or with units: 800umx600um, 1000mx500m")  # fmt: skip
    add("--negative", default="", metavar="PROMPT", help="what to keep away from, in words")
    add(
        "--region-prompts",
        type=Path,
        metavar="FILE.geojson",
        help="polygons in pixels of the picture, each with a prompt, a name or a class",
    )
    add("--feather", type=float, default=1.0, help="cells over which meanings fade (1)")
    add("--words-guidance", type=float, metavar="SCALE",
        help="how strictly the field follows the condition; default: the prior's")  # fmt: skip
    add("--model", metavar="ID", help="default: the one that suits the condition best")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add_sampler(text)
    add("--field", type=Path, metavar="FIELD", help="keep the field, for edit and render")
    add("--format", default="0.5", help="OME-Zarr 0.5 or 0.4")
    add("--png", type=Path, metavar="FILE", help="the picture alone")
    add("-o", "--output", type=Path, required=True, metavar="OUT.ome.zarr")


def condition_of(arguments: argparse.Namespace, stack: ExitStack) -> Condition:
    """The condition that is asked for.

    Parameters
    ----------
    stack
        Closes the references' scenes.

    Raises
    ------
    InputError
        If there is none or more than one, or it cannot be read.
    """
    from napari_ssldiff.text.columns import parse_numbers, read_row
    from napari_ssldiff.text.conditions import ClassLabel, Numbers, Pictures, Text

    asked = {
        "PROMPT": arguments.prompt, "--class": arguments.label, "--like": arguments.like,
        "--numbers": arguments.numbers,
    }  # fmt: skip
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        have = f"got {' and '.join(given)}" if given else "got none"
        raise InputError(f"give a PROMPT or one of --class, --like and --numbers: {have}")
    if arguments.label is not None:
        return ClassLabel(arguments.label)
    if arguments.like is not None:
        return Pictures(tuple(reference(text, stack) for text in arguments.like))
    if arguments.numbers is not None:
        row = _ROW.fullmatch(arguments.numbers)
        return Numbers(read_row(Path(row[1]), row[2]) if row else parse_numbers(arguments.numbers))
    return Text(arguments.prompt)


def reference(text: str, stack: ExitStack) -> Reference:
    """``IMAGE`` or ``IMAGE:X,Y,W,H`` → a region of an image.

    Raises
    ------
    InputError
        If the image cannot be opened or the box does not lie in it.
    """
    from napari_ssldiff.geometry import Region, parse_box
    from napari_ssldiff.scenes import open_scene
    from napari_ssldiff.text.conditions import Reference

    boxed = None if Path(text).exists() else _BOXED.fullmatch(text)
    scene = stack.enter_context(open_scene(boxed[1] if boxed else text))
    if boxed is None:
        return Reference(scene, Region.from_box(scene.box))
    try:
        box = parse_box(boxed[2])
    except ValueError as error:
        raise InputError(f"--like {text}: {error}") from None
    if not scene.box.contains(box):
        raise InputError(
            f"--like {text} leaves the image, which is {scene.shape[1]} × {scene.shape[0]} pixels"
        )
    return Reference(scene, Region.from_box(box))


def choose(condition: Condition) -> ModelCard:
    """The model whose prior suits a condition best; the first of equals.

    Words and classes choose by the captions that know them, pictures by the kind and size of
    their pixels, numbers by the columns that know them.

    Raises
    ------
    InputError
        If no model here has a prior of that kind.
    """
    from napari_ssldiff.models import choose_model, list_models
    from napari_ssldiff.models.load import encoder_spec
    from napari_ssldiff.models.priors import list_priors
    from napari_ssldiff.text.captions import classes, heard
    from napari_ssldiff.text.conditions import ClassLabel, Numbers, Pictures

    priors = {p.encoder: p for p in reversed(list_priors()) if p.kind == condition.needs}
    fitting = [(c, priors[e]) for c in list_models() if (e := encoder_spec(c).id) in priors]
    if not fitting:
        how = {
            "text": "understands words: train one by 'train text' and 'prior'",
            "csv": "takes numbers: train a prior by 'train prior --condition csv:FILE'",
        }[condition.needs]
        raise InputError(f"no model here {how}")
    if isinstance(condition, Pictures):
        nearest = choose_model(condition.references[0].scene).id
        return next((c for c, _ in fitting if c.id == nearest), fitting[0][0])
    if isinstance(condition, Numbers):
        names = set(condition.values)
        return max(fitting, key=lambda pair: len(names & _columns(pair[1])))[0]
    if isinstance(condition, ClassLabel):
        name = condition.name.casefold()
        known = [{k.casefold() for k in classes(c.domain)} for c, _ in fitting]
        return max(zip(known, fitting, strict=True), key=lambda pair: name in pair[0])[1][0]
    text = condition.prompt
    return max(fitting, key=lambda pair: heard(pair[0].domain, text))[0]


def _columns(prior: PriorCard) -> set[str]:
    return set() if prior.columns is None else set(prior.columns.names)


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
    if (cells := width * height / spec.cell**2) > MOST_CELLS:
        raise InputError(
            f"--size {width} × {height} px is {cells:,.0f} embeddings, which are made at once: at "
            f"most {MOST_CELLS:,}. Beyond that an endless slide of words, in napari, has no bounds"
        )
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
    """Make a field of the condition, and draw it."""
    from napari_ssldiff.export import check_output

    check_output(arguments.output)
    check_drawing(sampler, arguments)
    options_of(arguments)  # refused before anything is read
    for path, suffix in ((arguments.png, ".png"), (arguments.field, None)):
        if path:
            check_output(path, suffix=suffix or path.suffix.lower())
    with ExitStack() as stack:
        _run(arguments, sampler, condition_of(arguments, stack))


def _run(arguments: argparse.Namespace, sampler: Any, condition: Condition) -> None:
    from napari_ssldiff.models import get_card
    from napari_ssldiff.models.load import encoder_spec, load_bundle
    from napari_ssldiff.models.priors import load_words, prior_for
    from napari_ssldiff.synthesis.imagine import Prompt, imagine
    from napari_ssldiff.text.conditions import Text

    worded = isinstance(condition, Text)
    prompt = Prompt(
        arguments.prompt or "",
        arguments.negative,
        read_region_prompts(arguments.region_prompts),
        seed=arguments.seed,
        guidance=arguments.words_guidance,
        feather=arguments.feather,
        condition=None if worded else condition,
    )
    card = get_card(arguments.model) if arguments.model else choose(condition)
    if not arguments.model and not worded:
        say(f"model: {card.id} ({card.name})")
    spec = encoder_spec(card)
    height, width = parse_size(arguments.size, spec)
    words = load_words(prior_for(spec.id, condition.needs, card.folder), arguments.device)
    shape = -(-height // spec.cell), -(-width // spec.cell)
    meter = Meter()
    made = imagine(
        words, prompt, shape, progress=lambda done, total: meter("imagining", done, total)
    )
    for note in made.notes:
        say(note)
    if arguments.field:
        made.field.save(arguments.field, made.history)
    bundle = load_bundle(card, arguments.device, options_of(arguments), say)
    told = condition.told
    name = told if len(told) <= 80 else f"{told[:79]}…"
    draw_field(
        made.field, bundle, sampler, arguments, name=name, shape=(height, width),
        history=(made.record,),
    )  # fmt: skip
