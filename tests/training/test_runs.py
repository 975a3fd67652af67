"""A few steps of the real stages on tiny configurations; killed runs go on where they were."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from napari_ssldiff.diffusion.solvers import cumulative_alphas
from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.errors import InputError
from napari_ssldiff.models import load_bundle
from napari_ssldiff.training import autoencoder, diffusion, encoder
from napari_ssldiff.training.bundle import write_bundle
from napari_ssldiff.training.data import ImageSet
from napari_ssldiff.training.loop import Runtime, Schedule, Trainer
from napari_ssldiff.training.pipeline import DEFAULT_CONFIG, Pipeline, read_config

Rows = list[dict[str, Any]]
VAE = {
    "seed": 7,
    "patch": 4,
    "linear": 8,
    "network": {
        "class": "AutoencoderKL",
        "in_channels": 48,
        "out_channels": 48,
        "block_out_channels": [8, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
    },
    "crops": [32, 64],
    "pixels": 8192,
    "latent_noise": 0.03,
    "loss": {"l1": 1.0, "edge": 0.4, "spectrum": 0.02, "power": 0.04, "whiteness": 0.05},
}
SSL = {
    "input": 32,
    "width": 8,
    "network": {"name": "resnet10t", "channels": [8, 8, 8, 16]},
    "objective": "vicreg",
    "projector": 16,
    "batch": 8,
    "view": {"shift": 0.2, "zoom": 0.2},
    "seed": 11,
}


@pytest.fixture(scope="session")
def images(textured: Any) -> tuple[ImageSet, ...]:
    return (ImageSet("waves", (textured(96, 128), textured(128, 96))),)


def schedule(steps: int = 6, **changes: Any) -> Schedule:
    """Rows and states after every step."""
    return Schedule(**{"steps": steps, "warmup": 2, "save_every": 0.0, "log_every": 1, **changes})


def losses(rows: Iterator[dict[str, Any]] | Rows) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in rows]


def test_an_autoencoder_run_that_was_killed_goes_on_step_for_step(
    images: tuple[ImageSet, ...], tmp_path: Path
) -> None:
    groups = [(images, {"stain": 0.1, "light": 0.1})]
    whole = losses(autoencoder.train(groups, VAE, schedule(), tmp_path / "whole"))
    assert [step for step, _ in whole] == [1, 2, 3, 4, 5, 6]
    run = autoencoder.train(groups, VAE, schedule(), tmp_path / "running")
    parts = [next(run) for _ in range(3)]
    shutil.copytree(tmp_path / "running", tmp_path / "killed")  # what a kill leaves
    rest = list(autoencoder.train(groups, VAE, schedule(), tmp_path / "killed"))
    assert losses(parts + rest) == whole
    a, b = (autoencoder.result(VAE, tmp_path / name) for name in ("whole", "killed"))
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, msg=name, atol=1e-6, rtol=0)


def test_a_finished_run_does_nothing_more(images: tuple[ImageSet, ...], tmp_path: Path) -> None:
    groups = [(images, {})]
    assert len(list(autoencoder.train(groups, VAE, schedule(2), tmp_path))) == 2
    assert list(autoencoder.train(groups, VAE, schedule(2), tmp_path)) == []


def test_a_time_box_ends_a_run_early_at_rate_zero(
    images: tuple[ImageSet, ...], tmp_path: Path
) -> None:
    box = schedule(10_000, minutes=1 / 60)
    rows = list(autoencoder.train([(images, {})], VAE, box, tmp_path))
    assert 1 <= rows[-1]["step"] < 10_000
    assert (tmp_path / "state.json").exists()
    assert list(autoencoder.train([(images, {})], VAE, box, tmp_path)) == []


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    plan = Schedule(steps=100, lr=1.0, warmup=10)
    assert plan.rate(0, 0.0) == pytest.approx(0.1)
    assert plan.rate(9, 0.0) == pytest.approx(1.0)
    assert plan.rate(50, 0.5) == pytest.approx(0.5)
    assert plan.rate(100, 1.0) == pytest.approx(0.0)
    assert plan.rate(100, 1.7) == pytest.approx(0.0)


def test_a_folder_with_the_state_of_another_network_is_refused(
    images: tuple[ImageSet, ...], tmp_path: Path
) -> None:
    list(autoencoder.train([(images, {})], VAE, schedule(1), tmp_path))
    other = {**VAE, "network": {**VAE["network"], "latent_channels": 8}}  # type: ignore[dict-item]
    with pytest.raises(InputError, match="state of another network"):
        next(autoencoder.train([(images, {})], other, schedule(2), tmp_path))


def test_the_linear_path_starts_at_the_principal_components(images: tuple[ImageSet, ...]) -> None:
    model = autoencoder.build(VAE)
    pictures = autoencoder.calibration_images(images, 4)[..., :64, :64]
    kept = autoencoder.start_linear(model, pictures)
    assert 0 < kept < 1
    assert model.analysis is not None
    assert model.synthesis is not None
    with torch.no_grad():
        z = model.analysis(pictures)
        made = model.synthesis(z)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.05, rtol=0)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(4), atol=0.05, rtol=0)
    patches = pictures.unfold(2, 8, 8).unfold(3, 8, 8)
    variance = (patches - patches.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
    lost = float((made - pictures).square().mean() / variance)
    assert lost == pytest.approx(1 - kept, abs=0.08)


def test_at_the_start_the_network_is_silent(images: tuple[ImageSet, ...]) -> None:
    model = autoencoder.build(VAE)
    pictures = autoencoder.calibration_images(images, 2)[..., :64, :64]
    autoencoder.start_linear(model, pictures)
    assert model.analysis is not None
    with torch.no_grad():
        torch.testing.assert_close(model.encode_raw(pictures), model.analysis(pictures))


def test_calibration_standardises_latents_and_fits_a_preview(
    images: tuple[ImageSet, ...],
) -> None:
    model = autoencoder.build(VAE)
    pictures = autoencoder.calibration_images(images, 4)[..., :64, :64]
    autoencoder.start_linear(model, pictures)
    figures = autoencoder.calibrate(model, pictures, 8)
    with torch.no_grad():
        z = model.encode(pictures)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    assert figures["preview_psnr"] > 15


def test_latents_that_change_the_image_more_can_be_given_more_variance(
    images: tuple[ImageSet, ...],
) -> None:
    model = autoencoder.build(VAE)
    pictures = autoencoder.calibration_images(images, 4)[..., :64, :64]
    autoencoder.start_linear(model, pictures)
    autoencoder.calibrate(model, pictures, 8)
    with torch.no_grad():
        alike = model.encode(pictures)
        plain = model.decode(alike)
    weight = autoencoder.significance(model, alike)
    figures = autoencoder.calibrate(model, pictures, 8, coarse_to_fine=0.5)
    with torch.no_grad():
        z = model.encode(pictures)
        torch.testing.assert_close(model.decode(z), plain, atol=1e-4, rtol=0)
    deviation = z.std(dim=(0, 2, 3))
    assert torch.equal(deviation.argsort(), weight.argsort())
    assert deviation.max() > 1.2 > 0.9 > deviation.min()
    assert figures["preview_psnr"] > 15


@pytest.mark.parametrize("objective", ["vicreg", "simclr"])
def test_an_encoder_trains_and_gives_centred_features(
    objective: str, images: tuple[ImageSet, ...], tmp_path: Path
) -> None:
    config = {**SSL, "objective": objective}
    rows = list(encoder.train([(images, {})], config, schedule(3), tmp_path))
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert np.isfinite([row["loss"] for row in rows]).all()
    model, figures = encoder.result([images], config, tmp_path, cells=64)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 8)
    assert 0 < figures["explained_variance"] <= 1.0001
    assert abs(figures["unrelated_cosine"]) < 0.5


DIFFUSION = {
    "seed": 13, "window": 64, "cell": 32, "unconditional": 0.1, "guidance": 1.5,
    "prediction": "v_prediction", "spatial": 3, "context": 8, "batch": 2,
    "scheduler": {"beta_schedule": "scaled_linear", "beta_start": 0.0015,
                  "beta_end": 0.0195, "num_train_timesteps": 1000},
    "network": {"block_out_channels": [8, 16], "layers_per_block": 1,
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
                "attention_head_dim": 8, "norm_num_groups": 4},
}  # fmt: skip


@pytest.fixture(scope="session")
def samples() -> list[diffusion.Sample]:
    """Two images of unlike latents, each with its own embedding everywhere."""
    rng = np.random.default_rng(0)
    made = []
    for sign in (-1.0, 1.0):
        vectors = np.zeros((4, 4, 6), np.float32)
        vectors[..., int(sign > 0)] = 1
        field = EmbeddingField(vectors, (0, 0), (32, 32), "training", 1.0, "pixel")
        latents = torch.from_numpy(rng.normal(sign, 0.3, (4, 16, 16))).half()
        made.append(diffusion.Sample(latents, field))
    return made


def test_validation_and_sheets_come_with_every_stage(
    images: tuple[ImageSet, ...], samples: list[diffusion.Sample], tmp_path: Path
) -> None:
    groups = [(images, {"stain": 0.1})]
    runs = {
        "autoencoder": autoencoder.train(
            groups, VAE, schedule(2), tmp_path / "autoencoder", validation=groups
        ),
        "encoder": encoder.train(groups, SSL, schedule(2), tmp_path / "encoder", validation=groups),
        "diffusion": diffusion.train(
            {"a": samples, "b": samples}, DIFFUSION, 8, schedule(2), tmp_path / "diffusion",
            runtime=Runtime("cpu"), validation={"b": samples},
            decoder=lambda z: torch.nn.functional.interpolate(z[:, :3], scale_factor=8),
        ),
    }  # fmt: skip
    for stage, run in runs.items():
        rows = list(run)
        assert np.isfinite(rows[-1]["validation"]), stage
        with Image.open(tmp_path / stage / "samples-2.png") as sheet:
            assert min(sheet.size) > 200, stage
        assert (tmp_path / stage / "curves.png").exists()
        assert list((tmp_path / stage).glob("weights-*.safetensors"))


def test_a_diffusion_run_that_was_killed_goes_on_step_for_step(
    samples: list[diffusion.Sample], tmp_path: Path
) -> None:
    def run(name: str) -> Iterator[dict[str, Any]]:
        plan = schedule(validate_every=2)
        data = {"a": samples}
        return diffusion.train(data, DIFFUSION, 8, plan, tmp_path / name, validation=data)

    rows = run("running")
    parts = [next(rows) for _ in range(3)]
    shutil.copytree(tmp_path / "running", tmp_path / "killed")
    whole = parts + list(rows)
    rest = list(run("killed"))
    assert losses(parts + rest) == losses(whole)
    assert rest[-1]["validation"] == whole[-1]["validation"]


def test_samples_of_encoders_of_unequal_width_are_refused(
    samples: list[diffusion.Sample], tmp_path: Path
) -> None:
    field = replace(samples[0].field, vectors=np.ones((4, 4, 9), np.float32))
    wide = [diffusion.Sample(samples[0].latents, field)]
    run = diffusion.train({"a": samples, "b": wide}, DIFFUSION, 8, schedule(), tmp_path)
    with pytest.raises(InputError, match=r"samples of a have 4 .* of 6, those of b 4 and 9"):
        next(run)
    with pytest.raises(InputError, match="no samples of b"):
        next(diffusion.train({"a": samples, "b": []}, DIFFUSION, 8, schedule(), tmp_path))


class Oracle(diffusion.Denoiser):
    """Knows that every clean latent is 0.7, and answers what it is asked for."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config, ["a"], 6, 4, 8)
        self.asked, self.clean = config["prediction"], 0.7
        self.alpha = torch.from_numpy(cumulative_alphas(config["scheduler"])).float().sqrt()

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: Any) -> torch.Tensor:
        alpha = self.alpha[t][:, None, None, None]
        sigma = (1 - alpha**2).sqrt()
        noise = (x - alpha * self.clean) / sigma
        velocity = alpha * noise - sigma * self.clean
        answers = {"epsilon": noise, "v_prediction": velocity}
        return answers.get(self.asked, torch.full_like(x, self.clean))


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
def test_whatever_the_network_predicts_truth_has_no_loss_and_is_what_is_sampled(
    prediction: str, samples: list[diffusion.Sample], tmp_path: Path
) -> None:
    config = {**DIFFUSION, "prediction": prediction}
    flat = [diffusion.Sample(torch.full((4, 16, 16), 0.7), samples[0].field)]
    model = Oracle(config)
    trainer = Trainer(model, tmp_path, schedule(), runtime=Runtime("cpu", "no"))
    rng = np.random.default_rng(0)
    batch = diffusion.draw_batch({"a": diffusion.Windows(flat, config, 8)}, 8, 0.1, rng)
    task = diffusion.Task(config, trainer.device)
    terms = diffusion.denoising_terms(model, trainer, batch, task)
    assert float(terms["loss"]) < 1e-6
    with torch.no_grad():
        shape = (4, 8, 8)
        made = diffusion.sample_windows(model, "a", torch.zeros(2, 4, 6), config, shape, trainer)
    torch.testing.assert_close(made, torch.full((2, *shape), 0.7), atol=0.05, rtol=0)


