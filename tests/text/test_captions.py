"""Captions say what is true of an area, and nothing else."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import rotate
from skimage.data import immunohistochemistry

from napari_ssldiff.text.captions import (
    RELATIONS,
    Captions,
    classes,
    composed,
    heard,
    vocabulary,
    words_of,
)
from napari_ssldiff.text.facts import RULES, fact_map, fact_names, facts_of
from napari_ssldiff.text.layout import Layout, Part, read_layout
from napari_ssldiff.text.statements import STATEMENTS

RNG = np.random.default_rng(0)


@pytest.fixture(params=sorted(STATEMENTS))
def captions(request: pytest.FixtureRequest) -> Captions:
    names = fact_names(request.param)
    return Captions(request.param, names, RNG.random((1000, len(names))))


def even(domain: str) -> Captions:
    """Captions of areas whose facts are spread evenly over [0, 1]: a fact is its quantile."""
    names = fact_names(domain)
    spread = np.linspace(0, 1, 101)[:, None].repeat(len(names), 1)
    return Captions(domain, names, spread)


def test_captions_hold_words_of_the_vocabulary_only(captions: Captions) -> None:
    known, rng = vocabulary(captions.domain), np.random.default_rng(1)
    for _ in range(300):
        facts = rng.random(len(captions.names))
        labels = ["", "Viable", "Non-Tumor", "palm_springs"]
        text = captions.caption(facts, str(rng.choice(labels)), rng)
        assert set(words_of(text)) <= known, text


def test_words_of_a_domain_are_counted_without_those_of_every_domain() -> None:
    text = "A forest with trees, and the trees are foo"
    assert heard("remote sensing", text) == 2
    assert heard("histology", text) == heard("radio astronomy", text) == 0


def test_what_is_said_is_true() -> None:
    names = fact_names("remote sensing")
    captions = even("remote sensing")
    crowns, built = names.index("crowns"), names.index("built")
    facts = np.full(len(names), 0.5)
    facts[crowns], facts[built] = 0.95, 0.05
    said = {p for s in captions.true_of(facts) for p in s.sayings}
    assert {"many trees", "plenty of street trees", "few roofs", "without buildings"} <= said
    assert not {"few trees", "many roofs", "straight streets", "in Chico"} & said
    facts[crowns], facts[built] = 0.05, 0.95
    said = {p for s in captions.true_of(facts) for p in s.sayings}
    assert {"few trees", "many roofs"} <= said
    assert not {"many trees", "few roofs"} & said


def test_labels_speak_only_where_they_are_given() -> None:
    captions = even("histology")
    middle = np.full(len(captions.names), 0.5)
    assert not {p for s in captions.true_of(middle) for p in s.phrases if "tumour" in p}
    said = {p for s in captions.true_of(middle, "Viable") for p in s.phrases}
    assert "viable tumour" in said
    assert "necrosis" not in said


def test_cities_are_said_of_their_own_images_and_are_classes() -> None:
    captions = even("remote sensing")
    middle = np.full(len(captions.names), 0.5)
    said = {p for s in captions.true_of(middle, "santa_monica") for p in s.phrases}
    assert "in Santa Monica" in said
    assert not [p for p in said if "Chico" in p]
    assert "a view of Santa Monica" in classes("remote sensing")["Santa Monica"]


def test_streets_are_straight_or_winding_where_there_are_houses() -> None:
    captions = even("remote sensing")
    facts = dict.fromkeys(captions.names, 0.5)
    for grid, detail, straight, winding in (
        (0.9, 0.5, True, False), (0.1, 0.5, False, True), (0.9, 0.1, False, False),
        (0.1, 0.1, False, False),
    ):  # fmt: skip
        at = {**facts, "grid": grid, "detail": detail}
        said = {p for s in captions.true_of(np.array(list(at.values()))) for p in s.phrases}
        assert ("straight streets" in said, "winding streets" in said) == (straight, winding)


def test_what_has_words_for_much_of_it_has_denials_with_the_same_things() -> None:
    for domain, statements in STATEMENTS.items():
        for much in statements:
            if much.amounts and min(low for low, _ in much.when.values()) > 0.5:
                (fact,) = much.when
                denied = {
                    thing for s in statements if fact in s.when and s.when[fact][1] < 0.5
                    for thing in s.things
                }  # fmt: skip
                assert set(much.things) <= denied, (domain, fact)


def test_captions_of_two_areas_say_what_lies_where() -> None:
    rng = np.random.default_rng(0)
    for place in RELATIONS:
        for _ in range(8):
            layout = read_layout(composed("many trees", "bare soil", place, rng))
            assert layout == Layout("many trees", (Part(place, "bare soil"),))


def test_where_nothing_stands_out_nothing_is_said() -> None:
    captions = even("histology")
    middle = np.full(len(captions.names), 0.5)
    assert captions.caption(middle, "", np.random.default_rng(0)) == ""


def test_facts_are_shares_and_those_of_an_area_are_the_means_of_its_cells() -> None:
    image = immunohistochemistry()
    for domain in STATEMENTS:
        cells = fact_map(image, domain, 64)
        assert cells.shape == (8, 8, len(fact_names(domain)))
        assert 0 <= cells.min() <= cells.max() <= 1
        whole = facts_of(image, domain)
        assert np.allclose(cells.mean((0, 1)), list(whole.values()), atol=1e-5)


def test_facts_tell_colours_apart() -> None:
    green, grey = np.zeros((2, 64, 64, 3), np.uint8)
    green[:] = (40, 80, 40)
    grey[:] = (120, 120, 120)
    assert facts_of(green, "remote sensing")["trees"] == 1
    assert facts_of(green, "remote sensing")["paved"] == 0
    assert facts_of(grey, "remote sensing")["paved"] == 1
    white = np.full((64, 64, 3), 245, np.uint8)
    assert facts_of(white, "histology")["white"] == 1
    pink = np.zeros((64, 64, 3), np.uint8)
    pink[:] = (230, 150, 200)
    assert facts_of(pink, "histology")["eosin"] == 1
    spots = pink.copy()
    spots[::16, ::16] = 0
    spots[8:16, 8:16] = (80, 50, 130)
    assert facts_of(spots, "histology")["nuclei"] > 0.005


def test_stains_are_told_apart_and_not_colours_of_the_whole() -> None:
    rgb = np.full((192, 192, 3), 235, np.uint8)
    yy, xx = np.mgrid[:192, :192]
    for y in range(24, 192, 48):
        for x in range(24, 192, 48):
            rgb[np.hypot(yy - y, xx - x) < 6] = (90, 60, 150)
    many = facts_of(rgb, "histology")["nuclei"]
    assert many == pytest.approx(16 * np.pi * 36 / 192**2, rel=0.4)
    red = rgb.copy()
    red[(rgb == (90, 60, 150)).all(-1)] = (190, 50, 90)  # as dark, but eosin: red blood cells
    assert facts_of(red, "histology")["nuclei"] < 0.2 * many


def test_fat_is_round_and_empty_and_lumina_and_glass_are_not_fat() -> None:
    tissue = np.zeros((256, 256, 3), np.uint8)
    tissue[:] = (220, 130, 190)
    yy, xx = np.mgrid[:256, :256]
    fat, slit = tissue.copy(), tissue.copy()
    fat[np.hypot(yy - 128, xx - 128) < 40] = 245
    slit[120:140] = 245
    glass = np.full_like(tissue, 245)
    assert facts_of(fat, "histology")["fat"] == pytest.approx(np.pi * 1600 / 256**2, rel=0.1)
    for other in (slit, glass, tissue):
        assert facts_of(other, "histology")["fat"] == 0
    assert facts_of(slit, "histology")["white"] > 0.05


def town(turn: float) -> np.ndarray:
    """Grey ground with bright roofs of 20 x 24 pixels in rows, turned by some degrees."""
    ground = np.full((362, 362), 90, np.uint8)
    for y in range(10, 340, 36):
        for x in range(10, 340, 40):
            ground[y : y + 20, x : x + 24] = 160
    turned = rotate(ground, turn, reshape=False, order=1, mode="nearest")[53:309, 53:309]
    return np.stack([turned] * 3, -1)


def test_roofs_are_built_and_rows_of_them_a_grid_whatever_its_direction() -> None:
    for turn in (0, 30):
        facts = facts_of(town(turn), "remote sensing")
        assert facts["built"] == pytest.approx(20 * 24 / (36 * 40), rel=0.4)
        assert facts["grid"] > 0.9
    mixed = np.concatenate([town(0)[:, ::2][:, :64], town(45)[:, :64]] * 2, 1)
    assert facts_of(mixed, "remote sensing")["grid"] < 0.5
    plain = np.full((256, 256, 3), 90, np.uint8)
    assert (
        facts_of(plain, "remote sensing")["built"] == facts_of(plain, "remote sensing")["grid"] == 0
    )


def test_trees_are_counted() -> None:
    rgb = np.full((256, 256, 3), 150, np.uint8)
    yy, xx = np.mgrid[:256, :256]
    for n in range(25):
        rgb[np.hypot(yy - 25 - 50 * (n // 5), xx - 25 - 50 * (n % 5)) < 8] = (40, 85, 40)
    assert round(facts_of(rgb, "remote sensing")["crowns"] * 256**2) == 25


def test_counted_trees_follow_the_published_counts(data_dir: Path) -> None:
    with (data_dir / "satellite" / "naip_60cm" / "tiles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::12]
    tiles = [Image.open(data_dir / "satellite" / "naip_60cm" / f"{r['name']}.jpg") for r in rows]
    published = [float(r["trees"]) for r in rows]

    def follows(fact: str) -> float:
        rule = RULES["remote sensing"][fact]
        shares = [rule(np.asarray(t, np.float32) / 255).mean() for t in tiles]
        return float(np.corrcoef(shares, published)[0, 1])

    assert follows("crowns") > 0.45
    assert follows("crowns") > follows("trees")


def test_a_domain_without_rules_has_no_facts() -> None:
    assert fact_names("radio astronomy") == ()
    assert fact_map(np.zeros((64, 64, 3), np.uint8), "radio astronomy", 32).shape == (2, 2, 0)
