"""From prompts to fields: where each meaning holds, and what the user is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models.priors import PriorCard, Words
from napari_ssldiff.synthesis.imagine import Prompt, RegionPrompt, imagine, lay
from napari_ssldiff.text.prior import AWAY, PriorFacts

FRAME: tuple[Any, ...] = ((0.0, 0.0), (10.0, 10.0))


class Text:
    """Knows three things, each an axis."""

    name, width = "fake", 4
    _known = ("trees", "houses", "fat")

    def text(self, texts: list[str]) -> np.ndarray:
        return np.stack([np.eye(4)[[w in t for w in self._known].index(True)] for t in texts])

    def knows(self, word: str) -> bool:
        return any(word in known for known in self._known)

    def check(self, text: str) -> str | None:
        if not any(w in text for w in self._known):
            raise InputError(f"knows no word of {text!r}")
        return "ignores 'odd'" if "odd" in text else None


class Sampler:
    """Returns its conditions as the field."""

    facts = PriorFacts("p", "tiny@1", 0.5, "micrometer", 10, 3.0)

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def sample(self, condition: Any, shape: Any, seed: int, guidance: Any, **options: Any) -> Any:
        self.seen = {"seed": seed, "guidance": guidance, **options}
        return condition


@pytest.fixture
def words() -> Words:
    card = PriorCard(
        "p", "histology", "", "tiny@1", 0.5, "micrometer", 10, 3.0, {}, "t", {}, Path()
    )
    return Words(card, Sampler(), Text())  # type: ignore[arg-type]


def is_axis(grid: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(grid[..., axis] > 0.999)


def test_a_plain_prompt_is_everywhere_the_same(words: Words) -> None:
    laid = lay(words, Prompt("trees"), (5, 7), *FRAME)
    grid, notes = laid.grid, laid.notes
    assert grid.shape == (5, 7, 4)
    assert is_axis(grid, 0).all()
    assert notes == ()


def test_what_lies_beside_lies_beside_and_is_told(words: Words) -> None:
    laid = lay(words, Prompt("trees beside houses", feather=0), (6, 8), *FRAME)
    grid, notes = laid.grid, laid.notes
    assert is_axis(grid, 0)[:, :4].all()
    assert is_axis(grid, 1)[:, 4:].all()
    assert notes[-1].startswith("read as everywhere: trees")


def test_regions_have_their_own_meaning_and_gaps_are_the_roots(words: Words) -> None:
    regions = (
        RegionPrompt(Region.from_box(Box(0, 0, 40, 40)), "houses"),
        RegionPrompt(Region.from_box(Box(20, 20, 40, 40)), "fat"),  # over the first one
        RegionPrompt(Region.from_box(Box(0, 60, 80, 20))),  # says nothing
    )
    grid = lay(words, Prompt("trees", regions=regions, feather=0), (8, 8), *FRAME).grid
    assert is_axis(grid, 1)[:2, :4].all()
    assert is_axis(grid, 2)[2:6, 2:6].all()
    outside = np.ones((8, 8), bool)
    outside[:4, :4] = outside[2:6, 2:6] = False
    assert is_axis(grid, 0)[outside].all()


def test_regions_lie_where_they_are_in_the_scene_and_not_in_the_field(words: Words) -> None:
    region = RegionPrompt(Region.from_box(Box(120, 140, 20, 20)), "houses")
    prompt = Prompt("trees", regions=(region,), feather=0)
    grid = lay(words, prompt, (6, 8), (100.0, 100.0), (10.0, 10.0)).grid
    inside = np.zeros((6, 8), bool)
    inside[2:4, 4:6] = True
    assert np.array_equal(is_axis(grid, 1), inside)


def test_a_region_outside_the_image_is_told_of(words: Words) -> None:
    region = RegionPrompt(Region.from_box(Box(900, 900, 20, 20)), "houses")
    laid = lay(words, Prompt("fat", regions=(region,)), (4, 4), (0, 0), (20, 20))
    alone = lay(words, Prompt("fat"), (4, 4), (0, 0), (20, 20))
    np.testing.assert_array_equal(laid.grid, alone.grid)
    assert laid.notes == ("'houses' has no place: its region lies outside the image",)


def test_a_region_that_is_too_thin_is_not_said_to_be_outside(words: Words) -> None:
    region = RegionPrompt(Region.from_box(Box(21, 0, 1, 80)), "houses")
    (note,) = lay(words, Prompt("fat", regions=(region,)), (4, 4), (0, 0), (20, 20)).notes
    assert note == "'houses' has no place: its region is too thin, less than a quarter of a cell"


def test_an_object_of_unknown_words_does_not_refuse_the_prompt(words: Words) -> None:
    laid = lay(words, Prompt("trees with a warehouse"), (4, 4), *FRAME)
    assert is_axis(laid.grid, 0).all()
    assert laid.notes == ()


def test_a_part_without_a_cell_is_told_of(words: Words) -> None:
    laid = lay(words, Prompt("trees to the right of houses"), (2, 1), *FRAME)
    assert is_axis(laid.grid, 0).all()
    assert "'houses' has no place: the image has too few cells" in laid.notes


def test_borders_fade_over_the_feather(words: Words) -> None:
    region = RegionPrompt(Region.from_box(Box(0, 0, 100, 50)), "houses")
    prompt = Prompt("trees", regions=(region,), feather=3)
    grid = lay(words, prompt, (10, 10), *FRAME).grid
    row = grid[5, :, 1]
    assert (np.diff(row) < 0).sum() >= 4
    assert np.allclose(np.linalg.norm(grid, axis=-1), 1, atol=1e-5)


def test_notes_come_once_each(words: Words) -> None:
    notes = lay(words, Prompt("odd trees beside odd houses"), (4, 4), *FRAME).notes
    assert [n for n in notes if "ignores" in n] == ["ignores 'odd'"]


def test_a_field_carries_its_frame_and_how_it_came_about(words: Words) -> None:
    prompt = Prompt("trees", negative="fat", seed=5)
    made = imagine(words, prompt, (3, 4), (7.0, 8.0), (20.0, 20.0))
    assert made.field.shape == (3, 4)
    assert made.field.origin == (7.0, 8.0)
    assert made.field.cell == (20.0, 20.0)
    assert made.field.encoder == "tiny@1"
    record = json.loads(made.record)
    assert record["text"] == "trees"
    assert record["negative"] == "fat"
    assert record["guidance"] == 3.0
    assert record["prior"] == "p"
    seen = words.prior.seen  # type: ignore[attr-defined]
    assert seen["seed"] == 5
    assert np.array_equal(seen["negative"], np.eye(4)[2])


def test_a_prior_without_guidance_takes_some_for_a_negative_and_says_if_it_may_not(
    words: Words,
) -> None:
    words.prior.facts = replace(words.prior.facts, guidance=1.0)
    plain = imagine(words, Prompt("trees"), (2, 2))
    assert json.loads(plain.record)["guidance_interval"] is None
    assert json.loads(plain.record)["guidance"] == 1.0
    away = imagine(words, Prompt("trees", negative="fat"), (2, 2))
    assert json.loads(away.record)["guidance"] == AWAY > 1
    assert not any("not heard" in note for note in away.notes)
    asked = imagine(words, Prompt("trees", negative="fat", guidance=1.0), (2, 2))
    assert json.loads(asked.record)["guidance"] == 1.0
    assert any("not heard" in note for note in asked.notes)


@pytest.mark.parametrize(
    "changes", [{"seed": -1}, {"guidance": 101.0}, {"feather": -1.0}, {"feather": 1e9}]
)
def test_numbers_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Prompt("trees", **changes)


def test_what_lies_beside_a_region_reaches_into_it_as_far_as_borders_fade(words: Words) -> None:
    left, right = Region.from_box(Box(0, 0, 80, 40)), Region.from_box(Box(0, 40, 80, 40))

    def row(own: str, other: str, beside: Region, at: int, feather: float) -> np.ndarray:
        prompt = Prompt(own, regions=(RegionPrompt(beside, other, True),), feather=feather)
        return lay(words, prompt, (8, 4), (0.0, float(at)), (10.0, 10.0)).grid[4]

    a, b = row("trees", "houses", right, 0, 2.0), row("houses", "trees", left, 40, 2.0)
    both = np.concatenate([a, b])[:, :2]  # trees, houses: from column to column
    assert both[0, 0] > 0.99
    assert both[-1, 1] > 0.99
    assert (np.diff(both[:, 1]) > 0).all()
    # The border is no step: either side has half of what the other says, as over a root.
    assert abs(both[4, 1] - both[3, 1]) < 0.5
    np.testing.assert_allclose(both[:, 0], both[::-1, 1], atol=1e-5)
    hard = row("trees", "houses", right, 0, 0.0)
    assert (hard[:, 0] == 1).all()


def test_what_was_filled_before_lies_below_and_what_is_far_is_not_told_of(words: Words) -> None:
    own = Region.from_box(Box(0, 0, 80, 80))
    below = RegionPrompt(Region.from_box(Box(0, 40, 80, 80)), "houses", True, own)
    far = RegionPrompt(Region.from_box(Box(900, 0, 20, 20)), "fat", True)
    laid = lay(words, Prompt("trees", regions=(below, far), feather=0), (8, 12), *FRAME)
    assert (laid.grid[:, :8, 0] == 1).all()  # all of its own, where they overlap too
    assert (laid.grid[:, 8:, 1] == 1).all()
    assert not any("no place" in note for note in laid.notes)
    told = json.loads(imagine(words, Prompt("trees", regions=(below,)), (8, 12), *FRAME).record)
    assert told["regions"][0]["without"] == own.to_list()
