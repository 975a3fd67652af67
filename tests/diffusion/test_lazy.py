"""Random access: a tile is what it is, whatever else was computed."""

from __future__ import annotations

import hashlib
import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from napari_ssldiff.diffusion import lazy as engine
from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.canvas import CanvasTask
from napari_ssldiff.diffusion.lattice import ByteCache, Lattice
from napari_ssldiff.diffusion.lazy import LazyCanvas, phase_bounds
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.errors import Cancelled, ModelError
from napari_ssldiff.geometry import Box

Make = Callable[..., Denoiser]
LAZY = PRESETS["lazy"]


class Curved(nn.Module):
    """Far from linear, and every latent sees its neighbours and its condition."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        mean = context.mean(dim=(1, 2))[:, None, None, None]
        return SimpleNamespace(sample=torch.tanh(self.inner(x)) + mean)


def task(**changes: Any) -> CanvasTask:
    def tokens(window: Box) -> torch.Tensor:
        return torch.full((4, 3), float(np.sin(window.y * 0.7) + np.cos(window.x * 0.3)))

    arguments: dict[str, Any] = {
        "box": Box(0, 0, 8, 8),
        "tokens": tokens,
        "steps": 6,
        "guidance": 1.5,
        "strength": 1.0,
        "seed": 4,
        "batch": 4,
        **changes,
    }
    return CanvasTask(**arguments)


def short(**changes: Any) -> CanvasTask:
    """For whole tiles, which are large: one step for each phase, few calls."""
    return task(steps=3, batch=32, **changes)


@pytest.fixture
def make(make_denoiser: Make) -> Callable[..., LazyCanvas]:
    def build(work: CanvasTask | None = None, **options: Any) -> LazyCanvas:
        model = make_denoiser()
        model.network = Curved()
        return LazyCanvas(model, work or task(), LAZY, threads=1, **options)

    return build


def test_a_lattice_knows_the_windows_that_cover_a_box() -> None:
    lattice = Lattice(8, 4)
    for box in (Box(0, 0, 1, 1), Box(-5, 3, 4, 9), Box(16, -8, 8, 8), Box(3, 3, 1, 1)):
        around = [(i, j) for i in range(-9, 9) for j in range(-9, 9)]
        expected = [k for k in around if lattice.box(k).intersect(box).area]
        assert lattice.covering(box) == expected


@pytest.mark.parametrize("kind", ["cos2", "uniform", "gaussian"])
@pytest.mark.parametrize("stride", [2, 4, 5, 8])
def test_the_shares_of_the_windows_over_a_place_add_up_to_one(kind: str, stride: int) -> None:
    lattice, field = Lattice(8, stride), Box(-3, 11, 20, 17)
    total = torch.zeros(field.shape)
    for key in lattice.covering(field):
        window = lattice.box(key)
        both = window.intersect(field)
        inside = both.shift(-window.y, -window.x).slices
        total[both.shift(-field.y, -field.x).slices] += lattice.shares(kind)[inside]
    torch.testing.assert_close(total, torch.ones_like(total))


def test_phases_are_equal_parts_of_the_steps_that_are_left() -> None:
    assert phase_bounds(0, 20, 3) == (0, 7, 13, 20)
    assert phase_bounds(14, 20, 3) == (14, 16, 18, 20)
    assert phase_bounds(18, 20, 3) == (18, 19, 20)
    assert phase_bounds(20, 20, 3) == (20,)


def test_a_cache_drops_what_was_used_least_recently_and_only_when_told() -> None:
    cache = ByteCache(100)
    for name in "abcd":
        cache.put(name, torch.zeros(10))
    assert len(cache) == 4
    assert cache.get("a") is not None
    cache.trim()
    assert [name in cache for name in "abcd"] == [True, False, False, True]
    assert cache.used == 80
    cache.put("a", torch.zeros(5))
    assert cache.used == 60


def test_latents_are_the_same_to_the_bit_in_any_order_and_by_any_way(
    make: Callable[..., LazyCanvas],
) -> None:
    box = Box(-10, 5, 30, 26)
    whole = make().latents(box)
    assert float(whole.std()) > 0.1
    parts = [Box(y, x, 9, 7) for y, x in itertools.product((-10, -1, 8), (5, 12, 19))]
    for cache in (0, 1 << 30):
        for order in (parts, parts[::-1]):
            canvas = make(cache_bytes=cache)
            for part in order:
                inside = part.shift(-box.y, -box.x).slices
                assert torch.equal(canvas.latents(part), whole[(slice(None), *inside)])


def test_a_tile_is_the_same_in_another_process(make: Callable[..., LazyCanvas]) -> None:
    code = (
        "import hashlib, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import conftest, test_lazy\n"
        "model = conftest.build_denoiser()\n"
        "model.network = test_lazy.Curved()\n"
        "c = test_lazy.LazyCanvas(model, test_lazy.short(), test_lazy.LAZY, threads=1)\n"
        "print(hashlib.sha256(c.tile(3, -2).numpy().tobytes()).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    canvas = make(short())
    canvas.tile(2, -2)
    mine = hashlib.sha256(canvas.tile(3, -2).numpy().tobytes()).hexdigest()
    assert done.stdout.strip() == mine


def test_a_tile_far_away_costs_what_a_near_one_costs(make: Callable[..., LazyCanvas]) -> None:
    near, far = make(short()), make(short())
    near.tile(0, 0)
    far.tile(10**6 // 256, -(10**6) // 256)
    assert near.counters.evaluations == far.counters.evaluations > 0


def test_every_network_call_has_the_same_shape(make: Callable[..., LazyCanvas]) -> None:
    canvas, shapes = make(), set()
    ask = canvas.model.network.forward

    def watch(x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        shapes.add(tuple(x.shape))
        return ask(x, t, context)

    canvas.model.network.forward = watch  # type: ignore[method-assign]
    canvas.latents(Box(0, 0, 11, 5))
    canvas.latents(Box(40, 3, 3, 50))
    assert shapes == {(8, 12, 8, 8)}  # four windows, with and without condition


def test_what_is_near_is_not_computed_again(make: Callable[..., LazyCanvas]) -> None:
    canvas = make()
    canvas.latents(Box(0, 0, 16, 16))
    first = canvas.counters.evaluations
    assert first == canvas.plan.evaluations([Box(0, 0, 16, 16)])
    canvas.latents(Box(2, 2, 9, 9))
    assert canvas.counters.evaluations == first
    canvas.latents(Box(0, 16, 16, 4))
    assert canvas.counters.evaluations - first < 0.7 * canvas.plan.evaluations([Box(0, 16, 16, 4)])


def test_memory_does_not_grow_with_the_canvas(make: Callable[..., LazyCanvas]) -> None:
    canvas = make(cache_bytes=200_000, tile_bytes=1_000_000)
    kept = []
    for column in range(0, 40, 8):
        canvas.latents(Box(0, column, 8, 8))
        kept.append(canvas._windows.used)
    assert max(kept) <= 200_000
    assert kept[-1] > 100_000


def test_pixels_are_those_of_the_tiles(make: Callable[..., LazyCanvas]) -> None:
    canvas = make(short())
    out = canvas.pixels(Box(250, -6, 11, 10))
    assert out.shape == (3, 11, 10)
    assert torch.equal(out[:, :6, :6], canvas.tile(0, -1)[:, 250:, 250:])
    assert torch.equal(out[:, 6:, 6:], canvas.tile(1, 0)[:, :5, :4])


def test_at_strength_zero_the_known_latents_come_back(make: Callable[..., LazyCanvas]) -> None:
    known = torch.randn(12, 8, 8)
    canvas = make(task(strength=0.0, known=known))
    assert torch.equal(canvas.latents(Box(0, 0, 8, 8)), known)
    assert canvas.counters.evaluations == 0


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_outside_the_mask_the_known_latents_stay_and_nothing_is_computed(
    strength: float, make: Callable[..., LazyCanvas]
) -> None:
    box = Box(4, 4, 24, 24)
    known, mask = torch.randn(12, 24, 24), torch.zeros(24, 24)
    mask[9:13, 9:13] = 1
    canvas = make(task(box=box, known=known, mask=mask, strength=strength))
    out = canvas.latents(box)
    assert torch.equal(out[:, mask == 0], known[:, mask == 0])
    assert float((out - known)[:, mask == 1].abs().mean()) > 0.1
    free = make(task(box=box))
    assert canvas.plan.evaluations([box]) < free.plan.evaluations([box]) / 2


def test_a_cancelled_call_leaves_a_canvas_that_still_works(
    make: Callable[..., LazyCanvas],
) -> None:
    calls = itertools.count()

    def check() -> None:
        if next(calls) == 7:
            raise Cancelled("enough")

    canvas, box = make(check=check), Box(0, 0, 20, 20)
    with pytest.raises(Cancelled):
        canvas.latents(box)
    assert torch.equal(canvas.latents(box), make().latents(box))


def test_a_preset_that_fuses_at_every_step_has_no_random_access(make_denoiser: Make) -> None:
    with pytest.raises(ValueError, match="bulk has no phases"):
        LazyCanvas(make_denoiser(), task(), PRESETS["bulk"])
    with pytest.raises(ValueError, match="needs the known latents"):
        LazyCanvas(make_denoiser(), task(strength=0.5), LAZY)


def test_a_tile_needs_no_neighbour(make: Callable[..., LazyCanvas]) -> None:
    # 256 pixels are 128 latents of two pixels; the halo of 64 pixels is 32 latents.
    canvas, asked = make(), []

    def latents(box: Box) -> torch.Tensor:
        asked.append(box)
        return torch.zeros(12, *box.shape)

    canvas.latents = latents  # type: ignore[method-assign]
    canvas.tile(1, 0)
    assert asked == [Box(128 - 32, -32, 192, 192)]
    assert engine.HALO % canvas.model.spec.latent_factor == 0


def test_what_guidance_leads_away_from_counts_for_single_tiles_too(
    make: Callable[..., LazyCanvas],
) -> None:
    away = torch.full((4, 3), 0.25)
    plain, led = (make(short(guidance=3.0, negative=n)).tile(0, 0) for n in (None, away))
    assert not torch.equal(plain, led)


def test_numbers_that_are_not_finite_are_named_with_their_place(make_denoiser: Make) -> None:
    model = make_denoiser()
    model.network = Curved()
    model.network.inner.weight.data.fill_(float("nan"))
    canvas = LazyCanvas(model, task(), LAZY, threads=1)
    with pytest.raises(ModelError, match=r"latent row -?\d+, column -?\d+, step 1 of 6\)") as error:
        canvas.latents(Box(1000, 2000, 4, 4))
    row, column = (int(n) for n in re.findall(r"(?:row|column) (-?\d+)", str(error.value)))
    assert abs(row - 1000) < 40
    assert abs(column - 2000) < 40
