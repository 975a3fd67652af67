"""What a run shows of itself: rows, sessions, curves, sheets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_ssldiff.training.curves import draw_curves, log_ticks, series, ticks
from napari_ssldiff.training.data import ImageSet
from napari_ssldiff.training.progress import Journal, Means, eta_minutes
from napari_ssldiff.training.sheets import grid, lattice_cells, nearest


def test_the_end_is_that_of_the_steps_or_of_the_time_box() -> None:
    assert eta_minutes(40, 100, 80, math.inf, 2.0) == pytest.approx(2)
    assert eta_minutes(40, 100, 80, 140, 2.0) == pytest.approx(1)
    assert eta_minutes(100, 100, 200, 140, 2.0) == 0


def test_means_are_over_the_steps_since_the_row_before_and_survive_a_stop() -> None:
    means = Means()
    means.add({"loss": torch.tensor(1.0)})
    means.add({"loss": torch.tensor(2.0)})
    later = Means(means.sums, means.count)
    later.add({"loss": torch.tensor(6.0)})
    assert later.take() == {"loss": 3.0}
    later.add({"loss": torch.tensor(5.0)})
    assert later.take() == {"loss": 5.0}
    assert later.finite
    later.add({"loss": torch.tensor(torch.inf)})
    assert not later.finite


def test_a_journal_keeps_sessions_apart_and_the_first_start(tmp_path: Path) -> None:
    first = Journal(tmp_path, {"device": "cpu"})
    first.begin(0)
    first.append({"step": 5, "loss": 1.0})
    first.reached(5)
    second = Journal(tmp_path, {"device": "cuda"})
    second.begin(3)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["device"] == "cuda"
    assert told["started"] == told["sessions"][0]["started"]
    assert [(s["device"], s["from_step"], s["to_step"]) for s in told["sessions"]] == [
        ("cpu", 0, 5),
        ("cuda", 3, 3),
    ]
    assert (tmp_path / "metrics.jsonl").read_text() == ""  # step 5 comes again


def test_ticks_are_round_and_within_the_range() -> None:
    assert ticks(0, 100, 5) == [0, 20, 40, 60, 80, 100]
    assert ticks(0.13, 0.29, 4) == pytest.approx([0.15, 0.2, 0.25])
    assert log_ticks(0.03, 3) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1, 2])
    assert log_ticks(0.001, 100) == pytest.approx([0.001, 0.01, 0.1, 1, 10, 100])


def test_a_term_and_its_validation_share_a_panel() -> None:
    rows = [
        {"step": 1, "minutes": 0.1, "lr": 0.1, "loss": 2.0, "l1": 1.0},
        {"step": 2, "minutes": 0.2, "lr": 0.1, "loss": 1.0, "l1": 0.5, "validation": 1.5},
        {"step": 3, "minutes": 0.3, "lr": 0.1, "loss": math.nan, "validation_l1": 0.7},
    ]
    assert series(rows) == {
        "loss": {"training": ([1, 2], [2.0, 1.0]), "validation": ([2], [1.5])},
        "l1": {"training": ([1, 2], [1.0, 0.5]), "validation": ([3], [0.7])},
    }


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0, 0.0], [-1.0, 3.0], [1e-7, 1e5]])
def test_curves_can_be_drawn_of_any_numbers(values: list[float], tmp_path: Path) -> None:
    rows = [{"step": i + 1, "loss": v, "other": -v} for i, v in enumerate(values)]
    draw_curves(rows, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (1260, 630)
        assert len(image.getcolors(1 << 20) or []) > 4
    draw_curves([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_falling_loss_is_drawn_falling(tmp_path: Path) -> None:
    rows = [{"step": i, "loss": 3.0 - 0.02 * i} for i in range(1, 100)]
    draw_curves(rows, tmp_path / "curves.png")
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
    blue = (pixels[40:, :, 2] - pixels[40:, :, 0]) > 80
    height = [np.flatnonzero(blue[:, x]).mean() for x in range(100, 1200, 100)]
    assert height == sorted(height)  # downwards
    assert height[-1] - height[0] > 150


def test_a_sheet_puts_every_picture_in_its_place() -> None:
    def grey(*values: float) -> torch.Tensor:
        return torch.tensor(values)[:, None, None, None].expand(-1, 3, 8, 8) / 127.5 - 1

    sheet = grid([("a", grey(10, 20, 30, 40)), ("b", grey(50, 60, 70, 80))], 16, blocks=2)
    pixels = np.asarray(sheet)[..., 0]
    centres = [26 + 8, 26 + 20 + 8]
    columns = [8 + 8, 8 + 20 + 8]
    second = 2 * 20 + 12  # width of a block
    expected = {(0, 0): (10, 50), (1, 0): (20, 60), (0, 1): (30, 70), (1, 1): (40, 80)}
    for (row, block), values in expected.items():
        seen = [int(pixels[centres[row], x + block * second]) for x in columns]
        assert seen == pytest.approx(values, abs=1)


def test_lattice_cells_do_not_overlap() -> None:
    numbered = np.arange(64 * 96, dtype=np.uint32).reshape(64, 96)
    image = np.stack([numbered % 256, numbered // 256, numbered * 0], -1).astype(np.uint8)
    tiny = np.zeros((8, 8, 3), np.uint8)
    cells = lattice_cells([ImageSet("x", (image, tiny))], 16, 500, seed=0)
    assert cells.shape == (24, 3, 16, 16)
    flat = cells[:, 0].int() + 256 * cells[:, 1].int()
    assert len(flat.unique()) == 64 * 96
    assert lattice_cells([ImageSet("x", (tiny,))], 16, 5, seed=0).shape == (0, 3, 16, 16)


def test_neighbours_are_the_nearest_and_the_query_comes_first() -> None:
    rng = np.random.default_rng(0)
    centres = torch.from_numpy(rng.normal(size=(4, 16)).astype(np.float32))
    group = torch.arange(40) % 4
    features = centres[group] + 0.01 * torch.randn(40, 16)
    order = nearest(features, queries=4, neighbours=5)
    assert order.shape == (4, 6)
    assert sorted(group[order[:, 0]].tolist()) == [0, 1, 2, 3]  # queries show different things
    assert all(len(set(group[row].tolist())) == 1 for row in order)
