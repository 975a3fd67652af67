"""Colours, similarity, prototypes and nearest cells of a field; edits and their undoing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from napari_ssldiff.embeddings import EmbeddingField, edit
from napari_ssldiff.embeddings.edited import EditedField, changed_cells
from napari_ssldiff.embeddings.look import fit_colours, nearest, prototypes, similarity
from napari_ssldiff.errors import InputError


def field_of(vectors: np.ndarray, **changes: object) -> EmbeddingField:
    made = EmbeddingField(vectors.astype(np.float32), (0, 0), (32, 32), "test", 0.5, "micrometer")
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def three() -> tuple[EmbeddingField, np.ndarray]:
    """Three kinds of cells, 30, 20 and 10 of each, a little apart among themselves."""
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(3), (30, 20, 10))
    rng.shuffle(kinds)
    vectors = np.eye(3, 16)[kinds] + 0.05 * rng.normal(size=(60, 16))
    return field_of(vectors.reshape(6, 10, 16)), kinds.reshape(6, 10)


def test_cells_of_like_content_have_like_colours(three: tuple[EmbeddingField, np.ndarray]) -> None:
    field, kinds = three
    colours = fit_colours(field)
    painted = colours(field.vectors).astype(float)
    assert painted.shape == (6, 10, 3)
    middle = np.stack([painted[kinds == k].mean(0) for k in range(3)])
    within = max(painted[kinds == k].std(0).mean() for k in range(3))
    apart = min(np.abs(middle[a] - middle[b]).max() for a, b in ((0, 1), (0, 2), (1, 2)))
    assert apart > 3 * within
    # Stable: another field of the encoder is drawn with the same colours, and a part of this one
    # has the colours that it has within the whole.
    part = field_of(field.vectors[:2, :3])
    np.testing.assert_array_equal(colours(part.vectors), painted[:2, :3])


def test_a_field_of_one_kind_has_one_colour() -> None:
    field = field_of(np.ones((2, 2, 4)))
    assert len(np.unique(fit_colours(field)(field.vectors).reshape(-1, 3), axis=0)) == 1


def test_background_has_no_say_in_colours_and_is_no_prototype() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(4, 4, 8))
    vectors[0] = -9 * np.eye(8)[0]  # glass
    valid = np.ones((4, 4), bool)
    valid[0] = False
    with_, without = field_of(vectors, valid=valid), field_of(vectors[1:])
    np.testing.assert_allclose(fit_colours(with_).axes, fit_colours(without).axes, atol=1e-5)
    found = prototypes(with_, 3)
    assert all(row > 0 for row, _ in found.cells)
    assert all(near.row > 0 for near in nearest(with_, vectors[0, 0], 16))
    assert len(nearest(with_, vectors[0, 0], 16)) == 12


def test_prototypes_are_the_kinds_most_frequent_first(
    three: tuple[EmbeddingField, np.ndarray],
) -> None:
    field, kinds = three
    found = prototypes(field, 3)
    np.testing.assert_array_equal(found.labels, kinds)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    assert [int(kinds[cell]) for cell in found.cells] == [0, 1, 2]
    again = prototypes(field, 3)
    np.testing.assert_array_equal(again.vectors, found.vectors)
    assert len(prototypes(field_of(np.ones((2, 2, 4))), 5).vectors) == 1
    with pytest.raises(InputError, match="at least 1"):
        prototypes(field, 0)


@pytest.mark.parametrize("seed", range(8))
def test_a_prototypes_cell_is_of_its_kind_and_kinds_are_in_order_of_their_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(6, 5)) * rng.uniform(0.2, 1, (6, 1))
    field = field_of(middles[rng.integers(6, size=(9, 9))] + 0.5 * rng.normal(size=(9, 9, 5)))
    found = prototypes(field, 7)
    counts = np.bincount(found.labels.ravel(), minlength=len(found.vectors))
    assert list(counts) == sorted(counts, reverse=True)
    assert counts.min() > 0
    assert [int(found.labels[cell]) for cell in found.cells] == list(range(len(found.vectors)))


def test_the_nearest_cells_come_first_and_the_cell_itself_does_not_count(
    three: tuple[EmbeddingField, np.ndarray],
) -> None:
    field, kinds = three
    heat = similarity(field, field.vectors[2, 3])
    assert heat[2, 3] == pytest.approx(1, abs=1e-6)
    found = nearest(field, field.vectors[2, 3], 5, beside=(2, 3))
    assert (2, 3) not in [(n.row, n.column) for n in found]
    assert [n.cosine for n in found] == sorted((n.cosine for n in found), reverse=True)
    assert {int(kinds[n.row, n.column]) for n in found} == {int(kinds[2, 3])}
    with pytest.raises(InputError, match="16 numbers"):
        similarity(field, np.ones(3))


def test_edits_are_recorded_and_undone_bit_for_bit(
    three: tuple[EmbeddingField, np.ndarray],
) -> None:
    field, _ = three
    start = EditedField(field)
    mask = np.zeros(field.shape)
    mask[1, 2] = 1
    painted = edit.paint(field, np.eye(16)[5], mask)
    once = start.then(painted, "paint", prototype=5, cells=1)
    twice = once.then(edit.smooth(painted, 1), "smooth", radius=1)
    assert [json.loads(step)["op"] for step in twice.history] == ["paint", "smooth"]
    assert json.loads(twice.history[0])["prototype"] == 5
    np.testing.assert_array_equal(changed_cells(field, once.field), mask > 0)
    back = twice.undone().undone()
    assert back.field.digest == field.digest
    assert back.history == ()
    with pytest.raises(InputError, match="nothing to undo"):
        back.undone()
    stained = EditedField(field, origin=('{"op": "translate"}',))
    assert stained.history == ('{"op": "translate"}',)
    more = stained.then(painted, "paint").then(field, "mix")
    assert [json.loads(step)["op"] for step in more.history] == ["translate", "paint", "mix"]
    assert more.undone().undone() is stained
    with pytest.raises(InputError, match="keeps a field's place"):
        start.then(replace(field, origin=(8, 0)), "move")
