"""A slide without bounds from words: a field of its own, colours of its own, made again alike."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.errors import Cancelled, InputError, ModelError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.synthesis.endless import LazyScene
from napari_ssldiff.synthesis.explore_words import explore_words
from napari_ssldiff.synthesis.imagine import Prompt, RegionPrompt
from napari_ssldiff.synthesis.palette import APPROXIMATE
from napari_ssldiff.synthesis.request import Sampler
from napari_ssldiff.text.places import PriorPlaces

SAMPLER = Sampler("lazy", steps=2, guidance=1.0, seed=5, batch=16)
SHAPE = (100_000, 90_000)


@pytest.fixture(scope="module")
def slide(bundle: Any, tiny_words: Any) -> LazyScene:
    return explore_words("odd tumour", bundle, tiny_words, SAMPLER, shape=SHAPE)


def test_a_tile_of_words_is_made_where_one_looks_and_alike_from_its_description(
    slide: LazyScene, bundle: Any, tiny_words: Any
) -> None:
    places = slide.places
    assert isinstance(places, PriorPlaces)
    assert places.seed == 5
    assert places.record["notes"] == ["ignores 'odd'"]
    # A view of the whole slide shows one colour and calls no network.
    wide = slide.levels[-1]
    assert (wide[..., 3] == APPROXIMATE).all()
    assert np.ptp(wide[..., :3].reshape(-1, 3), axis=0).max() <= 1
    assert slide.levels[4][1000:1200, 1000:1200, 3].max() == APPROXIMATE
    assert places.counters.evaluations == 0
    box = Box(50_000, 40_000, 100, 80)
    made = slide.rendered[box.slices]
    assert made.std() > 1
    assert places.counters.evaluations > 0
    again = LazyScene.from_dict(bundle, json.loads(json.dumps(slide.to_dict())), tiny_words)
    assert again.digest == slide.digest
    assert np.array_equal(again.rendered[box.slices], made)
    with pytest.raises(ModelError, match="the prior tiny-prior, which is not installed"):
        LazyScene.from_dict(bundle, slide.to_dict())


def test_a_negative_prompt_is_kept_away_from_and_told_of_where_it_is_not_heard(
    bundle: Any, tiny_words: Any
) -> None:
    def places(guidance: float) -> PriorPlaces:
        prompt = Prompt("tumour", negative="fat", guidance=guidance, seed=5)
        made = explore_words(prompt, bundle, tiny_words, SAMPLER, shape=SHAPE).places
        assert isinstance(made, PriorPlaces)
        return made

    at = np.arange(4) * 100.0
    heard, deaf = places(3.0), places(1.0)
    assert not np.allclose(heard.sample(at, at), deaf.sample(at, at), atol=1e-3)
    assert "not heard" in deaf.record["notes"][0]
    assert heard.record["notes"] == []


def test_the_maps_colour_is_that_of_what_the_model_draws(slide: LazyScene) -> None:
    drawn = slide.rendered[0:256, 0:256].reshape(-1, 3).mean(0)
    assert np.abs(slide.levels[-1][100, 100, :3] - drawn).max() < 25


def test_making_a_tile_is_stopped_while_its_cells_are_sampled(slide: LazyScene) -> None:
    places = slide.places
    assert isinstance(places, PriorPlaces)
    before, calls = places.counters.evaluations, [0]

    def check() -> None:
        calls[0] += 1
        if places.counters.evaluations > before + 20:
            raise Cancelled("enough")

    drawn = slide.counters.evaluations
    with pytest.raises(Cancelled):
        slide.make((300, 300), check)
    assert places.counters.evaluations - before < 60
    assert slide.counters.evaluations == drawn


def test_what_cannot_be_is_refused_before_anything_is_sampled(
    bundle: Any, tiny_words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_words.prior, "sample", lambda *_, **__: pytest.fail("sampled"))
    with pytest.raises(InputError, match="knows no word of 'bridge'"):
        explore_words("bridge", bundle, tiny_words, SAMPLER)
    with pytest.raises(InputError, match="needs the preset lazy, not bulk"):
        explore_words("fat", bundle, tiny_words, Sampler("bulk"))
    part = RegionPrompt(Region.from_box(Box(0, 0, 9, 9)), "fat")
    with pytest.raises(InputError, match="has no regions to fill"):
        explore_words(Prompt("fat", regions=(part,)), bundle, tiny_words, SAMPLER)
    monkeypatch.setattr(
        tiny_words.prior, "facts", replace(tiny_words.prior.facts, encoder="other@1")
    )
    with pytest.raises(ModelError, match="makes fields of other@1"):
        explore_words("fat", bundle, tiny_words, SAMPLER)
    with pytest.raises(InputError, match="no prior makes fields of the encoder"):
        explore_words("fat", bundle, sampler=SAMPLER)
