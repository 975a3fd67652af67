"""The bench: what it counts, what it compares with, and what it writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from napari_ssldiff.cli import main
from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.diffusion.bundle import Denoiser, ModelSpec
from napari_ssldiff.diffusion.canvas import CanvasTask, plan, sample
from napari_ssldiff.diffusion.conditioning import Condition
from napari_ssldiff.diffusion.decode import decode
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.evaluation.baselines import (
    BASELINES,
    decode_in_one_batch,
    decode_whole,
    panorama,
    paper_as_published,
)
from napari_ssldiff.evaluation.bench import FIELDS, BenchPlan, bench
from napari_ssldiff.evaluation.bench_scene import mean_cosine, read_ground, tile_field
from napari_ssldiff.evaluation.instrument import PeakMemory, Stopwatch, watched
from napari_ssldiff.evaluation.layouts import (
    at_window_256,
    evaluations_per_megapixel,
    layout_of,
)
from napari_ssldiff.geometry import Box
from napari_ssldiff.models import parts
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.models.random_weights import has_random_weights, random_bundle, shape_card

SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "num_train_timesteps": 1000,
}
ASKED_FOR = {
    "preset", "size", "evals", "evals_per_mpx", "seconds_per_mpx", "ttft_s", "ttst_s",
    "unet_vae_share", "peak_rss_mb", "peak_vram_mb", "seam_score", "overlap_power", "ssl_cosine",
    "preview_share",
}  # fmt: skip


class Tokens(nn.Module):
    """The tokens themselves as context."""

    def forward(self, tokens: torch.Tensor) -> Condition:
        return Condition(tokens)


class Mean(nn.Module):
    """Answers x0 = the mean of the tokens plus a share of x, and remembers its batches."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        self.batches.append(len(x))
        return SimpleNamespace(
            sample=context.mean(dim=(1, 2))[:, None, None, None] + self.share * x
        )


class Fold(nn.Module):
    """An autoencoder without parameters: 2 × 2 patches in channels."""

    def encode(self, images: torch.Tensor) -> Any:
        return SimpleNamespace(latents=torch.nn.functional.pixel_unshuffle(images, 2))

    def decode(self, latents: torch.Tensor) -> Any:
        return SimpleNamespace(sample=torch.nn.functional.pixel_shuffle(latents, 2))


def make_model(share: float = 0.0) -> Denoiser:
    """Windows of 8 latents, two pixels each."""
    spec = ModelSpec(16, 2, 3, 12, 2, "sample", SCHEDULE)
    autoencoder = Autoencoder(Fold(), 1, 12)
    return Denoiser(
        spec, autoencoder, Mean(share), Tokens(), torch.device("cpu")  # type: ignore[arg-type]
    )  # fmt: skip


def make_task(size: int = 16, steps: int = 4, guidance: float = 2.0, **given: Any) -> CanvasTask:
    def tokens(window: Box) -> torch.Tensor:
        return torch.full((4, 3), 0.01 * (window.y + 2 * window.x))

    given.setdefault("tokens", tokens)
    return CanvasTask(Box(0, 0, size, size), steps=steps, guidance=guidance, strength=1.0,
                      seed=3, **given)  # fmt: skip


def test_the_papers_counts_come_out_of_the_formulas() -> None:
    spec = ModelSpec(256, 1, 384, 3, 4, "epsilon", SCHEDULE)
    per_mpx, counted = {}, {}
    for name in ("paper", "bulk"):
        preset = PRESETS[name]
        stride = preset.stride_of(spec) * spec.latent_factor
        per_mpx[name] = evaluations_per_megapixel(stride, preset.steps * 2)
        task = make_task(256, preset.steps)
        counted[name] = plan(task, preset, spec).evaluations
        assert len(layout_of(preset, spec, 1024).starts) ** 2 * preset.steps * 2 == counted[name]
    assert per_mpx["paper"] == 25_600
    assert per_mpx["bulk"] == pytest.approx(1137.78, abs=0.01)
    assert counted == {"paper": 16_900, "bulk": 1000}


def test_smaller_windows_take_more_evaluations_and_the_comparable_figure_is_the_same() -> None:
    small, large = evaluations_per_megapixel(96, 40), evaluations_per_megapixel(192, 40)
    assert small == 4 * large
    assert at_window_256(small, 128) == at_window_256(large, 256) == large


