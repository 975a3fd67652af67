"""``napari-ssldiff train`` on one's own images: what it does, keeps, says and refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from napari_ssldiff.cli import main
from napari_ssldiff.models import load_bundle
from napari_ssldiff.models.priors import load_words, read_prior
from napari_ssldiff.training import checks
from napari_ssldiff.training.config import OWN_CONFIG, read_config
from napari_ssldiff.training.pipeline import STAGES
from napari_ssldiff.training.start import open_pipeline

Train = Callable[..., int]


def tiny_config() -> dict[str, Any]:
    """The template with networks far too small to be of use, and two steps per stage."""
    config = read_config(OWN_CONFIG)
    steps = {"steps": 2, "lr": 0.001, "warmup": 1, "log_every": 1}
    config["validation"] = 0.3
    config["domains"]["images"]["model"] = "tiny-own"
    vae = {"block_out_channels": [8, 8], "latent_channels": 4, "norm_num_groups": 4}
    config["autoencoder"] |= {"linear": 8, "crops": [32], "pixels": 4096, "schedule": steps}
    config["autoencoder"]["network"] |= vae
    ssl = {"input": 32, "width": 8, "projector": 16, "batch": 4, "schedule": steps}
    for section in ("encoder", "encoder-eval"):
        config[section] |= ssl
        config[section]["network"]["channels"] = [8, 8, 8, 16]
    config["diffusion"] |= {"window": 64, "cell": 32, "spatial": 3, "context": 8, "batch": 2,
                            "versions": 2, "schedule": steps}  # fmt: skip
    config["diffusion"]["network"] = {
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    config["distil"] |= {"rank": 2, "alpha": 2, "steps": 2, "teacher_steps": 2, "batch": 2}
    config["distil"]["schedule"] = steps
    config["text"] |= {"width": 8, "cells": 3, "batch": 4, "schedule": steps}
    config["text"]["vision"] = {
        "image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8,
    }  # fmt: skip
    config["text"]["text"] = {"context_length": 16, "width": 16, "heads": 2, "layers": 1}
    config["prior"] |= {"window": 2, "channels": 4, "context": 8, "spatial": 2, "batch": 2,
                        "versions": 1, "schedule": steps}  # fmt: skip
    config["prior"]["network"] |= {"block_out_channels": [8], "layers_per_block": 1,
                                   "norm_num_groups": 4}  # fmt: skip
    return config


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory, textured: Any) -> Path:
    """Four PNG of 96 px without a pixel size."""
    folder = tmp_path_factory.mktemp("tiles")
    pixels = textured(192, 192)
    for i, (y, x) in enumerate(((0, 0), (0, 96), (96, 0), (96, 96))):
        Image.fromarray(pixels[y : y + 96, x : x + 96]).save(folder / f"tile-{i}.png")
    return folder


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Runs ``train`` into ``tmp_path / "out"`` with the tiny configuration, changed as asked."""

    def run(stage: str, *data: Path, change: dict[str, Any] | None = None, **options: Any) -> int:
        config = tiny_config()
        for dotted, value in (change or {}).items():
            *path, last = dotted.split(".")
            part = config
            for key in path:
                part = part[int(key) if isinstance(part, list) else key]  # type: ignore[call-overload]
            part[last] = value
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        given = {"config": path, "output": tmp_path / "out", "device": "cpu", **options}
        words = [f"--{k.replace('_', '-')}" + ("" if v is True else f"={v}")
                 for k, v in given.items() if v is not None]  # fmt: skip
        return main(["train", stage, *map(str, data), *words])

    return run


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a refusal."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="session")
def trained(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages on the tiles, by the command line."""
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny_config(), sort_keys=False))
    first = [f"--config={config}", "--pixel-size=0.5um"]
    for stage in (*STAGES, "bundle"):
        # Later stages find in the folder what it was begun with.
        options = first if stage == "encoder" else ["--pixel-size=0.5um"]
        words = ["train", stage, str(tiles), "-o", str(folder / "out"), "--device=cpu", *options]
        assert main(words) == 0, stage
    return folder / "out"


def test_all_stages_end_in_a_model_of_ones_own_images(trained: Path) -> None:
    bundle = load_bundle(str(trained / "bundle" / "tiny-own"), "cpu")
    card = bundle.card
    assert (card.resolution, card.unit, card.domain) == (0.5, "micrometer", "histology")
    assert (bundle.spec.window, bundle.spec.cell) == (64, 32)
    student = card.parts["student"]
    assert (student["rank"], student["steps"], student["guidance"]) == (2, 2, 1.5)
    assert student["weights"] == ["../shared/student.safetensors"]
    assert "../shared/student.safetensors" in card.weights


def test_the_card_says_how_each_stage_was_trained(trained: Path) -> None:
    facts = yaml.safe_load((trained / "bundle" / "tiny-own" / "card.yaml").read_text())["training"]
    assert facts["config"] == "own"
    for stage in STAGES[: STAGES.index("bundle")]:
        assert facts[stage]["steps"] == 2, stage
        assert facts[stage]["hardware"]
        command = facts[stage]["command"]
        assert command.startswith(f"napari-ssldiff train {stage} DATA -o DIR --config own")
        assert "--pixel-size 0.5um" in command
    assert all("validation" in facts[s] for s in ("encoder", "autoencoder", "diffusion"))
    assert str(trained) not in json.dumps(facts)


def test_words_stand_beside_the_model_that_they_were_given_to(trained: Path) -> None:
    card = read_prior(trained / "bundle" / "tiny-own" / "prior.yaml")
    assert card.encoder == load_bundle(str(trained / "bundle" / "tiny-own"), "cpu").encoder.spec.id
    words = load_words(card, "cpu")
    assert words.prior.sample(words.text.text(["few cells"])[0], (3, 2), 1).shape == (3, 2, 8)
    assert card.extra["training"]["prior"]["steps"] == 2


def test_a_prior_of_numbers_stands_beside_that_of_words(
    trained: Path, tiles: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = copy(trained, tmp_path), tmp_path / "scores.csv"
    table.write_text("path,score\n" + "".join(f"tile-{i}.png,{i}\n" for i in range(4)))
    options: dict[str, Any] = {"config": None, "pixel_size": "0.5um"}
    assert train("text", tiles, condition="text", **options) == 2
    assert "are for the stage prior" in said(capsys)
    assert train("prior", tiles, condition="csv:none.csv", **options) == 2
    assert "cannot read the table" in said(capsys)
    assert train("prior", tiles, text_encoder="no-such-model", **options) == 2
    assert "cannot load the text encoder no-such-model" in said(capsys)
    assert train("prior", tiles, condition=f"csv:{table}", **options) == 0
    capsys.readouterr()
    # What was given once is kept; what it was begun with must stay.
    assert train("prior", tiles, **options) == 0
    assert "was finished before" in capsys.readouterr().err
    assert train("bundle", tiles, **options) == 0
    table.write_text(table.read_text().replace("png,3", "png,4"))
    assert train("prior", tiles, **options) == 2
    assert "begun with another table" in capsys.readouterr().err
    card = read_prior(out / "bundle" / "tiny-own-numbers" / "prior.yaml")
    assert card.columns is not None
    assert card.columns.names == ("score",)
    assert "--condition csv:scores.csv" in card.extra["training"]["prior"]["command"]
    assert str(tmp_path) not in (card.folder / "prior.yaml").read_text()
    assert read_prior(out / "bundle" / "tiny-own" / "prior.yaml").kind == "text"
    words = ["text", "--numbers=score=1", f"--model={out / 'bundle' / 'tiny-own'}", "--size=64x64"]
    made = ["--device=cpu", "--steps=2", "-o", str(tmp_path / "made.ome.zarr")]
    assert main([*words, *made]) == 0
    other = str(tmp_path / "b.ome.zarr")
    assert main(["text", f"--numbers={table}:9", *words[2:], *made[:-1], other]) == 2
    assert "no row '9'" in capsys.readouterr().err


def test_words_need_a_finished_model(
    trained: Path, tiles: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("text", tiles, output=tmp_path / "new", pixel_size="0.5um") == 2
    assert "tiny-own is neither installed nor in" in said(capsys)
    out = copy(trained, tmp_path)
    shutil.rmtree(out / "text")
    assert train("prior", tiles, output=out, config=None, pixel_size="0.5um") == 2
    assert "train text DATA" in said(capsys)


def test_the_folder_keeps_the_configuration_with_what_was_found(trained: Path) -> None:
    kept = read_config(trained / "config.yaml")
    assert (kept["domains"]["images"]["resolution"], kept["name"]) == (0.5, "own")


def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "out"))


def test_samples_are_made_again_only_when_their_origin_changed(
    trained: Path, tiles: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy(trained, tmp_path)
    path = out / "samples-images.safetensors"
    before = path.stat().st_mtime_ns
    options: dict[str, Any] = {"config": None, "pixel_size": "0.5um", "steps": 3}
    assert train("diffusion", tiles, **options) == 0
    assert path.stat().st_mtime_ns == before
    # Without a note they are taken on trust, and get one.
    path.with_suffix(".json").unlink()
    assert train("diffusion", tiles, **{**options, "steps": 4}) == 0
    assert path.stat().st_mtime_ns == before
    assert path.with_suffix(".json").exists()
    assert train("encoder", tiles, **{**options, "steps": 5}) == 0
    capsys.readouterr()
    assert train("diffusion", tiles, **{**options, "steps": 5}) == 0
    assert "made again: changed encoder" in capsys.readouterr().err
    assert path.stat().st_mtime_ns != before


@pytest.mark.parametrize("brought", [(), ("trained",)])
def test_samples_suffice_to_train_the_denoiser_where_the_images_are_not(
    brought: tuple[str, ...], trained: Path, tmp_path: Path, train: Train,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    for path in (*trained.glob("samples-*"), trained / "config.yaml"):
        shutil.copy(path, out)
    for name in brought:
        shutil.copytree(trained / name, out / name)
    before = (out / "samples-images.safetensors").stat().st_mtime_ns
    # Its own sample sheets, of the first run, are no images to the second.
    for steps in (2, 3):
        assert train("diffusion", out, config=None, steps=steps) == 0
    assert (out / "samples-images.safetensors").stat().st_mtime_ns == before
    assert any((out / "diffusion").glob("samples-*.png")) == bool(brought)
    assert "made again" not in capsys.readouterr().err


def test_the_encoder_that_samples_were_made_with_is_the_one_bundled(trained: Path) -> None:
    kept = load_file(trained / "trained" / "encoder-images.safetensors")
    bundled = load_file(trained / "bundle" / "shared" / "encoder-images.safetensors")
    for name, tensor in kept.items():
        np.testing.assert_allclose(bundled[name].float(), tensor.float(), atol=2e-3, err_msg=name)


def test_a_finished_stage_says_that_there_is_nothing_to_do(
    trained: Path, tiles: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    copy(trained, tmp_path)
    capsys.readouterr()
    assert train("encoder", tiles, config=None, pixel_size="0.5um") == 0
    assert "finished before" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["encoder", "autoencoder", "diffusion", "distil"])
def test_a_dry_run_tells_what_would_be_done_and_changes_nothing(
    stage: str, trained: Path, tiles: Path, tmp_path: Path, train: Train,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = copy(trained, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    capsys.readouterr()
    options = {"config": None, "pixel_size": "0.5um", "dry_run": True, "steps": 1000}
    assert train(stage, tiles, **options) == 0
    text = capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    for words in ("million parameters", "steps: 1000 of about", "goes on from step 2"):
        assert words in text
    if stage in ("encoder", "autoencoder"):
        assert "images, train: images: 3 images, 3 tiles, 0.0 megapixels" in text
        assert "images, validation: images: 1 images" in text
        assert "at 0.5 micrometer per pixel" in text


def test_a_dry_run_into_a_new_folder_does_not_make_it(
    tiles: Path, tmp_path: Path, train: Train
) -> None:
    assert train("autoencoder", tiles, pixel_size="0.5um", dry_run=True) == 0
    assert not (tmp_path / "out").exists()


def test_nothing_to_train_on_is_refused(
    tiles: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert train("encoder", tmp_path / "empty") == 2
    assert "no image in" in said(capsys)
    assert train("encoder", tmp_path / "none") == 2
    assert "no folder of images" in said(capsys)
    assert train("encoder", tiles / "tile-0.png", pixel_size="0.5um") == 2
    assert "only one image (tile-0.png)" in said(capsys)
    assert not (tmp_path / "out").exists()


def test_images_without_a_pixel_size_need_one(
    tiles: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("encoder", tiles) == 2
    assert "tile-0.png does not say how large its pixels are: give --pixel-size" in said(capsys)


def test_corrupt_images_are_named_and_skipped_while_some_are_sound(
    tiles: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(tiles, tmp_path / "data"))
    (data / "broken.png").write_bytes((data / "tile-0.png").read_bytes()[:2000])
    (data / "empty.jpg").write_bytes(b"")
    assert train("encoder", data, pixel_size="0.5um", dry_run=True) == 0
    text = capsys.readouterr().err
    assert "warning: " in text
    assert "broken.png (" in text
    assert "empty.jpg (" in text
    for path in data.glob("tile-*"):
        path.write_bytes(b"no image")
    assert train("encoder", data, pixel_size="0.5um") == 2
    assert "can be read" in said(capsys)


def test_images_smaller_than_a_crop_are_refused(
    tmp_path: Path, textured: Any, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(4):
        Image.fromarray(textured(24, 200)).save(tmp_path / f"{i}.png")
    assert train("autoencoder", tmp_path, pixel_size="0.5um") == 2
    line = said(capsys)
    assert "smaller than one crop of 32 px" in line
    assert "200 × 24 px at 0.5 micrometer" in line


def test_a_stage_without_its_predecessor_names_the_command(
    tiles: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("diffusion", tiles, pixel_size="0.5um") == 2
    line = said(capsys)
    assert "encoder-images, which holds no trained network" in line
    assert "napari-ssldiff train encoder DATA -o" in line


def test_an_encoder_or_autoencoder_of_another_size_is_refused(
    trained: Path, tiles: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in copy(trained, tmp_path).glob("samples-*"):
        path.unlink()
    options: dict[str, Any] = {"pixel_size": "0.5um"}
    assert train("diffusion", tiles, change={"encoder.width": 12}, **options) == 2
    assert "has a width of 8, the configuration says 12" in said(capsys)
    change = {"autoencoder.network.latent_channels": 8}
    assert train("diffusion", tiles, change=change, **options) == 2
    assert "has 4 latent channels, the configuration says 8" in said(capsys)


def test_a_full_disk_and_a_place_that_is_no_folder_are_refused_beforehand(
    tiles: Path,
    tmp_path: Path,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    assert train("encoder", tiles, pixel_size="0.5um", output=tmp_path / "file" / "out") == 2
    assert "is no folder" in said(capsys)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda place: usage)
    assert train("encoder", tiles, pixel_size="0.5um") == 2
    assert "cannot hold the training state" in said(capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "abacus"}, "unknown device 'abacus'"),
        ({"precision": "int3"}, "unknown precision 'int3'"),
        ({"steps": 0}, "--steps must be more than 0"),
        ({"minutes": -1}, "--minutes must be more than 0"),
        ({"domain": "plankton"}, "no domain 'plankton' in the configuration: it has images"),
        ({"resolution": "0.5"}, "--resolution is a length per pixel with its unit"),
        ({"resolution": "0.5in"}, "--resolution is a length per pixel with its unit"),
        ({"init": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"config": "nowhere.yaml"}, "cannot read the configuration nowhere.yaml"),
        ({"config": "demo"}, "no image matches 'histology/osteosarcoma_1024/*.jpg'"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(
    options: dict[str, Any],
    words: str,
    tiles: Path,
    train: Train,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train("encoder", tiles, **{"pixel_size": "0.5um", **options}) == 2
    assert words in said(capsys)


def test_an_unknown_stage_is_answered_with_those_that_exist(
    tiles: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("paint", tiles) == 2
    assert f"unknown training stage 'paint': choose one of {', '.join(STAGES)}" in said(capsys)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"diffusion.widnow": 64}, "diffusion.widnow is not known"),
        ({"domains.images.augment.rain": 1}, "domains.images.augment.rain is not known"),
        ({"domains.images.pixels.0.gloss": 1}, "domains.images.pixels[0].gloss is not known"),
        ({"encoder.batch": "many"}, "encoder.batch must be a whole number, got 'many'"),
        ({"encoder.schedule.lr": "1e-3"}, "YAML reads 1e-3 as text"),
        ({"diffusion.cell": 48}, "diffusion.window must be a multiple of diffusion.cell"),
        ({"diffusion.shares": {}}, "diffusion.shares.images is missing"),
        ({"diffusion.shares": {"images": 1, "mars": 1}}, "diffusion.shares.mars is no domain"),
        ({"diffusion.shares": {"images": float("nan")}}, "shares.images is a number above 0"),
        ({"domains.images.augment.shrink": 25}, "augment.shrink is at least 0 and below 1, got 25"),
        ({"domains.images.augment.density": -1}, "augment.density is at least 0, got -1"),
        ({"validation": 3}, "validation is a fold's name or a share between 0 and 1, got 3"),
        ({"prior.guidance_interval": [1, -2]}, "prior.guidance_interval is two numbers, low below"),
        ({"encoder.objective": "wishing"}, "encoder.objective 'wishing' is not known"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_by_its_keys(
    change: dict[str, Any],
    words: str,
    tiles: Path,
    train: Train,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train("encoder", tiles, change=change, pixel_size="0.5um") == 2
    assert words in said(capsys)


def test_a_missing_key_is_named(tmp_path: Path, tiles: Path) -> None:
    config = tiny_config()
    del config["diffusion"]["window"], config["encoder"]["seed"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"encoder.seed is missing; diffusion.window is missing"):
        read_config(path)


def test_the_resolution_given_holds_and_cannot_change_later(
    tiles: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"pixel_size": "0.25um", "resolution": "0.5um", "steps": 1}
    assert train("autoencoder", tiles, **options) == 0
    capsys.readouterr()
    again = {"config": None, "pixel_size": "0.25um", "resolution": "1um"}
    assert train("autoencoder", tiles, **again) == 2
    assert "fixed at 0.5 micrometer per pixel" in said(capsys)
    pipeline = open_pipeline([tiles], tmp_path / "out")
    assert pipeline.images.resolution("images").y == 0.5


def test_data_in_the_demo_models_layout_is_taken_with_its_folds(tmp_path: Path) -> None:
    for place in ("histology/osteosarcoma_1024/a.jpg", "histology/her2st_breast/a.jpg",
                  "histology/oral_224/400x/a.jpg", "satellite/naip_60cm/a.jpg"):  # fmt: skip
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    said: list[str] = []
    pipeline = open_pipeline([tmp_path], tmp_path / "out", log=said.append)
    assert pipeline.config["name"] == "demo"
    assert "has the layout of the demo models' data" in said[0]


def test_weights_alone_suffice_to_start_from(
    trained: Path, tiles: Path, tmp_path: Path, train: Train
) -> None:
    state = json.loads((trained / "autoencoder" / "state.json").read_text())
    tensors = load_file(trained / "autoencoder" / state["file"])
    prefix = "average.module."
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    save_file(weights, tmp_path / "weights.safetensors")
    options = {"pixel_size": "0.5um", "steps": 1, "init": tmp_path / "weights.safetensors"}
    assert train("autoencoder", tiles, **options) == 0
    command = json.loads((tmp_path / "out" / "commands.json").read_text())["autoencoder"]
    assert command.endswith("--init weights.safetensors")
