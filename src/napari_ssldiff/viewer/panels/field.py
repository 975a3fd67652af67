"""Embeddings: what a region consists of, a brush to change it, and the way back."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_ssldiff.viewer.field_editor import FieldEditor
from napari_ssldiff.viewer.field_job import PICTURE
from napari_ssldiff.viewer.panels.field_tools import FieldToolsPanel
from napari_ssldiff.viewer.panels.layout import button, form, group, row
from napari_ssldiff.viewer.panels.nearest import NearestPanel
from napari_ssldiff.viewer.panels.pictures import picture_item, picture_line
from napari_ssldiff.viewer.workbench import Workbench

#: Milliseconds of quiet after which a stroke is drawn.
QUIET = 250
#: Milliseconds between two drafts while the slider moves; each takes the place of the last.
MOVING = 120


class FieldPanel(QWidget):
    """Prototypes, brush, amount and history over a :class:`FieldEditor`."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__()
        self.editor = editor = FieldEditor(bench)
        self.count = QSpinBox()
        self.count.setObjectName("kinds")
        self.count.setRange(1, 64)
        self.count.setValue(8)
        self.count.setToolTip("How many kinds of cells there are to be")
        self.of = QComboBox()
        self.of.setObjectName("kinds_of")
        self.of.addItem("Kinds of the region", False)
        self.of.addItem("Kinds of the whole slide", True)
        self.of.setToolTip(
            "Which cells are sorted into kinds: the region's, or some from all over the slide. "
            "Of the whole slide there is a map, too, and the similarity to what is clicked"
        )
        self.open = button(
            "Open embeddings",
            "Show the chosen region's embeddings as a map, sorted into kinds of cells",
            lambda: editor.open(self.count.value(), self.of.currentData()),
            "open_field",
        )
        self.kinds = picture_line("prototypes", "Pick a kind of cell and paint it onto the image")
        self.amount = QSlider(Qt.Orientation.Horizontal)
        self.amount.setObjectName("amount")
        self.amount.setRange(0, 100)
        self.amount.setValue(100)
        self.amount.setToolTip("How far painted cells become what is painted")
        self.live = QCheckBox("Draft while painting")
        self.live.setObjectName("live")
        self.live.setChecked(True)
        self.live.setToolTip("Synthesise every stroke at once, by the preset draft")
        self.keep = button(
            "Keep", "Make it part of the field, and render it by the preset chosen", editor.keep,
            "keep_edit",
        )  # fmt: skip
        self.undo = button(
            "Undo", "Take paint off, or the last kept edit back", editor.undo, "undo_edit"
        )
        self.tools = FieldToolsPanel(editor)
        self.colours = QComboBox()
        self.colours.setObjectName("colours")
        self.colours.addItem("PCA", "pca")
        self.colours.addItem("UMAP", "umap")
        self.colours.setToolTip("How the map is coloured; fitted once per encoder, and kept")
        self.refit = button(
            "Fit anew", "Fit the colours to the region that is open, and keep those",
            lambda: editor.colour(self.colours.currentData(), anew=True), "refit_colours",
        )  # fmt: skip
        self.near = NearestPanel(editor)

        box, inside = group("Embeddings")
        inside.addWidget(self.open)
        line = QHBoxLayout()
        line.addWidget(self.of, 1)
        line.addWidget(self.count)
        inside.addLayout(line)
        line = QHBoxLayout()
        line.addWidget(self.colours, 1)
        line.addWidget(self.refit)
        inside.addLayout(line)
        inside.addWidget(self.kinds)
        rows = form()
        row(rows, "Amount", self.amount)
        inside.addLayout(rows)
        inside.addWidget(self.live)
        inside.addWidget(self.tools)
        line = QHBoxLayout()
        line.addWidget(self.keep, 1)
        line.addWidget(self.undo, 1)
        inside.addLayout(line)
        inside.addWidget(self.near)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(box)

        self._quiet = QTimer(self)
        self._quiet.setSingleShot(True)
        self._quiet.timeout.connect(self._draft)
        self.kinds.itemClicked.connect(lambda item: editor.choose(self.kinds.row(item)))
        self.amount.valueChanged.connect(self._on_amount)
        self.colours.currentIndexChanged.connect(self._on_colours)
        editor.opened_changed.connect(self.show_field)
        editor.kinds_changed.connect(self.show_kinds)
        editor.stroke.connect(self._stroke)
        self.show_field()

    def show_field(self) -> None:
        """The kinds of cells of the open field."""
        opened = self.editor.opened
        for widget in (
            self.kinds, self.tools, self.amount, self.live, self.keep, self.undo, self.colours,
            self.refit,
        ):  # fmt: skip
            widget.setEnabled(opened is not None)
        self.kinds.setVisible(opened is not None)
        self.tools.setVisible(opened is not None)
        self.show_kinds()

    def show_kinds(self) -> None:
        """Those of the field with their share of it, then those that words describe."""
        self.kinds.clear()
        self._show_method()
        opened = self.editor.opened
        if opened is None:
            return
        shares = opened.shares
        for i, kind in enumerate(self.editor.kinds):
            if i < len(opened.kinds) and kind.picture is not None:
                item = picture_item(kind.picture, f"{shares[i]:.0%}")
            elif kind.picture is not None:
                item = picture_item(kind.picture, kind.name)
            else:
                colour = self.editor.colour_of(kind)
                item = picture_item(np.broadcast_to(colour, (PICTURE, PICTURE, 3)), "made")
            item.setToolTip(kind.name)
            self.kinds.addItem(item)

    def close_editor(self) -> None:
        """The dock is going: no draft any more, no layers that nobody serves."""
        self._quiet.stop()
        self.editor.close()

    def _show_method(self) -> None:
        self.colours.blockSignals(True)
        self.colours.setCurrentIndex(self.colours.findData(self.editor.method))
        self.colours.blockSignals(False)

    def _on_colours(self, index: int) -> None:
        if not self.editor.colour(self.colours.currentData()):
            self._show_method()

    def _on_amount(self, value: int) -> None:
        self.editor.amount = value / 100
        if self._ready() and not self._quiet.isActive():
            self._quiet.start(MOVING)

    def _stroke(self) -> None:
        if self._ready():
            self._quiet.start(QUIET)

    def _ready(self) -> bool:
        return bool(self.live.isChecked()) and self.editor.opened is not None

    def _draft(self) -> None:
        self.editor.draft()
