"""Typed words in a real window, with the bundled models; runs on PyQt5 and on PyQt6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.text.facts import facts_of

pytestmark = pytest.mark.gui


def test_typed_words_become_a_picture_on_a_canvas_of_their_own(
    make_napari_viewer: Callable[..., Any], qtbot: Any, own_cache: Any
) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QComboBox, QLineEdit, QPushButton

    from napari_ssldiff.viewer import SSLDiffusionWidget

    viewer = make_napari_viewer()
    widget = SSLDiffusionWidget(viewer)
    viewer.window.add_dock_widget(widget, name="SSL Diffusion")
    assert viewer.window._qt_window is not None
    session = widget.bench.session
    assert session.model_id == ""  # without an image nothing says which
    session.device = "cpu"
    widget.parameters.preset.value = "draft"

    def line(name: str) -> Any:
        found = widget.findChild(QLineEdit, name)
        assert found is not None
        return found

    where = widget.findChild(QComboBox, "words_target")
    where.setCurrentIndex(where.findData("canvas"))
    size = line("canvas_size")
    size.selectAll()
    qtbot.keyClicks(size, "160 x 128")
    qtbot.keyClicks(line("prompt"), "a forest with dense trees and foo")
    assert session.wording.prompt == "a forest with dense trees and foo"
    qtbot.mouseClick(widget.findChild(QPushButton, "synthesise"), Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not session.busy, timeout=120_000)
    assert session.status.severity == "success", session.status.text
    assert session.model_id == "demo-naip"
    assert "'foo'" in session.status.text
    canvas = next(layer for layer in viewer.layers if layer.name.startswith("Canvas"))
    overlay = next(layer for layer in viewer.layers if "overlay_of" in str(layer.metadata))

    def level(layer: Any) -> np.ndarray:
        return np.asarray(layer.data[0] if layer.multiscale else layer.data)[:128, :160]

    assert level(canvas).shape == (128, 160, 3)
    pixels = level(overlay)
    assert (pixels[..., 3] == 255).all()
    assert facts_of(pixels[..., :3], "remote sensing")["trees"] > 0.3
    (step,) = [overlay.metadata["napari_ssldiff"]["request"]["history"][0]["text"]]
    assert step == "a forest with dense trees and foo"
    # Another prompt fills the same canvas.
    assert where.currentData() == "scene"
    line("prompt").selectAll()
    qtbot.keyClicks(line("prompt"), "a desert of bare soil")
    qtbot.keyClick(line("prompt"), Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: not session.busy, timeout=120_000)
    pixels = level(overlay)
    assert facts_of(pixels[..., :3], "remote sensing")["trees"] < 0.2
