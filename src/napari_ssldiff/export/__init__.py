"""Results out of the program: the live overlay store, OME-Zarr, PNG and provenance."""

from __future__ import annotations

from napari_ssldiff.export.composite import Composite, OverlayImage
from napari_ssldiff.export.files import check_output
from napari_ssldiff.export.lazy import LazyImage
from napari_ssldiff.export.ome_zarr import write_ome_zarr
from napari_ssldiff.export.overlay_store import OverlayStore
from napari_ssldiff.export.png import side_by_side, synthetic_png
from napari_ssldiff.export.provenance import NAMESPACE, provenance_of

__all__ = [
    "NAMESPACE",
    "Composite",
    "LazyImage",
    "OverlayImage",
    "OverlayStore",
    "check_output",
    "provenance_of",
    "side_by_side",
    "synthetic_png",
    "write_ome_zarr",
]
