"""What the checks of the project itself share: its root and its parsed source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """Top of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def source(root: Path) -> dict[str, ast.Module]:
    """Dotted module name → syntax tree, for every module of the package."""
    trees = {}
    for path in sorted((root / "src").rglob("*.py")):
        parts = list(path.relative_to(root / "src").with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        trees[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    assert "napari_ssldiff.geometry" in trees
    return trees