@pytest.mark.parametrize("batch", [1, 3])
def test_where_the_network_says_one_number_every_sampler_paints_it(batch: int) -> None:
    model, task = make_model(), make_task(tokens=lambda box: torch.full((4, 3), 0.25))
    # Guided at 2: twice the conditional answer less the unconditional one, which is 0.
    expected = torch.full((12, 16, 16), 0.5)
    for made in (
        panorama(model, task, PRESETS["bulk"], 6, batch),
        paper_as_published(model, task),
        sample(model, task, PRESETS["bulk"]),
    ):
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def test_a_panorama_of_one_view_is_the_engines_canvas_of_one_window() -> None:
    model, task = make_model(0.4), make_task(8)
    made = panorama(model, task, PRESETS["bulk"], 8)
    torch.testing.assert_close(made, sample(model, task, PRESETS["bulk"]), atol=1e-5, rtol=0)


def test_a_panorama_of_many_views_is_another_method_than_the_engine() -> None:
    model, task = make_model(0.4), make_task(16)
    made = panorama(model, task, PRESETS["bulk"], 6)
    assert (made - sample(model, task, PRESETS["bulk"])).abs().max() > 0.01


def test_views_that_share_a_solver_state_do_not_change_the_panorama() -> None:
    model, task = make_model(0.4), make_task(16)
    one, many = (panorama(model, task, PRESETS["bulk"], 6, batch) for batch in (1, 4))
    torch.testing.assert_close(one, many, atol=1e-5, rtol=0)


def test_the_panorama_runs_one_view_with_and_without_condition_per_call() -> None:
    model, told = make_model(), []
    panorama(model, make_task(16, 2), PRESETS["bulk"], 4, told=told.append)
    assert model.network.batches == [2] * (9 * 2)  # type: ignore[union-attr]
    assert told[-1] == 9 * 2 * 2


def test_the_published_sampler_gives_what_preset_paper_gives() -> None:
    model, task = make_model(0.4), make_task(20)
    latents = paper_as_published(model, task)
    assert model.network.batches == [2 * 49] * 4  # type: ignore[union-attr]
    torch.testing.assert_close(latents, sample(model, task, PRESETS["paper"]), atol=1e-5, rtol=0)
    *_, (_, image, _) = decode(model, latents, PRESETS["paper"], centre=(0, 0))
    torch.testing.assert_close(decode_in_one_batch(model, latents), image, atol=1e-5, rtol=0)


def test_the_panorama_is_decoded_in_one_call() -> None:
    latents = torch.rand(12, 16, 16)
    whole = decode_whole(make_model(), latents)
    torch.testing.assert_close(whole, torch.pixel_shuffle(latents[None], 2)[0])


def test_a_field_goes_on_by_reflection() -> None:
    vectors = np.eye(4, dtype=np.float32).reshape(2, 2, 4)
    valid = np.array([[True, False], [True, True]])
    field = EmbeddingField(vectors, (0, 0), (32, 32), "e", 0.5, "micrometer", valid)
    wide = tile_field(field, 160)
    assert wide.shape == (5, 5)
    order = [0, 1, 1, 0, 0]
    np.testing.assert_array_equal(wide.vectors, vectors[order][:, order])
    assert wide.valid is not None
    np.testing.assert_array_equal(wide.valid, valid[order][:, order])
    assert tile_field(field, 32).shape == (1, 1)


def test_the_ground_is_the_middle_of_the_scene_and_its_own_field_fits_it(
    bundle: ModelBundle, write_scene: Callable[..., Path], textured: Callable[..., Any]
) -> None:
    pixels = textured(160, 200)
    ground = read_ground(bundle, write_scene(pixels), 128)
    np.testing.assert_array_equal(ground.pixels, pixels[16:144, 36:164])
    assert ground.field.shape == (4, 4)
    assert mean_cosine(bundle, ground.field, ground.pixels) == pytest.approx(1, abs=1e-5)
    assert ground.note is None


def test_a_scene_without_a_whole_cell_is_refused(
    bundle: ModelBundle, write_scene: Callable[..., Path], textured: Callable[..., Any]
) -> None:
    with pytest.raises(InputError, match="holds no cell of 32 px"):
        read_ground(bundle, write_scene(textured(20, 200)), 128)


@pytest.fixture(scope="module")
def report(bundle: ModelBundle) -> dict[str, dict[str, Any]]:
    """Rows of two presets and all baselines, by name; two steps on 256 px, where W = 64 px."""
    given = BenchPlan(sizes=(256,), presets=("bulk", "paper"), against=tuple(BASELINES), steps=2)
    setup, rows = bench(bundle, given)
    made = list(rows)
    json.dumps([setup, *made], allow_nan=False)
    assert [row["preset"] for row in made] == ["bulk", "paper", *BASELINES]
    return {row["preset"]: row for row in made}


