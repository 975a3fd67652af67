"""Files come from the hub whole, pinned and resumed, or not at all and with a reason."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from napari_ssldiff.errors import Cancelled, ModelError, OutputError
from napari_ssldiff.models.store import hub as hub_module
from napari_ssldiff.models.store.hub import fetch_source
from napari_ssldiff.models.store.work import Work

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DATA = bytes(range(256)) * 40_000  # 10 MB: several pieces
SOURCE = {"repo": "lab/model", "files": [{"name": "a/weights.ckpt"}, {"name": "config.json"}]}


@pytest.fixture
def full(hub: Any) -> Any:
    hub.files = {"a/weights.ckpt": DATA, "config.json": b"{}"}
    return hub


def test_all_files_come_at_one_commit_and_progress_counts_bytes(full: Any) -> None:
    told: list[tuple[float, float]] = []
    work = Work(progress=lambda stage, done, total: told.append((done, total)))
    got = fetch_source(SOURCE, work)
    assert got.commit == COMMIT
    assert (got.folder / "a/weights.ckpt").read_bytes() == DATA
    assert (got.folder / "config.json").read_bytes() == b"{}"
    assert told[-1] == (len(DATA) + 2, len(DATA) + 2)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    # The second file was asked for at the commit of the first, whatever main has become.
    assert f"lab/model/resolve/{COMMIT}/config.json" in {path for _, path, _ in full.asked}


def test_a_broken_download_goes_on_where_it_broke(full: Any) -> None:
    full.break_after = 3_000_000
    with pytest.raises(ModelError, match=r"broke off.*goes on from .* of 10\.2 MB"):
        fetch_source(SOURCE)
    (part,) = full_cache().rglob("*.part")
    have = part.stat().st_size
    assert 1_000_000 < have <= 3_000_000
    full.asked.clear()
    got = fetch_source(SOURCE)
    assert (got.folder / "a/weights.ckpt").read_bytes() == DATA
    ranges = [r for verb, path, r in full.asked if verb == "GET" and "weights" in path]
    assert ranges == [f"bytes={have}-"]


def full_cache() -> Path:
    from napari_ssldiff.cache import cache_dir

    return cache_dir() / "downloads"


def test_what_is_there_is_not_fetched_again(full: Any) -> None:
    fetch_source(SOURCE)
    full.asked.clear()
    fetch_source(SOURCE)
    assert {verb for verb, _, _ in full.asked} == {"HEAD"}


def test_cancelling_stops_within_a_piece_and_keeps_it(full: Any) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 3:
            raise Cancelled("by the user")

    with pytest.raises(Cancelled):
        fetch_source(SOURCE, Work(check=check))
    (part,) = full_cache().rglob("*.part")
    assert 0 < part.stat().st_size < len(DATA)


def test_a_full_disk_is_told_before_the_download(
    full: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"needs 77\.3 MB.*has 1 MB free"):
        fetch_source(SOURCE)
    assert "GET" not in {verb for verb, _, _ in full.asked}


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs limits of POSIX")
def test_a_disk_that_fills_in_mid_download_is_told_and_a_later_call_goes_on(full: Any) -> None:
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, hard))
    try:
        with pytest.raises(OutputError, match=r"the disk is full while lab/model/a/weights"):
            fetch_source(SOURCE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    (part,) = full_cache().rglob("*.part")
    assert part.stat().st_size >= 3_000_000
    full.asked.clear()
    got = fetch_source(SOURCE)
    assert (got.folder / "a/weights.ckpt").read_bytes() == DATA
    assert full.asked[-2][2] is not None or full.asked[-1][2] is not None


def test_other_bytes_than_promised_are_deleted(full: Any) -> None:
    full.lies = True
    with pytest.raises(ModelError, match=r"came with the sha256 [0-9a-f]{64}, not"):
        fetch_source(SOURCE)
    assert not list(full_cache().rglob("weights.ckpt*"))


def test_other_bytes_than_the_card_says_are_deleted(full: Any) -> None:
    files = [{"name": "a/weights.ckpt", "sha256": "0" * 64}]
    with pytest.raises(ModelError, match=f"not {'0' * 64}"):
        fetch_source({**SOURCE, "files": files})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"repo": "lab/other"}, "no repository lab/other"),
        ({"revision": "v9"}, "no revision v9"),
        ({"files": [{"name": "gone.ckpt"}]}, "no file gone.ckpt"),
    ],
)
def test_what_the_hub_does_not_have_is_named(full: Any, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words) as error:
        fetch_source({**SOURCE, **change})
    assert "\n" not in str(error.value)


def test_a_gated_model_says_what_to_do_about_the_token(
    full: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    full.gated, full.token = True, "hf_right"
    with pytest.raises(ModelError, match=r"gated and no token.*accept its terms at .*HF_TOKEN"):
        fetch_source(SOURCE)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ModelError, match=r"account was not let in.*accept its terms"):
        fetch_source(SOURCE)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert (fetch_source(SOURCE).folder / "a/weights.ckpt").stat().st_size == len(DATA)


def test_without_network_it_is_told_at_once(
    other_hub: Callable[[str], None], hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_hub("http://127.0.0.1:9")  # nobody listens there
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"cannot reach http://127.0.0.1:9 .*HF_ENDPOINT") as error:
        fetch_source(SOURCE)
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 10


def test_the_hubs_own_cache_serves_without_network(
    hub: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE is set.*no lab/model/a/weights\.ckpt"):
        fetch_source(SOURCE)
    repo = tmp_path / "hub" / "models--lab--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    snapshot = repo / "snapshots" / COMMIT
    (snapshot / "a").mkdir(parents=True)
    (snapshot / "a" / "weights.ckpt").write_bytes(DATA)
    (snapshot / "config.json").write_bytes(b"{}")
    got = fetch_source(SOURCE)
    assert got.commit == COMMIT
    assert (got.folder / "a/weights.ckpt").read_bytes() == DATA
    assert not hub.asked
    assert (snapshot / "a" / "weights.ckpt").is_file()
    assert hub_module.TIMEOUT[0] <= 5
