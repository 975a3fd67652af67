"""An endless slide in a real window: opened with the mouse, panned away from, and come back to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.viewer.endless import slide_of

pytestmark = pytest.mark.gui


@pytest.fixture(autouse=True)
def _no_user_cache(own_cache: Path) -> None:
    """Every test gets a cache folder of its own."""


def test_it_opens_by_a_click_fills_where_one_looks_and_is_the_same_when_one_comes_back(
    make_napari_viewer: Callable[..., Any], qtbot: Any, tiny: Any, add_slide: Callable[..., Any]
) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QPushButton

    from napari_ssldiff.viewer import SSLDiffusionWidget

    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1100, 500)
    add_slide(viewer)
    widget = SSLDiffusionWidget(viewer, tiny)
    viewer.window.add_dock_widget(widget, name="SSL Diffusion")
    widget.bench.regions.add(Region.from_box(Box(100, 200, 200, 150)), "rectangle")
    widget.parameters.steps.value = 1
    widget.parameters.guidance.value = 1
    session = widget.bench.session
    qtbot.mouseClick(widget.findChild(QPushButton, "open_endless"), Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not session.busy, timeout=60_000)
    assert session.status.severity == "success", session.status.text
    layer = viewer.layers["slide · endless"]
    slide = slide_of(layer)
    assert slide is not None
    camera = getattr(viewer, "scene", viewer).camera  # moved in napari 0.9

    def look(y: float, x: float) -> None:
        camera.center = (0.0, *layer.data_to_world((y, x)))
        camera.zoom = 1 / layer.scale[0]
        qtbot.wait(50)

    def complete() -> None:
        qtbot.waitUntil(lambda: slide.lazy.waiting == 0, timeout=120_000)
        qtbot.wait(250)  # a tick of the window's own

    def shot() -> np.ndarray:
        return np.asarray(viewer.screenshot(canvas_only=True, flash=False))

    look(500_000, 700_000)
    assert layer.data_level == 0
    complete()
    first = shot()
    assert first[..., :3].std() > 5
    look(900_000, 100_000)
    assert not np.array_equal(shot(), first)
    complete()
    look(500_000, 700_000)
    complete()
    assert np.array_equal(shot(), first)
    assert widget.endless.state.text().startswith("What you see is made")

    qtbot.mouseClick(widget.findChild(QPushButton, "pause_endless"), Qt.MouseButton.LeftButton)
    look(10_000, 10_000)
    qtbot.wait(300)
    assert slide.lazy.waiting > 0
    assert "paused" in widget.endless.state.text()
    assert slide.paused


def test_it_is_made_of_the_words_in_the_dock(
    make_napari_viewer: Callable[..., Any],
    qtbot: Any,
    tiny: Any,
    tiny_words: Any,
    add_slide: Callable[..., Any],
) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QComboBox, QLineEdit, QPushButton

    from napari_ssldiff.viewer import SSLDiffusionWidget

    tiny._words = {(tiny_words.prior.facts.encoder, "text", "cpu"): tiny_words}
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(900, 400)
    add_slide(viewer)
    widget = SSLDiffusionWidget(viewer, tiny)
    viewer.window.add_dock_widget(widget, name="SSL Diffusion")
    widget.parameters.steps.value = 1
    widget.parameters.guidance.value = 1
    arrangement = widget.findChild(QComboBox, "arrangement")
    arrangement.setCurrentIndex(arrangement.findData("words"))
    open_it = widget.findChild(QPushButton, "open_endless")
    qtbot.mouseClick(open_it, Qt.MouseButton.LeftButton)
    session = widget.bench.session
    assert "The prompt is empty" in session.status.text
    widget.findChild(QLineEdit, "prompt").setText("tumour")
    qtbot.mouseClick(open_it, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not session.busy, timeout=120_000)
    assert session.status.severity == "success", session.status.text
    layer = viewer.layers["words · endless"]
    slide = slide_of(layer)
    assert slide is not None
    camera = getattr(viewer, "scene", viewer).camera  # moved in napari 0.9
    camera.center = (0.0, *layer.data_to_world((500_096, 700_032)))
    camera.zoom = 4 / layer.scale[0]
    qtbot.wait(50)
    assert slide.lazy.waiting > 0
    qtbot.waitUntil(lambda: slide.lazy.waiting == 0, timeout=240_000)
    qtbot.wait(250)  # a tick of the window's own
    shown = np.asarray(viewer.screenshot(canvas_only=True, flash=False))
    assert shown[..., :3].std() > 5
