"""The demo in a window: what the user would click, clicked by the program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from napari_ssldiff.geometry import Region
from napari_ssldiff.viewer.reader import read_scene

if TYPE_CHECKING:
    import napari

    from napari_ssldiff.viewer.widget import SSLDiffusionWidget


def open_demo(path: Path, region: Region) -> tuple[napari.Viewer, SSLDiffusionWidget]:
    """A viewer with the sample, the dock widget and a region drawn."""
    import napari

    from napari_ssldiff.viewer import SSLDiffusionWidget

    viewer = napari.Viewer(title="napari-ssldiff")
    for data, options, kind in read_scene(str(path)):
        getattr(viewer, f"add_{kind}")(data, **options)
    widget = SSLDiffusionWidget(viewer)
    viewer.window.add_dock_widget(widget, name="SSL Diffusion", area="right")
    widget.bench.regions.ensure()
    widget.bench.regions.add(region, "rectangle")
    return viewer, widget


def run_in_window(path: Path, region: Region, store: Path, image: Path) -> None:
    """Open the sample, vary a region live and export it; the window stays for the user.

    Parameters
    ----------
    path
        The sample.
    region
        What to vary, in level-0 pixels.
    store
        OME-Zarr to write.
    image
        Picture of the window to write when the variation is done.
    """
    import napari

    viewer, widget = open_demo(path, region)
    session = widget.bench.session
    stages = iter(("generated", "exported"))

    def on_busy(busy: bool) -> None:
        if busy:
            return
        if session.status.severity == "error":
            print(session.status.text, file=sys.stderr)
            return
        stage = next(stages, None)
        if stage == "generated":
            viewer.screenshot(str(image), canvas_only=False, flash=False)
            widget.bench.export(store)
        elif stage == "exported":
            print(image)
            print(store)
            print("The window is yours: draw another region. Close it to end.", file=sys.stderr)

    session.events.busy.connect(on_busy)
    widget.bench.generate()
    napari.run()
