"""Samples: the real slide where there is a network, another and a true word where not."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_ssldiff import samples
from napari_ssldiff.errors import InputError, OutputError
from napari_ssldiff.samples import Download, demo_sample, fetch, sample_path

CONTENT = b"the bytes of a slide"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("NAPARI_SSLDIFF_CACHE", str(folder))
    return folder


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine that has one file."""
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "slide.svs").write_bytes(CONTENT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/slide.svs"
    server.shutdown()
    server.server_close()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slide's address leads to a port where nobody listens."""
    nowhere = Download("http://127.0.0.1:9/slide.svs", DIGEST)
    monkeypatch.setattr(samples, "CMU_SMALL_REGION", nowhere)


def test_a_download_lands_in_the_cache_folder_that_the_environment_names(
    url: str, cache: Path
) -> None:
    path = fetch(Download(url, DIGEST))
    assert path == cache / "samples" / "slide.svs"
    assert path.read_bytes() == CONTENT


def test_a_file_in_the_cache_needs_no_network(cache: Path) -> None:
    (cache / "samples").mkdir(parents=True)
    (cache / "samples" / "slide.svs").write_bytes(CONTENT)
    path = fetch(Download("http://127.0.0.1:9/slide.svs", DIGEST))
    assert path.read_bytes() == CONTENT


def test_a_file_of_other_content_is_refused_and_not_kept(url: str, cache: Path) -> None:
    with pytest.raises(InputError, match="sha256 differs"):
        fetch(Download(url, "0" * 64))
    assert not (cache / "samples" / "slide.svs").exists()


def test_a_file_that_the_server_does_not_have_is_named(url: str) -> None:
    with pytest.raises(InputError, match=r"missing\.svs cannot be reached"):
        fetch(Download(url.replace("slide", "missing"), DIGEST))


def test_the_demo_takes_the_real_slide_where_it_can_be_had(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "CMU_SMALL_REGION", Download(url, DIGEST))
    path, explanation = demo_sample()
    assert path.read_bytes() == CONTENT
    assert "real slide" in explanation


@pytest.mark.usefixtures("offline")
def test_without_a_network_the_demo_takes_another_image_and_says_so() -> None:
    path, explanation = demo_sample()
    assert path == sample_path("synthetic-slide")
    for words in ("synthetic slide", "no real tissue", "cannot be reached"):
        assert words in explanation
    assert "\n" not in explanation


def test_the_image_of_scikit_image_is_written_once_and_nothing_else_is_left(cache: Path) -> None:
    from skimage.data import immunohistochemistry

    path = sample_path("immunohistochemistry")
    assert np.array_equal(np.asarray(Image.open(path)), immunohistochemistry())
    written = path.stat().st_mtime_ns
    assert sample_path("immunohistochemistry").stat().st_mtime_ns == written
    assert [entry.name for entry in (cache / "samples").iterdir()] == [path.name]


def test_the_synthetic_slide_is_bundled_small_and_says_that_it_is_synthetic() -> None:
    path = sample_path("synthetic-slide")
    assert path.stat().st_size <= 2 * 2**20
    assert b"synthetic" in path.read_bytes().lower()


def test_an_unknown_sample_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'nothing'.*cmu-small-region"):
        sample_path("nothing")


def test_a_cache_that_cannot_be_made_names_the_variable_that_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NAPARI_SSLDIFF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="NAPARI_SSLDIFF_CACHE"):
        sample_path("immunohistochemistry")


def test_the_pinned_slide_is_the_one_in_the_test_data() -> None:
    folder = os.environ.get("NAPARI_SSLDIFF_DATA")
    if not folder:
        pytest.skip("NAPARI_SSLDIFF_DATA is not set")
    content = (Path(folder) / "samples" / "cmu_small_region.svs").read_bytes()
    assert hashlib.sha256(content).hexdigest() == samples.CMU_SMALL_REGION.sha256
