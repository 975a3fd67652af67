"""Priors of numbers, and of other text encoders: what they learn from, keep, and refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.models.priors import list_priors, load_words, prior_for, read_prior
from napari_ssldiff.synthesis.imagine import Prompt, imagine
from napari_ssldiff.text.conditions import ClassLabel, Numbers, Text
from napari_ssldiff.text.encoder import TextEncoder, load_text_encoder
from napari_ssldiff.text.facts import fact_names
from napari_ssldiff.text.pictures import THUMB
from napari_ssldiff.training import meanings as m
from napari_ssldiff.training import prior
from napari_ssldiff.training.config import DEFAULT_CONFIG, read_config
from napari_ssldiff.training.loop import Schedule
from napari_ssldiff.training.numbers import keep_condition, read_numbers
from napari_ssldiff.training.pipeline import Pipeline
from napari_ssldiff.training.prior_bundle import has_priors, write_priors
from napari_ssldiff.training.start import with_condition

NAMES = ("a.png", "b.png", "c.png")
PRIOR: dict[str, Any] = {
    "seed": 2, "window": 2, "width": 128, "channels": 8, "context": 16, "spatial": 4,
    "sharpness": 0.5, "composed": 0.5, "unconditional": 0.1, "said": 0.5, "noise": 0.3,
    "prediction": "sample", "batch": 4, "guidance": 2.0, "guidance_interval": [-10, -1],
    "versions": 1, "schedule": {"steps": 1},
    "scheduler": {
        "beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195,
        "num_train_timesteps": 1000,
    },
    "network": {
        "block_out_channels": [16], "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"],
        "attention_head_dim": 8, "norm_num_groups": 8,
    },
}  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def areas() -> m.Areas:
    rng, facts = np.random.default_rng(0), len(fact_names("histology"))
    made = []
    for name in NAMES:
        vectors = rng.normal(size=(4, 4, 128)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        picture = rng.integers(0, 256, (4 * THUMB, 4 * THUMB, 3)).astype(np.uint8)
        made.append(m.Meaning(vectors, rng.random((4, 4, facts)), picture, "Viable", name))
    return m.Areas(made)


def test_a_table_is_matched_with_the_images_and_tells_what_does_not_match(
    table: Callable[[str], Path],
) -> None:
    said: list[str] = []
    text = "path,n,same,none,who\na.png,1,5,,x\nb.png,3,5,,y\nheld.png,9,5,4,z\nother.png,7,1,1,z\n"
    found = read_numbers(table(text), NAMES, ["held.png"], said.append)
    assert found.columns.names == ("n",)
    (column,) = found.columns.columns  # of the training images alone
    assert (column.mean, column.std, column.min, column.max) == (2, 1, 1, 3)
    assert set(found.values) == {"a.png", "b.png", "held.png"}
    assert said == [
        "table.csv: the column who is left out: it holds something else than numbers",
        "table.csv: 1 of 3 images have no row: they are learned without a condition",
        "table.csv: 1 of 4 rows name no image here",
        "table.csv: the column same is left out: it is the same for all images",
        "table.csv: the column none is left out: it has no value for any image",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,n\n/data/a.png,1\n", r"no row of .* it says '/data/a.png', the 3 images .* 'a.png'"),
        ("path,n\n", "no row of .* it says ''"),
        ("path,n\na.png,1\nb.png,1\n", "no column of .* says anything"),
    ],
)
def test_a_table_that_teaches_nothing_is_refused(
    text: str, said: str, table: Callable[[str], Path]
) -> None:
    with pytest.raises(InputError, match=said):
        read_numbers(table(text), NAMES, [], lambda text: None)


def test_areas_are_told_some_of_their_images_numbers(
    table: Callable[[str], Path], areas: m.Areas
) -> None:
    path = table("path,n,m\na.png,1,2\nb.png,3,\n")
    numbers = read_numbers(path, NAMES, [], lambda text: None)
    rng = np.random.default_rng(0)
    first, second, third = (
        {tuple(v) for v in numbers([m.cut(one, 0, 0, 2, 2)] * 64, rng).numpy().round(4).tolist()}
        for one in areas.meanings
    )
    assert numbers.columns.names == ("n",)  # m has one value only
    assert third == {(0.0, 0.0)}  # no row: the null condition
    assert len(first) == len(second) == 1
    two = read_numbers(table("path,n,m\na.png,1,2\nb.png,3,5\n"), NAMES, [], lambda text: None)
    told = two([m.cut(areas.meanings[0], 0, 0, 2, 2)] * 64, rng)
    known = {tuple(v) for v in (told[:, 2:] > 0).tolist()}
    assert known == {(True, True), (True, False), (False, True), (False, False)}
    assert torch.allclose(told.norm(dim=1)[(told != 0).any(1)], torch.ones(()), atol=1e-5)


def pipeline_of(folder: Path, **section: Any) -> Pipeline:
    config = read_config(DEFAULT_CONFIG)
    config["prior"] = {**PRIOR, **section}
    config["text"]["cells"] = 4
    del config["domains"]["naip"]
    return Pipeline(config, folder, folder)


def schedule(steps: int = 1) -> Schedule:
    return Schedule(steps=steps, warmup=1, save_every=0.0, log_every=1)


@pytest.fixture
def numbered(table: Callable[[str], Path], areas: m.Areas, tmp_path: Path) -> Path:
    """The card of a prior of numbers, as ``bundle`` writes it."""
    path = table("path,density,Ki-67\na.png,1,2\nb.png,3,5\nc.png,2,2\n")
    numbers = read_numbers(path, NAMES, [], lambda text: None)
    folder = tmp_path / "numbers-histology"
    keep_condition(folder, {"kind": "csv", "columns": numbers.columns.to_list()})
    config = {**PRIOR, "condition": numbers.columns.width}
    list(prior.train(areas, numbers, config, schedule(), folder, validation=areas))
    pipeline = pipeline_of(tmp_path)  # which says nothing of the table: the folder does
    assert has_priors(pipeline)
    (card,) = write_priors(pipeline, tmp_path / "bundle")
    return card


def test_a_run_on_numbers_that_was_killed_goes_on_step_for_step(
    table: Callable[[str], Path], areas: m.Areas, tmp_path: Path
) -> None:
    path = table("path,n,m\na.png,1,2\nb.png,3,5\n")
    numbers = read_numbers(path, NAMES, [], lambda text: None)
    config = {**PRIOR, "condition": numbers.columns.width}

    def run(folder: str) -> Any:
        return prior.train(areas, numbers, config, schedule(4), tmp_path / folder)

    whole = [row["loss"] for row in run("whole")]
    begun = run("running")
    parts = [next(begun)["loss"] for _ in range(2)]
    shutil.copytree(tmp_path / "running", tmp_path / "killed")
    parts += [row["loss"] for row in run("killed")]
    assert parts == pytest.approx(whole, abs=1e-6)


def test_a_prior_of_numbers_needs_no_text_encoder_and_makes_fields_of_any_of_them(
    numbered: Path,
) -> None:
    card = read_prior(numbered)
    assert (card.id, card.kind, card.text) == ("demo-histology-numbers", "csv", "")
    assert card.columns is not None
    assert card.columns.names == ("density", "Ki-67")
    assert not list(numbered.parents[1].glob("shared/text*"))
    words = load_words(card, "cpu")
    assert words.text is None
    made = [
        imagine(words, Prompt(condition=Numbers(v)), (2, 3)).field.vectors
        for v in ({"density": 1}, {"density": 3}, {"density": 3, "Ki-67": 2})
    ]
    assert made[0].shape == (2, 3, 128)
    assert not np.allclose(made[0], made[1])
    assert not np.allclose(made[1], made[2])
    # It stands beside a prior of words of the same encoder and is found by its kind.
    beside = numbered.parents[1] / "demo-histology"
    assert prior_for(card.encoder, "csv", beside).id == card.id
    assert prior_for(card.encoder, "text", beside).id == "demo-histology-prior"
    assert len(list_priors(beside)) == len(list_priors()) + 1


def test_other_columns_are_another_prior(numbered: Path) -> None:
    data = yaml.safe_load(numbered.read_text())
    before = read_prior(numbered).hash
    data["condition"]["columns"][0]["mean"] = 5.0
    numbered.write_text(yaml.safe_dump(data))
    assert read_prior(numbered).hash != before
    data["condition"]["columns"].pop()
    numbered.write_text(yaml.safe_dump(data))
    with pytest.raises(ModelError, match="takes conditions of 4 numbers, its 1 columns give 2"):
        load_words(read_prior(numbered), "cpu")
    for condition in ({"kind": "sound"}, {"kind": "csv"}, {"kind": "csv", "columns": []}):
        numbered.write_text(yaml.safe_dump({**data, "condition": condition}))
        with pytest.raises(ModelError):
            read_prior(numbered)


def test_what_a_prior_was_begun_with_must_not_change(numbered: Path, tmp_path: Path) -> None:
    folder = tmp_path / "numbers-histology"
    kept = json.loads((folder / "condition.json").read_text())
    keep_condition(folder, kept)
    kept["columns"][0]["mean"] += 1
    with pytest.raises(InputError, match="begun with another table"):
        keep_condition(folder, kept)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small open_clip model with random weights that takes every word, in the hub's layout."""
    import open_clip

    torch.manual_seed(0)
    described = {
        "model_cfg": {
            "embed_dim": 24,
            "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8,
                           "patch_size": 8},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2,
                         "layers": 1},
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.3] * 3},
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("hub") / "PathCLIP"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    model = open_clip.model.CLIP(**described["model_cfg"])
    save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
    return folder


