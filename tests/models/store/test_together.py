"""A model comes with the components that it names, each asked for; sizes are told as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from napari_ssldiff.cli import main
from napari_ssldiff.cli import models as command
from napari_ssldiff.models.entries import catalogue, installed, known, read_entry
from napari_ssldiff.models.schema import check
from napari_ssldiff.models.store.facts import consent, rows
from napari_ssldiff.models.store.sizes import download_amount
from napari_ssldiff.models.store.together import missing_parts

COMMIT = "0123456789ab"
YES = ["--accept-licence", "--trust-unknown"]


@pytest.fixture
def shelf(
    workshop: Any, hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """A small PixCell whose parts are on the hub; the function changes a card of the catalogue."""
    from napari_ssldiff.models import entries

    folder = tmp_path / "catalogue"
    shutil.copytree(workshop.catalogue, folder)
    monkeypatch.setattr(entries, "CATALOGUE", folder)

    def change(name: str, **changes: Any) -> None:
        path = folder / f"{name}.yaml"
        data = yaml.safe_load(path.read_text(encoding="utf-8")) | changes
        path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")

    def source(root: Path, *names: str, **more: Any) -> dict[str, Any]:
        for name in names:
            hub.files[name] = (root / name).read_bytes()
        return {"kind": "hub", "repo": "lab/model", "files": [{"name": n} for n in names], **more}

    files, stem = workshop.files, "diffusion_pytorch_model.safetensors"
    two = [
        source(files["pixcell"], "transformer/config.json", f"transformer/{stem}"),
        source(files["pixart"].parent, "pixcell_256.ckpt"),
    ]
    change("small-pixcell", sources=two)
    change("small-vae", sources=[source(files["autoencoder"], "vae/config.json", f"vae/{stem}")])
    hub.files["hipt.pth"] = files["encoder"].read_bytes()
    return change


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Somebody at the terminal, who gives these answers; ``asked`` is what was asked."""
    left: list[bool] = []
    monkeypatch.setattr(command, "_ask", lambda question: left.pop(0))
    return left


def ids() -> list[str]:
    return sorted(entry.id.partition("@")[0] for entry in installed()[0])


