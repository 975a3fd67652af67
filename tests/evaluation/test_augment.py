"""Whether variations help a classifier: the draws, the splits, the cache and the table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from napari_ssldiff.cli import main
from napari_ssldiff.errors import InputError, OutputError
from napari_ssldiff.evaluation import augment, augment_classify, augment_variations, mil
from napari_ssldiff.evaluation import augment_tasks as tasks
from napari_ssldiff.evaluation.augment_classify import Labelled, draw_labels, paired_interval
from napari_ssldiff.evaluation.augment_report import markdown
from napari_ssldiff.evaluation.augment_tasks import HELDOUT, TRAIN, Item, Task
from napari_ssldiff.evaluation.augment_variations import Variations
from napari_ssldiff.synthesis import Sampler

Ints = NDArray[np.int64]
WIDTH = 24


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def labelled(features: Any, labels: Any, groups: Any, weight: float = 1.0) -> Labelled:
    return Labelled(
        np.asarray(features, np.float32), np.asarray(labels), np.asarray(groups),
        np.full(len(labels), weight),
    )  # fmt: skip


def clouds(count: int, seed: int, first_group: int) -> Labelled:
    """Two overlapping Gaussian classes, every image a place of its own."""
    labels = np.arange(count) % 2
    features = rng(seed).normal(0, 1, (count, WIDTH))
    features[:, :4] += np.where(labels == 1, 0.6, -0.6)[:, None]
    return labelled(features, labels, first_group + np.arange(count))


def gain(made: Callable[[Ints], Any]) -> dict[str, Any]:
    """The row for four labels per class, sixteen synthetic images of each of forty pooled ones."""
    real, test = clouds(120, 1, 0), clouds(200, 2, 1000)
    source = np.repeat(np.arange(40), 16)
    synthetic = labelled(
        made(real.labels[source]), real.labels[source], real.groups[source], 1 / 16
    )
    predictions, _ = augment_classify.run_draws(real, synthetic, source, test, 4, 8, seed=3)
    row: dict[str, Any] = augment_classify.summarise(predictions, test.labels, test.groups, rng())
    return row


def test_synthetic_images_of_the_true_distribution_help_where_labels_are_few() -> None:
    def true(labels: Ints) -> Any:
        features = rng(5).normal(0, 1, (len(labels), WIDTH))
        features[:, :4] += np.where(labels == 1, 0.6, -0.6)[:, None]
        return features

    row = gain(true)
    assert row["gain"]["mean"] > 0.05
    assert row["gain"]["interval"][0] > 0
    assert row["synthetic"]["mean"] > row["real"]["mean"]
    assert row["both"]["sd"] < row["real"]["sd"]
    assert len(row["per_draw"]["both"]) == 8


def test_synthetic_noise_does_not_help() -> None:
    row = gain(lambda labels: rng(5).normal(0, 1, (len(labels), WIDTH)))
    assert row["gain"]["interval"][0] < 0
    assert row["gain"]["mean"] < 0.02
    assert row["synthetic"]["mean"] == pytest.approx(0.5, abs=0.06)


def test_a_draw_holds_as_many_of_every_class_as_asked_and_varies_half_the_pool_at_most() -> None:
    labels, groups = np.repeat([0, 1], 30), np.arange(60)
    pool = np.r_[0:8, 30:38]
    for count, varied in ((2, 2), (4, 4), (16, 4)):
        draw = draw_labels(labels, groups, pool, count, rng())
        assert Counter(labels[draw.real]) == {0: count, 1: count}
        assert Counter(labels[draw.varied]) == {0: varied, 1: varied}
        assert len(set(draw.real)) == 2 * count
        assert set(draw.varied) == set(draw.real) & set(pool)
    # All that the class has: then the whole pool is in.
    assert set(draw_labels(labels, groups, pool, 30, rng()).varied) == set(pool)


def test_draws_differ_from_each_other() -> None:
    labels, groups, pool = np.repeat([0, 1], 30), np.arange(60), np.r_[0:8, 30:38]
    for count in (4, 16, None):
        some = [tuple(draw_labels(labels, groups, pool, count, rng(i)).real) for i in range(5)]
        assert len(set(some)) == 5


def test_a_draw_of_all_leaves_out_whole_places() -> None:
    groups = np.repeat(np.arange(20), 3)
    draw = draw_labels(np.tile([0, 1, 0], 20), groups, np.arange(12), None, rng())
    kept = Counter(groups[draw.real])
    assert len(kept) == 18
    assert set(kept.values()) == {3}
    assert set(draw.varied) == {i for i in draw.real if i < 12}


def test_more_labels_than_a_class_has_are_refused() -> None:
    with pytest.raises(InputError, match=r"3 training images, fewer than the 4 .*--labels"):
        draw_labels(np.array([0, 0, 0, 1, 1, 1, 1]), np.arange(7), np.arange(7), 4, rng())


def test_a_place_in_training_and_in_the_test_is_refused() -> None:
    real = clouds(20, 1, 0)
    with pytest.raises(InputError, match="in training and in the test"):
        augment_classify.run_draws(real, real, np.arange(20), clouds(20, 2, 19), 4, 2, 0)


def test_the_penalty_is_judged_on_places_that_the_training_did_not_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = labelled(rng().normal(size=(24, 3)), np.tile([0, 1], 12), np.repeat(np.arange(12), 2))
    made = replace(real, features=real.features + 1)
    seen: list[set[int]] = []
    fit = augment_classify.fit

    def watch(data: Labelled, penalty: float) -> Any:
        seen.append(set(data.groups.tolist()))
        return fit(data, penalty)

    monkeypatch.setattr(augment_classify, "fit", watch)
    assert augment_classify.choose_penalty(real + made, real, 0) in augment_classify.PENALTIES
    assert len(seen) == 3 * len(augment_classify.PENALTIES)
    # Each place is out of the training of exactly one of the three folds, variations included.
    missing = Counter(g for groups in seen for g in set(range(12)) - groups)
    assert set(missing.values()) == {len(augment_classify.PENALTIES)}
    assert len(missing) == 12


def test_classes_and_variations_weigh_alike_however_many_there_are() -> None:
    data = labelled(np.zeros((6, 1)), [0, 0, 0, 0, 1, 1], range(6))
    weights = augment_classify.balanced_weights(data)
    assert weights[:4].sum() == pytest.approx(weights[4:].sum())
    assert weights.mean() == pytest.approx(1)


def test_the_interval_covers_draws_and_places() -> None:
    truth = np.tile([0, 1], 50)
    alone, few = np.arange(100), np.repeat(np.arange(5), 20)
    wrong = np.tile(1 - truth, (10, 1))
    assert paired_interval(wrong, wrong, truth, alone, rng()) == (0, 0)
    right = np.tile(truth, (10, 1))
    assert paired_interval(wrong, right, truth, alone, rng()) == pytest.approx((1, 1))
    # Right in two of five places: far less certain than right in forty of a hundred images.
    better = wrong.copy()
    better[:, :40] = truth[:40]
    low, high = paired_interval(wrong, better, truth, alone, rng())
    assert 0.25 < low < 0.4 < high < 0.55
    wide = paired_interval(wrong, better, truth, few, rng())
    assert wide[1] - wide[0] > 2 * (high - low)


# Tasks and their splits


def items(*rows: tuple[str, str, str]) -> tuple[Item, ...]:
    return tuple(Item(Path(f"{i}.png"), *row) for i, row in enumerate(rows))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("a", "p", TRAIN), ("a", "q", HELDOUT)], "at least two classes, found a"),
        ([("a", "p", TRAIN), ("b", "q", TRAIN), ("a", "r", HELDOUT)], "no image of the class b"),
        ([("a", "p", TRAIN), ("a", "q", HELDOUT), ("b", "r", HELDOUT)], "b in the fold 'train'"),
        (
            [("a", "p", TRAIN), ("b", "q", TRAIN), ("a", "p", HELDOUT), ("b", "s", HELDOUT)],
            "'p' in both folds",
        ),
    ],
)
def test_a_task_that_cannot_be_tested_is_refused(rows: list[Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Task("mine", "tiny", items(*rows))


def test_tree_terciles_are_those_of_the_training_fold(tmp_path: Path) -> None:
    folder = tmp_path / "satellite" / "naip_60cm"
    folder.mkdir(parents=True)
    lines = [f"t{i},p{i},train,x,{n}" for i, n in enumerate([0, 1, 2, 3, 4, 5, 6, 7, 8])]
    # Held-out tiles are far richer in trees, and must not move the bounds.
    lines += [f"h{i},q{i},heldout,x,{n}" for i, n in enumerate([1, 4, 90, 91, 92, 93])]
    (folder / "tiles.csv").write_text("name,place,fold,city,trees\n" + "\n".join(lines))
    task = tasks.trees(tmp_path)
    assert Counter(i.label for i in task.fold(TRAIN)) == {"few": 3, "some": 3, "many": 3}
    assert Counter(i.label for i in task.fold(HELDOUT)) == {"few": 1, "some": 1, "many": 4}
    (folder / "tiles.csv").write_text("name,place,fold,city,trees\na,p,train,x,lots\n")
    with pytest.raises(InputError, match="lots"):
        tasks.trees(tmp_path)


@pytest.mark.parametrize("make", tasks.TASKS.values())
def test_without_the_tables_of_the_data_a_task_is_refused(make: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the table"):
        make(tmp_path)


def test_a_table_without_the_columns_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("path,class\na.png,x\n")
    with pytest.raises(InputError, match="lacks the column label, fold"):
        tasks.from_table(table, tmp_path, "tiny", None)


@pytest.mark.parametrize("name", tasks.TASKS)
def test_no_place_of_the_real_tasks_is_on_both_sides(name: str, data_dir: Path) -> None:
    task = tasks.TASKS[name](data_dir)
    sides = [{item.group for item in task.fold(fold)} for fold in (TRAIN, HELDOUT)]
    assert sides[0]
    assert not sides[0] & sides[1]
    assert all(item.path.is_file() for item in task.items)
    if name == "city":
        assert dict(task.left_out).keys() == {"bishop", "eureka"}
        assert len(task.classes) == 6


def test_the_regions_are_grouped_by_case(data_dir: Path, tmp_path: Path) -> None:
    regions = tasks.osteosarcoma(data_dir)
    assert {item.group for item in regions} == {"Case-3", "Case-4", "Case-48"}
    assert {item.label for item in regions} == {"Non-Tumor", "Viable", "Non-Viable-Tumor"}
    with pytest.raises(InputError, match="0 regions"):
        tasks.osteosarcoma(tmp_path)


def test_a_picture_is_stretched_resampled_and_cut_at_its_middle(tmp_path: Path) -> None:
    pixels = np.zeros((30, 30, 3), np.uint8)
    pixels[:, 12:18] = 255
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    plain = tasks.read_picture(path, 1, 20)
    assert plain.shape == (20, 20, 3)
    assert (plain == pixels[5:25, 5:25]).all()
    wide = tasks.read_picture(path, 2, 40, aspect=2)
    assert wide.shape == (40, 40, 3)
    # A stripe of 6 px is 24 px wide, enlarged twice and stretched twice, and in the middle.
    bright = np.nonzero(wide[20, :, 0] > 127)[0]
    assert (bright[0], bright[-1]) == (8, 31)
    with pytest.raises(InputError, match=r"30 × 30 .* crop of 31"):
        tasks.read_picture(path, 1, 31)
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot read the image"):
        tasks.read_picture(path, 1, 20)


def test_the_pool_spreads_over_places_and_is_shared_by_tasks() -> None:
    names = [f"p{i // 3}" for i in range(60)]
    paths = [Path(f"{i}.png") for i in range(60)]

    def task(label: Callable[[int], str]) -> Task:
        train = tuple(Item(p, label(i), names[i], TRAIN) for i, p in enumerate(paths))
        test = tuple(Item(Path("t.png"), c, f"t{c}", HELDOUT) for c in "ab")
        return Task("x", "tiny", (*train, *test))

    first, second = task(lambda i: "ab"[i % 2]), task(lambda i: "ab"[i // 30])
    pools = [tasks.choose_pool(t, t.fold(TRAIN), 5, seed=1) for t in (first, second)]
    for t, pool in zip((first, second), pools, strict=True):
        chosen = [t.fold(TRAIN)[i] for i in pool]
        assert Counter(item.label for item in chosen) == {"a": 5, "b": 5}
        assert len({item.group for item in chosen}) == 10
    assert len(set(pools[0]) & set(pools[1])) > 5
    assert tasks.choose_pool(first, first.fold(TRAIN), 5, seed=2) != pools[0]


# Variations that are kept


@pytest.fixture
def variations(bundle: Any, tmp_path: Path) -> Variations:
    return Variations(tmp_path / "kept", bundle, Sampler(steps=1))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds of the syntheses that were carried out."""
    made: list[int] = []
    vary = augment_variations.vary

    def watch(pixels: Any, bundle: Any, sampler: Sampler) -> Any:
        made.append(sampler.seed)
        return vary(pixels, bundle, sampler)

    monkeypatch.setattr(augment_variations, "vary", watch)
    return made


