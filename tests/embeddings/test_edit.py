"""Every operation: what it changes, and what it leaves alone bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.embeddings import edit as e
from napari_ssldiff.errors import InputError


def field_of(seed: int = 0, shape: tuple[int, int] = (6, 8), d: int = 16) -> EmbeddingField:
    vectors = np.random.default_rng(seed).normal(size=(*shape, d)).astype(np.float32)
    return EmbeddingField(vectors, (10, 20), (32, 32), "enc@1", 0.5, "micrometer")


A, B = field_of(0), field_of(1)
HALF = np.zeros(A.shape, np.float32)
HALF[:, 4:] = 1


def cosines(a: EmbeddingField, b: EmbeddingField) -> np.ndarray:
    return (a.vectors * b.vectors).sum(-1)


def framed_alike(made: EmbeddingField) -> None:
    assert (made.origin, made.cell, made.encoder) == (A.origin, A.cell, A.encoder)
    np.testing.assert_allclose(np.linalg.norm(made.vectors, axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "operation",
    [
        lambda mask: e.mix(A, B, 0.7, mask),
        lambda mask: e.paint(A, B.vectors[0, 0], mask),
        lambda mask: e.move(A, B.vectors[0, 0], 0.3, mask),
        lambda mask: e.replace_similar(A, A.vectors[0, 5], B.vectors[0, 0], -1.0, mask=mask),
        lambda mask: e.transfer(A, B, mask=mask),
        lambda mask: e.smooth(A, 1.0, mask),
        lambda mask: e.jitter(A, 20.0, 3, mask),
    ],
)
def test_what_the_mask_leaves_out_stays_bit_for_bit_and_the_rest_changes(operation) -> None:
    made = operation(HALF)
    framed_alike(made)
    assert np.array_equal(made.vectors[:, :4], A.vectors[:, :4])
    assert (np.abs(made.vectors[:, 4:] - A.vectors[:, 4:]).max(-1) > 1e-4).mean() > 0.9
    assert operation(np.zeros(A.shape)) == A
    with pytest.raises(InputError, match="does not fit a field"):
        operation(np.ones((2, 2)))
    with pytest.raises(InputError, match="between 0 and 1"):
        operation(HALF * 2)


def test_mixing_is_exact_at_its_ends_and_an_arc_in_between() -> None:
    assert e.mix(A, B, 0) == A
    assert np.array_equal(e.mix(A, B, 1).vectors, B.vectors)
    middle = e.mix(A, B, 0.5)
    np.testing.assert_allclose(cosines(middle, A), cosines(middle, B), atol=1e-5)
    for wrong, words in (
        ((A, field_of(1, (3, 3)), 0.5), "do not mix"),
        ((A, replace(B, encoder="other@1"), 0.5), "different encoders"),
        ((A, B, 1.5), "between 0 and 1"),
    ):
        with pytest.raises(InputError, match=words):
            e.mix(*wrong)


def test_a_ramp_leads_from_one_field_to_the_other() -> None:
    made = e.mix(A, B, 1.0, e.ramp(A.shape, "x"))
    assert np.array_equal(made.vectors[:, 0], A.vectors[:, 0])
    assert np.array_equal(made.vectors[:, -1], B.vectors[:, -1])
    angles = np.arccos(np.clip(cosines(made, A), -1, 1)) / np.arccos(cosines(A, B))
    np.testing.assert_allclose(angles, e.ramp(A.shape, "x"), atol=1e-3)
    assert e.ramp((3, 2), "y")[:, 0].tolist() == [0, 0.5, 1]
    assert e.ramp((1, 1), "y").tolist() == [[0]]


def test_averages_and_directions_point_where_they_should() -> None:
    mean = e.average(A, HALF)
    expected = A.vectors[:, 4:].reshape(-1, A.width).mean(0)
    np.testing.assert_allclose(mean, expected / np.linalg.norm(expected), atol=1e-6)
    along = e.direction(A.vectors[:, 4:], A.vectors[:, :4])
    moved = e.move(A, along, 0.2)
    assert (moved.vectors @ along > A.vectors @ along).all()
    np.testing.assert_allclose(cosines(moved, A), np.cos(0.2), atol=1e-5)
    back = e.move(moved, along, -0.2)
    np.testing.assert_allclose(back.vectors, A.vectors, atol=1e-5)
    with pytest.raises(InputError, match="no direction between them"):
        e.direction(A.vectors, A.vectors)
    with pytest.raises(InputError, match="no mean direction"):
        e.average(A, np.zeros(A.shape))
    with pytest.raises(InputError, match="points nowhere"):
        e.move(A, np.zeros(A.width), 0.1)
    with pytest.raises(InputError, match="needs 16 numbers"):
        e.paint(A, np.ones(3))


def test_what_resembles_is_replaced_and_softness_fades() -> None:
    like, by = A.vectors[2, 3], B.vectors[0, 0]
    hard = e.replace_similar(A, like, by, 0.9)
    assert np.array_equal(hard.vectors[2, 3], by)
    assert (hard.vectors != A.vectors).any(-1).sum() == 1
    soft = e.replace_similar(A, like, by, 0.2, softness=0.4)
    cosine = A.vectors @ like
    assert np.array_equal(soft.vectors[cosine < 0], A.vectors[cosine < 0])
    between = (cosine > 0.05) & (cosine < 0.35)
    gain = (soft.vectors @ by - A.vectors @ by)[between]
    assert (gain > 0).all()
    with pytest.raises(InputError, match="threshold lies in"):
        e.replace_similar(A, like, by, 2.0)


def test_a_transfer_keeps_the_layout_and_uses_the_whole_palette() -> None:
    prototypes = np.eye(16, dtype=np.float32)
    layout = replace(A, vectors=np.where(HALF[..., None] > 0, prototypes[0], prototypes[1]))
    # Another palette, in which the one kind is a little like the one, the other like the other.
    one, other = prototypes[7] + 0.3 * prototypes[0], prototypes[9] + 0.3 * prototypes[1]
    checked = np.indices(A.shape).sum(0)[..., None] % 2
    palette = replace(A, vectors=np.where(checked, one, other))
    kinds = e.transfer(layout, palette).vectors.argmax(-1)
    assert (kinds[:, 4:] == 7).all()
    assert (kinds[:, :4] == 9).all()
    large = field_of(3, (40, 40))
    used = e.transfer(large, B).vectors.reshape(-1, 16)
    counts = np.unique(used, axis=0, return_counts=True)[1]
    assert len(counts) == 48
    assert counts.max() - counts.min() <= 1


def test_smoothing_draws_neighbours_together_and_none_is_none() -> None:
    made = e.smooth(A, 1.5)
    before = (A.vectors[:, 1:] * A.vectors[:, :-1]).sum(-1).mean()
    after = (made.vectors[:, 1:] * made.vectors[:, :-1]).sum(-1).mean()
    assert after > before + 0.5
    assert e.smooth(A, 0) is A


@pytest.mark.parametrize(("d", "kappa"), [(3, 5.0), (16, 50.0), (128, 400.0)])
def test_jitter_has_the_mean_cosine_of_its_concentration(d: int, kappa: float) -> None:
    from scipy.special import ive

    field = field_of(5, (60, 60), d)
    made = e.jitter(field, kappa, 1)
    expected = ive(d / 2, kappa) / ive(d / 2 - 1, kappa)  # the mean resultant length
    assert cosines(made, field).mean() == pytest.approx(expected, abs=0.01)
    assert e.jitter(field, kappa, 1) == made
    assert e.jitter(field, kappa, 2) != made
    for wrong in (0, -1, 1.1e12, 1e17, np.inf, np.nan):
        with pytest.raises(InputError, match="above 0 and at most 1e"):
            e.jitter(field, wrong, 1)
    assert cosines(e.jitter(field, 1e12, 1), field).min() > 1 - 1e-6


def test_seeds_and_sizes_out_of_range_are_refused() -> None:
    for seed in (-1, 2**63):
        for act in (lambda s: e.jitter(A, 5, s), lambda s: e.transfer(A, B, seed=s)):
            with pytest.raises(InputError, match=r"between 0 and 2\*\*63 - 1, got"):
                act(seed)
    for radius in (np.inf, np.nan, 1001, -1):
        with pytest.raises(InputError, match="at least 0 and at most 1000 cells"):
            e.smooth(A, radius)
    with pytest.raises(InputError, match="finite number of radians"):
        e.move(A, B.vectors[0, 0], np.inf)


def test_glass_is_no_part_of_what_a_field_is_like() -> None:
    held = HALF > 0
    sliced = replace(A, valid=held)
    assert np.array_equal(e.content(sliced), A.vectors[held])
    assert np.array_equal(e.typical(sliced), e.average(A, HALF))
    for none in (A, replace(A, valid=np.zeros(A.shape, bool))):
        assert np.array_equal(e.content(none), A.vectors.reshape(-1, A.width))
        assert np.array_equal(e.typical(none), e.average(A))


def test_harmonising_fades_an_edit_into_what_is_around_it() -> None:
    inside = np.zeros(A.shape, bool)
    inside[1:5, 2:8] = True
    edited = e.paint(A, B.vectors[0, 0], inside.astype(np.float32))
    made = e.harmonise(edited, inside, 1)
    assert np.array_equal(made.vectors[~inside], A.vectors[~inside])
    goal = made.vectors @ B.vectors[0, 0]
    assert goal[1, 5] < 0.999
    assert np.array_equal(made.vectors[2:4, 4:6], edited.vectors[2:4, 4:6])  # two cells deep
    assert e.harmonise(edited, np.zeros(A.shape), 2) is edited
    assert e.harmonise(edited, inside, 0) is edited