def test_a_batch_has_equal_parts_of_its_domains_or_those_that_are_asked_for(
    samples: list[diffusion.Sample],
) -> None:
    windows = diffusion.Windows(samples, DIFFUSION, 8)
    domains = {"a": windows, "b": windows}

    def parts(count: int, shares: dict[str, float] | None) -> list[int]:
        rng = np.random.default_rng(0)
        batch = diffusion.draw_batch(domains, count, 0.0, rng, shares)
        assert len(batch.latents) == sum(map(len, batch.tokens.values()))
        return [len(tokens) for tokens in batch.tokens.values()]

    assert parts(16, None) == [8, 8]
    assert parts(16, {"a": 3, "b": 1}) == [12, 4]
    assert parts(16, {"a": 0.75, "b": 0.25}) == [12, 4]
    assert parts(16, {"a": 1000, "b": 1}) == [15, 1]  # none is forgotten
    assert parts(30, {"a": 0.1, "b": 0.2}) == [10, 20]
    assert parts(10, {"a": 3, "b": 1}) == [8, 2]
    assert sum(parts(7, None)) == 7


def test_windows_are_cut_where_their_tokens_are_sampled() -> None:
    rng = np.random.default_rng(3)
    made = []
    for rows, columns, origin in ((5, 7, (16, 40)), (3, 3, (0, 0))):
        vectors = rng.normal(size=(rows, columns, 6)).astype(np.float32)
        field = EmbeddingField(vectors, origin, (32, 32), "test", 1.0, "pixel")
        h, w = rows * 4 + origin[0] // 8, columns * 4 + origin[1] // 8
        # Latents that say where they are, and in which sample.
        y, x = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
        place = np.stack([y, x, np.full_like(y, len(made)), y * 0]).astype(np.float32)
        made.append(diffusion.Sample(torch.from_numpy(place), field))
    latents, tokens = diffusion.Windows(made, DIFFUSION, 8).draw(200, rng)
    centres = (np.arange(2) + 0.5) * 32
    on_cells = 0
    for z, k in zip(latents, tokens, strict=True):
        y, x, which = (int(v) for v in z[:3, 0, 0])
        assert (z[0, -1, 0], z[1, 0, -1]) == (y + 7, x + 7)
        field = made[which].field
        wanted = field.sample((y * 8 + centres)[:, None], (x * 8 + centres)[None, :])
        np.testing.assert_allclose(k.numpy(), wanted.reshape(4, 6), atol=1e-6)
        on_cells += all((at * 8 - o) % 32 == 0 for at, o in zip((y, x), field.origin, strict=True))
    assert 80 < on_cells < 160  # half of them, and some of the others by chance


