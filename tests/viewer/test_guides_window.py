"""The coarse picture that a variation keeps to, chosen in a real window; PyQt5 and PyQt6."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from napari_ssldiff.geometry import Box, Region

pytestmark = pytest.mark.gui


def test_a_guide_is_chosen_by_keys_and_stands_in_the_request(
    make_napari_viewer: Callable[..., Any], qtbot: Any, tiny: Any, own_cache: Any,
    add_slide: Callable[..., Any],
) -> None:  # fmt: skip
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QPushButton, QSlider, QWidget

    from napari_ssldiff.viewer import SSLDiffusionWidget

    viewer = make_napari_viewer(show=True)
    add_slide(viewer)
    widget = SSLDiffusionWidget(viewer, tiny)
    viewer.window.add_dock_widget(widget, name="SSL Diffusion")
    viewer.window._qt_window.resize(1400, 1000)
    bench, session = widget.bench, widget.bench.session
    bench.regions.add(Region.from_box(Box(96, 192, 96, 96)), "rectangle")
    widget.parameters.steps.value = 2

    def find(name: str, of: Any) -> Any:
        found = widget.coarse.findChild(of, name)
        assert found is not None, name
        return found

    of, unit = find("guide_of", QComboBox), find("guide_unit", QComboBox)
    pixel = find("guide_pixel", QDoubleSpinBox)

    def choose(box: Any, text: str) -> None:
        box.setFocus()
        qtbot.keyClick(box, Qt.Key.Key_Home)
        for _ in range(box.findText(text)):
            qtbot.keyClick(box, Qt.Key.Key_Down)
        assert box.currentText() == text

    def generate() -> None:
        qtbot.mouseClick(widget.findChild(QPushButton, "generate"), Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: not session.busy, timeout=120_000)

    def request() -> Any:
        generate()
        assert session.status.severity == "success", session.status.text
        return viewer.layers["slide · synthetic"].metadata["napari_ssldiff"]["request"]

    # Nothing is kept at first, and the rows about it are not there.
    assert of.currentText() == "nothing"
    assert not pixel.isVisibleTo(widget)
    assert "guide" not in request()

    choose(of, "the source")
    assert pixel.isVisibleTo(widget)
    assert pixel.text() == "16.0"
    slider = find("guide_strength", QWidget).findChild(QSlider)
    slider.setFocus()
    qtbot.keyClick(slider, Qt.Key.Key_Home)
    for _ in range(2):
        qtbot.keyClick(slider, Qt.Key.Key_PageUp)
    strength = session.guide.strength
    assert 0 < strength < 1
    guide = request()["guide"]
    assert (guide["shape"], guide["strength"]) == ([6, 6], strength)

    def length(text: str, of_unit: str) -> None:
        choose(unit, of_unit)
        pixel.setFocus()
        pixel.selectAll()
        qtbot.keyClicks(pixel, text)
        qtbot.keyClick(pixel, Qt.Key.Key_Return)

    length("16", "µm")
    assert request()["guide"]["shape"] == [3, 3]
    picture(viewer, widget, "guide-source.png", qtbot)
    length("0.5", "µm")
    generate()
    assert session.status.severity == "error"
    assert "coarser than what it guides" in session.status.text

    # The overlay, in pixels of its own: those of the model that made it, which guide nothing finer.
    choose(of, "slide · synthetic")
    assert pixel.text() == "its own"
    generate()
    assert "coarser than what it guides" in session.status.text
    length("24", "px")
    assert request()["guide"]["shape"] == [4, 4]
    picture(viewer, widget, "guide-layer.png", qtbot)
    # The length of the source's picture is as it was.
    choose(of, "the source")
    assert pixel.text() == "0.5"
    choose(of, "slide · synthetic")
    viewer.layers.remove(viewer.layers["slide · synthetic"])
    assert of.currentText() == "nothing"
    assert session.guide.of == "nothing"
    assert "the layer is gone" in session.status.text
    assert not pixel.isVisibleTo(widget)


def picture(viewer: Any, widget: Any, name: str, qtbot: Any) -> None:
    """Kept where ``NAPARI_SSLDIFF_SHOTS`` names a folder."""
    if folder := os.environ.get("NAPARI_SSLDIFF_SHOTS"):
        from qtpy.QtWidgets import QScrollArea

        widget.findChild(QScrollArea).ensureWidgetVisible(widget.coarse, 0, 200)
        qtbot.wait(500)
        viewer.window._qt_window.grab().save(f"{folder}/{name}")
