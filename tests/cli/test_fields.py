"""``edit`` and ``render``: from a region to a field, to another field, to a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_ssldiff import models
from napari_ssldiff.cli import main
from napari_ssldiff.cli.fields import card_for
from napari_ssldiff.diffusion.precisions import native_bf16
from napari_ssldiff.embeddings import EmbeddingField, edit
from napari_ssldiff.embeddings.field import history_of
from napari_ssldiff.errors import InputError
from napari_ssldiff.models import priors
from napari_ssldiff.models.priors import PriorCard
from napari_ssldiff.scenes import open_scene
from napari_ssldiff.synthesis import SynthesisRequest
from napari_ssldiff.text.prior import PriorFacts


@pytest.fixture(autouse=True)
def _no_user_cache(own_cache: Path) -> None:
    """Every test gets a cache folder of its own."""


@pytest.fixture
def field(
    write_scene: Callable[..., Path], textured: Any, tiny_folder: Path, tmp_path: Path
) -> Path:
    """A field of 3 × 4 cells, by the tiny model's encoder."""
    slide, out = write_scene(textured(96, 128)), tmp_path / "field.json"
    words = ["embed", str(slide), "--region=0,0,128,96", f"--model={tiny_folder}", "--device=cpu"]
    assert main([*words, "-o", str(out)]) == 0
    return out


def shifted(field: Path, by: int) -> Path:
    data = EmbeddingField.load(field)
    out = field.with_name(f"shifted-{by}.json")
    replace(data, vectors=np.roll(data.vectors, by, axis=2)).save(out)
    return out


