"""How a variant changes a card, and a model a component."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` in it; mappings are merged at every depth."""
    out = dict(copy.deepcopy(base))
    for key, value in changes.items():
        old = out.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        out[key] = merged(old, value) if both else copy.deepcopy(value)  # type: ignore[arg-type]
    return out