def test_a_variation_is_made_once_and_marked_as_synthetic(
    variations: Variations, textured: Any, calls: list[int]
) -> None:
    pixels = textured(64, 64)
    first, fresh = variations.get("a", pixels)
    again, remade = variations.get("a", pixels)
    assert (fresh, remade, len(calls)) == (True, False, 1)
    assert (first == again).all()
    assert first.shape == pixels.shape
    assert not (first == pixels).all()
    with Image.open(variations.path("a", pixels, 0)) as file:
        assert "Synthetic" in file.info["Comment"]
        facts = json.loads(file.info["napari_ssldiff"])
    assert facts["synthetic"] is True
    assert facts["sampler"]["seed"] == calls[0]
    assert facts["sampler"]["guidance"] == 1.5


def test_another_number_picture_or_sampler_is_another_variation(
    variations: Variations, textured: Any, calls: list[int]
) -> None:
    pixels = textured(64, 64)
    other = replace(variations, sampler=Sampler(steps=1, guidance=3.0))
    images = [
        variations.get("a", pixels)[0], variations.get("a", pixels, 1)[0],
        variations.get("a", pixels[::-1])[0], other.get("a", pixels)[0],
    ]  # fmt: skip
    assert len({image.tobytes() for image in images}) == 4
    assert len(set(calls)) == 4


