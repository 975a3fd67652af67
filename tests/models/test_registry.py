"""Components, variants and versions: what is put together when a model is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models import get_card, list_models, load_bundle, problems
from napari_ssldiff.models.entries import newest
from napari_ssldiff.models.load import encoder_spec
from napari_ssldiff.models.resolve import sight

Install = Callable[..., Path]


@pytest.fixture
def none_bundled(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No model comes with the package; the catalogue is an empty folder."""
    from napari_ssldiff.models import entries, registry

    monkeypatch.setattr(registry, "BUNDLED", own_cache / "none")
    monkeypatch.setattr(entries, "CATALOGUE", own_cache / "catalogue")
    (own_cache / "catalogue").mkdir(parents=True)
    return own_cache


@pytest.fixture
def install(none_bundled: Path, tiny_folder: Path) -> Install:
    """Installs the tiny model under an id with changes; its encoder is a component if so asked."""

    def make(name: str, date: str = "2026-01-01", **changes: Any) -> Path:
        folder = none_bundled / "models" / name
        shutil.copytree(tiny_folder, folder)
        card = yaml.safe_load((folder / "card.yaml").read_text())
        card["imported"] = {
            "file": "f", "sha256": "0" * 64, "date": date, "package": "p", "hash_known": True,
        }  # fmt: skip
        card = {k: v for k, v in {**card, "id": name, **changes}.items() if v is not None}
        (folder / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
        return folder

    return make


@pytest.fixture
def component(none_bundled: Path, tiny_folder: Path) -> Install:
    """Installs the tiny model's encoder as a component, or only puts it into the catalogue."""

    def make(name: str, *, known: bool = False, **changes: Any) -> Path:
        whole = yaml.safe_load((tiny_folder / "card.yaml").read_text())
        file = "encoder.safetensors"
        card = {
            "kind": "encoder", "id": name, "name": name, "description": "For tests.",
            "licence": "MIT", "encoder": {**whole["encoder"], "id": name, **changes},
        }  # fmt: skip
        if known:
            card["sources"] = [{"kind": "hub", "repo": "a/b", "files": [{"name": "x.pt"}]}]
            path = none_bundled / "catalogue" / f"{name}.yaml"
            path.write_text(yaml.safe_dump(card))
            return path
        card["weights"] = {file: whole["weights"][file]}
        folder = none_bundled / "models" / name
        folder.mkdir(parents=True)
        shutil.copy(tiny_folder / file, folder)
        (folder / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
        return folder

    return make


def test_the_newest_version_is_taken_unless_one_is_named(install: Install) -> None:
    install("m@aaa", date="2026-03-01")
    install("m@bbb", date="2026-02-01")
    assert get_card("m").id == "m@aaa"
    assert get_card("m@bbb").id == "m@bbb"
    assert [card.id for card in list_models()] == ["m@aaa", "m@bbb"]
    with pytest.raises(ModelError, match="unknown model 'm@ccc'"):
        get_card("m@ccc")


def test_a_variant_is_a_model_of_its_own_and_has_to_be_named(install: Install) -> None:
    variants = {
        "fine": {"resolution": 0.25, "conditioning": {"note": "x"}},
        "coarse": {"resolution": 2.0},
    }
    folder = install("m@aaa", variants=variants)
    assert [card.id for card in list_models()] == ["m@aaa:fine", "m@aaa:coarse"]
    card = get_card("m:fine")
    assert (card.id, card.resolution, card.name) == ("m@aaa:fine", 0.25, "Tiny, fine")
    assert card.parts["conditioning"]["context"] == 8  # what a variant leaves out stays
    assert card.parts["conditioning"]["note"] == "x"
    assert get_card("m@aaa:coarse").hash != card.hash
    assert get_card(f"{folder}:coarse").resolution == 2.0
    for wrong in ("m", "m@aaa", "m:medium", str(folder)):
        with pytest.raises(ModelError, match=r"m@aaa:fine, m@aaa:coarse"):
            get_card(wrong)


def test_a_component_is_put_into_the_model_that_names_it(
    install: Install, component: Install
) -> None:
    component("enc@v1")
    install("m@aaa", encoder={"ref": "enc"}, evaluation_encoder=None)
    card = get_card("m")
    assert card.parts["encoder"]["weights"] == ["../enc@v1/encoder.safetensors"]
    assert card.extra["components"]["encoder"]["id"] == "enc@v1"
    bundle = load_bundle("m", "cpu")
    assert bundle.encoder.spec.id.startswith("enc@")
    assert bundle.encoder.spec.width == 12
    # The same weights inside the model give the same vectors.
    own = load_bundle(str(install("whole@bbb")), "cpu")
    cells = (own.encoder.spec.cell,) * 2
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (2, *cells, 3), np.uint8)
    assert np.array_equal(bundle.encoder.embed(pixels), own.encoder.embed(pixels))
    assert newest("enc", "encoder") is not None
    assert newest("enc", "model") is None


def test_another_version_of_a_component_makes_another_model(
    install: Install, component: Install
) -> None:
    component("enc@v1")
    install("m@aaa", encoder={"ref": "enc@v1"}, evaluation_encoder=None)
    first = get_card("m")
    component("enc@v2", token="pooled", mean=[0.4, 0.5, 0.5])
    assert get_card("m").hash == first.hash  # the card pins v1
    install("n@aaa", encoder={"ref": "enc"}, evaluation_encoder=None)
    assert get_card("n").parts["encoder"]["mean"] == [0.4, 0.5, 0.5]


def test_a_component_that_is_known_but_not_installed_is_absent_with_the_way_out(
    install: Install, component: Install
) -> None:
    component("enc", known=True)
    install("m@aaa", encoder={"ref": "enc"}, evaluation_encoder=None)
    bundle = load_bundle("m", "cpu")
    assert encoder_spec(bundle.card).id == "enc@absent"
    import numpy as np

    with pytest.raises(ModelError, match=r"m@aaa is conditioned on enc, which is not installed: "
                       r"napari-ssldiff models fetch enc"):  # fmt: skip
        bundle.encoder.embed(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(ModelError, match="enc is an encoder, not a model"):
        get_card("enc")


def test_a_component_that_nobody_knows_breaks_that_model_alone(install: Install) -> None:
    install("good@aaa")
    folder = install("bad@aaa", encoder={"ref": "nobody"}, evaluation_encoder=None)
    assert [card.id for card in list_models()] == ["good@aaa"]
    assert list(problems()) == [folder.name]
    with pytest.raises(ModelError, match="names the encoder nobody"):
        get_card("bad")


def test_a_broken_card_hides_no_other_and_is_told_when_asked_for(install: Install) -> None:
    install("good@aaa")
    broken = install("bad@aaa")
    (broken / "card.yaml").write_text("id: bad@aaa\n")
    assert [card.id for card in list_models()] == ["good@aaa"]
    assert "it lacks name" in problems()["bad@aaa"]
    for name in ("bad", "bad@aaa"):
        with pytest.raises(ModelError, match="is not a model card: it lacks name"):
            get_card(name)
    # A fault deep inside is found before the model is used.
    deep = install("deep@aaa", scheduler=[1])
    with pytest.raises(ModelError, match=rf"{deep.name}.*scheduler is \[1\]"):
        get_card("deep")


def test_a_model_that_is_known_but_not_installed_says_how_to_get_it(
    none_bundled: Path, tiny_folder: Path
) -> None:
    card = yaml.safe_load((tiny_folder / "card.yaml").read_text()) | {"weights": {}}
    drive = {"kind": "drive", "url": "https://a.b/c", "files": [{"name": "x.ckpt"}]}
    card |= {"id": "far", "sources": [drive]}
    (none_bundled / "catalogue" / "far.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(ModelError, match=r"far is known, but not installed: .*import far FILE "
                       r"\(from https://a.b/c\)"):  # fmt: skip
        get_card("far")


@pytest.mark.parametrize(
    ("resolution", "cell", "encoder", "expected"),
    [
        (0.5, 256, {"resolution": 0.5, "unit": "micrometer", "patch": 256}, (1, 1)),
        (2.0, 64, {"resolution": 0.5, "unit": "micrometer", "patch": 256}, (4, 1)),
        (16.0, 32, {"resolution": 0.5, "unit": "micrometer", "patch": 256}, (32, 4)),
        (0.5, 256, {"resolution": 0.5, "unit": "micrometer", "patch": 224}, (1, 1)),
        (0.5, 256, {"resolution": 1.0, "unit": "micrometer", "patch": 224}, (1, 1)),
        (0.5, 256, {}, (1, 1)),
        (0.75, 256, {"resolution": 0.5, "detail": 2, "patch": 256}, (2, 2)),
    ],
)
def test_an_encoder_reads_as_fine_as_it_was_trained(
    resolution: float, cell: int, encoder: dict[str, Any], expected: tuple[int, int]
) -> None:
    data = {"id": "m", "resolution": resolution, "unit": "micrometer", "cell": cell}
    assert tuple(sight(data, encoder, "e").values()) == expected


def test_encoders_of_other_units_or_odd_pixels_are_refused() -> None:
    data = {"id": "m", "resolution": 0.75, "unit": "micrometer", "cell": 256}
    with pytest.raises(ModelError, match="sees micrometers, its encoder e meters"):
        sight(data, {"unit": "meter"}, "e")
    with pytest.raises(ModelError, match="the ratio has to be a whole number"):
        sight(data, {"resolution": 0.5}, "e")
