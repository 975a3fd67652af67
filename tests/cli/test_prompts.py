"""``text``: from a sentence to an OME-Zarr, with the bundled models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_ssldiff.cli import main
from napari_ssldiff.cli.prompts import choose, parse_size
from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.errors import InputError
from napari_ssldiff.models import get_card
from napari_ssldiff.models.load import encoder_spec
from napari_ssldiff.scenes import open_scene
from napari_ssldiff.synthesis import SynthesisRequest
from napari_ssldiff.text.conditions import Text
from napari_ssldiff.text.facts import facts_of

FAST = ["--preset=draft", "--device=cpu"]


@pytest.fixture(autouse=True)
def _no_user_cache(own_cache: Path) -> None:
    """Every test gets a cache folder of its own."""


def test_words_choose_the_model_that_knows_them() -> None:
    assert choose(Text("a residential neighbourhood with large trees")).id == "demo-naip"
    assert choose(Text("dense nuclei beside pink fibrous stroma")).id == "demo-histology"


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("300x200", (200, 300)),
        ("300×200", (200, 300)),
        ("150umx100um", (200, 300)),
        ("1x1", (1, 1)),
    ],
)
def test_sizes_are_read(text: str, shape: tuple[int, int]) -> None:
    assert parse_size(text, encoder_spec(get_card("demo-histology"))) == shape


@pytest.mark.parametrize(
    "text", ["300", "0x5", "axb", "1x2x3", "2000000x5", "5mx5m", "-3x4", "900000x900000"]
)
def test_sizes_of_no_use_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--size"):
        parse_size(text, encoder_spec(get_card("demo-histology")))


def test_a_sentence_becomes_a_picture_with_its_story(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, png, kept = (tmp_path / n for n in ("out.ome.zarr", "out.png", "field.json"))
    words = ["text", "Many trees beside a car park, please", "--size=200x150", "--seed=3", *FAST]
    assert main([*words, "-o", str(out), f"--png={png}", f"--field={kept}"]) == 0
    said = capsys.readouterr()
    assert "'please'" in said.err
    assert "on the right: a car park" in said.err
    assert said.out.splitlines() == [str(out), str(png)]
    assert Image.open(png).size == (200, 150)
    with open_scene(out) as scene:
        assert scene.shape == (150, 200)
        assert scene.pixel_size.unit == "meter"
    attributes = json.loads((out / "zarr.json").read_text())["attributes"]
    found = next(v for k, v in attributes.items() if "ssldiff" in k)
    (step,) = found["request"]["history"]
    assert step["text"] == "Many trees beside a car park, please"
    assert step["seed"] == 3
    request = SynthesisRequest.from_dict(found["request"])
    assert request.field == EmbeddingField.load(kept)
    assert request.field.shape == (3, 4)


def test_the_same_words_and_seed_give_the_same_pixels_and_another_seed_others(
    tmp_path: Path,
) -> None:
    made = []
    for n, seed in enumerate((1, 1, 2)):
        png = tmp_path / f"{n}.png"
        words = ["text", "dense nuclei", "--size=128x128", f"--seed={seed}", *FAST]
        assert main([*words, "-o", str(tmp_path / f"{n}.ome.zarr"), f"--png={png}"]) == 0
        made.append(np.asarray(Image.open(png)))
    assert np.array_equal(made[0], made[1])
    assert np.abs(made[0].astype(int) - made[2]).mean() > 5


def test_a_region_prompt_holds_inside_its_region(tmp_path: Path) -> None:
    square = [[0, 0], [256, 0], [256, 512], [0, 512], [0, 0]]
    feature = {
        "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]},
        "properties": {"name": "a forest with dense trees"},
    }  # fmt: skip
    regions = tmp_path / "regions.geojson"
    regions.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    png = tmp_path / "out.png"
    words = ["text", "bare soil, a desert", "--size=512x512", f"--region-prompts={regions}"]
    assert main([*words, *FAST, "-o", str(tmp_path / "out.ome.zarr"), f"--png={png}"]) == 0
    image = np.asarray(Image.open(png))
    left, right = (facts_of(part, "remote sensing") for part in (image[:, :256], image[:, 256:]))
    assert left["trees"] > right["trees"] + 0.1
    assert right["soil"] > left["soil"] + 0.1


def test_a_class_and_pictures_become_pictures_of_their_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(name: str, *words: str) -> tuple[dict[str, float], dict[str, Any]]:
        out, png = tmp_path / f"{name}.ome.zarr", tmp_path / f"{name}.png"
        assert main(["text", *words, "--size=128x128", *FAST, "-o", str(out), f"--png={png}"]) == 0
        attributes = json.loads((out / "zarr.json").read_text())["attributes"]
        (step,) = next(v for k, v in attributes.items() if "ssldiff" in k)["request"]["history"]
        return facts_of(np.asarray(Image.open(png)), "remote sensing"), step["condition"]

    wood, told = made("wood", "--class=woodland")
    assert told == {"kind": "class", "name": "Woodland"}
    # The picture that was made is itself a reference: its left half, and again all of it.
    like = str(tmp_path / "wood.png")
    again, told = made("again", f"--like={like}:0,0,64,128", f"--like={like}", "--model=demo-naip")
    assert [one["region"] for one in told["references"]] == [[0, 0, 64, 128], [0, 0, 128, 128]]
    assert like not in json.dumps(told)
    # Of their kind; as many again are not promised.
    assert min(wood["trees"], again["trees"]) > 0.3
    assert "model: demo-naip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["", "--size=128x128"], "the prompt is empty"),
        (["🌲"], "the prompt is empty"),
        (["viele bäume"], "knows no word"),
        (["dense nuclei", "--negative=xyzzy"], "knows no word"),
        (["dense nuclei", "--strength=0.5"], "leave the strength at 1"),
        (["dense nuclei", "--words-guidance=500"], "guidance must be between"),
        (["dense nuclei", "--model=none"], "unknown model"),
        (["dense nuclei", "--region-prompts=none.geojson"], "cannot read the regions"),
        ([], "give a PROMPT or one of --class, --like and --numbers: got none"),
        (["dense nuclei", "--class=Viable"], "got PROMPT and --class"),
        (["--class=Viabel"], "no class 'Viabel' (near: Viable"),
        (["--like=none.png"], "none.png"),
        (["--numbers=density=3"], "no model here takes numbers"),
        (["--numbers=density=3", "--model=demo-naip"], "demo-naip-prior takes words, classes"),
        (["--numbers=density"], "name=value"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["text", *words, *FAST, "-o", str(tmp_path / "out.ome.zarr")]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("napari-ssldiff")]
    assert said in line
    assert not (tmp_path / "out.ome.zarr").exists()
