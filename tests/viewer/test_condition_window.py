"""Other conditions than words in a real window, by its own widgets; PyQt5 and PyQt6."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from napari_ssldiff.text.conditions import ClassLabel, Numbers, Pictures

pytestmark = pytest.mark.gui


def test_a_class_the_regions_and_numbers_are_chosen_and_synthesised(
    make_napari_viewer: Callable[..., Any], qtbot: Any, backend: Any, add_slide: Callable[..., Any]
) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import (
        QComboBox,
        QDoubleSpinBox,
        QLabel,
        QLineEdit,
        QPushButton,
        QWidget,
    )

    from napari_ssldiff.geometry import Box, Region
    from napari_ssldiff.viewer import SSLDiffusionWidget

    viewer = make_napari_viewer()
    add_slide(viewer)
    widget = SSLDiffusionWidget(viewer, backend)
    viewer.window.add_dock_widget(widget, name="SSL Diffusion")
    viewer.window._qt_window.show()
    bench, session = widget.bench, widget.bench.session
    assert session.model_id == "demo-histology"
    kind: Any = widget.findChild(QComboBox, "condition_kind")
    where: Any = widget.findChild(QComboBox, "words_target")
    where.setCurrentIndex(where.findData("scene"))
    assert [kind.itemData(i) for i in range(kind.count())] == ["words", "class", "like", "numbers"]

    def shown(name: str, of: type = QWidget) -> Any:
        found = widget.findChild(of, name)
        assert found is not None
        assert found.isVisibleTo(widget), name
        return found

    def choose(data: str) -> None:
        """As by the keyboard: Home, then down to the row."""
        kind.setFocus()
        qtbot.keyClick(kind, Qt.Key.Key_Home)
        for _ in range(kind.findData(data)):
            qtbot.keyClick(kind, Qt.Key.Key_Down)
        assert kind.currentData() == data

    fade = shown("words_feather", QDoubleSpinBox)
    assert session.wording.feather == fade.value() == 1
    qtbot.keyClick(fade, Qt.Key.Key_Up)
    assert session.wording.feather == 1.5

    def synthesise() -> Any:
        before = len(backend.prompts)
        qtbot.mouseClick(shown("synthesise", QPushButton), Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: not session.busy, timeout=60_000)
        assert len(backend.prompts) == before + 1, session.status.text
        return backend.prompts[-1].root

    choose("class")
    assert not widget.prompt.prompt.isVisibleTo(widget)
    label = shown("condition_class", QComboBox)
    label.setFocus()
    qtbot.keyClick(label, Qt.Key.Key_End)
    assert synthesise() == ClassLabel("Non-Tumor")

    choose("like")
    qtbot.mouseClick(shown("synthesise", QPushButton), Qt.MouseButton.LeftButton)
    assert "Nothing is taken yet" in session.status.text
    bench.regions.add(Region.from_box(Box(20, 30, 128, 128)), "rectangle")
    bench.regions.add(Region.from_box(Box(300, 30, 128, 128)), "rectangle")
    bench.regions.select({1})
    qtbot.mouseClick(shown("take_regions", QPushButton), Qt.MouseButton.LeftButton)
    assert shown("condition_taken", QLabel).text() == "1 region of slide"
    bench.regions.select({0})  # taken is taken
    like = synthesise()
    assert isinstance(like, Pictures)
    assert [one.region.bounds.y for one in like.references] == [300]

    choose("numbers")
    qtbot.mouseClick(shown("synthesise", QPushButton), Qt.MouseButton.LeftButton)
    assert "There is no number" in session.status.text
    qtbot.keyClicks(shown("number_density", QLineEdit), "12.5")
    if folder := os.environ.get("NAPARI_SSLDIFF_SHOTS"):
        viewer.window._qt_window.resize(1400, 1000)
        qtbot.wait(500)
        viewer.window._qt_window.grab().save(f"{folder}/conditions.png")
    assert synthesise() == Numbers({"density": 12.5})
    qtbot.keyClicks(shown("number_Ki-67", QLineEdit), "x")
    qtbot.mouseClick(shown("synthesise", QPushButton), Qt.MouseButton.LeftButton)
    assert "Ki-67 must be a number, got 'x'" in session.status.text
    # A model without such a prior is not asked for numbers.
    session.model_id = "demo-naip"
    assert kind.currentData() == "words"
    assert kind.findData("numbers") < 0
    assert shown("prompt", QLineEdit).text() == ""
