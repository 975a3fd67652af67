"""Do pictures follow their prompts? Pairs of opposite prompts, judged by facts of pixels.

    python benchmarks/prompt_fidelity.py --json benchmarks/results/prompt-fidelity.json

For every pair both pictures are made with the same seed; the pair counts as right where the fact
that the prompts are about (share of trees, of nuclei, …: ``napari_ssldiff.text.facts``) is larger
in the picture that was to have more of it. Guessing gives one half. *Known* pairs are phrases of
the training captions, *new* ones are sentences that no caption can be, of words that captions
hold. *Regions*: one picture, whose one half is a region with the one prompt and whose root is the
other; the fact is compared between the halves, a cell beside the border left out. The seam score
of such pictures (``napari_ssldiff.evaluation.seams``) stands beside that of plain ones of the same
seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import provenance
from numpy.typing import NDArray
from PIL import Image

from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.evaluation.layouts import layout_of
from napari_ssldiff.evaluation.seams import seam_ratio, seam_score
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models.load import load_bundle
from napari_ssldiff.models.priors import Words, load_words, prior_for
from napari_ssldiff.scenes import PixelSize
from napari_ssldiff.scenes.blank import blank_scene
from napari_ssldiff.synthesis import Sampler, TileDone, make_request, synthesize
from napari_ssldiff.synthesis.imagine import Prompt, RegionPrompt, imagine
from napari_ssldiff.text.captions import vocabulary, words_of
from napari_ssldiff.text.facts import facts_of
from napari_ssldiff.text.statements import STATEMENTS, Statement

#: Pictures of each sort whose seams are scored, and pairs that are shown.
SCORED, SHOWN = 24, 8
MODELS = {"histology": "demo-histology", "remote sensing": "demo-naip"}
#: (fact, sentence for more, sentence for less); none of them can come out of captions.
NEW = {
    "histology": [
        ("nuclei", "there are many crowded cells in it", "there are hardly any cells in it"),
        ("nuclei", "cells that are densely packed", "cells that are sparse"),
        ("nuclei", "tissue in which cells crowded", "tissue in which cells scattered"),
        ("nuclei", "numerous packed nuclei there", "few scattered nuclei there"),
        ("nuclei", "many dense cells, crowded there", "without dense cells, sparse"),
        ("nuclei", "nuclei are numerous and packed", "nuclei are few and scattered"),
        ("nuclei", "lots of dark nuclei, closely packed", "scarcely any dark nuclei"),
        ("dark", "dark intense colour of the tissue", "light pale colour of the tissue"),
        ("dark", "it is deep and dark", "it is pale and light"),
        ("dark", "the stain is intense, the tissue dark", "the stain is weak, the tissue pale"),
        ("dark", "the colour of the cells is dark and deep", "the colour of the cells is light"),
        ("dark", "abundant hyperchromatic nuclei there", "hardly any hyperchromatic nuclei"),
        ("eosin", "collagen and much pink matrix there", "no collagen and no pink there"),
        ("eosin", "abundant pink fibres", "hardly any pink fibres"),
        ("eosin", "the matrix is eosinophilic and pink", "the matrix is without eosin"),
        ("eosin", "fibrous tissue that is pink", "almost no fibrous matrix"),
        ("eosin", "pink fibrous collagen, much of it", "barely any eosinophilic matrix"),
        ("eosin", "it is pink, eosinophilic and fibrous", "lacking eosinophilic fibres"),
        ("white", "wide holes and open spaces in the tissue", "compact tissue, no holes there"),
        ("white", "loose and empty, lumens are many", "solid, lumens are few"),
        ("white", "many wide white lumens there", "no white there, solid and compact"),
        ("white", "the tissue is loose with wide open holes", "the tissue is solid and compact"),
        ("white", "lots of fat and wide spaces", "almost no fat and compact"),
        ("white", "numerous wide empty lumens in loose tissue", "hardly any wide lumens"),
        ("fat", "there are adipocytes, round and empty", "there are no adipocytes, it is compact"),
        ("fat", "the tissue is fat with round cells", "the tissue is without adipocytes and solid"),
    ],
    "remote sensing": [
        ("trees", "trees are many and big there", "trees are few there"),
        ("trees", "a forest, dense with tall trees", "an area without a forest and trees"),
        ("trees", "leafy and green, canopy cover", "bare, little canopy"),
        ("trees", "lots of big wooded cover", "hardly any wooded cover"),
        ("trees", "a dense forest of tall leafy trees", "barely any forest"),
        ("trees", "streets that are leafy and green", "streets without trees on it"),
        ("grass", "sports fields and green lawns in a park", "no lawns, no sports and no park"),
        ("grass", "much green grass there", "little grass there"),
        ("grass", "the park is green with wide lawns", "there is no park and no lawns"),
        ("grass", "a green sports park", "hardly any green fields"),
        ("paved", "concrete and asphalt, wide parking", "unpaved, no concrete"),
        ("paved", "a wide parking area of concrete", "an area with little asphalt, unpaved"),
        ("paved", "roads are wide and the ground is paved", "roads are few and the ground unpaved"),
        ("paved", "large car parks and wide asphalt roads", "almost no car parks"),
        ("bright", "warehouses with big white roofs there", "dark roofs there, no warehouses"),
        ("bright", "big bright business buildings", "hardly any business buildings"),
        ("bright", "the roofs are white and large", "the roofs are dark"),
        ("bright", "industrial buildings, large and bright", "lacking industrial buildings"),
        ("soil", "dry brown ground, open land", "no dry ground, no brown land"),
        ("soil", "a bare desert, dry soil", "without bare soil and dry grass"),
        ("soil", "the land is dry, bare and brown", "barely any brown fields"),
        ("soil", "a construction site on dry soil", "scarcely any desert"),
        ("detail", "crowded with many small houses", "wide open, no houses there"),
        ("detail", "dense small homes, many houses", "large empty land, few houses"),
        ("detail", "a crowded neighbourhood of small homes", "hardly any family houses"),
        ("detail", "many small family homes and houses", "open, empty, with few buildings"),
        ("built", "rooftops close together, densely built", "rooftops are few, unbuilt"),
        ("built", "it is densely built, roofs are many", "an area in which buildings are few"),
        ("grid", "the streets are straight and regular", "the streets are winding and irregular"),
        ("grid", "roads in a regular grid", "roads that are curved and winding"),
        ("vegetated", "it is lush and green with plants", "it is bare, without greenery"),
        ("vegetated", "plants and lush greenery there", "hardly any lush plants"),
        ("crowns", "single trees are numerous there", "single trees are few there"),
        ("crowns", "crowns of trees, many of it", "hardly any crowns"),
    ],
}


def about(statement: Statement) -> tuple[str, bool] | None:
    """The one fact of which a statement says that there is much (or little) of it."""
    if statement.label:
        return None
    narrow = {f: low > 0.5 for f, (low, high) in statement.when.items() if high - low < 0.31}
    return next(iter(narrow.items())) if len(narrow) == 1 else None


def known_pairs(domain: str) -> list[tuple[str, str, str]]:
    """Every phrase for much of a fact with one for little of it."""
    told = [(s, about(s)) for s in STATEMENTS[domain]]
    return [
        (found[0], a, b)
        for more, found in told
        for less, other in told
        if found and found[1] and other == (found[0], False)
        for a in more.sayings
        for b in less.sayings
    ]


def choose(pairs: list[tuple[str, str, str]], count: int, seed: int) -> list[tuple[str, str, str]]:
    """``count`` pairs, as many of every fact, each repeated only where there are too few."""
    rng, by_fact = np.random.default_rng(seed), {}
    for pair in pairs:
        by_fact.setdefault(pair[0], []).append(pair)
    chosen = []
    for n in range(count):
        of = by_fact[sorted(by_fact)[n % len(by_fact)]]
        turn = n // len(by_fact)
        if turn % len(of) == 0:
            rng.shuffle(of)
        chosen.append(tuple(of[turn % len(of)]))
    return chosen


def picture(
    words: Words,
    bundle: Any,
    text: str,
    seed: int,
    size: int,
    preset: str,
    regions: tuple[RegionPrompt, ...] = (),
) -> NDArray[np.uint8]:
    """``(size, size, 3)`` uint8."""
    spec = bundle.encoder.spec
    cells = -(-size // spec.cell)
    field = imagine(words, Prompt(text, regions=regions, seed=seed), (cells, cells)).field
    pixel = PixelSize(spec.resolution, spec.resolution, spec.unit)
    image = np.zeros((size, size, 3), np.uint8)
    with blank_scene((size, size), pixel) as scene:
        request = make_request(
            scene, Region.from_box(scene.box), bundle, Sampler(preset, seed=seed), field=field,
            grid="model",
        )  # fmt: skip
        for event in synthesize(request, bundle=bundle, scene=scene):
            if isinstance(event, TileDone):
                image[event.box.slices] = event.pixels[..., :3]
    return image


def share(right: NDArray[np.bool_], seed: int = 0) -> dict[str, Any]:
    """Share of right pairs with its 95 % bootstrap interval."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(right.astype(float), (4000, len(right))).mean(1)
    return {
        "value": round(float(right.mean()), 4),
        "interval": [round(float(v), 4) for v in np.percentile(drawn, (2.5, 97.5))],
        "pairs": len(right),
    }


