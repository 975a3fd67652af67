"""Every kind of condition as the vector that a prior takes, and what a prior does not take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models.priors import PriorCard, Words
from napari_ssldiff.scenes import open_scene
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.synthesis.imagine import Prompt, RegionPrompt, imagine
from napari_ssldiff.synthesis.meaning import meaning
from napari_ssldiff.text.columns import Column, Columns
from napari_ssldiff.text.conditions import ClassLabel, Numbers, Pictures, Reference, Text
from napari_ssldiff.text.prior import PriorFacts

COLUMNS = Columns((Column("density", 10, 2, 5, 15), Column("grade", 2, 1, 1, 3)))


class Encoder:
    """Texts by whether they speak of tumour, pictures by their red and their blue."""

    name = "fake"

    def text(self, texts: Any) -> np.ndarray:
        return np.array([[1.0, 0.0] if "tumour" in t else [0.0, 1.0] for t in texts], np.float32)

    def images(self, pictures: Any) -> np.ndarray:
        mean = np.array([p[..., [0, 2]].mean((0, 1)) for p in pictures], np.float32)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def knows(self, word: str) -> bool:
        return True

    def check(self, text: str) -> str | None:
        return None


class Sampler:
    """Returns its conditions as the field."""

    facts, window = PriorFacts("p", "tiny@1", 0.5, "micrometer", 8, 3.0), 2

    def sample(self, condition: Any, shape: Any, seed: int, guidance: Any, **options: Any) -> Any:
        return condition


def prior(kind: str) -> Words:
    condition = {"kind": "csv", "columns": COLUMNS.to_list()} if kind == "csv" else {"kind": "text"}
    card = PriorCard(
        f"of-{kind}", "histology", "", "tiny@1", 0.5, "micrometer", 8, 3.0, {}, "t", {}, Path(),
        condition=condition,
    )  # fmt: skip
    return Words(card, Sampler(), Encoder() if kind == "text" else None)  # type: ignore[arg-type]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32, 0] = pixels[:, 32:, 2] = 200
    Image.fromarray(pixels).save(tmp_path / "secret-name.png")
    with open_scene(tmp_path / "secret-name.png") as opened:
        yield opened


def test_a_class_is_the_mean_of_all_that_is_said_of_it() -> None:
    found = meaning(prior("text"), ClassLabel("viable"))
    assert found.record == {"kind": "class", "name": "Viable"}
    assert np.allclose(found.vector, [1, 0])  # "living tumour", "viable tumour" and "tumour"
    normal = meaning(prior("text"), ClassLabel("Non-Tumor")).vector
    assert np.isclose(np.linalg.norm(normal), 1)
    assert 0 < normal[0] < normal[1]  # "no tumour" among "healthy tissue" and others


def test_an_unknown_class_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InputError, match=r"no class 'Viabel' \(near: Viable"):
        meaning(prior("text"), ClassLabel("Viabel"))
    with pytest.raises(InputError, match=r"no class '猫' \(there are: Viable, Non-Viable-Tumor"):
        meaning(prior("text"), ClassLabel("猫"))
    words = prior("text")
    words = replace(words, card=replace(words.card, domain="radio astronomy"))
    with pytest.raises(InputError, match="it has none"):
        meaning(words, ClassLabel("pulsar"))


def test_pictures_mean_what_their_regions_show_each_alike(scene: Scene) -> None:
    red, blue = (Reference(scene, Region.from_box(Box(0, x, 32, 32))) for x in (0, 32))
    words = prior("text")
    assert np.allclose(meaning(words, Pictures((red,))).vector, [1, 0], atol=1e-3)
    small = Reference(scene, Region.from_box(Box(0, 32, 8, 8)))
    both = meaning(words, Pictures((red, small)))
    assert np.allclose(both.vector, [0.5**0.5] * 2, atol=1e-3)  # a small region counts as much
    one, other = both.record["references"]
    assert (one["region"], one["squares"], other["region"]) == ([0, 0, 32, 32], 4, [32, 0, 8, 8])
    again = meaning(words, Pictures((blue, red))).record["references"]
    assert again[1] == one
    assert again[0]["sha256"] != one["sha256"]
    assert "secret-name" not in json.dumps(both.record)
    # One that is red and blue counts as much as one that is blue all over.
    half = Reference(scene, Region.from_box(Box(0, 16, 32, 32)))
    mean = meaning(words, Pictures((half, blue))).vector
    assert np.allclose(mean, np.array([0.5**0.5, 0.5**0.5 + 1]) / 1.84776, atol=0.01)
    with pytest.raises(InputError, match="there is no reference"):
        meaning(words, Pictures(()))


def test_numbers_are_what_a_prior_of_numbers_takes() -> None:
    found = meaning(prior("csv"), Numbers({"density": 16}))
    assert np.array_equal(found.vector, COLUMNS.vector({"density": 16}))
    assert found.notes == ("density 16 lies outside what the prior has seen (5 … 15)",)
    assert found.record == {"kind": "numbers", "values": {"density": 16}}


def test_a_prior_of_another_kind_says_what_it_takes(scene: Scene) -> None:
    with pytest.raises(InputError, match="knows no numbers: it takes words, classes and pictures"):
        meaning(prior("text"), Numbers({"density": 1}))
    region = Region.from_box(scene.box)
    for condition in (Text("tumour"), ClassLabel("Viable"), Pictures((Reference(scene, region),))):
        with pytest.raises(InputError, match=r"it takes numbers \(density, grade\)"):
            meaning(prior("csv"), condition)
    with pytest.raises(InputError, match="of-csv knows no words"):
        imagine(prior("csv"), Prompt(negative="fat", condition=Numbers({"grade": 1})), (2, 2))


def test_a_field_tells_which_condition_it_is_of() -> None:
    parts = (RegionPrompt(Region.from_box(Box(0, 0, 16, 32)), "fibrous stroma"),)
    made = imagine(
        prior("text"), Prompt(regions=parts, condition=ClassLabel("Viable"), feather=0), (4, 4)
    )
    assert np.allclose(made.field.vectors[:2], [0, 1])
    assert np.allclose(made.field.vectors[2:], [1, 0])
    assert json.loads(made.record)["condition"] == {"kind": "class", "name": "Viable"}
    numbers = imagine(prior("csv"), Prompt(condition=Numbers({"grade": 3})), (2, 2))
    record = json.loads(numbers.record)
    assert record["condition"] == {"kind": "numbers", "values": {"grade": 3}}
    assert (record["text"], record["text_encoder"]) == ("", None)
    with pytest.raises(InputError, match="not both"):
        Prompt("trees", condition=ClassLabel("Viable"))
