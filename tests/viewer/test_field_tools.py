"""More to paint: a second region, a way along a path, a direction of two prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_ssldiff.embeddings.edit import average
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.viewer.field_editor import FieldEditor
from napari_ssldiff.viewer.messages import JobCancelled, JobDone
from napari_ssldiff.viewer.session import Parameters
from napari_ssldiff.viewer.workbench import Workbench

REGION = Box(32, 16, 64, 96)  # 4 × 6 cells of the fake backend, left and right of one kind each


@pytest.fixture(autouse=True)
def _no_user_cache(own_cache: Path) -> None:
    """The colours of a test's encoder are its own."""


@pytest.fixture
def bench(post: Any, backend: Any, add_slide: Callable[..., Any]) -> Iterator[Workbench]:
    viewer = ViewerModel()
    add_slide(viewer)
    bench = Workbench(viewer, post.deliver, backend)
    bench.regions.add(Region.from_box(REGION), "rectangle")
    yield bench
    bench.close()


@pytest.fixture
def editor(bench: Workbench, post: Any) -> Iterator[FieldEditor]:
    editor = FieldEditor(bench)
    assert editor.open(4)
    post.until(JobDone, bench.handle)
    yield editor
    editor.close()


def layer(bench: Workbench, name: str) -> Any:
    return next(x for x in bench.viewer.layers if x.name.endswith(name))


def mixed(editor: FieldEditor, bench: Workbench, post: Any, other: Box) -> None:
    bench.regions.add(Region.from_box(other), "rectangle")
    assert editor.tools.mix()
    post.until(JobDone, bench.handle)


def step_of(backend: Any) -> dict[str, Any]:
    step: dict[str, Any] = json.loads(backend.requests[-1].history[-1])
    return step


