"""More ways to change embeddings: another region, words, a direction, a way along a path."""

from __future__ import annotations

from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_ssldiff.viewer.field_editor import FieldEditor
from napari_ssldiff.viewer.kinds import Way
from napari_ssldiff.viewer.panels.layout import button, form, narrow, row

_UNDER = "under the path"


class FieldToolsPanel(QWidget):
    """Buttons over :class:`~napari_ssldiff.viewer.field_tools.FieldTools`."""

    def __init__(self, editor: FieldEditor) -> None:
        super().__init__()
        self._editor, tools = editor, editor.tools
        self.words = button(
            "Add the prompt's kind", "Make what the words above say a kind that can be painted",
            tools.describe, "add_words",
        )  # fmt: skip
        self.mix = button(
            "Mix with region",
            "Mix a second region in, the one chosen above: where something is painted, or else all "
            "over; the amount says how far",
            tools.mix, "mix_region",
        )  # fmt: skip
        self.fill = button(
            "Fill", "Lay the kind that the brush has on all of the region", tools.fill, "fill"
        )
        self.path = button(
            "Draw a path", "Cells along it lead from the kind at its start to that at its end",
            tools.draw_path, "draw_path",
        )  # fmt: skip
        self.width = _spin("path_width", 1, 99, 1, "Cells that the path is wide")
        self.soft = _spin("path_soft", 0, 99, 1, "Cells over which its edge fades")
        self.start = _ends("path_start", "What the path starts with")
        self.end = _ends("path_end", "What the path ends with")
        self.towards = _line("towards", "towards: dense nuclei")
        self.away = _line("away", "away from: loose stroma")
        self.angle = QDoubleSpinBox()
        self.angle.setObjectName("angle")
        self.angle.setRange(1, 180)
        self.angle.setValue(40)
        self.angle.setSuffix("°")
        self.angle.setToolTip("How far the full amount moves cells on the sphere of embeddings")
        self.move = button(
            "Move", "Move what is painted, or else all of the region, from one description towards "
            "another",
            lambda: tools.move(self.towards.text(), self.away.text(), self.angle.value()),
            "move_words",
        )  # fmt: skip
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        for line in (
            (self.words,), (self.mix, self.fill), (self.path, self.width, self.soft),
            (self.start, self.end),
        ):  # fmt: skip
            layout.addLayout(_row(*line))
        rows = form()
        row(rows, "Move", self.towards)
        row(rows, "", self.away)
        layout.addLayout(rows)
        layout.addLayout(_row(self.move, self.angle))

        self.width.valueChanged.connect(self._on_path)
        self.soft.valueChanged.connect(self._on_path)
        self.start.currentIndexChanged.connect(self._on_path)
        self.end.currentIndexChanged.connect(self._on_path)
        editor.kinds_changed.connect(self.show_kinds)
        editor.opened_changed.connect(self.show_kinds)

    def show_kinds(self) -> None:
        """Offer the kinds as ends of a path; what was chosen stays where it is still there."""
        tools, kinds = self._editor.tools, self._editor.kinds
        for box, end in ((self.start, tools.start), (self.end, tools.end)):
            box.blockSignals(True)
            box.clear()
            box.addItem(_UNDER, None)
            for i, kind in enumerate(kinds):
                if not isinstance(kind.goal, Way):
                    box.addItem(kind.name, i)
            box.setCurrentIndex(max(0, box.findData(end)))
            box.blockSignals(False)
        tools.start, tools.end = self.start.currentData(), self.end.currentData()

    def _on_path(self, value: int = 0) -> None:
        tools = self._editor.tools
        tools.width, tools.soft = float(self.width.value()), float(self.soft.value())
        tools.start, tools.end = self.start.currentData(), self.end.currentData()
        tools.again()


def _row(*widgets: QWidget) -> QHBoxLayout:
    line = QHBoxLayout()
    for widget in widgets:
        line.addWidget(widget, 1 if isinstance(widget, (QPushButton, QComboBox)) else 0)
    return line


def _spin(name: str, low: int, high: int, value: int, tip: str) -> QSpinBox:
    made = QSpinBox()
    made.setObjectName(name)
    made.setRange(low, high)
    made.setValue(value)
    made.setToolTip(tip)
    return made


def _ends(name: str, tip: str) -> QComboBox:
    made = QComboBox()
    made.setObjectName(name)
    made.setToolTip(tip)
    narrow(made)
    made.addItem(_UNDER, None)
    return made


def _line(name: str, hint: str) -> QLineEdit:
    made = QLineEdit()
    made.setObjectName(name)
    made.setPlaceholderText(hint)
    return made
