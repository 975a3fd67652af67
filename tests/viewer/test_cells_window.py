"""Where cells lie, chosen in a real window; PyQt5 and PyQt6."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.viewer.backend import Choices

pytestmark = pytest.mark.gui


def test_a_labels_layer_is_chosen_by_keys_and_stands_before_the_engine(
    make_napari_viewer: Callable[..., Any], qtbot: Any, backend: Any, add_slide: Callable[..., Any]
) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QComboBox, QPushButton, QScrollArea

    from napari_ssldiff.viewer import SSLDiffusionWidget

    backend.choices = lambda model_id: Choices(cells=model_id == "demo-histology")
    viewer = make_napari_viewer(show=True)
    add_slide(viewer)
    widget = SSLDiffusionWidget(viewer, backend)
    viewer.window.add_dock_widget(widget, name="SSL Diffusion")
    viewer.window._qt_window.resize(1400, 1000)
    bench, session = widget.bench, widget.bench.session
    bench.regions.add(Region.from_box(Box(96, 192, 96, 96)), "rectangle")
    box = widget.cells.findChild(QComboBox, "cells_of")
    assert widget.cells.isVisibleTo(widget)
    place = {"scale": (0.5, 0.5), "translate": (100.25, 50.25), "units": ("micrometer",) * 2}
    labels = np.zeros((700, 900), np.uint8)
    labels[100:180:9, 200:280:7] = 1
    viewer.add_labels(labels, name="nuclei", **place)

    def generate() -> None:
        qtbot.mouseClick(widget.findChild(QPushButton, "generate"), Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: not session.busy, timeout=60_000)
        assert session.status.severity == "success", session.status.text

    generate()
    assert backend.masks == [None]
    box.setFocus()
    qtbot.keyClick(box, Qt.Key.Key_End)
    assert box.currentText() == "in nuclei"
    generate()
    assert backend.masks[-1].labels.shape == (700, 900)
    if folder := os.environ.get("NAPARI_SSLDIFF_SHOTS"):
        widget.findChild(QScrollArea).ensureWidgetVisible(widget.cells, 0, 200)
        qtbot.wait(500)
        viewer.window._qt_window.grab().save(f"{folder}/cells.png")
    viewer.layers.remove("nuclei")
    assert box.currentText() == "where the model likes"
    assert "the layer nuclei is gone" in session.status.text
    generate()
    assert backend.masks[-1] is None
    # Another model has no such choice.
    session.model_id = "demo-naip"
    assert not widget.cells.isVisibleTo(widget)
