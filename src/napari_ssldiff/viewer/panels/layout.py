"""Small pieces that all panels are made of."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtWidgets import (
    QFormLayout,
    QGroupBox,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)


def group(title: str) -> tuple[QGroupBox, QVBoxLayout]:
    """A titled box and its layout."""
    box = QGroupBox(title)
    layout = QVBoxLayout(box)
    layout.setContentsMargins(8, 6, 8, 8)
    layout.setSpacing(6)
    return box, layout


def form() -> QFormLayout:
    """Labels on the left, fields of full width on the right."""
    layout = QFormLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(6)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return layout


def row(rows: QFormLayout, label: str, field: QWidget) -> None:
    """Add a row whose label is as wide as those of the other panels."""
    name = QLabel(label)
    name.setMinimumWidth(62)
    rows.addRow(name, field)


def show_row(rows: QFormLayout, field: QWidget, shown: bool) -> None:
    """Show or hide a field together with its label; Qt 5 has no such call."""
    for widget in (rows.labelForField(field), field):
        widget.setVisible(shown)


def button(text: str, tip: str, act: Callable[[], object], name: str) -> QPushButton:
    """A push button that calls ``act`` without arguments."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setObjectName(name)
    made.clicked.connect(lambda checked=False: act())
    return made


def narrow(widget: QWidget) -> None:
    """Let a widget shrink below its text: a dock must not grow with a file's name."""
    widget.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    widget.setMinimumWidth(80)
