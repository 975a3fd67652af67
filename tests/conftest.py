"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real images that ``NAPARI_SSLDIFF_DATA`` names; without it the test skips."""
    folder = os.environ.get("NAPARI_SSLDIFF_DATA")
    if not folder:
        pytest.skip("set NAPARI_SSLDIFF_DATA to the folder of real images to run this test")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"NAPARI_SSLDIFF_DATA names {folder}, which is no folder")
    return path
