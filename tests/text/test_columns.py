"""Numbers as conditions: tables, standardised vectors with gaps, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_ssldiff.errors import InputError
from napari_ssldiff.text.columns import Column, Columns, parse_numbers, read_row, read_table

COLUMNS = Columns((Column("density", 10, 2, 5, 15), Column("Ki-67", 0.3, 0.1, 0, 0.9)))


def test_vectors_keep_every_value_and_say_which_are_known() -> None:
    whole, half = COLUMNS.encode([[14, 0.2], [14, np.nan]])
    assert np.allclose(whole, np.array([2, -1, 1, 1]) / 7**0.5)
    assert np.allclose(half, np.array([2, 0, 1, 0]) / 5**0.5)
    assert np.array_equal(COLUMNS.encode([np.nan, np.nan]), np.zeros(4))
    assert np.array_equal(COLUMNS.vector({"density": 14}), half)
    # A value at the mean is not a value that is unknown.
    assert not np.array_equal(COLUMNS.vector({"density": 10, "Ki-67": 0.2}),
                              COLUMNS.vector({"Ki-67": 0.2}))  # fmt: skip


def test_values_beyond_training_are_told_of_and_wrong_ones_refused() -> None:
    assert COLUMNS.beyond({"density": 16, "Ki-67": 0.9}) == (
        "density 16 lies outside what the prior has seen (5 … 15)",
    )
    with pytest.raises(InputError, match=r"no column 'densty' \(near: density\)"):
        COLUMNS.vector({"densty": 1})
    with pytest.raises(InputError, match="density must be a finite number, got inf"):
        COLUMNS.vector({"density": float("inf")})
    with pytest.raises(InputError, match="give some of density, Ki-67"):
        COLUMNS.vector({})


def test_columns_come_back_from_a_card() -> None:
    assert Columns.from_list(COLUMNS.to_list()) == COLUMNS
    with pytest.raises(ValueError, match="varies"):
        Columns.from_list([{"name": "a", "mean": 0, "std": 0, "min": 0, "max": 0}])


def write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_gives_its_numbers_by_path_and_leaves_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffpath,who,score,gene\n./a/1.jpg,x,1.5,\nb\\2.jpg,y,NA,-3e2\n\n")
    table = read_table(path)
    assert table.names == ("score", "gene")
    assert table.left_out == ("who",)
    assert list(table.rows) == ["a/1.jpg", "b/2.jpg"]
    assert np.array_equal(table.rows["a/1.jpg"], [1.5, np.nan], equal_nan=True)
    assert read_row(path, "b/2.jpg") == read_row(path, "2") == {"gene": -300}
    with pytest.raises(InputError, match=r"no row '3'.*by its path or by a number from 1"):
        read_row(path, "3")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,score\na,1\n", "no column 'path'.*names name, score"),
        ("", "no column 'path'.*names nothing"),
        ("path,who\na,x\n", "no column of numbers beside 'path'"),
        ("path,score\na,1\na,2\n", "names a twice, at last in line 3"),
        ("path,score,score\na,1,2\n", "column 'score' twice"),
        ("path,score\na,inf\n", "holds inf as score of a"),
    ],
)
def test_tables_of_no_use_are_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read_table(write(tmp_path, text))


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the table"):
        read_table(tmp_path / "none.csv")


def test_numbers_are_read_from_a_line() -> None:
    assert parse_numbers("density=12, Ki-67 = .5") == {"density": 12, "Ki-67": 0.5}
    for text in ("density", "density=x", "=3", "a=1,,", "a=", "a=nan"):
        with pytest.raises(InputError, match="name=value"):
            parse_numbers(text)
    with pytest.raises(InputError, match="a is given twice"):
        parse_numbers("a=1,a=2")
