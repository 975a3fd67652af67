"""Probes beat chance where there is something to know, and are never tuned on the test fold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_ssldiff.embeddings.encoder import EncoderSpec
from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation.classify import Task, pooled_knn
from napari_ssldiff.evaluation.labels import read_labels
from napari_ssldiff.evaluation.probes import (
    Predictions,
    balanced_accuracy,
    choose_neighbours,
    colour_histogram,
    embedding_descriptors,
    error_ratio,
    linear_probe,
    vote,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def blobs(n: int = 120, gap: float = 4.0) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Vectors of three classes, their labels, groups and the training fold."""
    labels = np.arange(n) % 3
    centres = gap * np.eye(3, 8)
    vectors = rng().normal(size=(n, 8)) + centres[labels]
    return vectors, labels, [str(i // 3) for i in range(n)], np.arange(n) < 2 * n // 3


def test_accuracy_counts_every_class_alike() -> None:
    truth, said = np.array([0] * 9 + [1]), np.zeros(10, int)
    assert balanced_accuracy(truth, said) == 0.5


def test_neighbours_and_a_linear_probe_learn_what_can_be_separated() -> None:
    vectors, labels, groups, train = blobs()
    chosen = choose_neighbours({"raw": vectors}, labels, groups, train)
    assert balanced_accuracy(labels[~train], chosen.predicted) > 0.9
    said, _ = linear_probe(vectors, labels, groups, train)
    assert balanced_accuracy(labels[~train], said) > 0.9


def test_labels_of_nothing_are_guessed_by_chance() -> None:
    vectors, labels, groups, train = blobs(300, gap=0)
    chosen = choose_neighbours({"raw": vectors}, labels, groups, train)
    assert 0.15 < balanced_accuracy(labels[~train], chosen.predicted) < 0.52


def test_the_better_descriptor_is_chosen_without_looking_at_the_test_fold() -> None:
    vectors, labels, groups, train = blobs()
    candidates = {"noise": rng(1).normal(size=vectors.shape), "raw": vectors}
    chosen = choose_neighbours(candidates, labels, groups, train)
    assert chosen.descriptor == "raw"
    hidden = np.where(train, labels, 0)
    again = choose_neighbours(candidates, hidden, groups, train)
    assert (again.k, again.balanced, again.left_out) == (chosen.k, chosen.balanced, chosen.left_out)
    assert np.array_equal(again.predicted, chosen.predicted)


def test_the_same_place_in_another_year_cannot_vote() -> None:
    # Every place has two pictures that are alike, and a label of its own making: knowing the
    # place answers for the picture, nothing else does.
    places = np.repeat(np.arange(40), 2)
    vectors = rng().normal(size=(40, 16))[places] + 0.01 * rng(1).normal(size=(80, 16))
    labels = rng(2).integers(0, 2, 40)[places]
    train = np.arange(80) < 60
    alone = choose_neighbours({"x": vectors}, labels, [str(i) for i in range(80)], train)
    grouped = choose_neighbours({"x": vectors}, labels, [str(p) for p in places], train)
    assert alone.left_out == 1
    assert grouped.left_out < 0.8


def test_balanced_votes_let_a_rare_class_win() -> None:
    similarity = np.array([[0.9, 0.8, 0.7, -1.0, -1.0, -1.0]])
    labels = np.array([1, 0, 0, 0, 0, 0])
    assert vote(similarity, labels, 3, balanced=False).tolist() == [0]
    assert vote(similarity, labels, 3, balanced=True).tolist() == [1]
    barred = np.array([[-np.inf, 0.5, 0.1, 0.1, 0.1, 0.1]])
    assert vote(barred, labels, 1, balanced=True).tolist() == [0]


def test_a_histogram_is_a_unit_vector_of_colours() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:2] = 255
    found = colour_histogram(picture, 4)
    assert np.linalg.norm(found) == pytest.approx(1)
    assert found[[0, -1]] == pytest.approx([0.5**0.5] * 2)


def test_descriptors_have_one_row_per_picture() -> None:
    cells = [rng(i).normal(size=(4 + i % 3, 6)).astype(np.float32) for i in range(20)]
    found = embedding_descriptors(cells, np.arange(20) < 15)
    assert {len(v) for v in found.values()} == {20}
    assert found["mean and std"].shape[1] == 12
    assert all(np.isfinite(v).all() for v in found.values())


def predictions(
    name: str, source: str, ours: float, theirs: float, n: int = 400, seed: int = 0
) -> Predictions:
    """Two classes; each method right at a given rate, on its own."""
    truth = np.arange(n) % 2
    random = rng(seed)
    methods = {
        key: np.where(random.random(n) < rate, truth, 1 - truth)
        for key, rate in (("encoder", ours), ("histogram", theirs))
    }
    return Predictions(name, source, truth, methods, tuple(str(i // 2) for i in range(n)))


def test_half_the_errors_give_a_ratio_of_a_half_with_an_honest_interval() -> None:
    found = error_ratio([predictions("a", "x", 0.9, 0.8, 2000)], rng(), draws=300)
    assert found["ratio"] == pytest.approx(0.5, abs=0.08)
    low, high = found["interval"]
    assert low < 0.5 < high
    assert found["reduction_interval"] == pytest.approx([1 - high, 1 - low])
    # The error rates' own spread: sd of log ratio about sqrt(0.9/200 + 0.8/400) = 0.08.
    assert 0.08 < high - low < 0.25


def test_a_method_against_itself_has_no_errors_more_or_less() -> None:
    part = predictions("a", "x", 0.8, 0.8)
    same = Predictions(
        "a", "x", part.truth, dict.fromkeys(("encoder", "histogram"), part.methods["encoder"]),
        part.groups,
    )  # fmt: skip
    found = error_ratio([same], rng(), draws=100)
    assert found["ratio"] == 1
    assert found["interval"] == [1, 1]  # paired: the draws are the same for both


def test_tasks_are_pooled_by_their_mean_error() -> None:
    parts = [predictions("a", "x", 1.0, 0.5), predictions("b", "y", 0.7, 0.9, seed=1)]
    errors = {
        m: np.mean([1 - balanced_accuracy(p.truth, p.methods[m]) for p in parts])
        for m in ("encoder", "histogram")
    }
    found = error_ratio(parts, rng(), draws=50)
    assert found["ratio"] == pytest.approx(errors["encoder"] / errors["histogram"])
    assert found["encoder_balanced_accuracy"] == pytest.approx(1 - errors["encoder"])
    assert (found["n"], found["groups"], found["tasks"]) == (800, 400, ["a", "b"])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Pictures whose texture tells the class and whose colour does not, in a labels table."""
    folder = tmp_path / "images"
    folder.mkdir()
    rows = ["path,label,fold,place,pixel_size,aspect"]
    for i in range(36):
        kind = ("fine", "coarse")[i % 2]
        step = 2 if kind == "fine" else 16
        stripes = np.kron(np.indices((64 // step, 64 // step)).sum(0) % 2, np.ones((step, step)))
        tone = rng(i).integers(40, 200, 3)
        pixels = np.clip(tone + 40 * stripes[..., None], 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append(f"images/{i}.png,{kind},{'train' if i < 24 else 'heldout'},p{i // 4},,")
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


class EdgeEncoder:
    """Knows how often neighbours differ, along both axes, and no colour."""

    spec = EncoderSpec("edges", 0.5, "micrometer", 32, 32, (0.5,) * 3, (0.25,) * 3, 2)

    def embed(self, cells: np.ndarray) -> np.ndarray:
        grey = cells.astype(np.float32).mean(-1)
        busy = (np.abs(np.diff(grey, axis=1)) > 5).mean((1, 2))
        vectors = np.stack([busy, 1 - busy], 1)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_an_encoder_is_probed_on_a_table_of_labels(table: Path) -> None:
    pictures = read_labels(table)
    assert [p.group for p in pictures[:5]] == ["p0"] * 4 + ["p1"]
    task = Task("texture", "texture", pictures, EdgeEncoder())
    found = pooled_knn([task])
    (row,) = found["tasks"]
    assert (row["train"], row["test"], row["groups"]) == (24, 12, 3)
    assert row["encoder"]["balanced_accuracy"]["value"] == 1
    assert row["histogram"]["balanced_accuracy"]["value"] < 0.9
    assert found["pooled"]["ratio"] < 1
    assert "linear_balanced_accuracy" in found["pooled_linear"]


def test_a_squeeze_is_undone_and_pixels_are_brought_to_the_model(tmp_path: Path) -> None:
    Image.new("RGB", (224, 224)).save(tmp_path / "a.png")
    rows = "name,label,fold,pixel_size,aspect\na,x,train,1.0,1.335\na,y,train,,\na,x,test,0.25,\n"
    (tmp_path / "t.csv").write_text(rows)
    shapes = [p.read(0.5).shape for p in read_labels(tmp_path / "t.csv")]
    assert shapes == [(448, 598, 3), (224, 224, 3), (112, 112, 3)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,fold\na.png,train\n", "lack the column label"),
        ("label,fold\nx,train\n", "lack the column path or name"),
        ("path,label,fold\nnone.png,x,train\n", "no image 'none.png'"),
        ("path,label,fold\na.png,x,train\na.png,y,train\n", "no row of a fold other than train"),
        ("path,label,fold\na.png,x,test\n", "no row of a fold train"),
        ("path,label,fold\na.png,x,train\na.png,x,test\n", "one class only"),
        ("path,label,fold\na.png,x,train\na.png,y,train\na.png,z,test\n", "lacks: z"),
        ("path,label,fold,aspect\na.png,x,train,wide\n", "aspect in .* above 0, got 'wide'"),
    ],
)
def test_a_table_that_cannot_be_probed_is_refused(text: str, words: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=words):
        read_labels(table)
    with pytest.raises(InputError, match="cannot read the labels"):
        read_labels(tmp_path / "none.csv")
