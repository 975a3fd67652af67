"""Files from the Hugging Face hub: pinned, resumed, cancelled, from mirrors and without network.

huggingface_hub says where a file is, how large, of which content, and who may have it. It begins a
broken download anew, so the bytes are fetched here, by ranges.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_ssldiff.cache import cache_dir
from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.store.places import in_words, need, room
from napari_ssldiff.models.store.work import QUIET, Work

#: Seconds to connect, and between two pieces: a machine without network is told at once.
TIMEOUT = (5.0, 20.0)
_CHUNK = 2**20
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Remote:
    """A file of a repository.

    Parameters
    ----------
    name
        Its path in the repository.
    url
        Where its bytes are.
    size
        In bytes.
    sha256
        As the hub tells it for large files, else nothing.
    local
        Where the hub's own cache has it.
    """

    name: str
    url: str
    size: int
    sha256: str | None
    local: Path | None


@dataclass(frozen=True)
class Fetched:
    """A source on this disk.

    Parameters
    ----------
    folder
        Where its files are.
    commit
        Of the repository.
    """

    folder: Path
    commit: str


def fetch_source(source: Mapping[str, Any], work: Work = QUIET) -> Fetched:
    """Bring a source's files onto this disk; what an earlier call got is kept.

    Parameters
    ----------
    source
        Of kind hub, as a card has it. Its revision is pinned; without one, the commit that
        ``main`` is at.
    work
        Progress counts bytes.

    Raises
    ------
    ModelError
        If the hub cannot be reached, does not let one in, or gives other bytes than it or the card
        says.
    OutputError
        If the disk is full. A later call goes on from there.
    """
    repo, names = str(source["repo"]), [str(file["name"]) for file in source["files"]]
    commit, remotes = _look_up(repo, names, source.get("revision") or "main")
    folder = cache_dir() / "downloads" / repo.replace("/", "--") / commit
    total = sum(remote.size for remote in remotes)
    have = sum(_have(folder / remote.name, remote) for remote in remotes)
    need(folder, total - have, f"the download of {repo}")
    digests = {file["name"]: file.get("sha256") for file in source["files"]}
    done = 0
    for remote in remotes:
        target = folder / remote.name
        with room(folder, f"{repo}/{remote.name} is fetched"):
            target.parent.mkdir(parents=True, exist_ok=True)
            _bring(remote, target, repo, done, total, work)
        _check(target, remote, digests.get(remote.name), repo, work)
        done += remote.size
    return Fetched(folder, commit)


def source_commit(source: Mapping[str, Any]) -> str:
    """The commit that a source's files would come from.

    Raises
    ------
    ModelError
        If the hub cannot be reached, or does not let one in.
    """
    name = str(source["files"][0]["name"])
    commit, _ = _look_up(str(source["repo"]), [name], source.get("revision") or "main")
    return commit


def source_size(source: Mapping[str, Any]) -> int:
    """Bytes of a source's files, as the hub has them.

    Raises
    ------
    ModelError
        If the hub cannot be reached, or does not let one in.
    """
    names = [str(file["name"]) for file in source["files"]]
    _, remotes = _look_up(str(source["repo"]), names, source.get("revision") or "main")
    return sum(remote.size for remote in remotes)


def _have(target: Path, remote: Remote) -> int:
    for path in (target, _partial(target)):
        if path.is_file():
            return min(path.stat().st_size, remote.size)
    return 0


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _look_up(repo: str, names: list[str], revision: str) -> tuple[str, list[Remote]]:
    """The commit and the files of a repository, by the hub or by its cache on this disk."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import OfflineModeIsEnabled

    cached = {name: try_to_load_from_cache(repo, name, revision=revision) for name in names}
    if all(isinstance(path, str) for path in cached.values()):
        paths = {name: Path(str(path)) for name, path in cached.items()}
        # …/snapshots/<commit>/<name>
        commit = paths[names[0]].parents[len(Path(names[0]).parts) - 1].name
        return commit, [
            Remote(name, "", path.stat().st_size, None, path) for name, path in paths.items()
        ]
    if constants.HF_HUB_OFFLINE:
        missing = next(name for name, path in cached.items() if not isinstance(path, str))
        raise ModelError(
            f"HF_HUB_OFFLINE is set, and the hub's cache has no {repo}/{missing} of {revision}: "
            "unset it, or import files that you have"
        )
    remotes = []
    commit = revision
    for name in names:
        url = hf_hub_url(repo, name, revision=commit)
        try:
            facts = get_hf_file_metadata(url, timeout=TIMEOUT[0])
        except OfflineModeIsEnabled as error:
            raise ModelError(str(error).splitlines()[0]) from None
        except Exception as error:
            raise _told(error, repo, name, revision) from None
        commit = facts.commit_hash or commit
        if facts.size is None:
            raise ModelError(
                f"the hub does not say how large {repo}/{name} is: download it by hand"
            )
        etag = facts.etag or ""
        sha256 = etag if _DIGEST.fullmatch(etag) else None
        # Not where the hub redirects to: such places last minutes, and must not see the token.
        remotes.append(Remote(name, url, facts.size, sha256, None))
    return commit, remotes