def test_timesteps_cover_the_range_and_favour_the_middle_where_told() -> None:
    torch.manual_seed(0)
    even = diffusion.draw_timesteps(1000, 1000)
    assert sorted(even.tolist()) == list(range(1000))
    odd = diffusion.draw_timesteps(10_000, 1000, {"mean": -0.4, "std": 0.5})
    assert int(odd.min()) < 10
    assert int(odd.max()) > 990
    assert 380 < float(odd.float().median()) < 430
    inside = ((odd > 250) & (odd < 600)).float().mean()
    # Four fifths of a normal between -1.4 and 1.6 deviations, and a fifth of 35 %.
    assert float(inside) == pytest.approx(0.8 * 0.865 + 0.2 * 0.35, abs=0.02)


def test_a_denoiser_learns_what_its_tokens_mean(
    samples: list[diffusion.Sample], tmp_path: Path
) -> None:
    config = {**DIFFUSION, "batch": 8, "guidance": 1.0}
    plan = schedule(50, lr=0.01, ema=0.8, save_every=1e9)
    rows = list(diffusion.train({"a": samples}, config, 8, plan, tmp_path))
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    model = diffusion.result(config, ["a"], 6, 4, 8, tmp_path)
    tokens = torch.zeros(8, 4, 6)
    tokens[:4, :, 0] = tokens[4:, :, 1] = 1
    trainer = Trainer(model, tmp_path / "sampling", plan)
    torch.manual_seed(0)
    with torch.no_grad():
        made = diffusion.sample_windows(model, "a", tokens, config, (4, 8, 8), trainer)
    assert float(made[:4].mean()) < -0.4
    assert float(made[4:].mean()) > 0.4


