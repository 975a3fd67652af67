"""Captions say what is true of an area, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.data import immunohistochemistry

from napari_ssldiff.text.captions import STATEMENTS, Captions, heard, vocabulary, words_of
from napari_ssldiff.text.facts import fact_map, fact_names, facts_of

RNG = np.random.default_rng(0)


@pytest.fixture(params=sorted(STATEMENTS))
def captions(request: pytest.FixtureRequest) -> Captions:
    names = fact_names(request.param)
    return Captions(request.param, names, RNG.random((1000, len(names))))


def test_captions_hold_words_of_the_vocabulary_only(captions: Captions) -> None:
    known, rng = vocabulary(captions.domain), np.random.default_rng(1)
    for _ in range(300):
        facts = rng.random(len(captions.names))
        labels = ["", "Viable", "Non-Tumor"]
        text = captions.caption(facts, str(rng.choice(labels)), rng)
        assert set(words_of(text)) <= known, text


def test_words_of_a_domain_are_counted_without_those_of_every_domain() -> None:
    text = "A forest with trees, and the trees are foo"
    assert heard("remote sensing", text) == 2
    assert heard("histology", text) == heard("radio astronomy", text) == 0


def test_what_is_said_is_true() -> None:
    names = fact_names("remote sensing")
    captions = Captions("remote sensing", names, np.linspace(0, 1, 101)[:, None].repeat(6, 1))
    trees = names.index("trees")
    facts = np.full(6, 0.5)
    facts[trees] = 0.95
    said = {p for s in captions.true_of(facts) for p in s.phrases}
    assert "many trees" in said
    assert "few trees" not in said
    facts[trees] = 0.05
    said = {p for s in captions.true_of(facts) for p in s.phrases}
    assert "few trees" in said
    assert "many trees" not in said


def test_labels_speak_only_where_they_are_given() -> None:
    names = fact_names("histology")
    captions = Captions("histology", names, np.linspace(0, 1, 101)[:, None].repeat(4, 1))
    middle = np.full(4, 0.5)
    assert not {p for s in captions.true_of(middle) for p in s.phrases if "tumour" in p}
    said = {p for s in captions.true_of(middle, "Viable") for p in s.phrases}
    assert "viable tumour" in said
    assert "necrosis" not in said


def test_where_nothing_stands_out_nothing_is_said() -> None:
    names = fact_names("histology")
    captions = Captions("histology", names, np.linspace(0, 1, 101)[:, None].repeat(4, 1))
    assert captions.caption(np.full(4, 0.5), "", np.random.default_rng(0)) == ""


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


def test_a_domain_without_rules_has_no_facts() -> None:
    assert fact_names("radio astronomy") == ()
    assert fact_map(np.zeros((64, 64, 3), np.uint8), "radio astronomy", 32).shape == (2, 2, 0)