def _told(error: Exception, repo: str, name: str, revision: str) -> ModelError:
    """The hub's error in one line, with the way out."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = getattr(getattr(error, "response", None), "status_code", None)
    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, EntryNotFoundError):
        return ModelError(f"{repo} has no file {name} at {revision}: the card may be out of date")
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{repo} has no revision {revision}: the card may be out of date")
    if isinstance(error, GatedRepoError) or status in (401, 403):
        if get_token() is None:
            return ModelError(
                f"{repo} is gated and no token is at hand: accept its terms at {page}, then log in "
                "with 'hf auth login' or set HF_TOKEN, and fetch again"
            )
        return ModelError(
            f"{repo} is gated, and the token's account was not let in: accept its terms at {page}, "
            "wait for access, and fetch again"
        )
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return ModelError(f"there is no repository {repo} at {constants.ENDPOINT}")
    if status is not None:
        return ModelError(f"{page} answers with {status}: try again later")
    said = " ".join(str(error).split())[:120]
    return ModelError(
        f"cannot reach {constants.ENDPOINT} ({type(error).__name__}: {said}): check the network, "
        "name a mirror with HF_ENDPOINT, or import files that you have"
    )


def _bring(remote: Remote, target: Path, repo: str, done: int, total: int, work: Work) -> None:
    if target.is_file() and target.stat().st_size == remote.size:
        return
    if remote.local is not None:
        target.unlink(missing_ok=True)
        try:
            os.link(os.path.realpath(remote.local), target)
        except OSError:  # another disk, or a file system without links
            import shutil

            shutil.copyfile(remote.local, target)
        return
    _download(remote, _partial(target), repo, done, total, work)
    os.replace(_partial(target), target)


def _download(remote: Remote, part: Path, repo: str, done: int, total: int, work: Work) -> None:
    """Fetch the rest of a file behind what is there."""
    import requests
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    have = part.stat().st_size if part.is_file() else 0
    if have > remote.size:
        part.unlink()
        have = 0
    if have == remote.size:
        return
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with requests.get(remote.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code not in (200, 206):
                raise ModelError(
                    f"{repo}/{remote.name} cannot be fetched: the server answers with "
                    f"{answer.status_code}; try again later"
                )
            if answer.status_code == 200:
                have = 0  # it gives no ranges
            with part.open("ab" if have else "wb") as file:
                for chunk in answer.iter_content(_CHUNK):
                    work.check()
                    file.write(chunk)
                    have += len(chunk)
                    work.progress("fetching", done + have, total)
    except requests.RequestException as error:
        raise ModelError(
            f"{repo}/{remote.name} broke off ({type(error).__name__}): fetch again, it goes on "
            f"from {in_words(have)} of {in_words(remote.size)}"
        ) from None
    if have != remote.size:
        raise ModelError(
            f"{repo}/{remote.name} broke off: fetch again, it goes on from {in_words(have)} of "
            f"{in_words(remote.size)}"
        )


def _check(target: Path, remote: Remote, known: str | None, repo: str, work: Work) -> None:
    wanted = [digest for digest in (remote.sha256, known) if digest]
    if not wanted:
        return
    total = hashlib.sha256()
    with target.open("rb") as file:
        while block := file.read(2**22):
            work.check()
            total.update(block)
    for digest in wanted:
        if total.hexdigest() != digest:
            target.unlink()
            raise ModelError(
                f"{repo}/{remote.name} came with the sha256 {total.hexdigest()}, not {digest}: it "
                "was deleted; fetch it again"
            )
