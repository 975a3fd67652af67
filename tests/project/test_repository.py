"""The files of the repository itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

# Written in halves so that this file does not name them.
PRIVATE = [
    re.escape("/" + path) for path in ("work/", "farm/", "root/", "home/", "tmp/bash_jobs")
] + [re.escape(host) for host in ("pypi" + ".org", "python" + "hosted", "deb.debian" + ".org")]


def files(root: Path) -> list[Path]:
    """Files that git tracks or would track."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [root / name for name in done.stdout.splitlines() if (root / name).is_file()]


def code_blocks(text: str) -> list[str]:
    return [block.strip() for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)]


def test_no_file_names_a_machines_own_path_or_a_registrys_host(root: Path) -> None:
    wrong = []
    for path in files(root):
        if path.stat().st_size > 2_000_000:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if found := re.search("|".join(PRIVATE), text):
            wrong.append(f"{path.relative_to(root)}: {found[0]}")
    assert not wrong


def test_no_file_is_too_large_for_git(root: Path) -> None:
    sizes = {str(path.relative_to(root)): path.stat().st_size for path in files(root)}
    assert not {name: size for name, size in sizes.items() if size > 32 * 2**20}


def test_bundled_weights_stay_within_sixty_megabytes(root: Path) -> None:
    weights = [path for path in files(root) if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in weights) <= 60_000_000


def test_the_readme_opens_with_the_two_commands(root: Path) -> None:
    blocks = code_blocks((root / "README.md").read_text(encoding="utf-8"))
    assert blocks[:2] == ["python3 tools/bootstrap.py demo", "python3 tools/bootstrap.py test"]


def test_ci_runs_the_readmes_own_test_command(root: Path) -> None:
    command = code_blocks((root / "README.md").read_text(encoding="utf-8"))[1]
    script = (root / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert command in script
    assert "set -euo pipefail" in script


def test_links_of_the_readme_lead_to_files(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", text)
    assert links
    assert not [link for link in links if not (root / link.split("#")[0]).exists()]
