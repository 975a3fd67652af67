"""Where downloads and other things that can be made again are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

ENVIRONMENT_VARIABLE = "NAPARI_SSLDIFF_CACHE"


def cache_dir() -> Path:
    """The cache folder; it need not exist yet.

    The environment variable ``NAPARI_SSLDIFF_CACHE`` names it, else it is the platform's own
    place for caches.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(named).expanduser() if named else platformdirs.user_cache_path("napari-ssldiff")
