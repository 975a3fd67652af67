"""Model cards are checked, weights are pinned, and the nearest model is chosen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.models import (
    choose_model,
    get_card,
    list_models,
    load_bundle,
    read_card,
    resolve_device,
    variant_for,
)
from napari_ssldiff.scenes import PixelSize, Scene

Make = Callable[..., Path]


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny model with changes in its card (``None`` removes a key)."""

    def make(name: str = "tiny", folder: Path | None = None, **changes: Any) -> Path:
        target = (folder or tmp_path / "own") / name
        shutil.copytree(tiny_folder, target)
        card = yaml.safe_load((target / "card.yaml").read_text())
        card = {k: v for k, v in {**card, **changes}.items() if v is not None}
        (target / "card.yaml").write_text(yaml.safe_dump(card))
        return target

    return make


@pytest.fixture
def installed(own_cache: Path, copy: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Installs models in the user's folder; none are bundled."""
    from napari_ssldiff.models import registry

    monkeypatch.setattr(registry, "BUNDLED", own_cache / "no-bundled-models")

    def install(name: str, **changes: Any) -> Path:
        return copy(name, own_cache / "models", id=name, **changes)

    return install


def scene(size: PixelSize, crs: str | None = None) -> Scene:
    return Scene("s", "s", [np.zeros((8, 8, 3), np.uint8)], size, crs=crs)  # type: ignore[list-item]


def test_a_card_says_what_the_model_is(tiny_folder: Path) -> None:
    card = read_card(tiny_folder / "card.yaml")
    assert (card.id, card.resolution, card.unit, card.window, card.cell) == (
        "tiny", 0.5, "micrometer", 64, 32,
    )  # fmt: skip
    assert card.extra["licence"] == "BSD-3-Clause"
    assert len(card.hash) == 64
    assert card.weight_path("unet.safetensors").is_file()


def test_the_hash_changes_with_the_weights_and_with_the_numbers(copy: Make) -> None:
    base = read_card(copy("a") / "card.yaml")
    weights = {**base.weights, "unet.safetensors": "0" * 64}
    others = [copy("b", weights=weights), copy("c", resolution=0.6), copy("d", window=128)]
    hashes = {base.hash, *(read_card(f / "card.yaml").hash for f in others)}
    assert len(hashes) == 4
    assert read_card(copy("e", description="other words") / "card.yaml").hash == base.hash


@pytest.mark.parametrize("key", ["id", "weights", "licence", "scheduler", "window"])
def test_a_card_that_lacks_something_is_refused_by_name(key: str, copy: Make) -> None:
    with pytest.raises(ModelError, match=f"lacks {key}"):
        read_card(copy(**{key: None}) / "card.yaml")


@pytest.mark.parametrize(
    "changes",
    [
        {"window": "wide"},
        {"resolution": [1]},
        {"weights": ["a.safetensors"]},
        {"weights": "a.safetensors"},
        {"guidance": {}},
    ],
)
def test_a_card_with_values_of_the_wrong_kind_is_refused(
    changes: dict[str, Any], copy: Make
) -> None:
    with pytest.raises(ModelError) as error:
        read_card(copy(**changes) / "card.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"- 1\n", b"a: [\n b: }", b"\xff\xfe\xfa", b"text"])
def test_a_file_that_is_no_card_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "card.yaml"
    path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        read_card(path)
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="cannot read"):
        read_card(tmp_path / "none.yaml")


def test_a_card_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "card.yaml"
    path.write_text("id: !!python/object/apply:os.mkdir [made]\n")
    with pytest.raises(ModelError, match="cannot read"):
        read_card(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/hostname"])
def test_weights_outside_the_models_folders_are_refused(name: str, copy: Make) -> None:
    with pytest.raises(ModelError, match="outside its folder"):
        read_card(copy(weights={name: "0" * 64}) / "card.yaml")


def test_weights_in_a_shared_folder_beside_the_model_are_allowed(copy: Make) -> None:
    card = read_card(copy(weights={"../shared/unet.safetensors": "0" * 64}) / "card.yaml")
    with pytest.raises(ModelError, match="is missing"):
        card.weight_path("../shared/unet.safetensors")
    with pytest.raises(ModelError, match="lists no weights named 'x'"):
        card.weight_path("x")


def test_a_model_loads_from_its_folder(tiny_folder: Path) -> None:
    bundle = load_bundle(str(tiny_folder), "cpu")
    assert bundle.hash == read_card(tiny_folder / "card.yaml").hash
    assert bundle.spec.window_latents == 8
    assert bundle.encoder.spec.id.startswith("tiny-encoder@")
    assert not bundle.denoiser.network.training
    assert bundle.evaluation_encoder.spec.id.startswith("tiny-eval@")
    assert bundle.evaluation_encoder is bundle.evaluation_encoder


def test_a_model_without_a_second_encoder_says_so(copy: Make) -> None:
    with pytest.raises(ModelError, match="no evaluation_encoder"):
        _ = load_bundle(str(copy(evaluation_encoder=None)), "cpu").evaluation_encoder


def test_damaged_weights_are_refused(copy: Make) -> None:
    folder = copy()
    path = folder / "unet.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"unet\.safetensors is damaged"):
        load_bundle(str(folder), "cpu")


def test_a_pickle_in_place_of_safetensors_is_refused(copy: Make) -> None:
    import hashlib

    folder = copy()
    path = folder / "unet.safetensors"
    torch.save({"conv_in.weight": torch.zeros(1)}, path)
    card = read_card(folder / "card.yaml")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    text = (folder / "card.yaml").read_text()
    (folder / "card.yaml").write_text(text.replace(card.weights[path.name], digest))
    with pytest.raises(ModelError, match="cannot read the weights"):
        load_bundle(str(folder), "cpu")


def test_missing_weights_are_named(copy: Make) -> None:
    folder = copy()
    (folder / "projection.safetensors").unlink()
    with pytest.raises(ModelError, match=r"projection\.safetensors is missing"):
        load_bundle(str(folder), "cpu")


def test_an_encoder_folder_with_weights_that_the_card_does_not_pin_is_refused(
    copy: Make, tiny_folder: Path
) -> None:
    part = card_part(tiny_folder, "encoder")
    folder = copy(encoder={**part, "library": "transformers", "name": "vit", "weights": []})
    (folder / "vit").mkdir()
    shutil.copy(folder / "unet.safetensors", folder / "vit" / "model.safetensors")
    with pytest.raises(ModelError, match=r"does not list the weights .*model\.safetensors"):
        load_bundle(str(folder), "cpu")


def card_part(folder: Path, part: str) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "card.yaml").read_text())[part])


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("autoencoder", {"class": "StableDiffusionPipeline"}),
        ("autoencoder", {"class": "NoSuchNet"}),
        ("autoencoder", {"config": {"no_such_option": 1}}),
        ("denoiser", {"config": None}),
        ("conditioning", {"context": 9}),
        ("conditioning", {"context": "wide"}),
        ("encoder", {"library": "keras"}),
        ("encoder", {"width": 13}),
        ("encoder", {"weights": ["unet.safetensors"]}),
    ],
)
def test_a_card_that_describes_no_model_is_refused_in_one_line(
    part: str, change: dict[str, Any], copy: Make, tiny_folder: Path
) -> None:
    folder = copy(**{part: {**card_part(tiny_folder, part), **change}})
    with pytest.raises(ModelError) as error:
        load_bundle(str(folder), "cpu")
    assert "\n" not in str(error.value)


