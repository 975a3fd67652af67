"""A prior's field without bounds: the same cells whatever was asked before, on any thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.embeddings.control_points import ControlPoints
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import Cancelled, InputError, ModelError
from napari_ssldiff.synthesis.places import read_places
from napari_ssldiff.text.places import PriorPlaces, typical_cells
from napari_ssldiff.text.prior import Prior

Make = Callable[..., PriorPlaces]
SAYS = np.eye(16, dtype=np.float32)
CELL = 32


@pytest.fixture
def make(prior: Prior) -> Make:
    def build(points: Any = ((0, 0),), said: Any = SAYS[:1], **how: Any) -> PriorPlaces:
        condition = ControlPoints(np.asarray(points, float), said, "text")
        expected = ControlPoints(
            condition.points, np.eye(12, dtype=np.float32)[: len(said)], "tiny@1"
        )
        how = {"steps": 3, "batch": 4, "seed": 5, "typical": expected, **how}
        return PriorPlaces(prior, "h" * 64, condition, **how)

    return build


def centres(first: int, count: int) -> np.ndarray:
    """Middles of cells, in pixels."""
    return (first + np.arange(count) + 0.5) * CELL


def test_cells_are_the_same_to_the_bit_whatever_was_asked_before(make: Make) -> None:
    y, x = centres(31, 2)[:, None], centres(-2, 3)[None, :]  # across borders of blocks
    first, other = make(), make(cache_bytes=0)
    whole = first.sample(y, x)
    assert whole.shape == (2, 3, 12)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(whole, axis=-1), 1, atol=1e-5)
    assert whole.std(axis=(0, 1)).max() > 0.01
    # Elsewhere before, cell by cell, the last first, and with nothing kept.
    other.sample(centres(500, 3), centres(2, 3))
    for i in reversed(range(2)):
        for j in reversed(range(3)):
            assert np.array_equal(other.sample(y[i, 0], x[0, j]), whole[i, j])
    assert other._blocks.used == 0


def test_far_away_it_is_as_exact(make: Make) -> None:
    far = 10**6 // CELL
    y, x = centres(far, 3)[:, None], centres(-far, 4)[None, :]
    one, two = make(), make()
    two.sample(centres(far + 1, 1), centres(5 - far, 1))
    a = one.sample(y, x)
    assert np.array_equal(two.sample(y[::-1], x), a[::-1])
    assert np.abs(a - one.sample(centres(0, 3)[:, None], centres(0, 4)[None, :])).max() > 0.01
    # A pixel beside a pixel is nearly the same, even there.
    beside = one.sample([1e6, 1e6 + 1], -1e6)
    assert 0.99 < float(beside[0] @ beside[1]) < 1 + 1e-5


def test_between_cells_it_is_what_a_field_of_these_cells_is(make: Make) -> None:
    places = make()
    cells = places.sample(centres(10, 4)[:, None], centres(20, 4)[None, :])
    field = EmbeddingField(cells, (10 * CELL, 20 * CELL), (CELL, CELL), "tiny@1", 1.0, "pixel")
    y = (np.array([10.6, 11.2, 12.99, 13.5]) * CELL)[:, None]
    x = (np.array([20.5, 21.77, 23.1]) * CELL)[None, :]
    np.testing.assert_allclose(places.sample(y, x), field.sample(y, x), atol=1e-6)


def test_it_follows_seed_condition_guidance_and_negative(make: Make) -> None:
    y, x = centres(0, 3)[:, None], centres(0, 3)[None, :]
    plain = make()
    a = plain.sample(y, x)
    for changed in (
        make(seed=6),
        make(said=SAYS[1:2]),
        make(guidance=7.0),
        make(negative=SAYS[3], guidance=2.0),
        make(steps=4),
        make(guidance_interval=(-10.0, -0.5)),
    ):
        assert np.abs(changed.sample(y, x) - a).max() > 1e-4
        assert changed.digest != plain.digest
    assert make(record={"prompt": "fat"}).digest == plain.digest


def test_two_meanings_at_two_points_each_have_their_own_surroundings(make: Make) -> None:
    apart = make([(0, 0), (0, 100 * CELL)], SAYS[:2], guidance=4.0)
    own = [make(said=SAYS[i : i + 1], guidance=4.0) for i in (0, 1)]
    for here, (near, other) in ((0, own), (99, own[::-1])):
        at = centres(0, 2)[:, None], centres(here, 2)[None, :]
        got = apart.sample(*at)
        assert np.abs(got - near.sample(*at)).max() < np.abs(got - other.sample(*at)).max() / 3


def test_a_glance_samples_nothing_and_shows_what_is_kept(make: Make) -> None:
    places = make()
    y, x = centres(0, 40)[:, None], centres(0, 40)[None, :]
    seen = places.glance(y, x)
    assert places.counters.evaluations == 0
    assert np.array_equal(seen, np.broadcast_to(places.typical.vectors[0], seen.shape))
    cell = places.sample(centres(3, 1), centres(4, 1))[0]
    spent = places.counters.evaluations
    seen = places.glance(y, x)
    assert places.counters.evaluations == spent
    assert np.array_equal(seen[3, 4], cell)
    assert np.array_equal(seen[39, 39], places.typical.vectors[0])


def test_memory_is_bounded(make: Make) -> None:
    places = make(cache_bytes=20_000)
    for first in range(0, 100, 20):
        places.sample(centres(first, 3)[:, None], centres(0, 3)[None, :])
        assert places._blocks.used <= 20_000
        assert places._canvas._windows.used <= 20_000


def test_threads_get_the_same_cells_and_a_glance_waits_for_nobody(make: Make) -> None:
    y, x = centres(0, 3)[:, None], centres(0, 9)[None, :]
    expected = make().sample(y, x)
    places, glanced = make(), threading.Event()
    inside = threading.Event()

    def hold() -> None:
        inside.set()
        assert glanced.wait(30)

    places.check = hold
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(places.sample(y, x))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert inside.wait(30)  # one is sampling, and the others wait for it
    places.glance(y, x)
    glanced.set()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3
    assert all(np.array_equal(f, expected) for f in found)


def test_sampling_stops_before_the_next_call_and_goes_on_from_there(make: Make) -> None:
    at = centres(0, 2)[:, None], centres(0, 2)[None, :]
    places, whole, calls = make(), make(), [0]
    expected = whole.sample(*at)

    def check() -> None:
        calls[0] += 1
        if calls[0] == 20:
            raise Cancelled("enough")

    places.check = check
    with pytest.raises(Cancelled):
        places.sample(*at)
    assert calls[0] == 20
    places.check = lambda: None
    before = places.counters.evaluations
    assert np.array_equal(places.sample(*at), expected)
    assert places.counters.evaluations - before < whole.counters.evaluations


def test_they_are_restored_with_their_own_prior_only(make: Make, prior: Prior) -> None:
    places = make(
        negative=SAYS[2], guidance=3.0, guidance_interval=(-9.0, 0.5), record={"prompt": "fat"}
    )
    data = json.loads(json.dumps(places.to_dict()))
    words: Any = SimpleNamespace(prior=prior, card=SimpleNamespace(hash="h" * 64))
    again = read_places(data, words)
    assert isinstance(again, PriorPlaces)
    assert again.digest == places.digest
    assert again.record == {"prompt": "fat"}
    at = centres(3, 2), centres(1, 2)
    assert np.array_equal(again.sample(*at), places.sample(*at))
    del data["guidance_interval"]  # as it was written before there were intervals
    assert np.array_equal(
        read_places(data, words).sample(*at), make(negative=SAYS[2], guidance=3.0).sample(*at)
    )
    words.card.hash = "0" * 64
    with pytest.raises(ModelError, match="install that version of the prior"):
        read_places(data, words)


def test_the_prior_is_looked_up_and_must_be_the_same(make: Make, own_cache: Any) -> None:
    data = make().to_dict()
    with pytest.raises(ModelError, match="the prior tiny-prior, which is not installed"):
        read_places(data)
    with pytest.raises(ModelError, match=r"installed is [0-9a-f]{12}: install that"):
        read_places({**data, "prior": "demo-histology-prior"})


def test_what_does_not_fit_is_refused(make: Make, prior: Prior) -> None:
    with pytest.raises(InputError, match="takes conditions of 16 numbers, got 8"):
        make(said=np.eye(8, dtype=np.float32)[:1])
    with pytest.raises(InputError, match="takes conditions of 16 numbers, got 3"):
        make(negative=np.ones(3))
    with pytest.raises(InputError, match="must be an embedding of tiny@1"):
        make(typical=ControlPoints(np.zeros((1, 2)), SAYS[:1], "tiny@1"))


def test_typical_is_the_mean_of_a_field_at_every_point() -> None:
    condition = ControlPoints(np.array([[0, 0], [5, 5.0]]), SAYS[:2], "text")
    fields = [np.full((2, 3, 4), 2, np.float32), np.eye(4, dtype=np.float32)[None]]
    found = typical_cells(condition, fields, "e@1")
    np.testing.assert_allclose(found.vectors, 0.5)
    assert found.encoder == "e@1"
    assert np.array_equal(found.points, condition.points)
