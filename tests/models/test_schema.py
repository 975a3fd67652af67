"""Cards say what is wrong with them: file, field, value and what is allowed, in one line."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.card import read_card, read_data
from napari_ssldiff.models.entries import CATALOGUE, catalogue
from napari_ssldiff.models.registry import BUNDLED
from napari_ssldiff.models.resolve import cards_of
from napari_ssldiff.models.schema import check

CARDS = [*BUNDLED.glob("*/card.yaml"), *CATALOGUE.glob("*.yaml")]


@pytest.mark.parametrize("path", CARDS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_card_in_the_package_is_valid(path: Path) -> None:
    data = read_data(path)
    assert path.parent == CATALOGUE or data["id"] == path.parent.name
    assert path.parent != CATALOGUE or data["id"] == path.stem


def test_every_known_model_becomes_cards_and_names_known_components() -> None:
    for entry in catalogue().values():
        if entry.kind == "model":
            for card in cards_of(entry):
                assert card.parts["encoder"]["width"] > 0
                assert card.parts["encoder"]["patches"] >= 1
                assert "fetch" in card.parts["encoder"]["absent"] or (
                    "import" in card.parts["encoder"]["absent"]
                )


@pytest.fixture(scope="module")
def valid() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((BUNDLED / "demo-naip" / "card.yaml").read_text())
    return data


def put(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("window", to="wide"), "window is 'wide': input should be a valid integer"),
        (put("unit", to="inch"), "unit is 'inch': input should be 'micrometer' or 'meter'"),
        (put("cell", to=-1), "cell is -1: input should be greater than 0"),
        (put("encoder", "width", to="x"), "encoder.width is 'x': input should be a valid integer"),
        (put("encoder", "weigths", to=[]), "encoder: the key 'weigths' is not known; 'weights' is"),
        (put("denoiser", "prediction", to="eps"), "denoiser.prediction is 'eps': input should be"),
        (put("cell", to=100), "the window of 128 is no multiple of the cell 100"),
        (put("tokens", to=3), "tokens is 3, but window / cell is 2"),
        (put("licence", to={"name": "x", "comercial": 1}), "licence.comercial: this key is not"),
        (put("licence", to={"name": "x", "commercial": "maybe"}), "licence.commercial is 'maybe'"),
        (put("sources", to=[{"kind": "ftp"}]), "sources[0].kind is 'ftp': input should be 'hub'"),
        (put("sources", to=[{"kind": "hub"}]), "sources[0]: a source of kind hub needs repo"),
        (put("sources", to=[{"kind": "drive"}]), "sources[0]: a source of kind drive needs a url"),
        (
            put("sources", to=[{"kind": "hub", "repo": "a/b", "files": [{"name": "../x"}]}]),
            "sources[0].files[0].name: must be a relative path",
        ),
        (put("weights", to={"a": "12"}), "weights.a is '12': string should match pattern"),
        (put("encoder", to={"ref": "a b"}), "encoder.ref is 'a b': string should match pattern"),
        (put("variants", to={"5x": {"window": 0}}), "variant 5x: window is 0"),
        (put("id", to="../x"), "id is '../x': string should match pattern"),
        (put("kind", to="lora"), "kind is 'lora', allowed are model, encoder, autoencoder"),
    ],
)
def test_a_fault_is_told_with_its_place_its_value_and_what_is_allowed(
    change: Callable[[dict[str, Any]], None], said: str, valid: dict[str, Any], tmp_path: Path
) -> None:
    data = copy.deepcopy(valid)
    change(data)
    told = check(data)
    assert told is not None
    assert said in told
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ModelError) as error:
        read_card(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_notes_of_ones_own_are_allowed_and_many_faults_are_counted(valid: dict[str, Any]) -> None:
    data = copy.deepcopy(valid) | {"our_notes": "anything", "encoder": {"ref": "uni", "width": 4}}
    assert check(data) is None
    wrong = data | {key: [] for key in ("window", "cell", "resolution", "guidance", "name")}
    told = check(wrong)
    assert told is not None
    assert told.endswith("and 2 more")


def test_a_component_is_not_read_as_a_model(tmp_path: Path) -> None:
    card = {
        "kind": "autoencoder", "id": "a", "name": "a", "description": "a", "licence": "MIT",
        "autoencoder": {"class": "VQModel", "config": {}, "factor": 4, "channels": 3},
    }  # fmt: skip
    assert check(card) is None
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(ModelError, match="card of an autoencoder, not of a model"):
        read_card(tmp_path / "card.yaml")
    del card["autoencoder"]
    assert check(card) == "it lacks autoencoder"


def test_listing_models_needs_no_torch_no_network_and_no_time(own_cache: Path) -> None:
    code = (
        "import sys, socket\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from napari_ssldiff.cli import main\n"
        "import time; start = time.process_time()\n"
        "assert main(['models', 'list']) == 0\n"
        "print(time.process_time() - start, file=sys.stderr)\n"
        "heavy = {'torch', 'diffusers', 'pydantic', 'huggingface_hub', 'requests'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stderr.strip()) < 1
    assert "demo-naip" in done.stdout
    assert "brca-20x" in done.stdout
