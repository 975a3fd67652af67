"""What a field shall be like: words, a class, the regions, or numbers; one kind at a time."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_ssldiff.errors import InputError, SSLDiffError
from napari_ssldiff.text.columns import Column
from napari_ssldiff.text.conditions import ClassLabel, Condition, Numbers, Pictures
from napari_ssldiff.viewer.backend import Choices
from napari_ssldiff.viewer.panels.layout import button, form, narrow
from napari_ssldiff.viewer.wording import references
from napari_ssldiff.viewer.workbench import Workbench

_KINDS = (
    ("words", "words", "A description in English"),
    ("a class", "class", "One of the classes that the model's captions know"),
    ("like the regions", "like", "What the chosen regions show, here or in another image"),
    ("numbers", "numbers", "Values that the model's prior of numbers was trained with"),
)
#: Height in pixels beyond which the form of numbers scrolls.
_MOST = 150


class ConditionBox(QWidget):
    """A choice of kinds, and below it what belongs to the chosen one."""

    changed = Signal()

    def __init__(self, bench: Workbench) -> None:
        super().__init__()
        self._bench = bench
        self._like: Pictures | None = None
        self.fields: dict[str, QLineEdit] = {}
        self.kind = QComboBox()
        self.kind.setObjectName("condition_kind")
        self.prompt = QLineEdit()
        self.prompt.setObjectName("prompt")
        self.prompt.setPlaceholderText("dense nuclei beside pink fibrous stroma")
        self.prompt.setToolTip("A description in English; 'beside', 'around', 'above' place things")
        self.prompt.setClearButtonEnabled(True)
        self.label = QComboBox()
        self.label.setObjectName("condition_class")
        self.like = QWidget()
        self.taken = QLabel()
        self.taken.setObjectName("condition_taken")
        narrow(self.taken)
        line = QHBoxLayout(self.like)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.taken, 1)
        line.addWidget(button("Take", "Take the chosen regions as what to be like", self.take,
                              "take_regions"))  # fmt: skip
        self.numbers = QScrollArea()
        self.numbers.setObjectName("condition_numbers")
        self.numbers.setWidgetResizable(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._pages = {
            "words": self.prompt, "class": self.label, "like": self.like, "numbers": self.numbers,
        }  # fmt: skip
        for widget in (self.kind, *self._pages.values()):
            layout.addWidget(widget)
        self.kind.currentIndexChanged.connect(self._on_kind)
        self.label.currentIndexChanged.connect(self.changed)
        self.prompt.textChanged.connect(self.changed)
        self.offer(Choices(words=True))

    def offer(self, choices: Choices) -> None:
        """Show what a model can be asked for; the kind that was chosen stays where it can."""
        before, name = self.kind.currentData(), self.label.currentText()
        there = {
            "words": choices.words or not choices.columns, "class": bool(choices.classes),
            "like": choices.words, "numbers": bool(choices.columns),
        }  # fmt: skip
        for box in (self.kind, self.label):
            box.blockSignals(True)
            box.clear()
        self.label.addItems(list(choices.classes))
        self.label.setCurrentIndex(max(0, self.label.findText(name)))
        for text, kind, tip in _KINDS:
            if there[kind]:
                self.kind.addItem(text, kind)
                self.kind.setItemData(self.kind.count() - 1, tip, 3)  # ItemDataRole.ToolTipRole
        self.kind.setCurrentIndex(max(0, self.kind.findData(before)))
        for box in (self.kind, self.label):
            box.blockSignals(False)
        self._fill(choices.columns)
        self._show()

    @property
    def condition(self) -> Condition | None:
        """What is shown, ``None`` for words.

        Raises
        ------
        InputError
            If nothing was taken or given, or a number is none.
        """
        kind = self.kind.currentData()
        if kind == "class":
            return ClassLabel(self.label.currentText())
        if kind == "like":
            if self._like is None:
                raise InputError("nothing is taken yet: choose regions, then press Take")
            return self._like
        if kind == "numbers":
            given = {n: e.text().strip() for n, e in self.fields.items() if e.text().strip()}
            if not given:
                raise InputError("there is no number: give at least one")
            return Numbers({name: _number(name, text) for name, text in given.items()})
        return None

    def take(self) -> None:
        """Take the chosen regions, which stay taken when others are chosen."""
        try:
            self._like = references(self._bench.regions, self._bench.scene)
        except SSLDiffError as error:
            self._bench.say(str(error), "error")
            return
        count, name = len(self._like.references), self._like.references[0].scene.name
        self.taken.setText(f"{count} region{'s' * (count > 1)} of {name}")
        self.taken.setToolTip(self.taken.text())
        self.changed.emit()

    def _fill(self, columns: tuple[Column, ...]) -> None:
        if tuple(self.fields) == tuple(column.name for column in columns):
            return
        inner = QWidget()
        rows = form()
        inner.setLayout(rows)
        self.fields = {}
        for column in columns:
            edit = QLineEdit()
            edit.setObjectName(f"number_{column.name}")
            edit.setPlaceholderText(f"open; seen {column.min:.4g} … {column.max:.4g}")
            edit.setToolTip(f"{column.name}: mean {column.mean:.4g}, deviation {column.std:.4g}; "
                            "empty: any")  # fmt: skip
            edit.textChanged.connect(self.changed)
            rows.addRow(column.name, edit)
            self.fields[column.name] = edit
        self.numbers.setWidget(inner)
        self.numbers.setFixedHeight(min(_MOST, inner.sizeHint().height() + 4))

    def _on_kind(self) -> None:
        if self.kind.currentData() == "like" and self._like is None and self._bench.regions.rows():
            self.take()
        self._show()

    def _show(self) -> None:
        chosen = self.kind.currentData()
        for kind, widget in self._pages.items():
            widget.setVisible(kind == chosen)
        if self._like is None:
            self.taken.setText("choose regions, then")
        self.changed.emit()


def _number(name: str, text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise InputError(f"{name} must be a number, got {text!r}") from None
