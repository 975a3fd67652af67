"""An endless slide in a real napari window: how soon it opens, whether the window stands still
while tiles are made, and whether the same pixels are there when one comes back.

    python benchmarks/endless_window.py --model demo-histology --scene SLIDE \\
        --json benchmarks/results/endless-window.json --shots docs/images

Needs a display; under Linux ``xvfb-run -s "-screen 0 1400x900x24"`` gives one. The window is the
user's: the buttons are pressed, the camera is moved, the canvas is shot.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import napari
import numpy as np
from machine import provenance
from numpy.typing import NDArray
from PIL import Image
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.samples import sample_path
from napari_ssldiff.viewer import SSLDiffusionWidget
from napari_ssldiff.viewer.endless import EndlessView, slide_of
from napari_ssldiff.viewer.reader import read_scene


def wait(until: Any, seconds: float) -> float:
    """Run the window until something is true; how long it took."""
    begin = time.perf_counter()
    while not until():
        QApplication.processEvents()
        time.sleep(0.001)
        if time.perf_counter() - begin > seconds:
            raise TimeoutError(f"not within {seconds} s")
    return time.perf_counter() - begin


class Heart:
    """Beats as often as the window's thread lets it."""

    def __init__(self) -> None:
        self.beats: list[float] = []
        self.timer = QTimer()
        self.timer.setInterval(2)
        self.timer.timeout.connect(lambda: self.beats.append(time.perf_counter()))

    def __enter__(self) -> Heart:
        self.timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.timer.stop()

    def figures(self) -> dict[str, Any]:
        """Gaps between beats, in milliseconds."""
        gaps = np.diff(self.beats) * 1000
        return {
            "beats": len(self.beats),
            "median_ms": round(float(np.median(gaps)), 1),
            "p99_ms": round(float(np.percentile(gaps, 99)), 1),
            "max_ms": round(float(gaps.max()), 1),
            "over_100_ms": int((gaps > 100).sum()),
        }


def shot(viewer: napari.Viewer) -> NDArray[np.uint8]:
    """The canvas as it is now."""
    for _ in range(5):
        QApplication.processEvents()
        time.sleep(0.05)
    return np.asarray(viewer.screenshot(canvas_only=True, flash=False))