def test_a_prior_of_another_text_encoder_carries_it_along(
    plain: Path, areas: m.Areas, tmp_path: Path
) -> None:
    pipeline = with_condition(pipeline_of(tmp_path), None, str(plain), None)
    encoder = load_text_encoder(plain)
    captions = m.captions_of("histology", areas, 4, 50)
    folder = pipeline.folder("prior", "histology")
    condition = {"kind": "text", "encoder": str(plain), "sha256": encoder.digest}
    keep_condition(folder, condition)
    conditioner = prior.Conditioner(encoder, captions, 0.5, 0.3)
    list(prior.train(areas, conditioner, {**PRIOR, "condition": 24}, schedule(), folder))
    (path,) = write_priors(pipeline, tmp_path / "bundle")
    card = read_prior(path)
    assert card.text == "../shared/text-PathCLIP"
    assert card.guidance_interval == (-10.0, -1.0)
    assert load_words(card, "cpu").prior.facts.guidance_interval == (-10.0, -1.0)
    assert str(plain.parent) not in path.read_text()
    words = load_words(card, "cpu")
    for condition in (Text("anything that one can say"), ClassLabel("Viable")):
        assert imagine(words, Prompt(condition=condition), (2, 2)).field.shape == (2, 2)
    with pytest.raises(InputError, match="begun with another text encoder"):
        keep_condition(folder, {"kind": "text"})
    # A model of the hub is not copied: it is named, and must be the very one.
    data = yaml.safe_load(path.read_text())
    for wrong in ([-1, -10], [3], "all", [-10, None]):
        path.write_text(yaml.safe_dump({**data, "guidance_interval": wrong}))
        with pytest.raises(ModelError, match=r"prior.yaml"):
            read_prior(path)
    data["text"] = str(plain)
    data["weights"] = {k: v for k, v in data["weights"].items() if "text-" not in k}
    path.write_text(yaml.safe_dump({**data, "condition": condition_of(encoder.digest)}))
    assert load_words(read_prior(path), "cpu").text is not None
    path.write_text(yaml.safe_dump({**data, "condition": condition_of("0" * 64)}))
    with pytest.raises(ModelError, match="has other weights than the one"):
        load_words(read_prior(path), "cpu")


