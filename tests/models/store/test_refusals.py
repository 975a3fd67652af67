"""What must not be installed is refused by the command, with exit code 2, and leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from napari_ssldiff.cli import main
from napari_ssldiff.errors import Cancelled
from napari_ssldiff.models import get_card, list_models
from napari_ssldiff.models.entries import installed, models_dir
from napari_ssldiff.models.store import import_model, remove
from napari_ssldiff.models.store.work import Work

Refused = Callable[..., str]


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], narrow_catalogue: Any, request: pytest.FixtureRequest
) -> Refused:
    """Runs a command that has to end with 2 and one line; gives the line."""

    def run(*words: str | Path) -> str:
        before = time.process_time()
        assert main(["models", *map(str, words)]) == 2
        assert time.process_time() - before < 60
        *_, line = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("napari-ssldiff models: ")
        assert installed() == ([], [])
        assert not list(models_dir().glob("*/**/*.safetensors"))
        return line

    return run


def state(workshop: Any) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = torch.load(
        workshop.files["encoder"], weights_only=True
    )["teacher"]  # fmt: skip
    return tensors


class _Code:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made-by-a-pickle",)


def test_code_in_a_state_dict_is_refused_and_not_run(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"w": torch.zeros(2), "x": _Code()}}, tmp_path / "evil.ckpt")
    refused("import", "tiny-vit", tmp_path / "evil.ckpt", "--trust-unknown")
    assert not (tmp_path / "made-by-a-pickle").exists()


def test_a_truncated_file_is_refused(
    refused: Refused, narrow_catalogue: Any, tmp_path: Path
) -> None:
    data = narrow_catalogue.files["encoder"].read_bytes()
    (tmp_path / "half.pth").write_bytes(data[: len(data) // 2])
    refused("import", "tiny-vit", tmp_path / "half.pth", "--trust-unknown")


def test_a_file_that_differs_from_the_cards_is_refused(
    refused: Refused, narrow_catalogue: Any, tmp_path: Path
) -> None:
    card = yaml.safe_load((narrow_catalogue.catalogue / "tiny-vit.yaml").read_text())
    card["sources"][0]["files"][0]["sha256"] = "0" * 64
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    file = narrow_catalogue.files["encoder"]
    line = refused("import", file, "--card", tmp_path / "card.yaml")
    assert "knows hipt.pth with the sha256 000" in line
    assert "this one differs" in line


def test_wrong_keys_are_named_and_the_nearest_card(
    refused: Refused, narrow_catalogue: Any, tmp_path: Path
) -> None:
    line = refused("import", "small-brca", narrow_catalogue.files["zoomldm"], "--trust-unknown")
    assert "is not small-brca" in line
    assert "it fits the card small-zoom" in line
    torch.save({f"odd.{i}": torch.zeros(2) for i in range(20)}, tmp_path / "odd.pt")
    line = refused("import", tmp_path / "odd.pt", "--trust-unknown")
    assert all(f"odd.{i}" in line for i in (0, 1, 10, 11, 12, 13, 14, 15, 16, 17))
    assert "odd.9" not in line  # the first ten
    whole = {f"module.backbone.{k}": v for k, v in vit(narrow_catalogue).items()}
    torch.save({k: v for k, v in whole.items() if "blocks.1" not in k}, tmp_path / "less.pt")
    line = refused("import", tmp_path / "less.pt", "--trust-unknown")
    assert "fits no card" in line
    assert "the nearest card is tiny-vit, 60% of whose names are there" in line  # 1 of 2 blocks


def vit(workshop: Any) -> dict[str, torch.Tensor]:
    return {k.removeprefix("module.backbone."): v for k, v in state(workshop).items()}


def test_a_wrong_width_is_named(refused: Refused, narrow_catalogue: Any, tmp_path: Path) -> None:
    wide = {k: torch.cat([v, v], -1) if k == "norm.weight" else v
            for k, v in vit(narrow_catalogue).items()}  # fmt: skip
    torch.save(wide, tmp_path / "wide.pth")
    line = refused("import", "tiny-vit", tmp_path / "wide.pth", "--trust-unknown")
    assert "norm.weight is (24,), not (12,)" in line


def test_weights_that_are_not_finite_are_refused(
    refused: Refused, narrow_catalogue: Any, tmp_path: Path
) -> None:
    broken = vit(narrow_catalogue)
    broken["norm.bias"] = broken["norm.bias"] + float("nan")
    torch.save(broken, tmp_path / "nan.pth")
    line = refused("import", "tiny-vit", tmp_path / "nan.pth", "--trust-unknown")
    assert "NaN" in line
    assert "norm.bias" in line


def test_a_file_that_is_not_there_and_ids_that_are_not_known(refused: Refused) -> None:
    assert "does not exist" in refused("import", "tiny-vit", "/nowhere.pth")
    assert "did you mean tiny-vit" in refused("import", "tiny-vti", "/nowhere.pth")
    assert "no card of the catalogue" in refused("fetch", "resnet")
    assert "is not installed" in refused("remove", "tiny-vit")
    assert "is not installed" in refused("verify", "tiny-vit")


def test_a_download_needs_consent_and_what_a_program_cannot_fetch_says_how(
    refused: Refused, capsys: pytest.CaptureFixture[str], hub: Any
) -> None:
    assert main(["models", "fetch", "tiny-vit"]) == 2
    said = capsys.readouterr().err
    for words in ("download: size not known", "licence: BSD-3-Clause", "gated: no"):
        assert words in said
    assert "--accept-licence" in said
    assert "GET" not in {verb for verb, _, _ in hub.asked}  # not before somebody agreed
    hub.files = {"hipt.pth": b"x" * 1500}
    assert main(["models", "fetch", "tiny-vit"]) == 2
    assert "download: 1.5 kB" in capsys.readouterr().err
    assert "GET" not in {verb for verb, _, _ in hub.asked}
    assert "gate" in refused("fetch", "small-vae")
    line = refused("fetch", "small-brca", "--accept-licence")
    assert "drive.google.com" in line
    assert "models import small-brca last.ckpt" in line


def test_a_fetch_installs_what_the_hub_has_and_says_which_commit(
    narrow_catalogue: Any, hub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files = {"hipt.pth": narrow_catalogue.files["encoder"].read_bytes()}
    fetch = ["models", "fetch", "tiny-vit", "--accept-licence"]
    # The card pins no revision and knows no hash.
    assert main(fetch) == 2
    assert "knows no hash" in capsys.readouterr().err
    hub.asked.clear()
    assert main([*fetch, "--trust-unknown"]) == 0
    assert capsys.readouterr().out == "tiny-vit@0123456789ab\n"
    assert "GET" not in {verb for verb, _, _ in hub.asked}  # it was on the disk already
    (entry,), broken = installed()
    assert not broken
    assert entry.data["imported"]["repo"] == "lab/model"
    assert entry.data["imported"]["revision"].startswith("0123456789ab")
    assert entry.data["imported"]["hash_known"] is False
    from napari_ssldiff.cache import cache_dir

    assert not list((cache_dir() / "downloads").rglob("*.pth"))
    assert main(["models", "verify"]) == 0
    assert main(["models", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.split("\n", 1)[1])["models"]
    row = next(row for row in listed if row["id"] == entry.id)
    assert row["state"] == "installed"
    assert row["size"] == entry.size > 50_000


def test_a_known_hash_needs_no_trust_and_versions_stand_side_by_side(
    narrow_catalogue: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import hashlib

    card = yaml.safe_load((narrow_catalogue.catalogue / "tiny-vit.yaml").read_text())
    file = narrow_catalogue.files["encoder"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    card["sources"][0]["files"][0]["sha256"] = digest
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    first = import_model(None, file, card=tmp_path / "card.yaml")
    assert first.data["imported"]["hash_known"] is True
    assert first.id == f"tiny-vit@{digest[:12]}"
    other = {k: v + 0.01 for k, v in vit(narrow_catalogue).items()}
    torch.save(other, tmp_path / "other.pth")
    asked: list[str] = []

    def yes(question: str) -> bool:
        asked.append(question)
        return True

    second = import_model("tiny-vit", tmp_path / "other.pth", work=Work(ask=yes))
    assert "Are you sure" in asked[0]
    assert {entry.id for entry in installed()[0]} == {first.id, second.id}
    # A second import of the same file changes nothing.
    stamp = second.path.stat().st_mtime_ns
    again = import_model("tiny-vit", tmp_path / "other.pth", trust_unknown=True)
    assert again.path.stat().st_mtime_ns == stamp
    names, freed = remove(first.id)
    assert names == [first.id]
    assert freed > 50_000
    assert [entry.id for entry in installed()[0]] == [second.id]
    assert main(["models", "remove", "tiny-vit"]) == 0
    assert f"removed {second.id}" in capsys.readouterr().out
    assert not list(models_dir().iterdir())


def test_cancelling_and_a_full_disk_leave_nothing(
    narrow_catalogue: Any, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    file = narrow_catalogue.files["encoder"]

    def check() -> None:
        raise Cancelled("by the user")

    with pytest.raises(Cancelled):
        import_model("tiny-vit", file, trust_unknown=True, work=Work(check=check))
    assert not list(models_dir().iterdir())
    from napari_ssldiff.models.store import shards

    def full(*_: Any, **__: Any) -> None:
        raise shards.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(shards, "save_file", full)
    line = refused("import", "tiny-vit", file, "--trust-unknown")
    assert "the disk is full" in line
    assert not list(models_dir().iterdir())
    usage = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "has 1 MB free" in refused("import", "tiny-vit", file, "--trust-unknown")


def test_ctrl_c_ends_with_130_and_nothing_installed(
    narrow_catalogue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_ssldiff.models.store import shards

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "save_file", interrupt)
    words = ["models", "import", "tiny-vit", str(narrow_catalogue.files["encoder"])]
    assert main([*words, "--trust-unknown"]) == 130
    assert not list(models_dir().iterdir())


def test_what_was_damaged_afterwards_does_not_verify_and_hides_no_other_model(
    narrow_catalogue: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [card.id for card in list_models()]
    entry = import_model("tiny-vit", narrow_catalogue.files["encoder"], trust_unknown=True)
    weights = entry.folder / "encoder.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert main(["models", "verify", "tiny-vit"]) == 2
    said = capsys.readouterr()
    assert "its sha256 is not the card's" in said.out
    assert "not sound: tiny-vit@" in said.err
    weights.unlink()
    assert main(["models", "verify"]) == 2
    assert "is missing" in capsys.readouterr().out
    entry.path.write_text("id: [", encoding="utf-8")
    assert [card.id for card in list_models()] == before
    assert main(["models", "verify"]) == 2
    capsys.readouterr()
    assert main(["models", "list"]) == 0
    said = capsys.readouterr()
    assert f"broken: {entry.id}: cannot read the model card" in said.err
    assert main(["models", "remove", entry.id]) == 0


def test_without_its_encoder_a_model_is_installed_and_says_what_is_missing(
    narrow_catalogue: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(narrow_catalogue.files["pixart"])
    assert main(["models", "import", "small-pixcell", file, "--trust-unknown"]) == 0
    said = capsys.readouterr()
    way = "which is not installed: napari-ssldiff models fetch tiny-vit"
    assert f"is conditioned on tiny-vit, {way}" in said.err
    assert "draws with the autoencoder small-vae, which is not installed" in said.err
    from napari_ssldiff.errors import ModelError
    from napari_ssldiff.models import load_bundle

    assert get_card("small-pixcell").parts["encoder"]["absent"]
    with pytest.raises(ModelError, match="autoencoder small-vae, which is not installed"):
        load_bundle("small-pixcell", "cpu")
