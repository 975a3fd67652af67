"""Words in the workbench: regions with prompts of their own, a whole scene, a new canvas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from napari.components import ViewerModel

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.lengths import Length
from napari_ssldiff.text.conditions import ClassLabel, Numbers, Text
from napari_ssldiff.viewer.backend import EngineBackend
from napari_ssldiff.viewer.messages import JobDone
from napari_ssldiff.viewer.session import Wording
from napari_ssldiff.viewer.wording import references
from napari_ssldiff.viewer.workbench import Workbench

A, B = Region.from_box(Box(20, 30, 60, 80)), Region.from_box(Box(100, 30, 60, 80))


class Bundled(EngineBackend):
    """The cards that are bundled, and no device to look for."""

    def devices(self) -> tuple[str, ...]:
        return ("cpu",)


@pytest.fixture
def bench(post: Any, backend: Any, add_slide: Callable[..., Any]) -> Iterator[Workbench]:
    viewer = ViewerModel()
    add_slide(viewer)
    bench = Workbench(viewer, post.deliver, backend)
    yield bench
    bench.close()


def test_every_region_is_filled_by_its_own_prompt_or_else_the_roots(
    bench: Workbench, backend: Any, post: Any
) -> None:
    bench.session.wording = Wording("dense nuclei", negative="fat", guidance=2.5, feather=3.5)
    bench.regions.add(A, "rectangle")
    bench.regions.set_prompt("pink stroma")
    bench.regions.add(B, "rectangle")
    bench.regions.select({0, 1})
    assert bench.synthesise("regions")
    post.until(JobDone, bench.handle)
    post.until(JobDone, bench.handle)
    assert [p.text for p in backend.prompts] == ["pink stroma", "dense nuclei"]
    assert {p.negative for p in backend.prompts} == {"fat"}
    assert {p.guidance for p in backend.prompts} == {2.5}
    assert {p.feather for p in backend.prompts} == {3.5}
    assert not any(p.regions for p in backend.prompts)
    assert "synthesised" in bench.session.status.text
    assert "It does not know 'treez'." in bench.session.status.text


def test_regions_that_touch_fade_into_each_other(bench: Workbench, backend: Any, post: Any) -> None:
    bench.session.wording = Wording("dense nuclei", feather=2)
    under = Region.from_box(Box(80, 30, 60, 80))  # begins where A ends
    for region, text in (
        (A, "pink stroma"),
        (under, ""),
        (Region.from_box(Box(300, 30, 60, 80)), "fat"),
    ):
        bench.regions.add(region, "rectangle")
        if text:
            bench.regions.set_prompt(text)
    bench.regions.select({0, 1, 2})
    assert bench.synthesise("regions")
    for _ in range(3):
        post.until(JobDone, bench.handle)
    stroma, nuclei, fat = backend.prompts
    (after,), (before,) = stroma.regions, nuclei.regions
    assert (after.text, after.region, after.without) == ("dense nuclei", under, None)
    assert (before.text, before.region, before.without) == ("pink stroma", A, under)
    assert fat.regions == ()
    # Of a region that is not filled along nothing is known.
    bench.regions.select({0})
    assert bench.synthesise("regions")
    post.until(JobDone, bench.handle)
    assert backend.prompts[-1].regions == ()
    # A class is no words, so only the region with words of its own is heard across the border.
    bench.session.wording = Wording(condition=ClassLabel("Viable"))
    bench.regions.select({0, 1})
    assert bench.synthesise("regions")
    post.until(JobDone, bench.handle)
    post.until(JobDone, bench.handle)
    assert [len(p.regions) for p in backend.prompts[-2:]] == [0, 1]
    # The words that stood there before are not what the class says: the border fades.
    bench.session.wording = Wording("pink stroma", condition=ClassLabel("Viable"))
    assert bench.synthesise("regions")
    post.until(JobDone, bench.handle)
    post.until(JobDone, bench.handle)
    assert [len(p.regions) for p in backend.prompts[-2:]] == [0, 1]
    # A prior of numbers hears no words, from beyond a border neither.
    bench.session.wording = Wording(condition=Numbers({"density": 0.3}))
    assert bench.synthesise("regions")
    post.until(JobDone, bench.handle)
    post.until(JobDone, bench.handle)
    assert [len(p.regions) for p in backend.prompts[-2:]] == [0, 0]


def test_a_scene_is_filled_as_one_with_the_regions_prompts_inside(
    bench: Workbench, backend: Any, post: Any
) -> None:
    bench.session.wording = Wording("dense nuclei")
    bench.regions.add(A, "rectangle")
    bench.regions.set_prompt("pink stroma")
    bench.regions.add(B, "rectangle")  # has no prompt: a gap is the root's
    assert bench.synthesise("scene")
    post.until(JobDone, bench.handle)
    (prompt,) = backend.prompts
    assert prompt.text == "dense nuclei"
    assert [(r.region.bounds, r.text) for r in prompt.regions] == [(A.bounds, "pink stroma")]
    assert backend.requests[-1].region.bounds == bench.scene.box  # type: ignore[union-attr]


def test_a_shape_that_is_no_region_does_not_lose_its_prompt_unsaid(
    bench: Workbench, backend: Any
) -> None:
    bench.session.wording = Wording("dense nuclei")
    bench.regions.add(A, "rectangle")
    layer = bench.regions.ensure()
    layer.add([[0, 0], [50, 50]], shape_type="line")
    bench.regions.select({1})
    bench.regions.set_prompt("pink stroma")
    assert not bench.synthesise("scene")
    assert "Region 2 cannot show 'pink stroma': Line · " in bench.session.status.text
    assert "delete it" in bench.session.status.text
    bench.regions.set_prompt("")  # says nothing, so nothing is lost
    assert bench.synthesise("scene")


def test_a_new_canvas_needs_no_slide(bench: Workbench, backend: Any, post: Any) -> None:
    bench.session.model_id = "demo-naip"
    bench.session.wording = Wording("many trees")
    assert bench.synthesise("canvas", Length(300, "meter"), Length(200))
    post.until(JobDone, bench.handle)
    assert bench.scene is not None
    assert bench.scene.shape == (200, 300)
    assert bench.scene.pixel_size.unit == "meter"
    assert bench.session.model_id == "demo-naip"
    assert backend.requests[-1].region.bounds == Box(0, 0, 200, 300)
    first = bench.source
    assert bench.synthesise("canvas", Length(64), Length(64))
    assert bench.source is not first
    post.until(JobDone, bench.handle)


def test_without_any_scene_a_canvas_takes_the_model_that_knows_the_words(
    post: Any, backend: Any
) -> None:
    for prompt, model in (
        ("a forest with dense trees and foo", "demo-naip"),
        ("dense nuclei", "demo-histology"),
        ("qwrtz", "demo-histology"),
    ):
        bench = Workbench(ViewerModel(), post.deliver, Bundled())
        bench.session.wording = Wording(prompt)
        bench.choice.suit(bench.session.wording)
        assert bench.session.model_id == model
        # What the user has chosen stays.
        bench.choice.suit(Wording("dense nuclei"))
        assert bench.session.model_id == model
        bench.close()
    bench = Workbench(ViewerModel(), post.deliver, backend)
    bench.session.wording = Wording("dense nuclei")
    assert bench.synthesise("canvas", Length(64), Length(64)), bench.session.status.text
    post.until(JobDone, bench.handle)
    assert backend.loads == [("demo-histology", "auto")]
    bench.close()


@pytest.mark.parametrize("size", [Length(0), Length(1e6), Length(10, "meter")])
def test_a_canvas_of_no_use_is_refused(bench: Workbench, size: Length) -> None:
    bench.session.wording = Wording("dense nuclei")
    layers = len(bench.viewer.layers)
    assert not bench.synthesise("canvas", size, Length(64))
    assert bench.session.status.severity == "error"
    assert len(bench.viewer.layers) == layers


def test_without_words_or_regions_one_is_told_so(bench: Workbench) -> None:
    assert not bench.synthesise("scene")
    assert "prompt is empty" in bench.session.status.text
    bench.session.wording = Wording("dense nuclei")
    assert not bench.synthesise("regions")
    assert "no region yet" in bench.session.status.text


def test_prompts_stay_with_their_shapes(bench: Workbench) -> None:
    bench.regions.add(A, "rectangle")
    bench.regions.set_prompt("fat")
    bench.regions.add(B, "rectangle")
    assert [row.prompt for row in bench.regions.rows()] == ["fat", ""]
    bench.regions.select({0})
    bench.regions.remove_selected()
    assert [row.prompt for row in bench.regions.rows()] == [""]
    bench.regions.set_prompt("no shape is selected")
    assert [row.prompt for row in bench.regions.rows()] == [""]


def test_another_condition_takes_the_roots_place_and_regions_keep_their_words(
    bench: Workbench, backend: Any, post: Any
) -> None:
    bench.session.wording = Wording("dense nuclei", condition=ClassLabel("Viable"))
    bench.regions.add(A, "rectangle")
    bench.regions.set_prompt("pink stroma")
    bench.regions.add(B, "rectangle")
    bench.regions.select({0, 1})
    assert bench.synthesise("regions")
    post.until(JobDone, bench.handle)
    post.until(JobDone, bench.handle)
    assert [p.root for p in backend.prompts] == [Text("pink stroma"), ClassLabel("Viable")]
    assert bench.synthesise("scene")
    post.until(JobDone, bench.handle)
    assert backend.prompts[-1].root == ClassLabel("Viable")
    assert [r.text for r in backend.prompts[-1].regions] == ["pink stroma"]


def test_the_chosen_regions_can_be_what_another_place_is_like(bench: Workbench) -> None:
    with pytest.raises(InputError, match="no region yet"):
        references(bench.regions, bench.scene)
    for region in (A, B):
        bench.regions.add(region, "rectangle")
    bench.regions.select({1})
    (one,) = references(bench.regions, bench.scene).references
    assert one.scene is bench.scene
    assert one.region.bounds == B.bounds