def test_a_model_comes_with_its_encoder_and_autoencoder_each_accepted_by_name(
    shelf: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    accept = ["--accept-licence-of", "small-vae", "--accept-licence-of", "tiny-vit"]
    assert main(["models", "fetch", "small-pixcell", *YES, *accept]) == 0
    said = capsys.readouterr()
    names = ("small-pixcell", "small-vae", "tiny-vit")
    assert said.out.split() == [f"{name}@{COMMIT}" for name in names]
    assert "still to come" not in said.err
    assert "licence: Stability AI Community License" in said.err
    assert "licence: BSD-3-Clause" in said.err
    assert main(["models", "verify"]) == 0
    from napari_ssldiff.models import load_bundle

    assert load_bundle("small-pixcell", "cpu").encoder.spec.id.startswith("tiny-vit@")


def test_each_is_asked_for_before_anything_is_fetched_and_what_is_declined_is_told(
    shelf: Any, answers: list[bool], hub: Any, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked: list[tuple[str, bool]] = []

    def ask(question: str) -> bool:
        began = any(verb == "GET" for verb, _, _ in hub.asked)
        asked.append((question, began))
        return answers.pop(0)

    monkeypatch.setattr(command, "_ask", ask)
    answers += [True, False, True]  # the model, not its autoencoder, its encoder
    assert main(["models", "fetch", "small-pixcell", "--trust-unknown"]) == 0
    assert [began for _, began in asked] == [False] * 3
    assert [question[:10] for question, _ in asked] == ["Do you acc", "Fetch it t", "Fetch it t"]
    assert ids() == ["small-pixcell", "tiny-vit"]
    said = capsys.readouterr().err
    assert "It names the autoencoder small-vae and the encoder tiny-vit, not installed" in said
    assert "small-vae is left out; --accept-licence-of small-vae" in said
    assert "still to come: small-pixcell@" in said
    # Asked for again, only what is missing comes.
    hub.asked.clear()
    answers += [True, True]
    assert main(["models", "fetch", "small-pixcell", "--trust-unknown"]) == 0
    assert ids() == ["small-pixcell", "small-vae", "tiny-vit"]
    assert {path.rpartition("/")[0].split("/")[-1] for verb, path, _ in hub.asked
            if verb == "GET"} == {"vae"}  # fmt: skip


def test_a_model_alone_is_asked_for_alone(
    shelf: Any, answers: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    answers += [True]
    assert main(["models", "fetch", "small-pixcell", "--only", "--trust-unknown"]) == 0
    assert ids() == ["small-pixcell"]
    said = capsys.readouterr().err
    assert "It names" not in said
    assert said.count("still to come") == 2


def test_a_gated_component_is_told_of_and_the_model_stays(
    shelf: Any, hub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.locked = ("hipt.pth",)
    accept = ["--accept-licence-of", "tiny-vit"]
    assert main(["models", "fetch", "small-pixcell", *YES, *accept]) == 0
    said = capsys.readouterr()
    assert said.out.split() == [f"small-pixcell@{COMMIT}"]
    assert "tiny-vit is not installed: lab/model is gated and no token is at hand" in said.err
    assert ids() == ["small-pixcell"]


def test_terms_that_nobody_accepts_stop_all(shelf: Any, hub: Any) -> None:
    assert main(["models", "fetch", "small-pixcell", "--accept-licence-of", "tiny-vit"]) == 2
    assert ids() == []
    assert "GET" not in {verb for verb, _, _ in hub.asked}


def test_accepting_for_what_is_not_needed_is_an_error(
    shelf: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["models", "fetch", "small-pixcell", *YES, "--accept-licence-of", "uni"]
    assert main(words) == 2
    assert "names no component uni that is missing" in capsys.readouterr().err


def test_a_source_is_chosen_by_its_number(shelf: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fetch = ["models", "fetch", "small-pixcell", *YES, "--only"]
    assert main([*fetch, "--source", "2"]) == 0
    assert "from: hub lab/model (source 2 of 2)" in capsys.readouterr().err
    (entry,) = installed()[0]
    assert entry.data["imported"]["file"] == "pixcell_256.ckpt"
    assert entry.data["imported"]["layout"] == "pixart-original"
    assert main([*fetch, "--source", "3"]) == 2
    assert "has no source 3: it has the sources 1 to 2" in capsys.readouterr().err
    assert main(["models", "show", "small-pixcell"]) == 0
    assert "source 2: hub lab/model: pixcell_256.ckpt" in capsys.readouterr().out
    assert main(["models", "fetch", "tiny-vit", *YES, "--source", "2"]) == 2
    assert "it has one source" in capsys.readouterr().err


def test_a_source_that_no_program_can_fetch_says_how(
    shelf: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    drive = {"kind": "drive", "url": "https://example.org/x", "files": [{"name": "a.ckpt"}]}
    hub_source = known("small-pixcell").data["sources"][0]
    shelf("small-pixcell", sources=[drive, hub_source])
    assert main(["models", "fetch", "small-pixcell", *YES, "--only", "--source", "1"]) == 2
    assert "download it from https://example.org/x in a browser" in capsys.readouterr().err
    # Without a number the first that can be fetched is taken, and named.
    assert main(["models", "fetch", "small-pixcell", *YES, "--only"]) == 0
    assert "(source 2 of 2)" in capsys.readouterr().err


def test_what_a_component_or_a_whole_model_lacks_is_nothing(shelf: Any) -> None:
    assert [part.id for part in missing_parts(known("small-pixcell"))] == ["small-vae", "tiny-vit"]
    assert missing_parts(known("tiny-vit")) == []
    assert [part.id for part in missing_parts(known("small-brca"))] == ["tiny-vit"]


def test_sizes_say_how_sure_they_are(shelf: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [dict(s) for s in known("small-pixcell").data["sources"]]
    sources[0]["size_about"] = 2_430_000_000
    shelf("small-pixcell", sources=sources, sizes={"installed_bytes": 2_432_304_128})
    entry = known("small-pixcell")
    published, counted = download_amount(entry), download_amount(entry, 2)
    assert published is not None
    assert counted is not None
    assert (published.short, published.told) == ("~2.43 GB", "about 2.43 GB, as published")
    assert counted.told == "size not known; about 2.43 GB once it is installed"
    files = [{**f, "size": 1000} for f in sources[0]["files"]]
    shelf("small-pixcell", sources=[{**sources[0], "files": files}])
    exact = download_amount(known("small-pixcell"))
    assert exact is not None
    assert (exact.short, exact.exact) == ("2 kB", True)
    shelf("small-pixcell", sources=[sources[0]])
    row = next(row for row in rows() if row.id == "small-pixcell")
    assert (row.size, row.approximate, row.size_text) == (2_430_000_000, True, "~2.43 GB")
    assert main(["models", "list"]) == 0
    listed = capsys.readouterr().out
    assert "~2.43 GB" in listed
    assert "~ about: as published" in listed
    assert main(["models", "list", "--json"]) == 0
    found = {row["id"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    assert found["small-pixcell"]["approximate"] is True
    assert found["demo-naip"]["approximate"] is False


def test_a_rounded_size_is_no_size_to_check_a_download_by(shelf: Any) -> None:
    sources = [{**known("small-pixcell").data["sources"][0], "size_about": 7}]
    shelf("small-pixcell", sources=sources)
    assert main(["models", "fetch", "small-pixcell", *YES, "--only"]) == 0
    assert check({**known("tiny-vit").data, "sources": [{**sources[0], "size_about": "x"}]})


def test_bundled_models_have_a_size_on_this_disk_and_no_download(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models", "show", "demo-naip"]) == 0
    said = capsys.readouterr().out
    assert "state: comes with the package" in said
    assert "on this disk: 4" in said
    assert "download" not in said
    assert main(["models", "fetch", "demo-naip"]) == 2
    assert "demo-naip comes with the package: there is nothing to install" in said_of(capsys)
    assert main(["models", "remove", "demo-naip"]) == 2
    assert "comes with the package and cannot be removed" in said_of(capsys)


def said_of(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_pixcell_and_zoomldm_say_what_is_published_and_what_was_counted() -> None:
    cards = catalogue()
    for name in ("pixcell-256", "pixcell-1024"):
        assert "download: about 2.43 GB, as published" in consent(cards[name])
    counted = [name for name in cards if name.startswith(("pixcell", "zoomldm", "sd3"))]
    assert len(counted) == 11
    for name in counted:
        sizes = read_entry(cards[name].path).data["sizes"]
        parameters = sum(n for key, n in sizes.items() if key.endswith("_parameters"))
        assert sizes["installed_bytes"] == 4 * parameters
    assert any("size not known; about 1.98 GB" in line for line in consent(cards["zoomldm-brca"]))