def halves(
    words: Words, bundle: Any, pair: tuple[str, str, str], seed: int, size: int, preset: str
) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """A picture of a region prompt over a root, and its halves: that for more, that for less.

    By turns the region is the left or the right half, and is to have more or less.
    """
    _, more, less = pair
    left, rich, cell = seed % 2 == 0, seed % 4 < 2, bundle.encoder.spec.cell
    inside, outside = (more, less) if rich else (less, more)
    middle = size // 2
    box = Box(0, 0 if left else middle, size, middle)
    image = picture(
        words, bundle, outside, seed, size, preset, (RegionPrompt(Region.from_box(box), inside),)
    )
    parts = [image[:, : middle - cell], image[:, middle + cell :]]
    return image, parts if left == rich else parts[::-1]


def seams(images: list[NDArray[np.uint8]], spec: Any, size: int, preset: str) -> Any:
    """Seam score at the lines of a preset's windows and tiles."""
    lines = layout_of(PRESETS[preset], spec, size).lines
    ratio = seam_ratio(images, (lines, lines), spec.latent_factor, np.random.default_rng(0))
    score = seam_score(ratio) if ratio else None
    return score and {"value": round(score.value, 4), "interval": score.interval}


def row_of(pair: tuple[str, str, str], values: list[float]) -> dict[str, Any]:
    """One pair: values where more and where less was asked for."""
    fact, more, less = pair
    return {
        "fact": fact, "more": more, "less": less,
        "values": [round(v, 4) for v in values], "right": values[0] > values[1],
    }  # fmt: skip


