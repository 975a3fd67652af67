"""Real cells most like the one pointed at: of the open region, and of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_ssldiff.viewer.field_editor import FieldEditor
from napari_ssldiff.viewer.field_job import PICTURE
from napari_ssldiff.viewer.lookup import Elsewhere
from napari_ssldiff.viewer.panels.layout import button, narrow
from napari_ssldiff.viewer.panels.pictures import picture_item, picture_line
from napari_ssldiff.viewer.pointing import Pointed

#: Letters of an image's name that stand below its picture.
LONGEST = 12
_ASK = "Click the map or a kind: where is more of it, and which real cells are like it"


class NearestPanel(QWidget):
    """Two lines of pictures over a :class:`FieldEditor`."""

    def __init__(self, editor: FieldEditor) -> None:
        super().__init__()
        self._editor = editor
        self.told = QLabel(_ASK)
        self.told.setWordWrap(True)
        self.here = picture_line(
            "nearest", "Real cells most like the one pointed at, or of the kind picked"
        )
        self.index = button(
            "Index…", "Open an index of a data set (napari-ssldiff index), to be asked too",
            self._choose, "open_index",
        )  # fmt: skip
        self.of = QLabel()
        self.of.setObjectName("index_name")
        narrow(self.of)
        self.there = picture_line(
            "nearest_elsewhere", "Real cells of the data set most like what was pointed at"
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.told)
        layout.addWidget(self.here)
        line = QHBoxLayout()
        line.addWidget(self.index)
        line.addWidget(self.of, 1)
        layout.addLayout(line)
        layout.addWidget(self.there)
        editor.opened_changed.connect(self.show_field)
        editor.pointed_at.connect(self.show_here)
        editor.index_changed.connect(self.show_index)
        editor.found_elsewhere.connect(self.show_there)
        self.show_field()

    def show_field(self) -> None:
        """Nothing is pointed at yet."""
        self.told.setText(_ASK)
        for line in (self.here, self.there):
            line.clear()
            line.setVisible(False)
        self.index.setEnabled(self._editor.opened is not None)
        self.show_index()

    def show_here(self, pointed: Pointed) -> None:
        """Cells of the region that was opened, or of its slide."""
        self.here.clear()
        for near, picture in zip(pointed.near, pointed.pictures, strict=True):
            self.here.addItem(picture_item(picture, f"{near.cosine:.2f}"))
        self.here.setVisible(bool(pointed.near))
        self.there.setVisible(False)
        self.told.setText(pointed.about)

    def show_index(self) -> None:
        """Which data set is asked."""
        index = self._editor.index
        self.of.setText("" if index is None else f"{index.folder.name} · {index.cells} cells")
        self.of.setToolTip("" if index is None else str(index.folder))
        if index is None:
            self.there.setVisible(False)

    def show_there(self, found: Elsewhere) -> None:
        """Cells of the data set; grey those whose image is gone."""
        self.there.clear()
        if found.problem:
            self._editor.say(found.problem, "error")
        for cell, picture in zip(found.cells, found.pictures, strict=True):
            name, gone = Path(cell.image.name).stem, picture is None
            short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
            if picture is None:
                picture = np.full((PICTURE, PICTURE, 3), 90, np.uint8)
            item = picture_item(picture, f"{cell.cosine:.2f} {short}")
            y, x = (round(v) for v in cell.corner)
            where = f"moved or removed since it was indexed: {cell.image.path}"
            item.setToolTip(where if gone else f"{cell.image.path}\nat x {x}, y {y}")
            self.there.addItem(item)
        self.there.setVisible(bool(found.cells))

    def _choose(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "An index of a data set")
        if folder:
            self._editor.open_index(folder)