def test_every_row_has_the_issues_fields_and_figures_in_their_range(
    report: dict[str, dict[str, Any]],
) -> None:
    for row in report.values():
        assert set(row) == set(FIELDS) >= ASKED_FOR
        assert row["failed"] is None
        assert row["ttft_s"] <= row["seconds"]
        assert row["seconds_per_mpx"] == pytest.approx(16 * row["seconds"], rel=1e-3)
        assert row["ttst_s"] is None  # 256 px are one tile
        assert 0 < row["unet_vae_share"] <= 1
        assert 0 <= row["preview_share"] < 1
        assert row["seam_score"] >= 0
        assert row["detail"] > 0
        assert -1 <= row["ssl_cosine"] <= 1
        assert row["peak_vram_mb"] is None


def test_rows_count_what_the_engines_formula_says(report: dict[str, dict[str, Any]]) -> None:
    # 32 latents, windows of 8: strides 6, 2, 8, 6, 2 give 5, 13, 4, 5, 13 windows a side.
    # Two steps of bulk begin outside its guidance interval and are taken without guidance.
    passes = {"bulk": 25, "paper": 169, "diffusers-panorama": 16, "panorama-at-equal-evals": 25,
              "panorama-view-by-view": 25, "paper-as-published": 169}  # fmt: skip
    assert {name: row["evals"] for name, row in report.items()} == {
        name: windows * 2 * (2 if "paper" in name else 1) for name, windows in passes.items()
    }
    for name, stride, each in (("bulk", 48, 2), ("paper", 16, 4), ("diffusers-panorama", 64, 2)):
        row = report[name]
        assert row["evals_per_mpx"] == pytest.approx(2**20 / stride**2 * each, rel=1e-4)
        assert row["evals_per_mpx_at_window_256"] == pytest.approx(
            row["evals_per_mpx"] / 16, rel=1e-4
        )


def test_rows_say_how_many_windows_went_into_a_call(report: dict[str, dict[str, Any]]) -> None:
    assert report["diffusers-panorama"]["batch"] == 1
    assert report["panorama-view-by-view"]["batch"] == 1
    assert report["paper-as-published"]["batch"] == 169
    assert report["panorama-at-equal-evals"]["batch"] == report["bulk"]["batch"]


def test_the_published_sampler_makes_the_picture_of_preset_paper(
    report: dict[str, dict[str, Any]],
) -> None:
    for field in ("seam_score", "detail", "ssl_cosine"):
        assert report["paper-as-published"][field] == pytest.approx(
            report["paper"][field], rel=0.02, abs=1e-3
        )


