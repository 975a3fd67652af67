"""Colours that stay with an encoder, by PCA and by UMAP."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.embeddings.colours import Placed, colours_for, kept_colours
from napari_ssldiff.errors import InputError


def field_of(seed: int, shape: tuple[int, int] = (6, 8)) -> EmbeddingField:
    vectors = np.random.default_rng(seed).normal(size=(*shape, 16)).astype(np.float32)
    return EmbeddingField(vectors, (0, 0), (32, 32), "enc/one@1", 0.5, "micrometer")


@pytest.fixture
def umap(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """A UMAP that takes the first three numbers of a vector, and is asked how often."""
    asked: list[dict[str, object]] = []

    class UMAP:
        def __init__(self, **options: object) -> None:
            asked.append(options)

        def fit_transform(self, cells: np.ndarray) -> np.ndarray:
            return 5 * cells[:, :3] - 2

    module = ModuleType("umap")
    module.UMAP = UMAP  # type: ignore[attr-defined]
    module.__spec__ = object()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "umap", module)
    return asked


def test_colours_are_fitted_once_for_an_encoder_and_stay(own_cache: Path) -> None:
    first, second = field_of(0), field_of(1)
    before = colours_for(first)(first.vectors)
    # Another field, as it were in another session: the colours are those of the first.
    again = colours_for(second)
    np.testing.assert_array_equal(again(first.vectors), before)
    (file,) = (own_cache / "colours").iterdir()
    assert file.suffix == ".safetensors"
    other = replace(second, encoder="enc-one@1")  # looks the same as a file's name
    assert (colours_for(other)(first.vectors) != before).any()
    assert len(list((own_cache / "colours").iterdir())) == 2
    # Fitted anew, for good.
    anew = colours_for(second, anew=True)(first.vectors)
    assert (anew != before).any()
    np.testing.assert_array_equal(colours_for(first)(first.vectors), anew)


def test_damaged_and_foreign_colours_are_made_again(own_cache: Path) -> None:
    field = field_of(0)
    before = colours_for(field)(field.vectors)
    (file,) = (own_cache / "colours").iterdir()
    file.write_bytes(b"no tensors")
    assert kept_colours(field.encoder, 16) is None
    np.testing.assert_array_equal(colours_for(field)(field.vectors), before)
    assert kept_colours(field.encoder, 16) is not None
    assert kept_colours(field.encoder, 12) is None


def test_a_cache_that_cannot_be_written_only_costs_the_staying(own_cache: Path) -> None:
    own_cache.write_text("a file where the folder would be")
    field = field_of(0)
    assert colours_for(field)(field.vectors).shape == (6, 8, 3)
    assert kept_colours(field.encoder, 16) is None


def test_umap_colours_are_kept_as_cells_and_need_no_umap_afterwards(
    umap: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    field = field_of(0)
    made = colours_for(field, "umap")
    (options,) = umap
    assert (options["n_components"], options["metric"], options["random_state"]) == (3, "cosine", 0)
    painted = made(field.vectors).astype(int)
    # The fake takes three numbers for its axes: order along each of them is kept.
    for axis in range(3):
        rank = np.corrcoef(painted[..., axis].ravel(), field.vectors[..., axis].ravel())[0, 1]
        assert rank > 0.98
    monkeypatch.delitem(sys.modules, "umap")
    again = colours_for(field_of(1), "umap")
    np.testing.assert_array_equal(again(field.vectors), painted)
    assert len(umap) == 1
    # A cell between two of the reference lies between their colours.
    middle = field.vectors[0, 0] + field.vectors[0, 1]
    assert again(middle).shape == (3,)


def test_a_reference_cell_has_its_own_colour() -> None:
    colours = np.linspace(0, 1, 48).reshape(16, 3).astype(np.float32)
    placed = Placed(np.eye(16, dtype=np.float32), colours)
    shown = placed(np.eye(16)[:4].reshape(2, 2, 16)).reshape(4, 3)
    np.testing.assert_allclose(shown, colours[:4] * 255, atol=1)


def test_what_umap_needs_is_said(
    monkeypatch: pytest.MonkeyPatch, umap: list[dict[str, object]]
) -> None:
    with pytest.raises(InputError, match="8 cells or more, got 4"):
        colours_for(field_of(0, (2, 2)), "umap")
    monkeypatch.delitem(sys.modules, "umap")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'napari-ssldiff\[umap\]'"):
        colours_for(field_of(0), "umap")