def whole_pictures(
    words: Words, bundle: Any, pairs: list[tuple[str, str, str]], options: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[NDArray[np.uint8]]]:
    """A row for every pair of pictures, and the first pairs to look at."""
    rows, shown = [], []
    for n, pair in enumerate(pairs):
        made = [
            picture(words, bundle, text, 1000 + n, options.size, options.preset)
            for text in pair[1:]
        ]
        rows.append(row_of(pair, [facts_of(image, bundle.card.domain)[pair[0]] for image in made]))
        if n < SHOWN:
            shown.append(np.concatenate(made, 1))
    return rows, shown


def region_pictures(
    words: Words, bundle: Any, pairs: list[tuple[str, str, str]], options: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[NDArray[np.uint8]], dict[str, Any]]:
    """A row for every pair inside one picture, pictures, and seam scores with and without."""
    rows, bordered, plain = [], [], []
    for n, pair in enumerate(pairs):
        seed = 3000 + n
        image, parts = halves(words, bundle, pair, seed, options.size, options.preset)
        rows.append(row_of(pair, [facts_of(part, bundle.card.domain)[pair[0]] for part in parts]))
        if n < SCORED:
            bordered.append(image)
            text = pair[1 + n % 2]
            plain.append(picture(words, bundle, text, seed, options.size, options.preset))
    scores = {
        name: seams(images, bundle.spec, options.size, options.preset)
        for name, images in (("seam_with_border", bordered), ("seam_plain", plain))
    }
    return rows, bordered[:SHOWN], scores


def measure(domain: str, options: argparse.Namespace) -> dict[str, Any]:
    """All kinds of pairs of one domain."""
    bundle = load_bundle(MODELS[domain], options.device)
    words = load_words(prior_for(bundle.encoder.spec.id), options.device)
    for _, more, less in NEW[domain]:
        unknown = set(words_of(f"{more} {less}")) - vocabulary(domain)
        assert not unknown, f"not in the captions: {unknown}"
        known = {say.casefold() for s in STATEMENTS[domain] for say in s.sayings}
        assert not known & {more, less}, f"captions say that: {more}, {less}"
    found: dict[str, Any] = {}
    sheets = []
    for kind in options.kinds:
        pairs = NEW[domain] if kind == "new" else known_pairs(domain)
        pairs = [pair for pair in pairs if not options.facts or pair[0] in options.facts]
        chosen, scores = choose(pairs, options.pairs, 0), {}
        if kind == "regions":
            rows, shown, scores = region_pictures(words, bundle, chosen, options)
        else:
            rows, shown = whole_pictures(words, bundle, chosen, options)
        right = np.array([row["right"] for row in rows])
        by_fact = {
            fact: share(np.array([r["right"] for r in rows if r["fact"] == fact]))
            for fact in sorted({row["fact"] for row in rows})
        }
        found[kind] = {**share(right), **scores, "by_fact": by_fact, "rows": rows}
        print(domain, kind, found[kind]["value"], found[kind]["interval"], scores, flush=True)
        sheets.append((kind, shown))
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for kind, shown in sheets:
            half = len(shown) // 2
            sheet = np.concatenate([np.concatenate(shown[:half]), np.concatenate(shown[half:])], 1)
            name = f"{domain.replace(' ', '-')}-{kind}"
            Image.fromarray(sheet).resize((1024, sheet.shape[0] * 1024 // sheet.shape[1])).save(
                options.pictures / f"{name}.png"
            )
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--domains", nargs="+", default=list(MODELS))
    parser.add_argument("--kinds", nargs="+", default=["known", "new", "regions"])
    parser.add_argument("--pairs", type=int, default=100, help="of each kind, per domain")
    parser.add_argument("--facts", nargs="+", help="pairs about these only; default: all")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--pictures", type=Path, help="a folder for sheets of the first pairs")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    result = {
        **provenance(), "size": options.size, "preset": options.preset,
        "domains": {domain: measure(domain, options) for domain in options.domains},
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
