"""What an export takes from a scene, its overlay and its endless slide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.viewer.endless import carried, slide_of
from napari_ssldiff.viewer.jobs import ExportJob
from napari_ssldiff.viewer.overlay import OverlayController
from napari_ssldiff.viewer.told import guard_size

if TYPE_CHECKING:
    from napari.layers import Image


def export_job(
    scene: Scene,
    source: Image,
    box: Box,
    overlay: OverlayController | None,
    path: Path,
    version: Literal["0.5", "0.4"],
    confirm: Callable[[str], bool],
) -> ExportJob:
    """The job that writes ``box`` of a scene, with what its overlay shows, to ``path``.

    Raises
    ------
    InputError
        If much of an endless slide would have to be made, and ``confirm`` says no.
    """
    painted = overlay is not None and not overlay.empty
    slide = slide_of(source)
    if slide is not None:
        guard_size(Region.from_box(box), "exported", confirm)
    return ExportJob(
        scene=scene,
        box=box,
        store=overlay.store if overlay is not None and painted else None,
        path=path,
        version=version,
        provenance=carried(slide, overlay.provenance if overlay and painted else None),
        slide=slide,
    )