def test_a_second_region_is_mixed_in_as_far_as_the_slider_says(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    strokes: list[int] = []
    editor.stroke.connect(lambda: strokes.append(1))
    before = editor.kept.vectors
    other = Box(200, 300, 32, 48)  # 2 × 3 cells, the first column of one kind
    mixed(editor, bench, post, other)
    assert strokes
    assert (editor.painted == len(editor.kinds)).all()
    assert editor.kinds[-1].name == "region 2"
    made = bench.backend.embed(  # type: ignore[call-arg]
        bench.scene, Region.from_box(other), None, progress=None, cancel=None
    )
    editor.amount = 0.0
    assert np.array_equal(editor.current.vectors, before)
    editor.amount = 1.0
    assert np.array_equal(editor.current.vectors[:, 0], np.repeat(made.vectors[:1, 0], 4, 0))
    # Between its columns the stretched region lies between its kinds.
    assert 0.1 < editor.current.vectors[0, 2] @ made.vectors[0, 0] < 0.9
    editor.amount = 0.5
    assert editor.draft()
    post.until(JobDone, bench.handle)
    request = backend.requests[-1]
    changed = (request.field.vectors != before).any(-1)
    assert np.array_equal(changed, editor.current.vectors[..., 0] != before[..., 0])
    step = step_of(backend)
    assert (step["op"], step["amount"]) == ("mix", 0.5)
    told = step["kinds"]["region 2"]
    assert told["field"] == made.digest
    assert Region.from_vertices(told["region"]).bounds == other
    assert editor.undo()
    post.until(JobDone, bench.handle)
    assert backend.requests[-1].field.digest == editor.opened.field.digest  # type: ignore[union-attr]


def test_only_painted_cells_are_mixed_where_something_is_painted(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    digest = editor.kept.digest
    layer(bench, "· brush").paint((1, 5), 1)
    layer(bench, "· brush").paint((0, 5), 2)
    mixed(editor, bench, post, Box(200, 300, 64, 96))  # the same shape: its cells bit for bit
    assert {(int(r), int(c)) for r, c in np.argwhere(editor.painted)} == {(0, 5), (1, 5)}
    assert set(editor.painted[:2, 5].tolist()) == {3}
    # All of the region by the brush's kind.
    assert editor.tools.fill()
    assert (editor.painted == 3).all()
    assert editor.keep() is True
    assert editor.kept.digest == digest  # the regions of the fake backend are alike
    assert editor.undo()
    assert editor.kept.digest == digest


def test_while_the_slider_moves_only_the_last_value_is_made(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    mixed(editor, bench, post, Box(200, 300, 32, 48))
    backend.delay = 0.1
    values = (0.2, 0.4, 0.6, 0.8)
    for value in values:
        editor.amount = value
        editor.draft()
    ends = [post.until((JobDone, JobCancelled), bench.handle) for _ in values]
    assert [type(end) for end in ends] == [JobCancelled] * 3 + [JobDone]
    assert step_of(backend)["amount"] == 0.8
    assert editor.draft()  # nothing new
    assert bench.worker.waiting == 0
    assert not bench.worker.busy


def test_a_region_is_not_mixed_into_embeddings_that_were_opened_meanwhile(
    bench: Workbench, editor: FieldEditor, post: Any
) -> None:
    bench.regions.add(Region.from_box(Box(200, 300, 32, 48)), "rectangle")
    bench.regions.select({1})
    assert editor.open(4)
    assert editor.tools.mix()  # the first region is still the one that is open
    for _ in range(2):
        post.until(JobDone, bench.handle)
    assert editor.kept.shape == (2, 3)
    assert not editor.painted.any()
    assert len(editor.kinds) == 2
    assert editor.current == editor.kept


def test_a_second_region_must_be_there(bench: Workbench, editor: FieldEditor) -> None:
    assert not editor.tools.mix()
    assert "draw a second region" in bench.session.status.text.lower()


def test_a_path_leads_from_the_kind_at_its_start_to_that_at_its_end(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    opened = editor.opened
    assert opened is not None
    digest, before = editor.kept.digest, editor.kept.vectors
    editor.tools.soft = 0.0
    assert editor.tools.draw_path()
    path = layer(bench, "· path")
    assert bench.viewer.layers.selection.active is path
    assert path.mode == "add_path"
    assert not editor.painted.any()
    # Drawn a little beside the middles of its cells.
    path.add(np.array([[1.2, 0.3], [1.0, 4.8]]), shape_type="path")
    assert (editor.painted > 0).nonzero()[0].tolist() == [1] * 6
    made = editor.current.vectors
    assert np.array_equal(made[1, 0], opened.found.vectors[opened.found.labels[1, 0]])
    assert np.array_equal(made[1, 5], opened.found.vectors[opened.found.labels[1, 5]])
    angles = np.arccos(np.clip(made[1] @ made[1, 0], -1, 1))
    np.testing.assert_allclose(angles, np.pi / 2 * np.arange(6) / 5, atol=2e-3)
    assert np.array_equal(made[[0, 2, 3]], before[[0, 2, 3]])
    # Wider: laid anew, by the same kind. Narrow again, the others are as they were.
    count = len(editor.kinds)
    editor.tools.width = 3.0
    editor.tools.again()
    assert sorted({int(r) for r in np.argwhere(editor.painted)[:, 0]}) == [0, 1, 2]
    editor.tools.width = 1.0
    editor.tools.again()
    assert np.array_equal(editor.current.vectors[[0, 2, 3]], before[[0, 2, 3]])
    assert len(editor.kinds) == count
    bench.session.parameters = Parameters(seed=5)
    assert editor.keep()
    post.until(JobDone, bench.handle)
    step = step_of(backend)
    assert step["op"] == "interpolate"
    (told,) = step["kinds"].values()
    assert told["path"] == [[1, 0], [1, 5]]
    assert {told["from"], told["to"]} == {"kind 1", "kind 2"}
    assert len(path.data) == 0
    assert editor.undo()
    assert editor.kept.digest == digest


def test_a_path_can_lead_from_one_region_to_another(
    bench: Workbench, editor: FieldEditor, post: Any
) -> None:
    mixed(editor, bench, post, Box(200, 300, 32, 48))
    assert editor.undo()
    editor.tools.start, editor.tools.end, editor.tools.soft = 0, len(editor.kinds) - 1, 0.0
    editor.tools.draw_path()
    layer(bench, "· path").add(np.array([[0, 0], [3, 0]]), shape_type="path")
    made = editor.current.vectors
    assert np.array_equal(made[0, 0], editor.kinds[0].vector)
    assert np.array_equal(made[3, 0], editor.kinds[-2].vector)
    other = bench.backend.embed(  # type: ignore[call-arg]
        bench.scene, Region.from_box(Box(200, 300, 32, 48)), None, progress=None, cancel=None
    )
    np.testing.assert_allclose(made[3, 0], average(other), atol=1e-6)


def test_a_path_that_is_only_begun_changes_nothing(bench: Workbench, editor: FieldEditor) -> None:
    editor.tools.draw_path()
    path = layer(bench, "· path")
    path.add(np.array([[1, 1], [1, 1]]), shape_type="path")
    assert not editor.painted.any()
    editor.tools.draw_path()
    assert len(path.data) == 0
    bench.viewer.layers.remove(path)
    assert editor.tools.draw_path()
    assert layer(bench, "· path") is not path


def test_cells_move_from_one_description_towards_another(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    assert not editor.tools.move("", "fat", 30)
    assert "move towards" in bench.session.status.text
    bench.session.parameters = Parameters(seed=9)
    before = editor.kept.vectors
    layer(bench, "· brush").paint((0, 0), 1)
    layer(bench, "· brush").paint((0, 1), 1)
    assert editor.tools.move("nuclei", "fat", 30)
    post.until(JobDone, bench.handle)
    assert [p.text for p in backend.prompts] == ["nuclei", "fat"]
    made = editor.current.vectors
    assert (np.argwhere((made != before).any(-1)) == [[0, 0], [0, 1]]).all()
    np.testing.assert_allclose((made * before).sum(-1)[0, :2], np.cos(np.radians(30)), atol=1e-5)
    along = np.full(4, 0.5) - np.eye(4)[2]
    assert (made[0, 0] - before[0, 0]) @ along > 0.1
    # Half the amount is half the angle.
    editor.amount = 0.5
    half = (editor.current.vectors * before).sum(-1)[0, 0]
    assert half == pytest.approx(np.cos(np.radians(15)), abs=1e-5)
    editor.draft()
    post.until(JobDone, bench.handle)
    step = step_of(backend)
    assert step["op"] == "move"
    (told,) = step["kinds"].values()
    assert (told["towards"]["text"], told["away"]["text"]) == ("nuclei", "fat")
    assert (told["towards"]["seed"], told["away"]["seed"]) == (9, 9)
    assert told["angle"] == pytest.approx(np.radians(30), abs=1e-3)


def test_tools_without_a_field_say_so(bench: Workbench) -> None:
    editor = FieldEditor(bench)
    tools = editor.tools
    for act in (tools.mix, tools.fill, tools.draw_path, lambda: tools.move("a", "b", 1)):
        assert not act()
        assert "no embeddings are open" in bench.session.status.text.lower()
    editor.close()
