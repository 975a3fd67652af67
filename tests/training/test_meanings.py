"""Text encoder and prior: what they are shown, short runs that go on after a kill, and cards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.models.load import encoder_spec, load_encoder
from napari_ssldiff.models.priors import load_words, read_prior
from napari_ssldiff.models.registry import get_card
from napari_ssldiff.synthesis.imagine import Prompt, imagine
from napari_ssldiff.text.captions import RELATIONS
from napari_ssldiff.text.facts import fact_names
from napari_ssldiff.text.layout import read_layout
from napari_ssldiff.text.pictures import THUMB
from napari_ssldiff.training import meanings as m
from napari_ssldiff.training import prior, text
from napari_ssldiff.training.config import DEFAULT_CONFIG, read_config
from napari_ssldiff.training.data import ImageSet
from napari_ssldiff.training.loop import Schedule
from napari_ssldiff.training.pipeline import Pipeline
from napari_ssldiff.training.prior_bundle import has_priors, write_priors
from napari_ssldiff.training.worded import Worded

FACTS = len(fact_names("histology"))
TEXT: dict[str, Any] = {
    "seed": 1, "width": 16, "cells": 4, "batch": 8,
    "vision": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text": {"context_length": 16, "width": 16, "heads": 2, "layers": 1},
}  # fmt: skip
PRIOR: dict[str, Any] = {
    "seed": 2, "window": 4, "width": 12, "channels": 8, "condition": 16, "context": 16,
    "spatial": 4, "sharpness": 0.5, "said": 0.5, "noise": 0.3, "composed": 0.5,
    "unconditional": 0.1, "prediction": "sample", "batch": 4, "guidance": 2.0,
    "scheduler": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000},
    "network": {
        "block_out_channels": [16], "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"],
        "attention_head_dim": 8, "norm_num_groups": 8,
    },
}  # fmt: skip


def meaning(rows: int, columns: int, seed: int, width: int = 12) -> m.Meaning:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, columns, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    picture = rng.integers(0, 256, (rows * THUMB, columns * THUMB, 3), dtype=np.uint8)
    facts = rng.random((rows, columns, FACTS)).astype(np.float32)
    return m.Meaning(vectors, facts, picture, "Viable" if seed % 2 else "", f"{seed}.png")


@pytest.fixture
def areas() -> m.Areas:
    return m.Areas([meaning(6, 9, s) for s in range(4)] + [meaning(4, 4, 9)])


def schedule(steps: int = 4) -> Schedule:
    return Schedule(steps=steps, warmup=2, save_every=0.0, log_every=1)


def test_an_area_is_the_same_part_of_vectors_facts_and_picture() -> None:
    one = meaning(6, 9, 0)
    area = m.cut(one, 1, 3, 2, 4)
    assert np.array_equal(area.vectors, one.vectors[1:3, 3:7])
    assert np.allclose(area.facts, one.facts[1:3, 3:7].mean((0, 1)))
    assert np.array_equal(area.picture, one.picture[16:48, 48:112])


def test_areas_come_from_images_that_are_large_enough(areas: m.Areas) -> None:
    rng = np.random.default_rng(0)
    assert areas.largest == 6
    for _ in range(30):
        assert areas.draw(6, 9, rng).vectors.shape == (6, 9, 12)
    with pytest.raises(InputError, match="no image has 10 × 2 cells"):
        areas.draw(2, 10, rng)


def test_what_is_kept_comes_back(areas: m.Areas, tmp_path: Path) -> None:
    m.save(tmp_path / "a.safetensors", areas.meanings)
    for before, after in zip(areas.meanings, m.load(tmp_path / "a.safetensors"), strict=True):
        assert np.allclose(before.vectors, after.vectors, atol=1e-3)
        assert np.array_equal(before.facts, after.facts)
        assert np.array_equal(before.picture, after.picture)
        assert (before.label, before.source) == (after.label, after.source)


def test_images_become_cells_facts_and_pictures(textured: Any) -> None:
    card = get_card("demo-histology")
    encoder = load_encoder(card, torch.device("cpu")).network
    sets = [ImageSet("waves", (textured(200, 140),), sources=("a.jpg",))]
    made = list(
        m.prepare(sets, {"stain": 0.1}, encoder, 64, "histology", 2, {"a.jpg": "Viable"}, seed=3)
    )
    assert len(made) == 2
    assert made[0].shape == (3, 2)
    assert {(one.label, one.source) for one in made} == {("Viable", "a.jpg")}
    for one in made:
        assert one.facts.shape == (*one.shape, FACTS)
        assert one.picture.shape == (one.shape[0] * 16, one.shape[1] * 16, 3)
        assert np.allclose(np.linalg.norm(one.vectors, axis=-1), 1, atol=1e-5)


def test_pairs_have_a_caption_each_and_come_from_all_domains(areas: m.Areas) -> None:
    captions = m.captions_of("histology", areas, 4, 200)
    rng = np.random.default_rng(0)
    drawn, texts = text.draw_pairs({"histology": (areas, captions)}, 12, 4, 0, rng)
    assert len(drawn) == len(texts) == 12
    assert all(texts)
    assert {a.vectors.shape[0] for a in drawn} <= {2, 3, 4}
    assert not any(read_layout(t).parts for t in texts)


def test_some_pairs_are_two_areas_and_say_where_each_lies(areas: m.Areas) -> None:
    captions = m.captions_of("histology", areas, 4, 200)
    rng = np.random.default_rng(0)
    drawn, texts = text.draw_pairs({"histology": (areas, captions)}, 40, 4, 1, rng)
    placed = [(a, read_layout(t)) for a, t in zip(drawn, texts, strict=True)]
    parts = [layout.parts[0] for _, layout in placed if layout.parts]
    assert len(parts) > 30
    assert {p.place for p in parts} == set(RELATIONS)
    assert all(layout.root and layout.parts[0].prompt for _, layout in placed if layout.parts)


def test_joined_areas_keep_vectors_and_pixels_of_both() -> None:
    rest, there = (m.cut(meaning(6, 6, seed), 0, 0, 4, 4) for seed in (0, 1))
    both = m.joined(rest, there, "right", np.random.default_rng(0))
    assert np.array_equal(both.vectors[:, :2], rest.vectors[:, :2])
    assert np.array_equal(both.vectors[:, 2:], there.vectors[:, 2:])
    assert np.array_equal(both.picture[:, :32], rest.picture[:, :32])
    assert np.array_equal(both.picture[:, 32:], there.picture[:, 32:])
    assert np.allclose(both.facts, (rest.facts + there.facts) / 2, atol=1e-6)
    assert both.label == ""
    ring = m.joined(rest, there, "ring", np.random.default_rng(0))
    assert np.array_equal(ring.picture[0, 0], there.picture[0, 0])
    assert np.array_equal(ring.picture[32, 32], rest.picture[32, 32])


def test_labels_are_found_by_path_or_by_name() -> None:
    labels = {"a/b.jpg": "Viable", "chico_2018_93": "chico"}
    assert m.label_of(labels, "a/b.jpg") == "Viable"
    assert m.label_of(labels, "x/chico_2018_93.jpg") == "chico"
    assert m.label_of(labels, "b.jpg") == ""


def test_pairs_with_the_same_words_all_count_as_right() -> None:
    image = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2], [0.3, 1.0], [-1.0, 0.1]]))
    words = torch.nn.functional.normalize(torch.tensor([[0.9, 0.4], [0.9, 0.4], [-1.0, 0.0]]))
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    logits = (5 * image @ words.T).double().numpy()
    target = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    expected = 0.0
    for table in (logits, logits.T):
        log_share = table - np.log(np.exp(table).sum(1, keepdims=True))
        expected -= (target * log_share).sum(1).mean() / 2
    made = text.contrast(image, words, torch.tensor(5.0), same)
    assert float(made) == pytest.approx(expected, rel=1e-5)
    right = text.contrast(image[:2], image[:2], torch.tensor(1e3), torch.eye(2).bool())
    assert float(right) == pytest.approx(0, abs=1e-4)


def test_composed_windows_carry_each_areas_condition_to_its_own_cells(areas: m.Areas) -> None:
    class Marked:
        """A condition that names the area's first cell."""

        def __call__(self, drawn: Any, rng: Any) -> torch.Tensor:
            return torch.tensor(np.stack([a.vectors[0, 0] for a in drawn]))

    rng = np.random.default_rng(1)
    vectors, grids = prior.draw_windows(areas, Marked(), 4, 16, 1.0, rng)  # type: ignore[arg-type]
    grids = grids.unflatten(1, (4, 4))
    assert vectors.shape == (16, 4, 4, 12)
    for field, grid in zip(vectors, grids, strict=True):
        assert torch.equal(grid[0, 0], field[0, 0])
        assert len(torch.unique(grid.flatten(0, 1), dim=0)) == 2
        cut = (grid != grid[0, 0]).any(-1)
        assert cut.all(0).any() or cut.all(1).any()  # whole rows, or whole columns