def test_a_damaged_variation_is_made_again(variations: Variations, textured: Any) -> None:
    pixels = textured(64, 64)
    first, _ = variations.get("a", pixels)
    path = variations.path("a", pixels, 0)
    path.write_bytes(path.read_bytes()[:200])
    again, fresh = variations.get("a", pixels)
    assert fresh
    assert (first == again).all()


def test_a_place_that_cannot_be_written_is_named(
    bundle: Any, textured: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another folder"):
        Variations(tmp_path / "file", bundle, Sampler(steps=1)).get("a", textured(64, 64))


# The whole experiment, with a tiny model


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of 64-px images of two classes, and a table of them."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["path,label,fold,group"]
    for i in range(16):
        label, fold = "ab"[i % 2], HELDOUT if i >= 12 else TRAIN
        noise = rng(i).normal(110 + 60 * (i % 2), 20, (64, 64, 3))
        Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{label},{fold},{fold}-{i // 2}")
    (folder / "mine.csv").write_text("\n".join(lines))
    return folder


SMALL = augment.Settings(pool=3, variations=2, draws=3, labels=(2, None), crop=64, part=64)


def test_a_killed_run_goes_on_where_it_was(
    own: Path, variations: Variations, calls: list[int]
) -> None:
    task = tasks.from_table(own / "mine.csv", own, "tiny", None)

    def kill(stage: str, done: float, total: float) -> None:
        if "variations" in stage and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        augment.run_task(task, variations, SMALL, kill)
    assert len(calls) == 5
    report = augment.run_task(task, variations, SMALL)
    assert len(calls) == len(set(calls)) == 12
    assert report["counts"]["variations"] == 12
    assert report["counts"]["made_in_this_run"] == 7
    again = augment.run_task(task, variations, SMALL)
    assert again["counts"]["made_in_this_run"] == 0
    assert again["rows"] == report["rows"]


def test_too_many_labels_are_refused_before_anything_is_made(
    own: Path, variations: Variations, calls: list[int]
) -> None:
    task = tasks.from_table(own / "mine.csv", own, "tiny", None)
    with pytest.raises(InputError, match=r"'[ab]' of the task mine has 6 .*64 labels per class"):
        augment.run_task(task, variations, replace(SMALL, labels=(4, 64)))
    with pytest.raises(InputError, match=r"crop must be a multiple of the model's cell 32, got 40"):
        augment.run_task(task, variations, replace(SMALL, crop=40))
    assert not calls


def test_the_features_are_the_evaluation_encoders(bundle: Any, textured: Any) -> None:
    pictures = [textured(64, 64)[::step] for step in (1, -1)]
    features = augment.describe(iter(pictures), bundle.evaluation_encoder)
    assert features.shape == (2, 24)
    cells = augment.cells_of(pictures[0], 32)
    assert (cells[1] == pictures[0][:32, 32:]).all()
    vectors = bundle.evaluation_encoder.embed(cells)
    assert features[0] == pytest.approx(np.r_[vectors.mean(0), vectors.std(0)], abs=1e-5)
    assert not np.allclose(vectors, bundle.encoder.embed(cells), atol=0.01)


# Bags


def bags(seed: int, cases: int = 3, per: int = 8, cells: int = 20) -> list[mil.Bag]:
    """A bag is of class 1 where a tenth of its cells is of another kind."""
    out = []
    for i in range(cases * per):
        vectors = rng(1000 * seed + i).normal(0, 1, (cells + i % 3, 6)).astype(np.float32)
        if i % 2:
            vectors[:2, 0] += 6
        out.append(mil.Bag(vectors, i % 2, i // per, i))
    return out


def test_attention_finds_the_few_cells_that_tell() -> None:
    found = mil.leave_one_case_out(bags(1, 2, 16), bags(2, 2, 16), "attention", 1, 0)
    truth = np.arange(32) % 2
    for condition in ("real", "synthetic", "both"):
        assert (found[condition] == truth).mean() > 0.9


def test_padding_a_bag_changes_nothing() -> None:
    torch.manual_seed(0)
    network = mil.AttentionPooling(6, 2).eval()
    short, long = bags(1)[0], bags(1)[2]
    alone = network(*mil._padded([short]))
    beside = network(*mil._padded([short, long]))[:1]
    assert torch.allclose(alone, beside, atol=1e-6)


def test_the_case_left_out_is_never_trained_on_real_or_synthetic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def watch(train: Any, test: Any, classes: int, seed: int) -> Any:
        seen.append(({b.case for b in train}, {b.case for b in test}))
        return np.zeros(len(test), np.int64)

    monkeypatch.setattr(mil, "train_attention", watch)
    found = mil.leave_one_case_out(bags(1), bags(2), "attention", 2, 0)
    assert len(seen) == 3 * 3 * 2
    assert all(len(test) == 1 and train == {0, 1, 2} - test for train, test in seen)
    assert (found["both"] == 0).all()


def test_training_a_bag_classifier_leaves_the_random_state_alone() -> None:
    torch.manual_seed(4)
    state = torch.random.get_rng_state()
    first = mil.train_attention(bags(1), bags(2), 2, seed=1, epochs=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (first == mil.train_attention(bags(1), bags(2), 2, seed=1, epochs=2)).all()


def test_a_class_that_only_one_case_has_is_refused() -> None:
    alone = [b if b.case else replace(b, label=2) for b in bags(1)]
    with pytest.raises(InputError, match="lack 1 of 3 classes"):
        mil.leave_one_case_out(alone, alone, "mean + sd", 1, 0)


def test_bags_of_regions_are_made_varied_and_judged_by_case(
    variations: Variations, tmp_path: Path, textured: Any
) -> None:
    regions = []
    for i in range(6):
        path = tmp_path / f"r{i}.png"
        Image.fromarray(np.roll(textured(128, 128), 9 * i, 1) // (1 + i % 2)).save(path)
        regions.append(Item(path, "ab"[i % 2], f"Case-{i // 2}", TRAIN))
    report = augment.run_bags(regions, variations, replace(SMALL, region=128, draws=1), 0.5)
    assert report["counts"] == {"regions": 6, "variations": 12, "made_in_this_run": 12}
    assert report["cases"]["Case-1"] == {"a": 1, "b": 1}
    for row in report["classifiers"].values():
        assert row["per_case"].keys() == {"Case-0", "Case-1", "Case-2"}
        assert 0 <= row["both"]["mean"] <= 1
    table = markdown({"mil": report})
    assert "Exploratory" in table
    assert table.count("\n| ") == 1 + 2 * 3


# The command


def command(own: Path, out: Path, model: Path, *more: str) -> list[str]:
    return [
        "evaluate", "augment", str(own), "-o", str(out), "--labels-csv", str(own / "mine.csv"),
        "--model", str(model), "--labels", "2,all", "--pool", "2", "--draws", "2", "--steps", "1",
        "--crop", "64", "--device", "cpu", *more,
    ]  # fmt: skip


def test_the_command_writes_a_table_and_its_origin(
    own: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(command(own, out, tiny_folder)) == 0
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert printed.strip() == (out / "table.md").read_text().strip()
    assert printed.count("| mine (0.50) |") == 2
    assert results["settings"]["labels"] == [2, "all"]
    assert results["models"]["tiny"]["sampler"]["steps"] == 1
    assert results["tasks"]["mine"]["counts"]["train"] == {"a": 6, "b": 6}
    assert {"date", "machine", "versions"} <= results.keys()
    assert str(tmp_path) not in json.dumps(results)
    assert str(tiny_folder.parent) not in results["command"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--labels", "4,some"], "labels are whole numbers or 'all'"),
        (["--labels", "1"], "labels per class must be at least 2"),
        (["--tasks", "oral,cats"], "unknown task 'cats'"),
        (["--pool", "1"], "pool must be at least 2, got 1"),
        (["--preset", "best"], "unknown preset 'best'"),
        (["--model", "none"], "unknown model 'none'"),
        (["--tasks", "city"], "tiles.csv"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], told: str, own: Path, tiny_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(command(own, tmp_path / "out", tiny_folder, *more)) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("napari-ssldiff evaluate augment: ")
    assert error.count("\n") == 1


def test_own_images_need_a_model_named(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["evaluate", "augment", str(own), "-o", str(own / "o"), "--labels-csv", "x.csv"]
    assert main(given) == 2
    assert "--labels-csv needs --model" in capsys.readouterr().err


def test_the_other_evaluation_still_takes_a_model_first(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "no-such-model", str(own)]) == 2
    assert "unknown model 'no-such-model'" in capsys.readouterr().err
