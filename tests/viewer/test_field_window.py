"""Embeddings opened, painted and kept in a real window, with a bundled model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from skimage.data import immunohistochemistry

pytestmark = pytest.mark.gui


def test_a_painted_cell_is_made_anew_where_it_lies(
    make_napari_viewer: Callable[..., Any], qtbot: Any, own_cache: Any
) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QListWidget, QPushButton

    from napari_ssldiff.geometry import Box, Region
    from napari_ssldiff.viewer import SSLDiffusionWidget
    from napari_ssldiff.viewer.messages import PicturesRead

    viewer = make_napari_viewer()
    pixels = immunohistochemistry()
    viewer.add_image(pixels, rgb=True, scale=(0.5, 0.5), units=("micrometer", "micrometer"))
    widget = SSLDiffusionWidget(viewer)
    viewer.window.add_dock_widget(widget, name="SSL Diffusion")
    bench, editor, session = widget.bench, widget.field.editor, widget.bench.session
    session.model_id, session.device = "demo-histology", "cpu"
    bench.regions.add(Region.from_box(Box(128, 128, 256, 256)), "rectangle")

    def click(name: str) -> None:
        qtbot.mouseClick(widget.findChild(QPushButton, name), Qt.MouseButton.LeftButton)

    def done() -> None:
        qtbot.waitUntil(lambda: not session.busy, timeout=120_000)
        assert session.status.severity != "error", session.status.text

    click("open_field")
    done()
    assert editor.opened is not None
    kinds = widget.findChild(QListWidget, "prototypes")
    assert kinds.count() == len(editor.kinds) > 2
    labels = editor.opened.found.labels
    other = (labels[1, 1] + 1) % kinds.count()
    place = kinds.visualItemRect(kinds.item(int(other))).center()
    qtbot.mouseClick(kinds.viewport(), Qt.MouseButton.LeftButton, pos=place)
    brush = viewer.layers.selection.active
    assert (brush.mode, brush.selected_label) == ("paint", other + 1)
    # A stroke in the middle of cell (1, 1); the draft comes by itself.
    brush.paint((1, 1), brush.selected_label)
    qtbot.waitUntil(lambda: session.busy, timeout=5_000)
    done()
    overlay = next(layer for layer in viewer.layers if "overlay_of" in str(layer.metadata))

    def alpha() -> np.ndarray:
        data = overlay.data[0] if overlay.multiscale else overlay.data
        return np.asarray(data)[..., 3]

    y, x = (round(o + c) for o, c in zip(editor.opened.field.origin, (64, 64), strict=True))
    made = np.argwhere(alpha() > 0)
    np.testing.assert_array_equal(made.min(0), (y, x))
    np.testing.assert_array_equal(made.max(0), (y + 63, x + 63))
    session.parameters = session.parameters.__class__(preset="draft", seed=3)
    click("keep_edit")
    done()
    request = overlay.metadata["napari_ssldiff"]["request"]
    assert request["history"][0]["op"] == "paint"
    assert editor.edited is not None
    assert editor.edited.history
    editor.point(1, 1)
    near = widget.findChild(QListWidget, "nearest")
    assert near.count() == 5

    def colours() -> list[tuple[int, ...]]:
        icons = (near.item(n).icon().pixmap(48, 48).toImage() for n in range(5))
        return [image.pixelColor(24, 24).getRgb()[:3] for image in icons]

    grey = (90, 90, 90)  # until they are read, which does not hold the window up
    qtbot.waitUntil(lambda: grey not in colours(), timeout=10_000)
    shown = colours()
    black = np.zeros((48, 48, 3), np.uint8)
    editor.looked_up.emit(PicturesRead(0, object(), (black,) * 5))  # of another cell, too late
    assert colours() == shown
    click("undo_edit")
    done()
    assert editor.edited.field.digest == editor.opened.field.digest


def test_the_kinds_of_a_whole_slide_are_found_shown_and_painted(
    make_napari_viewer: Callable[..., Any], qtbot: Any, own_cache: Any
) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QComboBox, QLabel, QListWidget, QPushButton, QSpinBox

    from napari_ssldiff.geometry import Box, Region
    from napari_ssldiff.viewer import SSLDiffusionWidget

    viewer = make_napari_viewer()
    # A slide of glass with tissue on its right: 32 × 32 cells, of which half are background.
    pixels = np.full((1024, 1024, 3), 255, np.uint8)
    pixels[:, 512:] = np.tile(immunohistochemistry(), (2, 1, 1))
    viewer.add_image(pixels, rgb=True, scale=(0.5, 0.5), units=("micrometer", "micrometer"))
    widget = SSLDiffusionWidget(viewer)
    viewer.window.add_dock_widget(widget, name="SSL Diffusion")
    bench, editor, session = widget.bench, widget.field.editor, widget.bench.session
    session.model_id, session.device = "demo-histology", "cpu"
    bench.regions.add(Region.from_box(Box(128, 640, 128, 128)), "rectangle")
    qtbot.keyClicks(widget.findChild(QComboBox, "kinds_of"), "Kinds of the w")
    assert widget.findChild(QComboBox, "kinds_of").currentText() == "Kinds of the whole slide"
    widget.findChild(QSpinBox, "kinds").setValue(4)
    qtbot.mouseClick(widget.findChild(QPushButton, "open_field"), Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not session.busy, timeout=120_000)
    assert "cells of the whole slide" in session.status.text
    opened = editor.opened
    assert opened is not None
    assert opened.whole is not None
    sample = opened.whole.sampled.field
    kinds = widget.findChild(QListWidget, "prototypes")
    assert kinds.count() == 4
    # Glass is of no kind, and the map of the slide is clear there.
    shown = next(x for x in viewer.layers if x.name.endswith("whole slide · embeddings"))
    half = sample.shape[1] // 2
    assert (shown.data[:, :half, 3] == 0).all()
    assert (shown.data[:, half:, 3] == 255).mean() > 0.9
    assert all(opened.corner(*cell)[1] >= 512 for cell in opened.whole.found.cells)
    # Picking a kind gives the brush, and below the cells of it from all over the slide.
    place = kinds.visualItemRect(kinds.item(2)).center()
    qtbot.mouseClick(kinds.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert viewer.layers.selection.active.selected_label == 3
    near = widget.findChild(QListWidget, "nearest")
    assert near.count() == 5
    about = [x.text() for x in widget.findChildren(QLabel) if "in the whole slide" in x.text()]
    assert about == ["Kind 3 and the real cells of it in the whole slide that are most like its "
                     "middle:"]  # fmt: skip
    # Clicking the slide's map shows where more of it is, all over the slide.
    viewer.layers.selection.active = shown
    row, column = np.argwhere(opened.whole.found.labels == 1)[-1]
    (callback,) = shown.mouse_drag_callbacks[-1:]
    event = type("Event", (), {"type": "mouse_press"})()
    event.position = tuple(np.add(np.multiply((row, column), shown.scale), shown.translate))
    steps = callback(shown, event)
    next(steps)
    event.type = "mouse_release"
    for _ in steps:
        pass
    heat = next(x for x in viewer.layers if x.name.endswith("whole slide · similarity"))
    assert heat.data[row, column] == pytest.approx(1, abs=1e-4)
    assert np.isnan(heat.data[:, :half]).all()
