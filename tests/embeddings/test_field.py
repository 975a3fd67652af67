"""A field is a row-major grid of unit vectors with its place in the scene."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from napari_ssldiff.embeddings import EmbeddingField, normalise, slerp
from napari_ssldiff.errors import InputError, OutputError


def make_field(rows: int = 3, columns: int = 5, d: int = 7, **changes: object) -> EmbeddingField:
    vectors = np.random.default_rng(1).normal(size=(rows, columns, d)).astype(np.float32)
    arguments = {
        "vectors": vectors,
        "origin": (100.0, -40.0),
        "cell": (20.0, 10.0),
        "encoder": "made@1",
        "resolution": 0.5,
        "unit": "micrometer",
        **changes,
    }
    return EmbeddingField(**arguments)  # type: ignore[arg-type]


def test_sampling_at_cell_centres_returns_the_cells_vectors() -> None:
    field = make_field()
    y = 100 + 20 * (np.arange(3) + 0.5)
    x = -40 + 10 * (np.arange(5) + 0.5)
    np.testing.assert_allclose(field.sample(y[:, None], x[None, :]), field.vectors, atol=1e-6)


def test_y_runs_along_rows_and_x_along_columns() -> None:
    field = make_field()
    one = field.sample(100 + 20 * 2.5, -40 + 10 * 0.5)  # third row, first column
    np.testing.assert_allclose(one, field.vectors[2, 0], atol=1e-6)
    assert float(one @ field.vectors[0, 2]) < 0.99


def test_between_two_cells_lies_the_middle_of_their_arc() -> None:
    field = make_field()
    middle = field.sample(110.0, -40 + 10.0)
    expected = slerp(field.vectors[0, 0], field.vectors[0, 1], 0.5)
    np.testing.assert_allclose(middle, expected, atol=1e-6)
    a, b = float(middle @ field.vectors[0, 0]), float(middle @ field.vectors[0, 1])
    assert a == pytest.approx(b, abs=1e-5)


def test_beyond_the_outermost_centres_the_border_cell_holds() -> None:
    field = make_field()
    for y, x, cell in ((-1e6, -1e6, (0, 0)), (1e6, -1e6, (2, 0)), (104.0, 1e6, (0, 4))):
        np.testing.assert_allclose(field.sample(y, x), field.vectors[cell], atol=1e-6)


def test_samples_have_the_broadcast_shape_and_unit_length() -> None:
    points = make_field().sample(np.linspace(90, 170, 11)[:, None], np.linspace(-50, 20, 4))
    assert points.shape == (11, 4, 7)
    assert points.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), 1, atol=1e-5)


def test_slerp_ends_at_its_arguments_and_halves_the_angle() -> None:
    a, b = np.eye(3, dtype=np.float32)[:2]
    np.testing.assert_allclose(slerp(a, b, 0.0), a, atol=1e-7)
    np.testing.assert_allclose(slerp(a, b, 1.0), b, atol=1e-7)
    np.testing.assert_allclose(slerp(a, b, 1 / 3), [np.cos(np.pi / 6), 0.5, 0], atol=1e-6)


def test_slerp_of_parallel_and_of_opposite_vectors_is_a_unit_vector() -> None:
    a = normalise(np.array([1.0, 2.0, 3.0]))
    near = normalise(a + np.float32(1e-5))
    np.testing.assert_allclose(slerp(a, a, 0.3), a, atol=1e-6)
    for other in (near, -a):
        for t in (0.0, 0.25, 0.5, 0.75, 1.0):
            assert np.linalg.norm(slerp(a, other, t)) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(slerp(a, -a, 0.5), a, atol=1e-6)


def test_a_zero_vector_stays_zero_and_unit_vectors_stay_bit_for_bit() -> None:
    assert (normalise(np.zeros(4)) == 0).all()
    once = normalise(np.random.default_rng(0).normal(size=(100, 128)))
    assert np.array_equal(normalise(once), once)


def test_the_callers_array_is_neither_kept_nor_changed() -> None:
    vectors = np.full((2, 2, 3), 2.0, np.float32)
    field = make_field(vectors=vectors)
    vectors[:] = 7
    assert field.vectors.max() < 1
    with pytest.raises(ValueError, match="read-only"):
        field.vectors[0, 0, 0] = 1


def test_a_saved_field_comes_back_equal(tmp_path: Path) -> None:
    valid = np.zeros((3, 5), bool)
    valid[1, 3] = True
    field = make_field(valid=valid)
    back = EmbeddingField.load(field.save(tmp_path / "field.json"))
    assert back == field
    assert back.digest == field.digest
    assert hash(back) == hash(field)
    assert np.array_equal(back.vectors, field.vectors)
    assert back.valid is not None
    assert np.array_equal(back.valid, valid)
    assert [p.name for p in tmp_path.iterdir()] == ["field.json"]


def test_the_digest_sees_every_part() -> None:
    vectors = make_field().vectors.copy()
    vectors[2, 4] = -vectors[2, 4]
    fields = [
        make_field(),
        make_field(vectors=vectors),
        make_field(origin=(100, -41)),
        make_field(cell=(20, 11)),
        make_field(encoder="made@2"),
        make_field(resolution=0.6),
        make_field(unit="meter"),
        make_field(valid=np.ones((3, 5), bool)),
        make_field(valid=np.eye(3, 5, dtype=bool)),
    ]
    assert len({f.digest for f in fields}) == len(fields)


@pytest.mark.parametrize(
    "damage",
    [
        {"format": "other"},
        {"shape": [3, 5, 8]},
        {"shape": [3, 5]},
        {"shape": "no"},
        {"vectors": "@@@"},
        {"vectors": ""},
        {"vectors": None},
        {"origin": [1]},
        {"cell": [0, 1]},
        {"cell": ["a", "b"]},
        {"valid": "AA=="},
        {"resolution": None},
    ],
)
def test_a_damaged_field_is_refused_in_one_line(tmp_path: Path, damage: dict[str, object]) -> None:
    path = tmp_path / "field.json"
    path.write_text(json.dumps({**make_field().to_dict(), **damage}))
    with pytest.raises(InputError) as error:
        EmbeddingField.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"{", b"[1, 2]", b"null", b"{}"])
def test_a_file_that_is_no_field_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "field.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not an embedding field"):
        EmbeddingField.load(path)


def test_a_missing_field_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no embedding field at"):
        EmbeddingField.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot read"):
        EmbeddingField.load(tmp_path)


def test_a_field_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write the field"):
        make_field().save(tmp_path / "missing" / "field.json")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="cannot write the field"):
        make_field().save(tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vectors": np.ones((3, 5), np.float32)}, "shape"),
        ({"vectors": np.ones((0, 5, 2), np.float32)}, "shape"),
        ({"vectors": np.full((1, 1, 2), np.nan, np.float32)}, "finite"),
        ({"cell": (0.0, 1.0)}, "above 0"),
        ({"valid": np.ones((5, 3), bool)}, "valid mask"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_field(**changes)  # type: ignore[arg-type]
