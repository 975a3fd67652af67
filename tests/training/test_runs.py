"""A few steps of the real stages on tiny configurations; killed runs go on where they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from napari_ssldiff.errors import InputError
from napari_ssldiff.models import load_bundle
from napari_ssldiff.training import autoencoder, encoder
from napari_ssldiff.training.bundle import write_bundle
from napari_ssldiff.training.data import ImageSet
from napari_ssldiff.training.loop import Schedule, Trainer
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
    "loss": {"l1": 1.0, "edge": 0.4, "spectrum": 0.02, "whiteness": 0.05},
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


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages log (and so may save) after every step."""
    monkeypatch.setattr(Trainer.run, "__defaults__", (1,))


def schedule(steps: int = 6, **changes: Any) -> Schedule:
    return Schedule(**{"steps": steps, "warmup": 2, "save_every": 0.0, **changes})


def losses(rows: Iterator[dict[str, Any]] | Rows) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in rows]


@pytest.mark.usefixtures("every_step")
def test_an_autoencoder_run_that_was_killed_goes_on_step_for_step(
    images: tuple[ImageSet, ...], tmp_path: Path
) -> None:
    groups = [(images, {"stain": 0.1, "light": 0.1})]
    whole = losses(autoencoder.train(groups, VAE, schedule(), tmp_path / "whole"))
    assert [step for step, _ in whole] == [1, 2, 3, 4, 5, 6]
    run = autoencoder.train(groups, VAE, schedule(), tmp_path / "killed")
    parts = [next(run) for _ in range(3)]
    run.close()  # type: ignore[attr-defined]
    rest = list(autoencoder.train(groups, VAE, schedule(), tmp_path / "killed"))
    assert losses(parts + rest) == whole
    a, b = (autoencoder.result(VAE, tmp_path / name) for name in ("whole", "killed"))
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, msg=name, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("every_step")
def test_a_finished_run_does_nothing_more(images: tuple[ImageSet, ...], tmp_path: Path) -> None:
    groups = [(images, {})]
    assert len(list(autoencoder.train(groups, VAE, schedule(2), tmp_path))) == 2
    assert list(autoencoder.train(groups, VAE, schedule(2), tmp_path)) == []


@pytest.mark.usefixtures("every_step")
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


@pytest.mark.usefixtures("every_step")
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


@pytest.mark.parametrize("objective", ["vicreg", "simclr"])
@pytest.mark.usefixtures("every_step")
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
            "seed": 13, "window": 64, "cell": 32, "unconditional": 0.1, "guidance": 1.5,
            "prediction": "v_prediction", "spatial": 3, "context": 8, "batch": 2,
            "scheduler": {"beta_schedule": "scaled_linear", "beta_start": 0.0015,
                          "beta_end": 0.0195, "num_train_timesteps": 1000},
            "network": {"block_out_channels": [8, 16], "layers_per_block": 1,
                        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
                        "attention_head_dim": 8, "norm_num_groups": 4},
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
    assert pipeline.factor == 8
    assert config["diffusion"]["window"] % config["diffusion"]["cell"] == 0
    assert config["diffusion"]["cell"] == config["encoder"]["input"]
