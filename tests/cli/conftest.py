"""Nothing here reads or fills the user's own cache."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_user_cache(own_cache: Path) -> None:
    """Every test gets a cache folder of its own."""
