"""Words of place become areas; everything else of a sentence stays together."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ssldiff.text.layout import Layout, Part, mixed, place_weights, read_layout
from napari_ssldiff.text.statements import STATEMENTS


@pytest.mark.parametrize(
    ("prompt", "layout"),
    [
        ("dense nuclei", Layout("dense nuclei")),
        ("", Layout("")),
        ("Dense  cells beside pink stroma", Layout("dense cells", (Part("right", "pink stroma"),))),
        ("trees to the left of houses", Layout("trees", (Part("right", "houses"),))),
        ("trees to the right of houses", Layout("trees", (Part("left", "houses"),))),
        ("grass above asphalt", Layout("grass", (Part("below", "asphalt"),))),
        ("houses around a park", Layout("houses", (Part("centre", "a park"),))),
        ("a park surrounded by houses", Layout("a park", (Part("ring", "houses"),))),
        (
            "a residential neighbourhood with large trees and a car park",
            Layout("a residential neighbourhood with large trees", (Part("spot", "car park"),)),
        ),
        ("a car park", Layout("a car park")),  # nothing else is said: it is everywhere
        ("houses with trees and grass", Layout("houses with trees and grass")),
        ("beside stroma", Layout("beside stroma")),  # beside what?
        # Captions say so of one thing, and the text encoder has learnt it as one.
        ("houses under trees", Layout("houses under trees")),
        (
            "small houses under trees beside a lawn",
            Layout("small houses under trees", (Part("right", "a lawn"),)),
        ),
        ("roofs under trees", Layout("roofs", (Part("above", "trees"),))),
        # What "it" is, the sentence says.
        ("necrosis with tumour around it", Layout("tumour", (Part("centre", "necrosis"),))),
        ("houses, and woods beside them", Layout("woods", (Part("right", "houses"),))),
        ("around it", Layout("around it")),
        ("trees beside it", Layout("trees beside it")),
        ("trees on the left, houses on the right", Layout("trees", (Part("right", "houses"),))),
        (
            "big trees on the right and a car park on the left",
            Layout("big trees", (Part("left", "a car park"),)),
        ),
        ("trees at the top and bare soil", Layout("trees", (Part("below", "bare soil"),))),
        (
            "on the left side pink stroma, on the right fat",
            Layout("pink stroma", (Part("right", "fat"),)),
        ),
        ("fat on the left, fat on the left", Layout("fat on the left, fat on the left")),
    ],
)  # fmt: skip
def test_a_prompt_is_read(prompt: str, layout: Layout) -> None:
    assert read_layout(prompt) == layout


def test_a_side_that_places_nothing_is_known_of() -> None:
    assert read_layout("trees on the left").unplaced == ("left",)
    assert read_layout("trees on the left, houses on the right").unplaced == ()
    assert read_layout("trees to the left of houses").unplaced == ()
    assert read_layout("streets at right angles").unplaced == ()


def test_objects_of_unknown_words_stay_in_their_sentence() -> None:
    known = {"trees", "a", "large", "lawn", "car", "park"}
    for prompt, layout in {
        "trees with a warehouse": Layout("trees with a warehouse"),
        "trees with a large vessel and a lawn": Layout(
            "trees with a large vessel", (Part("spot", "lawn"),)
        ),
        "trees with a lawn and a vessel, a car park": Layout(
            "trees and a vessel", (Part("spot", "lawn"), Part("spot", "car park"))
        ),
        "trees and a blue lawn": Layout("trees", (Part("spot", "blue lawn"),)),
    }.items():
        assert read_layout(prompt, known.__contains__) == layout
    assert read_layout("trees with a warehouse").parts == (Part("spot", "warehouse"),)


def test_no_training_phrase_is_taken_apart() -> None:
    for statements in STATEMENTS.values():
        for statement in statements:
            for phrase in statement.sayings:
                assert read_layout(phrase) == Layout(phrase.casefold())


def test_what_was_read_is_told_only_where_something_was_placed() -> None:
    assert read_layout("dense nuclei").text == ""
    told = read_layout("dense nuclei beside fat").text
    assert "everywhere: dense nuclei" in told
    assert "on the right: fat" in told


@pytest.mark.parametrize("shape", [(12, 20), (1, 1), (3, 40)])
@pytest.mark.parametrize("place", ["left", "right", "above", "below", "centre", "ring", "spot"])
def test_places_are_shares_of_cells(place: str, shape: tuple[int, int]) -> None:
    weights = place_weights(place, shape, 1.0, np.random.default_rng(0))
    assert weights.shape == shape
    assert weights.min() >= 0
    assert weights.max() <= 1 + 1e-6


def test_places_lie_where_they_say() -> None:
    rng = np.random.default_rng(3)
    at = {
        p: place_weights(p, (20, 20), 0, rng)
        for p in ("left", "right", "above", "below", "centre", "ring")
    }
    assert at["left"][:, :10].all()
    assert not at["left"][:, 10:].any()
    assert np.array_equal(at["right"], 1 - at["left"])
    assert at["above"][:10].all()
    assert np.array_equal(at["below"], 1 - at["above"])
    assert at["centre"][10, 10] == 1
    assert at["centre"][0, 0] == 0
    assert np.array_equal(at["ring"], 1 - at["centre"])
    spot = place_weights("spot", (30, 30), 0, rng)
    assert spot.mean() == pytest.approx(0.16, abs=0.03)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2), (2, 3), (3, 3)])
def test_a_spot_has_a_cell_on_the_smallest_canvas(shape: tuple[int, int]) -> None:
    for seed in range(50):
        weights = place_weights("spot", shape, 0, np.random.default_rng(seed))
        assert weights.sum() >= 1
        assert weights.max() == 1


def test_a_border_fades_over_the_feather_and_is_sharp_without() -> None:
    rng = np.random.default_rng(0)
    sharp = place_weights("left", (8, 24), 0, rng)
    soft = place_weights("left", (8, 24), 4, rng)
    assert set(np.unique(sharp)) == {0, 1}
    assert ((soft > 0.01) & (soft < 0.99)).sum(1).min() >= 4
    assert np.allclose(soft[:, :4], 1, atol=1e-3)


def test_the_ends_of_a_mixture_are_its_parts() -> None:
    a, b = np.eye(4, dtype=np.float32)[:2]
    base = np.broadcast_to(a, (2, 3, 4))
    weights = np.array([[0, 0.5, 1], [0, 0, 1]], np.float32)
    made = mixed(base, b, weights)
    assert np.allclose(made[0, 0], a)
    assert np.allclose(made[0, 2], b)
    assert np.allclose(made[0, 1], (a + b) / 2**0.5, atol=1e-6)
    assert np.allclose(np.linalg.norm(made, axis=-1), 1, atol=1e-6)
