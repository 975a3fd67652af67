"""Where synthetic pixels come from: everything needed to make them again, as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # the viewer's writer comes through here and must not load torch
    from napari_ssldiff.synthesis.request import SynthesisRequest

#: Name of the root attribute and of the key in a layer's metadata.
NAMESPACE = "napari_ssldiff"

SYNTHETIC_NOTE = (
    "This image holds synthetic pixels made by a diffusion model with napari-ssldiff; "
    "the label image 'synthetic', where there is one, marks them, else all of it is synthetic. "
    "Not for diagnosis or as evidence of what was there."
)
SOURCE_NOTE = "This image was written by napari-ssldiff and holds no synthetic pixels."
CITATION = (
    "Graikos et al., Learned representation-guided diffusion models for large-image "
    "generation, CVPR 2024"
)
_PACKAGES = ("napari-ssldiff", "torch", "diffusers", "numpy", "zarr")


def package_versions() -> dict[str, str]:
    """Installed versions of what makes and writes the pixels; absent ones are left out."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance_of(
    request: SynthesisRequest, *, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All that a result depends on, JSON-compatible.

    Parameters
    ----------
    request
        What was asked for; its ``to_dict()`` restores it.
    extra
        Further facts, such as device, seconds or CRS; must not unmark the image.

    Returns
    -------
    ``request``, ``request_digest``, ``model``, ``model_hash``, ``seed``, ``synthetic`` (true),
    ``versions``, ``created``, ``citation`` and whatever ``extra`` holds.
    """
    facts = {
        "request": request.to_dict(),
        "request_digest": request.digest,
        "model": request.model,
        "model_hash": request.model_hash,
        "seed": request.sampler.seed,
    }
    return marked_synthetic({**facts, **(extra or {})})


def marked_synthetic(facts: Mapping[str, Any]) -> dict[str, Any]:
    """``facts`` as JSON with ``synthetic`` (true), note, citation, versions and date.

    Of a ``model`` that was imported, ``imported`` tells from which file, and whether its hash is
    one that the card knows.
    """
    from napari_ssldiff.models.origin import origin_of

    base = {"versions": package_versions(), "created": now(), "citation": CITATION}
    if imported := origin_of(str(facts.get("model", "")), str(facts.get("model_hash", ""))):
        base["imported"] = imported
    whole = {**base, **facts, "synthetic": True, "note": SYNTHETIC_NOTE}
    return {key: jsonable(value) for key, value in whole.items()}


def stamped(given: Mapping[str, Any] | None, *, synthetic: bool, **facts: Any) -> dict[str, Any]:
    """What an export carries: ``given``, marked, with versions and date where it has none.

    ``given`` may mark an image as synthetic, but never unmark one that is.
    """
    given = dict(given or {})
    marked = synthetic or bool(given.get("synthetic", False))
    base = {"versions": package_versions(), "created": now(), "citation": CITATION}
    note = {"note": SYNTHETIC_NOTE if marked else SOURCE_NOTE}
    if marked == bool(given.get("synthetic", False)) and given.get("note"):
        note = {}
    merged = {**base, **given, **note, **facts, "synthetic": marked, "exported": now()}
    merged["exporter_versions"] = package_versions()
    return {str(key): jsonable(value) for key, value in merged.items()}


def jsonable(value: Any) -> Any:
    """``value`` with only strings, finite numbers, booleans, null, lists and objects in it."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float):
        # JSON has no NaN and no infinity; readers refuse files that hold them.
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return str(value)
