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
    click("undo_edit")
    done()
    assert editor.edited.field.digest == editor.opened.field.digest