def go(viewer: napari.Viewer, layer: Any, place: tuple[float, float], scale: float) -> None:
    """Move the camera to a place in the layer's pixels; ``scale`` screen pixels per pixel."""
    camera = getattr(viewer, "scene", viewer).camera
    camera.center = (0.0, *layer.data_to_world(place))
    camera.zoom = scale / layer.scale[0]
    QApplication.processEvents()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="demo-histology")
    parser.add_argument("--scene", type=Path, help="a scene of the model's unit")
    parser.add_argument("--arrangement", default="mirror", choices=("mirror", "shuffle"))
    parser.add_argument("--edge", type=int, default=2**20)
    parser.add_argument("--window", type=int, nargs=2, default=(1100, 640))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--shots", type=Path, help="folder for pictures of the window")
    options = parser.parse_args()

    viewer = napari.Viewer(title="napari-ssldiff", show=True)
    viewer.window._qt_window.resize(*options.window)
    path = options.scene or sample_path("synthetic-slide")
    for data, attributes, kind in read_scene(str(path)):
        getattr(viewer, f"add_{kind}")(data, **attributes)
    widget = SSLDiffusionWidget(viewer)
    viewer.window.add_dock_widget(widget, name="SSL Diffusion", area="right")
    bench = widget.bench
    bench.session.model_id = options.model
    assert bench.scene is not None
    h, w = bench.scene.shape
    bench.regions.ensure()
    side = min(h, w, 1024)
    bench.regions.add(
        Region.from_box(Box((h - side) // 2, (w - side) // 2, side, side)), "rectangle"
    )
    QApplication.processEvents()

    # What the user waits for: the click, then the map on the canvas.
    opened: list[float] = []
    drawn: list[float] = []
    original = EndlessView.open.__func__

    def timed(cls: Any, viewer: Any, slide: Any) -> EndlessView:
        begin = time.perf_counter()
        view = original(cls, viewer, slide)
        viewer.screenshot(canvas_only=True, flash=False)  # draws
        opened.append(time.perf_counter() - begin)
        return view

    EndlessView.open = classmethod(timed)  # type: ignore[assignment]
    for _ in range(2):
        begin = time.perf_counter()
        assert bench.open_endless(options.arrangement, options.edge), bench.session.status.text
        wait(lambda: not bench.session.busy, 300)
        assert bench.session.status.severity != "error", bench.session.status.text
        drawn.append(time.perf_counter() - begin)
        if len(drawn) == 1:
            viewer.layers.remove(next(layer for layer in viewer.layers if slide_of(layer)))
    layer = next(layer for layer in viewer.layers if slide_of(layer))
    slide = slide_of(layer)
    assert slide is not None
    pictures = {"map": np.asarray(viewer.screenshot(canvas_only=False, flash=False))}

    def complete() -> bool:
        return slide.lazy.waiting == 0 and not widget.bench.slides.views[layer]._dirty

    # Level 0 in the middle of the slide: tiles come while the window is watched.
    here = (options.edge * 0.5 + 37, options.edge * 0.5 - 111)
    with Heart() as heart:
        go(viewer, layer, here, 1.0)
        QApplication.processEvents()
        tiles, evaluations = slide.lazy.waiting, slide.lazy.counters.evaluations
        seconds = wait(complete, 1800)
    made = slide.lazy.counters.evaluations - evaluations
    pictures["made"] = np.asarray(viewer.screenshot(canvas_only=False, flash=False))
    first = shot(viewer)

    # A drag of the camera, 3000 px away and back.
    with Heart() as panning:
        for i in range(30):
            go(viewer, layer, (here[0], here[1] + 100 * i), 1.0)
            for _ in range(5):
                QApplication.processEvents()
                time.sleep(0.01)
        for i in reversed(range(30)):
            go(viewer, layer, (here[0], here[1] + 100 * i), 1.0)
            QApplication.processEvents()
        wait(complete, 600)
    back = shot(viewer)
    pictures["canvas-first"], pictures["canvas-back"] = first, back

    # Another slide of the same definition knows none of these pixels and has to make them anew.
    again = type(slide.lazy).from_dict(bench.worker._engine._loaded[1], slide.lazy.to_dict())
    slide.lazy.forget()
    corners = layer.corner_pixels[:, :2].astype(int)
    part = tuple(slice(int(m) - 64, int(m) + 64) for m in corners.mean(0))
    same = bool(np.array_equal(again.rendered[part], slide.lazy.levels[0][part][..., :3]))

    result = {
        **provenance(),
        "model": options.model,
        "arrangement": options.arrangement,
        "edge": options.edge,
        "canvas": list(first.shape[:2]),
        "open": {
            "click_to_map_first_s": round(drawn[0], 2),
            "click_to_map_again_s": round(drawn[1], 2),
            "layer_added_and_drawn_s": [round(s, 3) for s in opened],
        },
        "making": {
            "tiles": tiles,
            "seconds": round(seconds, 1),
            "seconds_per_tile": round(seconds / max(1, tiles), 2),
            "evaluations_per_tile": round(made / max(1, tiles)),
            "gui_gaps": heart.figures(),
        },
        "panning": {"gui_gaps": panning.figures()},
        "back": {
            "same_screenshot": bool(np.array_equal(first, back)),
            "largest_difference": int(np.abs(first.astype(int) - back).max()),
            "remade_identical": same,
        },
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.shots:
        options.shots.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            Image.fromarray(picture[..., :3]).save(options.shots / f"endless-{name}.png")
    bench.close()
    viewer.close()


if __name__ == "__main__":
    main()
