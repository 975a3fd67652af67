"""A second region and a path in a real window, with a bundled model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.data import immunohistochemistry

pytestmark = [pytest.mark.gui, pytest.mark.slow]


def test_regions_are_mixed_by_a_slider_and_joined_by_a_path(
    make_napari_viewer: Callable[..., Any], qtbot: Any, own_cache: Any, tmp_path: Path
) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QListWidget, QPushButton, QScrollArea, QSlider

    from napari_ssldiff.cli import main
    from napari_ssldiff.geometry import Box, Region
    from napari_ssldiff.viewer import SSLDiffusionWidget

    viewer = make_napari_viewer(show="NAPARI_SSLDIFF_SCREENSHOTS" in os.environ)
    pixels = immunohistochemistry()
    viewer.add_image(pixels, rgb=True, scale=(0.5, 0.5), units=("micrometer", "micrometer"))
    widget = SSLDiffusionWidget(viewer)
    viewer.window.add_dock_widget(widget, name="SSL Diffusion")
    bench, editor, session = widget.bench, widget.field.editor, widget.bench.session
    session.model_id, session.device = "demo-histology", "cpu"
    session.parameters = session.parameters.__class__(preset="draft", seed=3)
    bench.regions.add(Region.from_box(Box(128, 128, 128, 128)), "rectangle")

    def click(name: str) -> None:
        qtbot.mouseClick(widget.findChild(QPushButton, name), Qt.MouseButton.LeftButton)

    def done() -> None:
        qtbot.waitUntil(lambda: not session.busy, timeout=240_000)
        assert session.status.severity != "error", session.status.text

    def drawn() -> None:
        qtbot.waitUntil(lambda: session.busy, timeout=10_000)
        done()

    def look(name: str) -> None:
        """Keep a picture of the window where the environment names a folder for them."""
        if folder := os.environ.get("NAPARI_SSLDIFF_SCREENSHOTS"):
            viewer.window.resize(1500, 1150)
            widget.findChild(QScrollArea).ensureWidgetVisible(widget.field.near)
            qtbot.wait(2000)
            viewer.window.screenshot(str(Path(folder) / f"{name}.png"), canvas_only=False)

    click("open_field")
    done()
    assert editor.opened is not None
    digest = editor.kept.digest
    # The second region is drawn and thereby chosen.
    bench.regions.add(Region.from_box(Box(320, 320, 128, 192)), "rectangle")
    click("mix_region")
    done()
    assert editor.kinds[-1].name == "region 2"
    drawn()
    slider = widget.findChild(QSlider, "amount")
    for value in (80, 60, 40):
        slider.setValue(value)
    drawn()
    assert editor.amount == 0.4
    look("mix")
    overlay = next(layer for layer in viewer.layers if "overlay_of" in str(layer.metadata))

    def alpha() -> np.ndarray:
        data = overlay.data[0] if overlay.multiscale else overlay.data
        return np.asarray(data)[..., 3]

    made = np.argwhere(alpha() > 0)
    np.testing.assert_array_equal(made.min(0), (128, 128))
    np.testing.assert_array_equal(made.max(0), (255, 255))
    step = overlay.metadata["napari_ssldiff"]["request"]["history"][-1]
    assert (step["op"], step["amount"]) == ("mix", 0.4)
    click("undo_edit")
    done()
    slider.setValue(100)
    click("draw_path")
    path = viewer.layers.selection.active
    path.add(np.array([[0, 0], [1, 1]]), shape_type="path")
    drawn()
    look("path")
    assert (editor.painted > 0)[[0, 1], [0, 1]].all()
    click("keep_edit")
    done()
    step = overlay.metadata["napari_ssldiff"]["request"]["history"][-1]
    assert step["op"] == "interpolate"
    assert editor.kept.digest != digest
    # A data set: the image itself, of which a cell finds itself first.
    file = tmp_path / "immunohistochemistry.png"
    Image.fromarray(pixels).save(file)
    words = ["index", str(file), "--model=demo-histology", "--device=cpu"]
    assert main([*words, "-o", str(tmp_path / "all.index")]) == 0
    assert editor.open_index(tmp_path / "all.index")
    click("undo_edit")
    done()
    assert editor.point(1, 0)
    near = widget.findChild(QListWidget, "nearest_elsewhere")
    qtbot.waitUntil(lambda: near.count() == 5, timeout=60_000)
    assert near.item(0).text().startswith("1.00 ")
    y, x = (128 + 64, 128)
    assert near.item(0).toolTip().endswith(f"at x {x}, y {y}")
    look("nearest")
    assert editor.kept.digest == digest