@pytest.mark.parametrize("stage", ["text", "prior"])
def test_a_run_that_was_killed_goes_on_step_for_step(
    stage: str, areas: m.Areas, tmp_path: Path
) -> None:
    captions = m.captions_of("histology", areas, 4, 200)
    words = text.Words(["histology"], 16)
    torch.manual_seed(0)
    model = text.build(TEXT, len(words.table)).eval()

    def run(folder: Path) -> Any:
        if stage == "text":
            return text.train({"histology": (areas, captions)}, TEXT, schedule(), folder)
        conditioner: Any = prior.Conditioner(
            text.encoder_of(model, words, TEXT), captions, 0.5, 0.3
        )
        return prior.train(areas, conditioner, PRIOR, schedule(), folder, validation=areas)

    whole = [row["loss"] for row in run(tmp_path / "whole")]
    assert len(whole) == 4
    assert np.isfinite(whole).all()
    begun = run(tmp_path / "running")
    parts = [next(begun)["loss"] for _ in range(2)]
    shutil.copytree(tmp_path / "running", tmp_path / "killed")
    parts += [row["loss"] for row in run(tmp_path / "killed")]
    assert parts == pytest.approx(whole, abs=1e-6)


def test_an_encoder_of_another_width_is_refused(areas: m.Areas, tmp_path: Path) -> None:
    config = {**PRIOR, "width": 64}
    with pytest.raises(InputError, match=r"have 12 numbers, prior\.width says 64"):
        next(prior.train(areas, None, config, schedule(), tmp_path))  # type: ignore[arg-type]


