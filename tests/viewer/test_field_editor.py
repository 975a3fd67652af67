"""The field editor over a viewer without a window: open, paint, draft, keep, undo, point."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from PIL import Image

from napari_ssldiff.embeddings import colours
from napari_ssldiff.embeddings.colours import Placed
from napari_ssldiff.embeddings.index import Index, image_of
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.scene import PixelSize
from napari_ssldiff.scenes.thumbnail import thumbnail
from napari_ssldiff.viewer import field_editor
from napari_ssldiff.viewer.field_editor import FieldEditor
from napari_ssldiff.viewer.field_job import OpenedField
from napari_ssldiff.viewer.field_renders import cell_of
from napari_ssldiff.viewer.lookup import Elsewhere
from napari_ssldiff.viewer.messages import (
    JobCancelled,
    JobDone,
    JobFailed,
    JobPainted,
    JobPreview,
    JobProgress,
    NearFound,
    PatchDone,
    PicturesRead,
)
from napari_ssldiff.viewer.patches import patches_of
from napari_ssldiff.viewer.pointing import Pointed
from napari_ssldiff.viewer.session import Parameters, Wording
from napari_ssldiff.viewer.workbench import Workbench

REGION = Box(32, 16, 64, 96)  # 4 × 6 cells of the fake backend


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


def paint(editor: FieldEditor, bench: Workbench, label: int, *cells: tuple[int, int]) -> None:
    brush = layer(bench, "· brush")
    for cell in cells:
        brush.paint(cell, label)


def test_a_region_opens_as_a_map_with_a_brush_in_its_place(
    bench: Workbench, editor: FieldEditor
) -> None:
    assert editor.opened is not None
    assert len(editor.kinds) == 2  # the fake field holds two
    assert editor.kinds[0].picture.shape == (48, 48, 3)  # type: ignore[union-attr]
    shown, source = layer(bench, "· embeddings"), bench.source
    assert shown.data.shape == (4, 6, 3)
    assert len(np.unique(shown.data.reshape(-1, 3), axis=0)) == 2
    # The corner of the first cell is the corner of the region.
    assert source is not None
    corner = np.array(source.data_to_world((REGION.y - 0.5, REGION.x - 0.5)))
    np.testing.assert_allclose(shown.data_to_world((-0.5, -0.5)), corner)
    end = np.array(source.data_to_world((REGION.y1 - 0.5, REGION.x1 - 0.5)))
    np.testing.assert_allclose(layer(bench, "· brush").data_to_world((3.5, 5.5)), end)
    assert "2 kinds" in bench.session.status.text.lower()


def test_a_cell_is_as_wide_for_the_model_as_the_scene_says(
    bench: Workbench, editor: FieldEditor
) -> None:
    opened = editor.opened
    assert opened is not None
    coarse = replace(opened, field=replace(opened.field, resolution=2.0))
    assert cell_of(opened) == 16
    assert cell_of(coarse) == 4  # 16 px of 0.5 µm
    # A scene without a unit is taken to be at the model's resolution, whatever that is.
    scene = SimpleNamespace(encoder_pixel_size=PixelSize(1, 1, "pixel"))
    assert cell_of(replace(coarse, scene=scene)) == 16


def test_a_stroke_is_drafted_where_it_touches_and_nowhere_else(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    strokes: list[int] = []
    editor.stroke.connect(lambda: strokes.append(1))
    right = int(editor.opened.found.labels[0, 5]) + 1  # type: ignore[union-attr]
    paint(editor, bench, right, (1, 0), (1, 1))
    assert strokes
    assert editor.draft()
    post.until(JobDone, bench.handle)
    request = backend.requests[-1]
    assert request.region.bounds == Box(48, 16, 16, 32)
    assert request.sampler.preset == "draft"
    before, after = editor.opened.field.vectors, request.field.vectors  # type: ignore[union-attr]
    changed = (before != after).any(-1)
    assert {(int(r), int(c)) for r, c in np.argwhere(changed)} == {(1, 0), (1, 1)}
    np.testing.assert_allclose(after[1, 0], before[0, 5], atol=1e-6)
    assert json.loads(request.history[-1])["op"] == "paint"
    # Nothing new: nothing to draft.
    count = len(backend.requests)
    assert editor.draft()
    assert len(backend.requests) == count
    # Erased, the cell is made again as it was.
    paint(editor, bench, 0, (1, 1))
    assert editor.draft()
    post.until(JobDone, bench.handle)
    assert backend.requests[-1].region.bounds == Box(48, 32, 16, 16)
    np.testing.assert_array_equal(backend.requests[-1].field.vectors[1, 1], before[1, 1])


def test_the_amount_mixes_and_only_the_last_move_counts(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    paint(editor, bench, int(editor.opened.found.labels[0, 5]) + 1, (0, 0))  # type: ignore[union-attr]
    backend.delay = 0.2
    editor.amount = 0.25
    editor.draft()
    editor.amount = 0.5
    editor.draft()
    ends = [post.until((JobDone, JobCancelled), bench.handle) for _ in range(2)]
    assert sum(isinstance(end, JobCancelled) for end in ends) == 1
    cell = backend.requests[-1].field.vectors[0, 0]
    np.testing.assert_allclose(cell[:2], [0.5**0.5] * 2, atol=1e-6)


def test_a_draft_that_was_dropped_is_made_up_for(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    label = int(editor.opened.found.labels[0, 5]) + 1  # type: ignore[union-attr]
    backend.delay = 0.2
    paint(editor, bench, label, (0, 0))
    editor.draft()
    editor.amount = 0.5
    paint(editor, bench, label % 2 + 1, (3, 5))
    editor.draft()  # drops the first, whose cell nobody has seen yet
    ends = [post.until((JobDone, JobCancelled), bench.handle) for _ in range(2)]
    assert [type(end) for end in ends] == [JobCancelled, JobDone]
    made = [request.region.bounds for request in backend.requests[-2:]]
    assert made == [Box(32, 16, 16, 16), Box(80, 96, 16, 16)]


def test_a_draft_that_is_still_right_goes_on(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    label = int(editor.opened.found.labels[0, 5]) + 1  # type: ignore[union-attr]
    backend.delay = 0.2
    paint(editor, bench, label, (0, 0))
    editor.draft()
    paint(editor, bench, label, (3, 2))
    editor.draft()
    editor.draft()  # nothing new
    ends = [post.until((JobDone, JobCancelled), bench.handle) for _ in range(2)]
    assert [type(end) for end in ends] == [JobDone, JobDone]
    made = [request.region.bounds for request in backend.requests]
    assert made == [Box(32, 16, 16, 16), Box(80, 48, 16, 16)]


def test_scattered_strokes_are_one_job_and_near_ones_one_region(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    label = int(editor.opened.found.labels[0, 5]) + 1  # type: ignore[union-attr]
    paint(editor, bench, label, (0, 0), (1, 1))
    paint(editor, bench, label % 2 + 1, (3, 5), (2, 5))
    editor.draft()
    post.until(JobDone, bench.handle)
    assert len({m.job for m in post.seen if isinstance(m, JobPainted)}) == 1
    near, far = (request.region for request in backend.requests)
    assert (near.bounds, far.bounds) == (Box(32, 16, 32, 32), Box(64, 96, 32, 16))
    inside = near.mask(near.bounds)
    assert inside[:16, :16].all()
    assert inside[16:, 16:].all()
    assert inside.sum() == 2 * 16 * 16
    previews = [m.region for m in post.seen if isinstance(m, JobPreview)]
    assert previews[0] == near
    assert previews[-1] == far
    progress = [m.fraction for m in post.seen if isinstance(m, JobProgress) and m.fraction]
    sampling = [f for f in progress if f < 1]
    assert sampling[0] < 0.5 < sampling[-1]
    assert "2 patches" in bench.session.status.text
    count = len(backend.requests)
    editor.draft()
    assert len(backend.requests) == count


def test_patches_that_are_whole_stay_when_their_job_is_stopped(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    label = int(editor.opened.found.labels[0, 5]) + 1  # type: ignore[union-attr]
    paint(editor, bench, label, (0, 0))
    paint(editor, bench, label % 2 + 1, (3, 5))
    backend.delay = 0.1
    editor.draft()
    post.until(PatchDone, bench.handle)
    bench.cancel()
    post.until(JobCancelled, bench.handle)
    editor.draft()
    post.until(JobDone, bench.handle)
    made = [request.region.bounds for request in backend.requests]
    assert made.count(Box(32, 16, 16, 16)) == 1
    assert made[-1] == Box(80, 96, 16, 16)


def test_a_run_that_broke_half_way_is_made_again(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    label = int(editor.opened.found.labels[0, 5]) + 1  # type: ignore[union-attr]
    backend.sample_error = InputError("no")
    paint(editor, bench, label, (0, 0))
    editor.draft()
    post.until(JobFailed, bench.handle)
    backend.sample_error = None
    editor.draft()
    post.until(JobDone, bench.handle)
    # Taken off while it is made: what is painted of it must not stay.
    backend.tile_delay = 0.3
    paint(editor, bench, label, *((r, c) for r in range(4) for c in range(3)))
    editor.draft()
    post.until(JobPainted, bench.handle)
    editor.undo()
    post.until(JobCancelled, bench.handle)
    post.until(JobDone, bench.handle)
    assert backend.requests[-1].field.digest == editor.opened.field.digest  # type: ignore[union-attr]


def test_another_model_or_scene_is_not_drawn_upon(
    bench: Workbench, editor: FieldEditor, add_slide: Callable[..., Any]
) -> None:
    paint(editor, bench, 1, (0, 5))
    bench.session.model_id = "demo-naip"
    assert not editor.draft()
    assert "those of demo-histology" in bench.session.status.text
    bench.session.model_id = "demo-histology"
    bench.choose_source(add_slide(bench.viewer, name="other"))
    assert not editor.draft()
    assert "choose that scene" in bench.session.status.text


def test_kept_edits_are_rendered_and_undone_bit_for_bit(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    bench.session.parameters = Parameters(seed=5, preset="bulk")
    digest = editor.opened.field.digest  # type: ignore[union-attr]
    label = int(editor.opened.found.labels[0, 5]) + 1  # type: ignore[union-attr]
    assert not editor.keep()
    assert "nothing is painted" in bench.session.status.text.lower()
    paint(editor, bench, label, (3, 0))
    editor.draft()
    post.until(JobDone, bench.handle)
    assert editor.keep()
    post.until(JobDone, bench.handle)
    request = backend.requests[-1]
    assert (request.sampler.preset, request.sampler.seed) == ("bulk", 5)
    assert request.region.bounds == Box(80, 16, 16, 16)  # again, although a draft has shown it
    assert [json.loads(s)["op"] for s in request.history] == ["paint"]
    assert not editor.painted.any()
    assert editor.edited is not None
    assert editor.edited.field.digest == request.field.digest != digest
    # Paint goes first, then what was kept.
    paint(editor, bench, label, (0, 0))
    assert editor.undo()
    assert not editor.painted.any()
    assert editor.edited.field.digest != digest
    assert editor.undo()
    post.until(JobDone, bench.handle)
    assert editor.edited.field.digest == digest
    assert backend.requests[-1].field.digest == digest
    assert backend.requests[-1].region.bounds == Box(80, 16, 16, 16)
    assert not editor.undo()
    assert "nothing to undo" in bench.session.status.text.lower()


class Stains(tuple):  # what the fake backend takes for a model
    """A model that translates what it embeds."""

    embedded = (json.dumps({"op": "translate", "to": "HER2"}),)


def test_edits_of_a_translated_field_begin_with_its_translation(
    bench: Workbench, backend: Any, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "load", lambda model_id, device: Stains((model_id, device)))
    asked: list[str] = []
    bench.confirm = lambda question: bool(asked.append(question))
    editor = FieldEditor(bench)
    assert editor.open(4)
    post.until(JobDone, bench.handle)
    assert editor.open(4), "there is no edit that could be lost"
    post.until(JobDone, bench.handle)
    assert not asked
    label = int(editor.opened.found.labels[0, 5]) + 1  # type: ignore[union-attr]
    paint(editor, bench, label, (3, 0))
    assert editor.keep()
    post.until(JobDone, bench.handle)
    history = [json.loads(step) for step in backend.requests[-1].history]
    assert [step["op"] for step in history] == ["translate", "paint"]
    assert history[0]["to"] == "HER2"
    assert not editor.open(4)
    assert asked
    editor.close()


def test_pointing_shows_where_more_of_it_is_and_which_real_cells_are_like_it(
    bench: Workbench, editor: FieldEditor
) -> None:
    seen: list[Pointed] = []
    editor.pointed_at.connect(seen.append)
    assert editor.point(2, 4)
    heat = layer(bench, "· similarity").data
    np.testing.assert_allclose(heat[:, 3:], 1, atol=1e-6)
    np.testing.assert_allclose(heat[:, :3], 0, atol=1e-6)
    (pointed,) = seen
    assert len(pointed.near) == 5
    assert all(n.column >= 3 and (n.row, n.column) != (2, 4) for n in pointed.near)
    # A painted cell is compared as what it has become.
    paint(editor, bench, int(editor.opened.found.labels[0, 0]) + 1, (2, 4))  # type: ignore[union-attr]
    editor.point(2, 4)
    assert all(n.column < 3 for n in seen[-1].near)


def test_pictures_of_real_cells_are_read_beside_the_window(
    bench: Workbench, editor: FieldEditor, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, threads = list[PicturesRead](), set[int]()
    editor.looked_up.connect(read.append)
    plain = OpenedField.picture

    def picture(self: OpenedField, row: int, column: int) -> Any:
        threads.add(threading.get_ident())
        return plain(self, row, column)

    monkeypatch.setattr(OpenedField, "picture", picture)
    editor.point(2, 4)
    post.until(PicturesRead, bench.handle)
    (answer,) = read
    assert editor.opened is not None
    for near, pixels in zip(answer.of.near, answer.pictures, strict=True):
        np.testing.assert_array_equal(pixels, plain(editor.opened, near.row, near.column))
    assert threads.isdisjoint({threading.get_ident()})


def test_a_slide_that_is_gone_when_its_cells_are_to_be_shown_is_told_of(
    bench: Workbench, editor: FieldEditor, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[PicturesRead]()
    editor.looked_up.connect(read.append)
    left = [2]

    def picture(self: OpenedField, row: int, column: int) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("slide.svs: no such file")
        return np.zeros((48, 48, 3), np.uint8)

    monkeypatch.setattr(OpenedField, "picture", picture)
    editor.point(2, 4)
    post.until(PicturesRead, bench.handle)
    assert (len(read[0].pictures), read[0].problem) == (2, "OSError: slide.svs: no such file")


def test_a_kind_that_is_picked_shows_real_cells_of_its_own(
    bench: Workbench, editor: FieldEditor
) -> None:
    seen: list[Pointed] = []
    editor.pointed_at.connect(seen.append)
    assert editor.opened is not None
    for kind in range(2):
        assert editor.choose(kind)
        pointed, labels = seen[-1], editor.opened.found.labels
        assert pointed.about.startswith(f"Kind {kind + 1} and the real cells of it in the region")
        assert len(pointed.near) == 5
        assert all(labels[n.row, n.column] == kind for n in pointed.near)
    columns = [{n.column < 3 for n in pointed.near} for pointed in seen]
    assert sorted(map(list, columns)) == [[False], [True]]


@pytest.fixture
def whole(bench: Workbench, post: Any) -> Iterator[FieldEditor]:
    """An editor whose kinds are of the whole slide, of which every other cell was looked at."""
    editor = FieldEditor(bench)
    assert editor.open(4, True)
    post.until(JobDone, bench.handle)
    yield editor
    editor.close()


def test_kinds_of_the_whole_slide_are_found_outside_the_region_too(
    bench: Workbench, whole: FieldEditor, post: Any
) -> None:
    opened = whole.opened
    assert opened is not None
    assert opened.whole is not None
    # Of the slide's two kinds the region has only the one of its left half.
    assert [kind.vector.argmax() for kind in whole.kinds] == [2, 0]
    assert len(whole.kinds) == 2
    assert sum(opened.shares) == pytest.approx(1)
    assert opened.shares[0] > opened.shares[1] > 0  # the background row is of neither
    assert (opened.found.labels.shape, opened.field.shape) == ((4, 6), (4, 6))
    assert (opened.found.labels[:, :3] == 1).all()
    # Their pictures are of the cells that they say, not of the blocks that these stand for.
    for kind, (row, column) in zip(whole.kinds, opened.whole.found.cells, strict=True):
        y, x = opened.corner(row, column)
        assert (y % 32, x % 32) == (16, 16)
        real = thumbnail(opened.scene, (y, x), (16, 16), 48)
        np.testing.assert_array_equal(kind.picture, real)
    # They are painted onto the region like its own.
    paint(whole, bench, 1, (0, 0))
    assert whole.current.vectors[0, 0].argmax() == 2


def test_similarity_is_shown_all_over_the_slide(bench: Workbench, whole: FieldEditor) -> None:
    seen: list[Pointed] = []
    whole.pointed_at.connect(seen.append)
    assert whole.point(0, 0)
    heat = layer(bench, "· whole slide · similarity")
    assert np.isnan(heat.data[0]).all()  # background
    half = heat.data.shape[0] // 2
    np.testing.assert_allclose(heat.data[1:half], 1, atol=1e-6)
    np.testing.assert_allclose(heat.data[half:], 0, atol=1e-6)
    # It lies over the whole slide, and that of the region over the region.
    assert tuple(heat.scale[-2:] / layer(bench, "· brush").scale[-2:]) == (2, 2)
    names = [x.name for x in bench.viewer.layers]
    for what in ("embeddings", "similarity"):  # the region's lie above
        (slide,) = (i for i, n in enumerate(names) if n.endswith(f"whole slide · {what}"))
        (own,) = (i for i, n in enumerate(names) if n.endswith(what) and i != slide)
        assert own > slide
        assert names[own].removesuffix(what) == names[slide].removesuffix(f"whole slide · {what}")
    own_heat = bench.viewer.layers[names[slide].replace(" · whole slide", "")]
    assert own_heat.contrast_limits == heat.contrast_limits  # one colour is one cosine
    near = seen[-1].near
    assert "in the whole slide" in seen[-1].about
    assert len(near) == 5
    assert all(0 < n.row < half for n in near)
    # A cell of the slide can be pointed at as well; it is not among those like it.
    assert whole.point(half + 1, 3, True)
    assert layer(bench, "· whole slide · similarity").data[half + 1, 3] == pytest.approx(1)
    assert all(n.row >= half and (n.row, n.column) != (half + 1, 3) for n in seen[-1].near)
    assert not whole.point(0, 0, True)
    assert "background" in bench.session.status.text
    assert whole.choose(0)
    assert "kind 1 and the real cells of it in the whole slide" in seen[-1].about.lower()
    assert all(n.row >= half for n in seen[-1].near)
    assert layer(bench, "· whole slide · embeddings").data[0, 0, 3] == 0
    whole.close()
    assert not [x.name for x in bench.viewer.layers if "whole slide" in x.name]


def test_sampling_the_slide_can_be_cancelled(bench: Workbench, backend: Any, post: Any) -> None:
    backend.delay = 30.0
    editor = FieldEditor(bench)
    assert editor.open(4, True)
    while post.until(JobProgress, bench.handle).stage != "Sampling the slide":
        pass
    bench.cancel()
    post.until(JobCancelled, bench.handle)
    assert editor.opened is None
    editor.close()


def test_colours_stay_from_one_field_of_an_encoder_to_the_next(
    bench: Workbench, editor: FieldEditor, post: Any
) -> None:
    before = layer(bench, "· embeddings").data.copy()
    bench.regions.layer.data = []  # type: ignore[union-attr]
    bench.regions.add(Region.from_box(Box(0, 0, 64, 32)), "rectangle")
    editor.open(4)
    post.until(JobDone, bench.handle)
    after = layer(bench, "· embeddings").data
    assert after.shape == (4, 2, 3)
    np.testing.assert_array_equal(after[0, 0], before[0, 0])
    np.testing.assert_array_equal(after[0, 1], before[0, 5])


def test_colours_stay_from_one_session_to_the_next(
    bench: Workbench, editor: FieldEditor, post: Any
) -> None:
    before = layer(bench, "· embeddings").data.copy()
    editor.close()
    bench.regions.layer.data = []  # type: ignore[union-attr]
    # All of one kind: fitted to it, everything would have the colour of the middle.
    bench.regions.add(Region.from_box(Box(200, 100, 64, 32)), "rectangle")
    other = FieldEditor(bench)
    other.open(4)
    post.until(JobDone, bench.handle)
    after = layer(bench, "· embeddings").data
    np.testing.assert_array_equal(after[0, 0], before[0, 0])
    np.testing.assert_array_equal(other.colour_of(other.kinds[0]), before[0, 0])
    other.close()


def test_the_map_can_be_coloured_by_umap(
    bench: Workbench, editor: FieldEditor, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = layer(bench, "· embeddings").data.copy()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not editor.colour("umap")
    assert "pip install 'napari-ssldiff[umap]'" in bench.session.status.text
    assert editor.method == "pca"
    made = Placed(np.eye(4, dtype=np.float32), np.eye(4, 3, dtype=np.float32))
    monkeypatch.setattr(colours, "need_umap", lambda: None)
    monkeypatch.setattr(field_editor, "need_umap", lambda: None)
    monkeypatch.setattr(colours, "fit_umap", lambda field: made)
    assert editor.colour("umap")
    post.until(JobDone, bench.handle)
    assert editor.method == "umap"
    shown = layer(bench, "· embeddings").data
    assert (shown[0, 0] == [255, 0, 0]).all()
    assert (shown[0, 5] == [0, 255, 0]).all()
    assert editor.colour("pca")
    np.testing.assert_array_equal(layer(bench, "· embeddings").data, before)
    assert editor.colour("umap")  # kept: at once
    np.testing.assert_array_equal(layer(bench, "· embeddings").data, shown)


def test_a_data_set_is_asked_too_when_a_cell_is_pointed_at(
    bench: Workbench, editor: FieldEditor, post: Any, tmp_path: Path
) -> None:
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, 32:] = 200
    names = ("a.png", "b.png")
    spec = SimpleNamespace(id="fake", width=4)
    index = Index.at(tmp_path / "all", spec)  # type: ignore[arg-type]
    for i, name in enumerate(names):
        Image.fromarray(pixels).save(tmp_path / name)
        at = image_of(tmp_path / name, name, index.folder, (32, 32), (1.0, 1.0, "pixel"))
        # The first image has a cell of each kind, the other has twice the third axis.
        vectors = np.eye(4, dtype=np.float32)[[0, 1] if i == 0 else [2, 2]]
        part = index.write_part(vectors, np.array([[0, 0], [0, 1]], np.int32))
        index.add(replace(at, cells=2), [part])
    found: list[Elsewhere] = []
    editor.looked_up.connect(lambda m: isinstance(m, Elsewhere) and found.append(m))
    (tmp_path / "b.png").unlink()
    assert editor.open_index(index.folder)
    assert f"moved or removed since: {tmp_path / 'b.png'}" in bench.session.status.text
    assert editor.point(2, 4)
    post.until(NearFound, bench.handle)
    (elsewhere,) = found
    first = elsewhere.cells[0]
    assert (elsewhere.row, elsewhere.column) == (2, 4)
    assert (first.image.name, first.corner) == ("a.png", (0, 32))
    assert first.cosine == pytest.approx(1, abs=1e-3)
    assert elsewhere.pictures[0] is not None
    assert elsewhere.pictures[0].mean() == pytest.approx(200, abs=2)
    gone = [p is None for c, p in zip(elsewhere.cells, elsewhere.pictures, strict=True)
            if c.image.name == "b.png"]  # fmt: skip
    assert gone == [True, True]
    # A damaged index is told of; one of another encoder is not taken.
    next(index.folder.glob("*.safetensors")).write_bytes(b"x")
    editor.point(0, 0)
    post.until(NearFound, bench.handle)
    assert "make the index again" in found[-1].problem
    other = Index.at(tmp_path / "other", SimpleNamespace(id="other", width=4))  # type: ignore[arg-type]
    other.add(at, [])
    assert not editor.open_index(other.folder)
    assert "holds embeddings of other, not of fake" in bench.session.status.text
    assert editor.index is not None
    assert editor.index.encoder == "fake"


def test_what_is_refused_changes_nothing(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    paint(editor, bench, int(editor.opened.found.labels[0, 5]) + 1, (0, 0))  # type: ignore[union-attr]
    editor.keep()
    post.until(JobDone, bench.handle)
    paint(editor, bench, 1, (0, 1))
    kept, bench.session.model_id = editor.edited, "demo-naip"
    for act in (editor.keep, editor.undo, editor.draft):
        assert not act()
        assert "choose that model" in bench.session.status.text
    assert editor.edited is kept
    assert editor.painted.any()
    # Edits are not given up unasked.
    bench.session.model_id = "demo-histology"
    assert not editor.open(3)
    assert editor.edited is kept


def test_a_kept_edit_that_was_cancelled_can_be_kept_again(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    backend.delay = 0.3
    bench.session.parameters = Parameters(preset="bulk", strength=0.3)
    paint(editor, bench, int(editor.opened.found.labels[0, 5]) + 1, (0, 0))  # type: ignore[union-attr]
    editor.keep()
    bench.cancel()
    post.until(JobCancelled, bench.handle)
    assert editor.keep()
    post.until(JobDone, bench.handle)
    assert backend.requests[-1].region.bounds == Box(32, 16, 16, 16)
    # An edit is made of its field alone; a source that shines through would add up.
    assert backend.requests[-1].sampler.strength == 1
    assert not editor.keep()


def test_layers_of_a_field_are_no_scenes_and_go_with_the_editor(
    bench: Workbench, editor: FieldEditor
) -> None:
    assert bench.viewer.layers.selection.active is layer(bench, "· embeddings")  # takes clicks
    editor.point(0, 0)
    assert [s.name for s in bench.sources()] == ["slide"]
    editor.close()
    assert not [x for x in bench.viewer.layers if "·" in x.name]


def test_without_its_overlay_an_edit_is_made_again(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    paint(editor, bench, int(editor.opened.found.labels[0, 5]) + 1, (0, 0))  # type: ignore[union-attr]
    editor.keep()
    post.until(JobDone, bench.handle)
    bench.viewer.layers.remove(layer(bench, "· synthetic"))
    assert editor.keep()
    post.until(JobDone, bench.handle)
    assert backend.requests[-1].region.bounds == Box(32, 16, 16, 16)


def test_napari_s_undo_of_a_stroke_is_a_stroke(bench: Workbench, editor: FieldEditor) -> None:
    strokes: list[int] = []
    editor.stroke.connect(lambda: strokes.append(1))
    paint(editor, bench, 1, (0, 5))
    before = len(strokes)
    assert before
    layer(bench, "· brush").undo()
    assert len(strokes) > before
    assert not editor.painted.any()


def test_drafts_of_one_place_leave_one_run_in_the_provenance(
    bench: Workbench, editor: FieldEditor, post: Any
) -> None:
    paint(editor, bench, int(editor.opened.found.labels[0, 5]) + 1, (0, 0))  # type: ignore[union-attr]
    for amount in (0.2, 0.5, 0.9):
        editor.amount = amount
        editor.draft()
        post.until(JobDone, bench.handle)
    told = layer(bench, "· synthetic").metadata["napari_ssldiff"]
    assert told["earlier_runs"] == []
    assert json.loads(json.dumps(told["request"]["history"][-1]))["amount"] == 0.9
    bench.session.parameters = Parameters(preset="bulk")
    editor.keep()
    post.until(JobDone, bench.handle)
    told = layer(bench, "· synthetic").metadata["napari_ssldiff"]
    assert told["earlier_runs"] == []
    assert not told["draft_of_an_edit"]


def test_words_become_a_kind_that_can_be_painted(
    bench: Workbench, editor: FieldEditor, backend: Any, post: Any
) -> None:
    assert not editor.tools.describe()
    assert "the prompt is empty" in bench.session.status.text.lower()
    bench.session.wording = Wording("dense nuclei", negative="fat")
    bench.session.parameters = Parameters(seed=7)
    assert editor.tools.describe()
    post.until(JobDone, bench.handle)
    assert "can be painted" in bench.session.status.text.lower()
    assert (backend.prompts[-1].text, backend.prompts[-1].negative) == ("dense nuclei", "fat")
    assert [kind.name for kind in editor.kinds] == ["kind 1", "kind 2", "dense nuclei"]
    assert layer(bench, "· brush").selected_label == 3
    paint(editor, bench, 3, (0, 0))
    editor.keep()
    post.until(JobDone, bench.handle)
    np.testing.assert_allclose(backend.requests[-1].field.vectors[0, 0], 0.5, atol=1e-6)
    step = json.loads(backend.requests[-1].history[-1])
    assert step["cells"] == {"dense nuclei": 1}
    # Everything that it takes to make the kind again.
    told = step["kinds"]["dense nuclei"]
    assert (told["text"], told["negative"], told["seed"]) == ("dense nuclei", "fat", 7)
    # A label that napari offers and nobody has made.
    paint(editor, bench, 9, (0, 1))
    assert not editor.draft()
    assert "there is no kind 9" in bench.session.status.text.lower()


def test_layers_may_be_removed_at_any_time(bench: Workbench, editor: FieldEditor) -> None:
    bench.viewer.layers.remove(layer(bench, "· brush"))
    assert not editor.keep()
    assert editor.choose(1)
    assert layer(bench, "· brush").selected_label == 2
    bench.viewer.layers.remove(layer(bench, "· embeddings"))
    assert editor.point(0, 0)
    bench.viewer.layers.remove(bench.source)
    assert editor.opened is None
    assert not [x for x in bench.viewer.layers if x.name.endswith(("· brush", "· similarity"))]
    for act in (editor.draft, editor.keep, editor.undo, lambda: editor.point(0, 0)):
        assert not act()
        assert "no embeddings are open" in bench.session.status.text.lower()


def test_an_edit_outside_the_image_is_refused(editor: FieldEditor) -> None:
    field = editor.opened.field  # type: ignore[union-attr]
    touched = np.zeros(field.shape, bool)
    touched[3, 5] = True
    ((_, whole),) = patches_of(field, touched, Box(0, 0, 500, 500))
    assert whole.bounds == Box(80, 96, 16, 16)
    ((_, part),) = patches_of(field, touched, Box(0, 0, 90, 500))
    assert part.bounds == Box(80, 96, 10, 16)
    touched[0, 0] = True  # three cells between them
    assert len(patches_of(field, touched, Box(0, 0, 500, 500))) == 2
    assert patches_of(field, touched, Box(0, 0, 20, 20)) == []