@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("mix", ["--with=OTHER", "--amount=0.5"]),
        ("transfer", ["--with=OTHER"]),
        ("paint", ["--with=OTHER"]),
        ("move", ["--towards=OTHER", "--away=FIELD", "--angle=0.3"]),
        ("interpolate", ["--from=FIELD", "--to=OTHER", "--axis=y"]),
        ("interpolate", ["--from=FIELD", "--to=OTHER", "--path=0,1,3,1", "--width=3"]),
        ("replace", ["--like=FIELD", "--with=OTHER", "--threshold=-1"]),
        ("smooth", ["--radius=1"]),
        ("jitter", ["--concentration=50", "--seed=2"]),
        ("harmonise", ["--radius=1"]),
        ("average", []),
    ],
)
def test_only_the_cells_that_are_named_change(
    op: str, options: list[str], field: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other, out = shifted(field, 3), tmp_path / "out.json"
    words = [o.replace("OTHER", str(other)).replace("=FIELD", f"={field}") for o in options]
    assert main(["edit", str(field), "--op", op, *words, "--cells=1,0,2,3", "-o", str(out)]) == 0
    assert "6 of 12 cells changed" in capsys.readouterr().out
    before, after = EmbeddingField.load(field), EmbeddingField.load(out)
    same = (before.vectors == after.vectors).all(-1)
    assert same[:, [0, 3]].all()
    assert not same[:, 1:3].any()
    assert (after.origin, after.encoder) == (before.origin, before.encoder)


def test_a_field_is_drawn_by_the_model_that_it_names(
    field: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, png = tmp_path / "out.ome.zarr", tmp_path / "out.png"
    words = ["render", str(field), "--device=cpu", "--steps=2", "-o", str(out)]
    # The tiny model is not installed: only a folder.
    assert main(words) == 2
    assert "no model here has the encoder tiny-encoder@" in capsys.readouterr().err
    assert main([*words, f"--model={tiny_folder}", f"--png={png}", "--seed=3"]) == 0
    with open_scene(out) as made:
        assert made.shape == (96, 128)
        assert made.pixel_size.x == pytest.approx(0.5)
        pixels = made.read_rgb(made.box)
    assert pixels.std() > 1
    with Image.open(png) as picture:
        assert picture.size == (128, 96)
        assert "made by a diffusion model" in picture.info["Comment"]
    facts = json.loads((out / "zarr.json").read_text())["attributes"]["napari_ssldiff"]
    assert facts["synthetic"] is True
    request = SynthesisRequest.from_dict(facts["request"])
    assert request.sampler.seed == 3
    assert np.array_equal(request.field.vectors, EmbeddingField.load(field).vectors)


class Card:
    """As much of a model's card as is needed to choose it."""

    def __init__(self, name: str, encoder: str, resolution: float) -> None:
        self.id, self.resolution, self._encoder = name, resolution, encoder

    def encoder_id(self) -> str:
        return self._encoder


def test_the_model_of_a_field_has_its_very_encoder_and_the_nearest_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards = [
        Card("old", "uni@1", 0.5), Card("fine", "uni@2", 0.5), Card("coarse", "uni@2", 2.0),
        Card("twin", "ctp@1", 0.5), Card("other-twin", "ctp@1", 0.5),
    ]  # fmt: skip
    monkeypatch.setattr(models, "list_models", lambda: cards)

    def chosen(encoder: str, resolution: float = 0.5) -> str:
        made = EmbeddingField(np.ones((1, 1, 2)), (0, 0), (32, 32), encoder, resolution, "meter")
        return card_for(made).id

    assert (chosen("uni@1"), chosen("uni@2"), chosen("uni@2", 1.9)) == ("old", "fine", "coarse")
    with pytest.raises(InputError, match=r"uni@3 .*\(old, fine, coarse: of that name, but of"):
        chosen("uni@3")
    with pytest.raises(InputError, match=r"no model here has the encoder dino@1 that made the fie"):
        chosen("dino@1")
    with pytest.raises(InputError, match=r"several .*\(twin, other-twin\): name one by --model"):
        chosen("ctp@1")
    with pytest.raises(InputError, match=r"\(fine, coarse\)"):
        chosen("uni@2", 1.0)  # as far from the one as from the other


def test_what_a_model_may_take_is_said_and_recorded_or_refused(
    field: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.ome.zarr"
    words = ["render", str(field), f"--model={tiny_folder}", "--device=cpu", "-o", str(out)]
    assert main([*words, "--memory=1MB"]) == 2
    assert "tiny needs at least" in capsys.readouterr().err
    assert main([*words, "--precision=int4"]) == 2
    assert "precision is one of auto, fp32" in capsys.readouterr().err
    assert not out.exists()
    assert main([*words, "--steps=1", "--precision=bf16", "--memory=64GB"]) == 0
    assert "tiny needs about" in capsys.readouterr().err
    facts = json.loads((out / "zarr.json").read_text())["attributes"]["napari_ssldiff"]
    computes = "bf16" if native_bf16() else "fp32"
    assert (facts["device"], facts["precision"], facts["weights"]) == ("cpu", computes, "bf16")


def test_a_field_tells_its_story_and_so_does_its_picture(
    field: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    once, twice, other = tmp_path / "1.json", tmp_path / "2.json", shifted(field, 3)
    assert main(["edit", str(field), "--op=smooth", "--radius=1", "-o", str(once)]) == 0
    words = ["--op=mix", f"--with={other}", "--amount=0.5", "--cells=0,0,1,1"]
    assert main(["edit", str(once), *words, "-o", str(twice)]) == 0
    steps = [json.loads(step) for step in history_of(twice)]
    assert steps[0] == {"made": "edit", "op": "smooth", "radius": 1.0}
    with_ = EmbeddingField.load(other).digest
    assert steps[1] == {
        "made": "edit", "op": "mix", "with": with_, "amount": 0.5, "cells": "0,0,1,1",
    }  # fmt: skip
    out = tmp_path / "out.ome.zarr"
    words = ["render", str(twice), f"--model={tiny_folder}", "--device=cpu", "--steps=2"]
    assert main([*words, "-o", str(out)]) == 0
    facts = json.loads((out / "zarr.json").read_text())["attributes"]["napari_ssldiff"]
    assert facts["request"]["history"] == steps
    data = json.loads(twice.read_text())
    twice.write_text(json.dumps({**data, "history": "long ago"}))
    with pytest.raises(InputError, match="no list of objects"):
        history_of(twice)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--op=mix"], "--op mix needs --with"),
        (["--op=move", "--towards=FIELD", "--angle=1"], "needs --away or --away-words"),
        (["--op=interpolate", "--from=FIELD", "--to=FIELD"], "needs --axis or --path"),
        (
            ["--op=interpolate", "--from=FIELD", "--to=FIELD", "--axis=x", "--path=0,0,1,1"],
            "needs --axis or --path, and not both",
        ),
        (["--op=interpolate", "--from=FIELD", "--to=FIELD", "--path=0,0,1"], "two points X,Y"),
        (["--op=interpolate", "--from=FIELD", "--to=FIELD", "--path=0,0,9,1"], "9,1 leaves the"),
        (
            ["--op=move", "--towards-words=a", "--away-words=b", "--angle=1"],
            "no prior makes fields of the encoder tiny-encoder@",
        ),
        (["--op=smooth", "--radius=1", "--cells=0,0,9,9"], "leave the field, which has 4 × 3"),
        (["--op=smooth", "--radius=1", "--cells=0,0"], "four whole numbers X,Y,W,H in cells"),
        (["--op=smooth", "--radius=-1"], "a radius is at least 0"),
        (["--op=mix", "--with=nothing.json"], "no embedding field at nothing.json"),
        (["--op=paint", "--with=FIELD", "--amount=3"], "the amount lies between 0 and 1"),
        (["--op=smooth", "--radius=1", "--amount=0.5"], "--op smooth takes no --amount"),
        (["--op=harmonise", "--radius=1", "--cells=0,0,1,1", "--amount=1"], "takes no --amount"),
        (["--op=jitter", "--concentration=inf"], "a concentration is above 0 and at most 1e"),
        (["--op=jitter", "--concentration=5", "--seed=-1"], "the seed must be between 0"),
        (["--op=transfer", "--with=FIELD", "--seed=-1"], "the seed must be between 0"),
        (["--op=smooth", "--radius=inf"], "at most 1000 cells"),
        (["--op=smooth", "--radius=1", "--stretch"], "--op smooth takes no --stretch"),
        (
            ["--op=smooth", "--radius=1", "--seed=0"],
            "takes no --seed: leave it out. Taken by: jitter, move by words, transfer",
        ),
        (
            ["--op=mix", "--with=FIELD", "--softness=0.2"],
            "takes no --softness: leave it out. Taken by: replace",
        ),
        (
            ["--op=jitter", "--concentration=5", "--radius=2"],
            "takes no --radius: leave it out. Taken by: harmonise, smooth",
        ),
        (
            ["--op=average", "--with=FIELD"],
            "takes no --with: leave it out. Taken by: mix, paint, replace, transfer",
        ),
        (
            ["--op=move", "--towards=FIELD", "--away=FIELD", "--angle=1", "--seed=3"],
            "--op move takes no --seed except by words",
        ),
        (["--op=paint", "--with=FIELD", "--device=cpu"], "--op paint takes no --device"),
        (
            ["--op=interpolate", "--from=FIELD", "--to=FIELD", "--axis=x", "--width=2"],
            "--op interpolate takes no --width except along --path",
        ),
    ],
)
def test_what_an_operation_lacks_is_named(
    words: list[str], said: str, field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [w.replace("FIELD", str(field)) for w in words]
    assert main(["edit", str(field), *words, "-o", str(tmp_path / "out.json")]) == 2
    assert said in capsys.readouterr().err


def test_a_field_of_another_shape_is_mixed_if_it_may_be_stretched(
    field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = EmbeddingField.load(field)
    small = replace(before, vectors=np.roll(before.vectors, 2, 2)[:2, :3], valid=None)
    small.save(tmp_path / "small.json")
    out = tmp_path / "out.json"
    words = ["edit", str(field), "--op=mix", f"--with={tmp_path / 'small.json'}", "-o", str(out)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "small.json has 3 × 2 cells" in said
    assert "add --stretch" in said
    assert main([*words, "--stretch"]) == 0
    made = EmbeddingField.load(out)
    assert np.array_equal(made.vectors, edit.stretched(small, before).vectors)
    assert json.loads(history_of(out)[-1])["stretch"] is True


def test_a_direction_is_of_two_sets_of_fields_without_their_glass(
    field: Path, tmp_path: Path
) -> None:
    before = EmbeddingField.load(field)
    held = np.zeros(before.shape, bool)
    held[0] = True
    sliced = replace(before, vectors=np.roll(before.vectors, 3, 2), valid=held)
    sliced.save(tmp_path / "sliced.json")
    away, out = shifted(field, 5), tmp_path / "out.json"
    words = ["edit", str(field), "--op=move", f"--away={away}", "--angle=0.3", "-o", str(out)]
    both = [f"--towards={tmp_path / 'sliced.json'}", f"--towards={field}"]
    assert main([*words, *both]) == 0
    towards = np.concatenate([sliced.vectors[0], before.vectors.reshape(-1, 12)])
    along = edit.direction(towards, EmbeddingField.load(away).vectors)
    expected = edit.move(before, along, 0.3)
    np.testing.assert_allclose(EmbeddingField.load(out).vectors, expected.vectors, atol=1e-6)
    (step,) = (json.loads(s) for s in history_of(out))
    assert step["towards"] == [sliced.digest, before.digest]
    assert step["away"] == EmbeddingField.load(away).digest
    # Painting takes the same cells.
    words = ["edit", str(field), "--op=paint", f"--with={tmp_path / 'sliced.json'}"]
    assert main([*words, "-o", str(tmp_path / "painted.json")]) == 0
    made = EmbeddingField.load(tmp_path / "painted.json").vectors
    np.testing.assert_array_equal(made[1, 2], edit.average(sliced, held))


def test_cells_become_their_mean(field: Path, tmp_path: Path) -> None:
    before, out = EmbeddingField.load(field), tmp_path / "out.json"
    held = np.ones(before.shape, bool)
    held[0, 1] = False
    replace(before, valid=held).save(tmp_path / "sliced.json")
    words = ["edit", str(tmp_path / "sliced.json"), "--op=average", "--cells=1,0,2,2"]
    assert main([*words, "-o", str(out)]) == 0
    mask = np.zeros(before.shape)
    mask[:2, 1:3] = True
    made = EmbeddingField.load(out).vectors
    assert np.array_equal(made[0, 1], edit.average(before, mask * held))
    assert np.array_equal(made[:, [0, 3]], before.vectors[:, [0, 3]])
    (step,) = (json.loads(s) for s in history_of(out))
    assert step == {"made": "edit", "op": "average", "cells": "1,0,2,2", "amount": 1.0}


def test_a_field_alone_has_nothing_to_start_from(
    field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["render", str(field), "--strength=0.5", "-o", str(tmp_path / "out.ome.zarr")]
    assert main(words) == 2
    assert "leave the strength at 1" in capsys.readouterr().err


class Text:
    """Knows two things, each an axis."""

    name = "fake"

    def knows(self, word: str) -> bool:
        return True

    def check(self, text: str) -> str | None:
        return None

    def text(self, texts: list[str]) -> np.ndarray:
        return np.stack([np.eye(12)[["nuclei" in t, "fat" in t].index(True)] for t in texts])


class Sampler:
    """Returns its conditions as the field, a little apart from one seed to another."""

    facts = PriorFacts("p", "tiny@1", 0.5, "micrometer", 32, 3.0)

    def sample(self, grid: Any, shape: Any, seed: int, guidance: Any, **options: Any) -> Any:
        return grid + 0.1 * np.random.default_rng(seed).normal(size=grid.shape)


def test_a_field_moves_from_one_description_towards_another(
    field: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = PriorCard(
        "p", "histology", "", "tiny@1", 0.5, "micrometer", 32, 3.0, {}, "t", {}, Path()
    )
    monkeypatch.setattr(priors, "prior_for", lambda encoder: card)
    monkeypatch.setattr(
        priors, "load_words", lambda card, device: priors.Words(card, Sampler(), Text())
    )
    out = tmp_path / "out.json"
    words = ["--op=move", "--towards-words=dense nuclei", "--away-words=fat", "--angle=0.5"]
    assert main(["edit", str(field), *words, "--seed=4", "-o", str(out)]) == 0
    (step,) = (json.loads(s) for s in history_of(out))
    assert (step["op"], step["angle"]) == ("move", 0.5)
    for name, text in (("towards_words", "dense nuclei"), ("away_words", "fat")):
        assert (step[name]["text"], step[name]["seed"], step[name]["prior"]) == (text, 4, "p")
    before, after = EmbeddingField.load(field), EmbeddingField.load(out)
    np.testing.assert_allclose((before.vectors * after.vectors).sum(-1), np.cos(0.5), atol=1e-4)
    # Both are made from one seed, so that they differ by their words alone.
    along = (np.eye(12)[0] - np.eye(12)[1]) / 2**0.5
    expected = edit.move(before, along, 0.5)
    assert ((after.vectors * expected.vectors).sum(-1) > 0.998).all()
