"""A hub on this machine, and checkpoints that tests can afford."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Answers as the hub does: who may, which commit, how large, ranges.

    ``break_after`` closes the connection behind so many bytes of a body, once.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    token: str | None = None
    lies: bool = False
    break_after: int | None = None
    url: str = ""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, body: bool) -> None:
        hub, path = self.hub, self.path.lstrip("/")
        hub.asked.append((self.command, path, self.headers.get("Range")))
        owner, repo, resolve, revision, name = [*path.split("/", 4), "", "", "", ""][:5]
        if hub.gated and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        if (owner, resolve) != ("lab", "resolve") or repo != "model":
            return self._refuse(404, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if name not in hub.files:
            return self._refuse(404, "EntryNotFound")
        data = hub.files[name]
        digest = hashlib.sha256(data).hexdigest()
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        part = data[start:] if not hub.lies else b"x" * (len(data) - start)
        self.send_response(206 if self.headers.get("Range") else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Linked-Etag", f'"{digest}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if not body:
            return None
        if hub.break_after is not None and len(part) > hub.break_after:
            self.wfile.write(part[: hub.break_after])
            self.wfile.flush()
            hub.break_after = None
            self.connection.close()
            return None
        self.wfile.write(part)

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that huggingface_hub takes for its own; no token, an empty cache."""
    from huggingface_hub import constants

    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": made}))
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    use_hub(monkeypatch, made.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What HF_ENDPOINT does to a process that starts with it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(autouse=True)
def _no_user_cache(own_cache: Path) -> None:
    """Every test gets a cache folder of its own."""


@pytest.fixture
def other_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Another address for the hub."""
    return lambda url: use_hub(monkeypatch, url)
