"""Virtual staining by the commands: from the authors' pair of files to a stained variation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_ssldiff.cli import main
from napari_ssldiff.embeddings.field import EmbeddingField, history_of, normalise
from napari_ssldiff.errors import Cancelled
from napari_ssldiff.models import get_card, load_bundle
from napari_ssldiff.models.entries import installed

REGION, SCALE = "200,200,96,64", 39.19183588


@pytest.fixture
def cache(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, in which the encoder and the autoencoder are installed."""
    own = tmp_path / "own-cache"
    for folder in (store / "models").iterdir():
        if folder.name.startswith(("tiny-vit@", "small-vae@")):
            shutil.copytree(folder, own / "models" / folder.name)
    monkeypatch.setenv("NAPARI_SSLDIFF_CACHE", str(own))
    return own


def run(*words: object) -> None:
    assert main([*map(str, words)]) == 0


def bring_in(card: str, file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    run("models", "import", card, file, "--trust-unknown")
    return capsys.readouterr().out.strip()


def loaded(workshop: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of the pair."""
    place = workshop.files["stain"] / "ckpts"
    return tuple(
        torch.load(place / kind / f"mist_her2_{kind}.pth", weights_only=True)
        for kind in ("lora", "mlp")
    )  # type: ignore[return-value]


def test_a_region_is_stained_and_says_so(
    cache: Path, narrow_catalogue: Any, slide: Path, plain_stain: Any, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    stain = bring_in("small-stain", narrow_catalogue.files["stain"], capsys)
    plain = bring_in("small-pixcell-1024", narrow_catalogue.files["pixcell-1024"], capsys)
    run("models", "verify", stain)
    assert f"{stain}: sound" in capsys.readouterr().out
    run("models", "show", stain)
    assert "translation: embeddings of H&E as those of HER2, in 10 steps" in capsys.readouterr().out
    fields = {}
    for model in (plain, stain):
        path = tmp_path / f"{model}.json"
        run("embed", slide, "--region", REGION, "--model", model, "--device", "cpu", "-o", path)
        fields[model] = EmbeddingField.load(path)
    assert history_of(tmp_path / f"{plain}.json") == ()
    (told,) = map(json.loads, history_of(tmp_path / f"{stain}.json"))
    assert (told["op"], told["from"], told["to"], told["steps"]) == ("translate", "H&E", "HER2", 10)
    assert told["model_hash"] == get_card(stain).hash

    # The way by hand: the source's unit vectors at their length, ten steps, unit length again.
    vectors = torch.from_numpy(fields[plain].vectors.reshape(-1, 12) * SCALE).double()
    flow = {name: tensor.double() for name, tensor in loaded(narrow_catalogue)[1].items()}
    wanted = normalise(plain_stain.translated(flow, vectors, 10).numpy())
    found = fields[stain].vectors.reshape(-1, 12)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert float((found * fields[plain].vectors.reshape(-1, 12)).sum(1).max()) < 0.9
    assert fields[stain].encoder == fields[plain].encoder

    out = tmp_path / "stained.ome.zarr"
    words = ["--region", REGION, "--steps", 2, "--device", "cpu"]
    run("vary", slide, *words, "--model", stain, "-o", out)
    facts = json.loads((out / "zarr.json").read_text())["attributes"]["napari_ssldiff"]
    assert facts["request"]["history"] == [told]
    assert facts["request"]["sampler"]["guidance"] == 1.2
    assert EmbeddingField.from_dict(facts["request"]["field"]) == fields[stain]
    # A field that is given is painted as it is, by either model.
    given = tmp_path / "given.ome.zarr"
    field = tmp_path / f"{plain}.json"
    run("vary", slide, *words, "--model", stain, "--field", field, "-o", given)
    other = json.loads((given / "zarr.json").read_text())["attributes"]["napari_ssldiff"]
    assert other["request"]["history"] == []
    assert EmbeddingField.from_dict(other["request"]["field"]) == fields[plain]


def test_the_window_stains_as_the_command_does(
    cache: Path, narrow_catalogue: Any, slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from napari_ssldiff.geometry import Box, Region
    from napari_ssldiff.scenes import open_scene
    from napari_ssldiff.viewer.backend import EngineBackend
    from napari_ssldiff.viewer.session import Parameters

    stain = bring_in("small-stain", narrow_catalogue.files["stain"], capsys)
    backend, told = EngineBackend(), []
    assert stain in [card.id for card in backend.models()]
    bundle, token = backend.load(stain, "cpu"), backend.new_cancel()
    hear = {"progress": lambda *said: told.append(said[0]), "cancel": token}
    with open_scene(slide) as scene:
        region = Region.from_box(Box(200, 200, 64, 96))
        request = backend.make_request(scene, region, bundle, Parameters(), **hear)
        assert backend.embed(scene, region, bundle, **hear) == request.field
    assert json.loads(request.history[0])["to"] == "HER2"
    assert set(told) == {"embedding", "translating"}
    token.cancel()
    with open_scene(slide) as scene, pytest.raises(Cancelled):
        backend.embed(scene, region, bundle, **hear)


def test_matching_the_colours_of_the_other_stain_is_refused(
    cache: Path, narrow_catalogue: Any, slide: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bring_in("small-stain", narrow_catalogue.files["stain"], capsys)
    words = ["--region", REGION, "--model", "small-stain", "--device", "cpu", "--match", "32"]
    assert main(["vary", str(slide), *words, "-o", str(tmp_path / "x.ome.zarr")]) == 2
    assert "match 32 would bring HER2 back to the colours of H&E" in capsys.readouterr().err


def test_memory_is_planned_with_the_flow(
    cache: Path, narrow_catalogue: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    bring_in("small-stain", narrow_catalogue.files["stain"], capsys)
    plan = load_bundle("small-stain", "cpu").plan
    assert plan is not None
    size = sum(4 * t.numel() for t in loaded(narrow_catalogue)[1].values())
    assert plan.needs.weights["translation"] == size
    held = plan.needs.stages("parts")["encoder"] - plan.needs.base
    assert held == sum(plan.needs.weights[k] for k in ("translation", "projection", "encoder"))


def test_a_pair_is_fetched_from_the_hub(
    cache: Path, narrow_catalogue: Any, hub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    place = narrow_catalogue.files["stain"]
    hub.files = {str(f.relative_to(place)): f.read_bytes() for f in place.rglob("*.pth")}
    assert set(hub.files) == {"ckpts/lora/mist_her2_lora.pth", "ckpts/mlp/mist_her2_mlp.pth"}
    run("models", "fetch", "small-stain", "--accept-licence", "--trust-unknown")
    assert capsys.readouterr().out.strip() == "small-stain@0123456789ab"
    assert get_card("small-stain").extra["imported"]["layout"] == "pixcell-stain"


def test_a_pair_is_found_side_by_side_and_by_the_name_of_one(
    cache: Path, narrow_catalogue: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = narrow_catalogue.files["stain"] / "ckpts"
    names = {bring_in("small-stain", place / "lora" / "mist_her2_lora.pth", capsys)}
    beside = tmp_path / "beside"
    beside.mkdir()
    for file in place.rglob("*.pth"):
        shutil.copy(file, beside)
    names.add(bring_in("small-stain", beside, capsys))
    assert len(names) == 2, "a version tells the files' places, as of all folders"
    one, other = (get_card(name).weights for name in names)
    assert one == other


def test_a_card_of_ones_own_that_is_like_a_stains_is_installed_spelled_out(
    cache: Path, narrow_catalogue: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cards = shutil.copytree(narrow_catalogue.catalogue, tmp_path / "cards")
    (cards / "our-ck7.yaml").write_text(
        "{like: small-stain, id: our-ck7, name: CK7, description: Ours., verified: [Nothing yet.],"
        " licence: {name: ours}, translation: {to: CK7, steps: 3}}"
    )
    capsys.readouterr()
    pair = narrow_catalogue.files["stain"]
    run("models", "import", pair, "--card", cards / "our-ck7.yaml", "--trust-unknown")
    name = capsys.readouterr().out.strip()
    assert name.startswith("our-ck7@")
    shutil.rmtree(cards)
    translation = load_bundle(name, "cpu").translation
    assert translation is not None
    assert (translation.source, translation.target, translation.steps) == ("H&E", "CK7", 3)
    assert translation.scale == pytest.approx(SCALE)
    run("models", "verify", name)


def refused(*words: object, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    before = installed()[0]
    assert main(["models", "import", *map(str, words), "--trust-unknown"]) == 2
    assert installed()[0] == before
    *_, line = capsys.readouterr().err.strip().splitlines()
    return line


def test_what_is_no_pair_of_the_cards_is_refused(
    cache: Path, narrow_catalogue: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = narrow_catalogue.files["stain"] / "ckpts"
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(place / "lora" / "mist_her2_lora.pth", alone)
    line = refused("small-stain", alone, capsys=capsys)
    assert "is not small-stain: it holds no translation" in line
    many = tmp_path / "clone"
    shutil.copytree(place, many / "ckpts")
    for kind in ("lora", "mlp"):
        shutil.copy(
            place / kind / f"mist_her2_{kind}.pth", many / "ckpts" / kind / f"mist_er_{kind}.pth"
        )
    line = refused("small-stain", many, capsys=capsys)
    assert "several files of a lora (mist_er_lora.pth, mist_her2_lora.pth)" in line
    assert "name the file of the LoRA" in line
    # A plain network fits the card of the plain network, and not that of a stain.
    line = refused("small-stain", narrow_catalogue.files["pixcell-1024"], capsys=capsys)
    assert "it holds no translation; it fits the card small-pixcell-1024" in line
    line = refused("small-pixcell-1024", place.parent, capsys=capsys)
    assert "it holds a LoRA, of which the card says no rank" in line
    assert "it fits the card small-stain" in line
    # Without an id, the card that fits.
    run("models", "import", place.parent, "--trust-unknown")
    assert capsys.readouterr().out.startswith("small-stain@")


def test_a_lone_adapter_is_merged_into_the_installed_network(
    cache: Path, narrow_catalogue: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, flow = loaded(narrow_catalogue)
    lone = tmp_path / "lone"
    lone.mkdir()
    halves = {k.replace(".default", ""): v for k, v in adapter.items() if ".lora_" in k}
    torch.save(halves, lone / "own_lora.pt")
    torch.save({"model_state_dict": flow, "epoch": 3}, lone / "own_mlp.pt")
    line = refused("small-stain", lone, capsys=capsys)
    assert "the LoRA without the network that it changes: install small-pixcell-1024 first" in line
    base = bring_in("small-pixcell-1024", narrow_catalogue.files["pixcell-1024"], capsys)
    merged = bring_in("small-stain", lone, capsys)
    whole = bring_in("small-stain", narrow_catalogue.files["stain"], capsys)
    assert merged != whole
    assert get_card(merged).weights == get_card(whole).weights, "the same weights to the bit"
    assert get_card(merged).extra["imported"]["base"] == base
    assert "base" not in get_card(whole).extra["imported"]