def condition_of(digest: str) -> dict[str, str]:
    return {"kind": "text", "sha256": digest}


def test_a_domain_without_captions_is_learned_from_pictures_alone(
    plain: Path, areas: m.Areas
) -> None:
    class Silent(TextEncoder):
        def text(self, texts: Any) -> Any:
            assert list(texts) == ["a"]  # which tells its width
            return super().text(texts)

    known = load_text_encoder(plain)
    encoder = Silent("silent", known.model, known._preprocess, known._tokenizer)
    captions = m.captions_of("radio astronomy", areas, 4, 50)
    made = prior.Conditioner(encoder, captions, 1.0, 0.0)(
        [m.cut(one, 0, 0, 2, 2) for one in areas.meanings], np.random.default_rng(0)
    )
    assert np.allclose(made, known.images([one.picture[:32, :32] for one in areas.meanings]),
                       atol=1e-5)  # fmt: skip


def test_conditions_of_a_run_are_kept_in_its_configuration(tmp_path: Path, plain: Path) -> None:
    pipeline = pipeline_of(tmp_path)
    given = with_condition(pipeline, "csv:table.csv", None, None)
    own = given.config["prior"]["domains"]["histology"]
    assert own["csv"] == str(Path("table.csv").absolute())
    assert given.folder("prior", "histology").name == "numbers-histology"
    back = with_condition(given, "text", "hf-hub:someone/PathCLIP", "histology")
    assert back.folder("prior", "histology").name == "prior-histology"
    assert back.config["prior"]["domains"]["histology"]["text_encoder"] == "hf-hub:someone/PathCLIP"
    assert with_condition(pipeline, None, None, None) is pipeline
    for wrong in ("csv", "csv:", "text:a", "sound:a"):
        with pytest.raises(InputError, match="--condition is text or csv:FILE"):
            with_condition(pipeline, wrong, None, None)
    two = Pipeline(read_config(DEFAULT_CONFIG), tmp_path, tmp_path)
    with pytest.raises(InputError, match="name it by --domain, one of histology, naip"):
        with_condition(two, "csv:table.csv", None, None)