def test_an_unknown_model_is_refused_and_the_known_ones_named(installed: Make) -> None:
    with pytest.raises(ModelError, match=r"unknown model 'nothing'.*none installed"):
        get_card("nothing")
    installed("mine")
    with pytest.raises(ModelError, match=r"unknown model 'nothing'.*mine"):
        get_card("nothing")


def test_models_in_the_users_folder_are_found(installed: Make) -> None:
    installed("b-model")
    installed("a-model")
    assert [card.id for card in list_models()] == ["a-model", "b-model"]
    assert get_card("b-model").folder.name == "b-model"


def test_the_nearest_resolution_of_the_right_unit_is_chosen(installed: Make) -> None:
    installed("coarse", resolution=2.0)
    installed("fine", resolution=0.25)
    installed("ground", resolution=0.6, unit="meter")

    def chosen(y: float, unit: str, crs: str | None = None) -> str:
        return choose_model(scene(PixelSize(y, y, unit), crs)).id

    assert chosen(0.5, "micrometer") == "fine"
    assert chosen(0.8, "micrometer") == "coarse"  # nearest on a log scale
    assert chosen(10, "meter") == "ground"
    assert chosen(1, "pixel") in ("coarse", "fine")
    assert chosen(1, "pixel", "EPSG:3857") == "ground"


def test_of_a_models_variants_the_nearest_to_what_one_looks_at_is_taken(installed: Make) -> None:
    variants = {f"{x}": {"resolution": 0.5 * 2**n} for n, x in enumerate(("20x", "10x", "5x"))}
    installed("zoom", variants=variants)
    assert get_card("zoom", 0.4).id == "zoom:20x"
    assert get_card("zoom", 3).id == "zoom:5x"
    assert get_card("zoom:20x", 3).id == "zoom:20x"
    assert variant_for([get_card(f"zoom:{x}") for x in ("5x", "10x")], 2**0.5).id == "zoom:10x"
    with pytest.raises(ModelError, match="has variants, name one"):
        get_card("zoom")
    looked_at = scene(PixelSize(0.5, 0.5, "micrometer"))
    assert choose_model(looked_at).id == "zoom:20x"
    assert choose_model(looked_at, 1.9).id == "zoom:5x"


def test_without_a_model_of_the_unit_the_scene_is_refused(installed: Make) -> None:
    installed("slides")
    with pytest.raises(InputError, match=r"works in meter.*--model"):
        choose_model(scene(PixelSize(1, 1, "meter")))


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    for name, words in (
        ("cuda", "no CUDA GPU"), ("mps", "no Apple GPU"), ("toaster", "unknown device"),
        ("meta", "unknown device"), ("", "unknown device"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=words):
            resolve_device(name)


def test_a_gpu_beyond_the_last_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto").type == "cuda"
    with pytest.raises(ModelError, match="sees 1 CUDA"):
        resolve_device("cuda:3")
