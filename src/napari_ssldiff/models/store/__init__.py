"""The store of models: list, fetch, import, verify, remove.

Importing this package imports neither torch nor huggingface_hub, and asks no network.
"""

from __future__ import annotations

from napari_ssldiff.models.store.facts import Row, consent, explain, rows
from napari_ssldiff.models.store.fetch import fetch
from napari_ssldiff.models.store.importing import import_model
from napari_ssldiff.models.store.places import remove
from napari_ssldiff.models.store.verify import verify, verify_all

__all__ = [
    "Row",
    "consent",
    "explain",
    "fetch",
    "import_model",
    "remove",
    "rows",
    "verify",
    "verify_all",
]