def test_a_baseline_that_finds_no_memory_is_a_row_that_says_so(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("full")

    monkeypatch.setattr("napari_ssldiff.evaluation.baselines.paper_as_published", full)
    given = BenchPlan(sizes=(256,), presets=(), against=("paper-as-published",), steps=1)
    row = next(bench(bundle, given)[1])
    assert row["failed"] == "out of memory"
    assert set(row) == set(FIELDS)
    assert row["evals"] is None


def test_a_plan_refuses_what_cannot_be() -> None:
    with pytest.raises(InputError, match="unknown preset 'slow': choose among bulk"):
        BenchPlan(presets=("slow",))
    with pytest.raises(InputError, match="unknown baseline 'it'"):
        BenchPlan(against=("it",))
    with pytest.raises(InputError, match="multiples of 256 px"):
        BenchPlan(sizes=(300,))
    with pytest.raises(InputError, match="seeds must be at least 1"):
        BenchPlan(seeds=0)
    with pytest.raises(InputError, match="nothing to run"):
        BenchPlan(presets=())


def test_watched_calls_are_counted_and_the_object_is_as_it_was() -> None:
    model = make_model()
    network, watch = model.network, Stopwatch(torch.device("cpu"))
    with watched(model, "network", watch), watched(model.autoencoder, "decode", watch):
        sample(model, make_task(), PRESETS["bulk"])
        assert model.network.share == 0.0  # type: ignore[union-attr]
    assert model.network is network
    assert "decode" not in vars(model.autoencoder)
    assert watch.seconds is not None
    assert watch.seconds > 0
    assert watch.largest == max(network.batches)  # type: ignore[union-attr, arg-type]


def test_peak_memory_sees_what_was_there_only_for_a_moment() -> None:
    memory = PeakMemory(torch.device("cpu"))
    block = np.ones(64 * 2**20, np.uint8)
    block[:] = 2
    del block
    found = memory.read()
    if found["peak_rss_mb"] is None:
        pytest.skip("this system does not tell a process its peak memory")
    if found["peak_rss_scope"] == "row":
        assert found["peak_rss_mb"] >= found["rss_before_mb"] + 48


def test_random_weights_need_no_file_and_are_not_the_trained_model(
    tiny_folder: Path, bundle: ModelBundle, tmp_path: Path
) -> None:
    shutil.copy(tiny_folder / "card.yaml", tmp_path / "card.yaml")
    made = random_bundle(shape_card(str(tmp_path)), "cpu")
    again = random_bundle(shape_card(str(tmp_path / "card.yaml")), "cpu")
    assert made.card.id == "tiny-random"
    assert made.hash != bundle.hash
    assert has_random_weights(made.card)
    assert not has_random_weights(bundle.card)
    one, two = (next(m.denoiser.network.parameters()) for m in (made, again))
    torch.testing.assert_close(one, two)


def test_pictures_of_random_weights_are_not_judged(tiny_folder: Path) -> None:
    made = random_bundle(shape_card(str(tiny_folder)), "cpu")
    _, rows = bench(made, BenchPlan(sizes=(256,), presets=("draft",), steps=1))
    row = next(rows)
    assert row["evals"] == 25
    assert row["seam_score"] is None
    assert row["ssl_cosine"] is None
    assert row["unet_vae_share"] > 0


def test_the_packaged_shape_is_the_papers() -> None:
    card = shape_card("paper-brca-20x")
    with torch.device("meta"):
        unet = parts.network(card.parts["denoiser"])
        vae = parts.network(card.parts["autoencoder"])
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(400.9e6, rel=1e-3)
    assert sum(p.numel() for p in vae.parameters()) == pytest.approx(55.3e6, rel=1e-2)
    assert card.window // card.parts["autoencoder"]["factor"] == 64


@pytest.mark.usefixtures("own_cache")
def test_a_model_of_the_catalogue_is_a_shape_too() -> None:
    card = shape_card("brca-20x")
    assert card.parts["encoder"]["absent"]  # nothing is installed, and nothing need be
    small = {"block_out_channels": [32] * 4, "cross_attention_dim": 8}
    config = {**card.parts["denoiser"]["config"], **small}
    vq = {**card.parts["autoencoder"]["config"], "block_out_channels": [32] * 3}
    changes = {"denoiser": {"config": config}, "autoencoder": {"config": vq},
               "conditioning": {"context": 8}}  # fmt: skip
    made = {k: {**v, **changes.get(k, {})} for k, v in card.parts.items()}
    bundle = random_bundle(replace(card, parts=made), "cpu")
    cell = np.zeros((1, 256, 256, 3), np.uint8)
    assert bundle.encoder.embed(cell).shape == (1, 384)
    assert shape_card("zoomldm-brca:10x").id == "zoomldm-brca:10x"
    assert shape_card("zoomldm-brca").id.startswith("zoomldm-brca:")


def test_a_shape_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"no card at 'nothing': give a card.*brca-20x"):
        shape_card("nothing")
    with pytest.raises(InputError, match=r"no card at 'zoomldm-brca:9x': .*zoomldm-brca:10x"):
        shape_card("zoomldm-brca:9x")


def test_an_encoder_that_is_a_folder_of_weights_cannot_be_random(
    make_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    seen = {"id": "e", "library": "transformers", "name": "e", "input": 32, "width": 12}
    seen |= {"mean": [0.5] * 3, "std": [0.5] * 3, "weights": []}
    folder = make_tiny_model(tmp_path / "m", encoder=seen)
    with pytest.raises(ModelError, match="must name a timm architecture"):
        random_bundle(shape_card(str(folder)), "cpu")


def test_bench_writes_machine_and_rows(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    words = ["bench", "--model", str(tiny_folder), "--device", "cpu", "--presets", "bulk",
             "--steps", "1", "--sizes", "256", "--pictures", str(tmp_path / "p"),
             "--json", str(out)]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.out.split() == [str(out)]
    with Image.open(tmp_path / "p" / "bulk-256.png") as picture:
        assert picture.size == (256, 256)
        assert "made by a diffusion model" in picture.info["Comment"]
    report = json.loads(out.read_text())
    assert set(report) >= {"machine", "rows"}
    assert set(report["rows"][0]) >= ASKED_FOR
    assert "bulk, 256 px: 25 evaluations" in said.err
    assert main([*words[:-2], "--against", "something"]) == 2
    assert "unknown baseline 'something'" in capsys.readouterr().err
