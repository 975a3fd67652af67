"""Real cells most like the one pointed at: of the open region, and of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_ssldiff.viewer.field_editor import FieldEditor
from napari_ssldiff.viewer.field_job import PICTURE
from napari_ssldiff.viewer.lookup import Elsewhere
from napari_ssldiff.viewer.messages import PicturesRead
from napari_ssldiff.viewer.panels.layout import button, narrow
from napari_ssldiff.viewer.panels.pictures import icon_of, picture_item, picture_line
from napari_ssldiff.viewer.pointing import Pointed

#: Letters of an image's name that stand below its picture.
LONGEST = 12
_GREY = np.full((PICTURE, PICTURE, 3), 90, np.uint8)
_ASK = "Click the map or a kind: where is more of it, and which real cells are like it"


class NearestPanel(QWidget):
    """Two lines of pictures over a :class:`FieldEditor`."""

    def __init__(self, editor: FieldEditor) -> None:
        super().__init__()
        self._editor = editor
        self._shown: Pointed | None = None
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
        editor.looked_up.connect(self.show_answer)
        self.show_field()

    def show_field(self) -> None:
        """Nothing is pointed at yet."""
        self._shown = None
        self.told.setText(_ASK)
        for line in (self.here, self.there):
            line.clear()
            line.setVisible(False)
        self.index.setEnabled(self._editor.opened is not None)
        self.show_index()

    def show_here(self, pointed: Pointed) -> None:
        """Cells of the region that was opened, or of its slide; grey until they are read."""
        self._shown = pointed
        self.here.clear()
        for near in pointed.near:
            self.here.addItem(picture_item(_GREY, f"{near.cosine:.2f}"))
        self.here.setVisible(bool(pointed.near))
        self.there.setVisible(False)
        self.told.setText(pointed.about)

    def show_answer(self, answer: PicturesRead | Elsewhere) -> None:
        """What was read since."""
        if isinstance(answer, Elsewhere):
            self.show_there(answer)
        elif answer.of is self._shown:  # nothing else was pointed at in the meantime
            self.show_pictures(answer)

    def show_pictures(self, read: PicturesRead) -> None:
        """Their pixels."""
        if read.problem:
            self._editor.say(read.problem, "error")
        for n, picture in enumerate(read.pictures):
            self.here.item(n).setIcon(icon_of(picture))

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
            shown = _GREY if picture is None else picture
            item = picture_item(shown, f"{cell.cosine:.2f} {short}")
            y, x = (round(v) for v in cell.corner)
            where = f"moved or removed since it was indexed: {cell.image.path}"
            item.setToolTip(where if gone else f"{cell.image.path}\nat x {x}, y {y}")
            self.there.addItem(item)
        self.there.setVisible(bool(found.cells))

    def _choose(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "An index of a data set")
        if folder:
            self._editor.open_index(folder)
