"""Where to, which format, how much."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from napari_ssldiff.errors import OutputError
from napari_ssldiff.export.files import check_output
from napari_ssldiff.viewer.panels.layout import button, form


class ExportDialog(QDialog):
    """Asks for an export; ``chosen`` carries path, OME-Zarr version and extent.

    Parameters
    ----------
    suggestion
        The path offered.
    has_region
        Whether a region can be the extent.
    parent
        The window it belongs to.
    """

    chosen = Signal(str, str, str)

    def __init__(self, suggestion: Path, has_region: bool, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Export as OME-Zarr")
        self.setMinimumWidth(460)
        self.path = QLineEdit(str(suggestion))
        self.path.setObjectName("export_path")
        self.version = QComboBox()
        self.version.addItem("OME-Zarr 0.5 (Zarr 3)", "0.5")
        self.version.addItem("OME-Zarr 0.4 (Zarr 2, for older readers)", "0.4")
        self.extent = QComboBox()
        if has_region:
            self.extent.addItem("The selected regions' bounds", "region")
        self.extent.addItem("The whole scene", "scene")
        self.problem = QLabel()
        self.problem.setWordWrap(True)
        self.problem.setStyleSheet("color: #e5605c;")
        note = QLabel("Synthetic pixels are marked in the label image “synthetic”.")
        note.setWordWrap(True)
        note.setStyleSheet("color: palette(mid);")

        place = QHBoxLayout()
        place.addWidget(self.path, 1)
        place.addWidget(button("Browse…", "Choose a place", self.browse, "export_browse"))
        rows = form()
        rows.addRow("File", place)
        rows.addRow("Format", self.version)
        rows.addRow("Extent", self.extent)
        standard = QDialogButtonBox.StandardButton
        self.buttons = QDialogButtonBox(standard.Save | standard.Cancel)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addLayout(rows)
        layout.addWidget(note)
        layout.addWidget(self.problem)
        layout.addWidget(self.buttons)

    def accept(self) -> None:
        """Hand the choice on, if the place can be written; else say why not and stay open."""
        text = self.path.text().strip()
        if text and not text.lower().endswith(".zarr"):
            text += ".ome.zarr"
            self.path.setText(text)
        try:
            check_output(text)
        except OutputError as error:
            self.problem.setText(str(error))
            return
        self.chosen.emit(text, self.version.currentData(), self.extent.currentData())
        super().accept()

    def browse(self) -> None:
        """The platform's file dialog."""
        path, _ = QFileDialog.getSaveFileName(
            self, "Export as OME-Zarr", self.path.text(), "OME-Zarr (*.ome.zarr *.zarr)"
        )
        if path:
            self.path.setText(path)


def suggested_path(source: str, fallback: str) -> Path:
    """Beside the source where that is a folder, else in the home folder; never one that exists."""
    parent = Path(source).parent if Path(source).is_absolute() else Path.home()
    if not parent.is_dir():
        parent = Path.home()
    stem = Path(fallback).name.removesuffix(".zarr").removesuffix(".ome").rsplit(".", 1)[0]
    number = 1
    while True:
        tail = "" if number == 1 else f"-{number}"
        path = parent / f"{stem or 'scene'}-synthetic{tail}.ome.zarr"
        if not path.exists():
            return path
        number += 1