def test_objectives_prefer_views_that_agree() -> None:
    torch.manual_seed(0)
    a, other = torch.randn(64, 16), torch.randn(64, 16)
    for objective in encoder.OBJECTIVES.values():
        assert float(objective(a, a + 0.01 * other)) < float(objective(a, other))
    collapsed = torch.ones(64, 16)
    assert float(encoder.vicreg(collapsed, collapsed)) > float(encoder.vicreg(a, a))


@pytest.fixture
def pipeline(tmp_path: Path, textured: Any) -> Pipeline:
    """All stages on one image, with networks far too small to be of use."""
    (tmp_path / "data").mkdir()
    Image.fromarray(textured(160, 192)).save(tmp_path / "data" / "a.png")
    source = [{"name": "waves", "glob": "*.png", "pixel_size": 0.5}]
    steps = {"steps": 2, "lr": 0.001, "warmup": 1}
    card = {"name": "Waves", "domain": "histology", "description": "test", "licence": "CC0"}
    domain = {"resolution": 0.5, "unit": "micrometer", "card": card, "pixels": source,
              "encoder": source, "augment": {"stain": 0.1, "light": 0.1}}  # fmt: skip
    config = {
        "domains": {"waves": {**domain, "model": "waves"}},
        "autoencoder": {**VAE, "schedule": steps},
        "encoder": {**SSL, "schedule": steps},
        "encoder-eval": {**SSL, "objective": "simclr", "seed": 23, "schedule": steps},
        "diffusion": {
            **DIFFUSION,
            "versions": {"waves": 2}, "schedule": steps,
        },
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return Pipeline(read_config(path), tmp_path / "data", tmp_path / "out")


def test_all_stages_end_in_a_model_that_loads(pipeline: Pipeline, tmp_path: Path) -> None:
    for stage in ("autoencoder", "encoder", "encoder-eval", "diffusion"):
        rows = list(pipeline.train(stage))
        assert rows[-1]["step"] == 2
        assert np.isfinite(rows[-1]["loss"])
    (card,) = write_bundle(pipeline, tmp_path / "bundle")
    bundle = load_bundle(str(card.parent), "cpu")
    assert (bundle.card.id, bundle.card.window, bundle.spec.window_latents) == ("waves", 64, 8)
    trained = pipeline.encoder("waves")
    cells = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8)
    x = encoder.normalise_input(torch.from_numpy(cells).permute(0, 3, 1, 2).float() / 255)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(trained(x), dim=1).numpy()
    np.testing.assert_allclose(bundle.encoder.embed(cells), expected, atol=0.02)  # fp16 weights
    assert bundle.evaluation_encoder.spec.id != bundle.encoder.spec.id
    facts = json.loads(json.dumps(bundle.card.extra["training"]))
    assert facts["diffusion"]["steps"] == 2


def test_an_unknown_stage_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match="unknown training stage 'paint'"):
        next(pipeline.train("paint"))


def test_the_demo_configuration_describes_networks_that_fit_together() -> None:
    config = read_config(DEFAULT_CONFIG)
    pipeline = Pipeline(config, Path(), Path())
    assert pipeline.domains == ["histology", "naip"]
    assert pipeline.factor == 4
    assert config["diffusion"]["window"] % config["diffusion"]["cell"] == 0
    assert config["diffusion"]["cell"] == config["encoder"]["input"]