def test_domains_without_captions_are_refused() -> None:
    with pytest.raises(InputError, match="no captions for radio astronomy"):
        text.Words(["radio astronomy"], 16)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny text encoder and a tiny prior of the bundled encoder, as ``bundle`` writes them."""
    output = tmp_path_factory.mktemp("words")
    config = read_config(DEFAULT_CONFIG)
    config["text"] = {**TEXT, "schedule": {"steps": 1}}
    config["prior"] = {**PRIOR, "versions": 1, "schedule": {"steps": 1}}
    del config["domains"]["naip"]
    pipeline = Pipeline(config, output, output)
    assert not has_priors(pipeline)
    areas = m.Areas([meaning(6, 6, s, width=128) for s in range(3)])
    captions = m.captions_of("histology", areas, 4, 100)
    list(text.train({"histology": (areas, captions)}, TEXT, schedule(1), output / "text"))
    model, words = text.result(["histology"], TEXT, output / "text")
    conditioner = prior.Conditioner(text.encoder_of(model, words, TEXT), captions, 0.5, 0.3)
    own = {**PRIOR, "width": 128}
    list(prior.train(areas, conditioner, own, schedule(1), output / "prior-histology"))
    assert has_priors(pipeline)
    (path,) = write_priors(pipeline, output / "bundle")
    return path


def test_a_bundled_prior_makes_fields_of_its_encoder_from_words(installed: Path) -> None:
    card = read_prior(installed)
    spec = encoder_spec(get_card("demo-histology"))
    assert card.encoder == spec.id
    words = load_words(card, "cpu")
    made = imagine(words, Prompt("dense nuclei beside pink stroma"), (3, 5))
    assert made.field.shape == (3, 5)
    assert made.field.encoder == spec.id
    assert made.field.width == spec.width
    assert (made.field.resolution, made.field.unit) == (0.5, "micrometer")


def test_damaged_missing_and_misfitting_weights_are_told(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(installed.parents[1], folder)
    path = folder / installed.parent.name / installed.name
    weights = folder / "shared" / "prior-histology.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + b"\x00\x01")
    with pytest.raises(ModelError, match="is damaged"):
        load_words(read_prior(path), "cpu")
    weights.unlink()
    with pytest.raises(ModelError, match="is incomplete"):
        load_words(read_prior(path), "cpu")
    weights.write_bytes(good)
    data = yaml.safe_load(path.read_text())
    data["config"]["channels"] = 4
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ModelError, match="do not fit its card"):
        load_words(read_prior(path), "cpu")
    del data["encoder"]
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ModelError, match="lacks encoder"):
        read_prior(path)
    data = {**data, "encoder": "e", "weights": {"../../../etc/passwd": "0"}}
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ModelError, match="outside its folder"):
        read_prior(path)


def test_embedded_images_are_kept_until_the_images_change(tmp_path: Path, textured: Any) -> None:
    from PIL import Image

    data = tmp_path / "data"
    data.mkdir()
    Image.fromarray(textured(192, 192)).save(data / "a.png")
    config = read_config(DEFAULT_CONFIG)
    del config["domains"]["naip"], config["validation"]
    entry = {"name": "tiles", "glob": "*.png", "pixel_size": 0.5}
    config["domains"]["histology"] |= {"pixels": [entry], "encoder": [entry]}
    config["prior"]["versions"] = 1
    said: list[str] = []

    def count() -> int:
        return len(Worded(Pipeline(config, data, tmp_path / "out", log=said.append)).meanings(
            "histology"))  # fmt: skip

    assert count() == count() == 1
    assert len([s for s in said if s.startswith("embedding")]) == 1
    Image.fromarray(textured(192, 128)).save(data / "b.png")
    assert count() == 2
