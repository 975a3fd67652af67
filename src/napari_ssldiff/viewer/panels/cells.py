"""Where the cells of a variation are to lie; shown for models that take a mask of them."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from napari_ssldiff.viewer.cells import offered_labels
from napari_ssldiff.viewer.panels.layout import form, group, narrow, row
from napari_ssldiff.viewer.session import CellChoice
from napari_ssldiff.viewer.workbench import Workbench


class CellPanel(QWidget):
    """A chooser over the session's cells."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__()
        self._bench = bench
        self.of = QComboBox()
        self.of.setObjectName("cells_of")
        self.of.setToolTip(
            "Where cells shall lie: a Labels layer, such as a segmentation or what you paint, or "
            "the nuclei of the source, found by their colour"
        )
        narrow(self.of)
        box, inside = group("Cells")
        rows = form()
        row(rows, "Lie", self.of)
        inside.addLayout(rows)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(box)
        self.show_layers()
        self.show_model()
        self.of.currentIndexChanged.connect(self.write)
        bench.scenes_changed.connect(self.show_layers)
        bench.session.events.model_id.connect(self.show_model)

    def show_model(self) -> None:
        """Appear only where the chosen model takes a mask."""
        self.setVisible(self._bench.backend.choices(self._bench.session.model_id).cells)

    def show_layers(self) -> None:
        """Offer the model's own taste, the source's nuclei, and the Labels layers."""
        chosen = self._bench.session.cells
        shown: list[tuple[str, Any]] = [
            ("where the model likes", "nothing"),
            ("where the source has nuclei", "source"),
            *((f"in {layer.name}", layer) for layer in offered_labels(self._bench.viewer.layers)),
        ]
        wanted: Any = chosen.layer if chosen.of == "layer" else chosen.of
        self.of.blockSignals(True)
        self.of.clear()
        for text, data in shown:
            self.of.addItem(text, data)
        there = [i for i, (_, data) in enumerate(shown) if data is wanted or data == wanted]
        self.of.setCurrentIndex(there[0] if there else 0)
        self.of.blockSignals(False)
        if not there:
            self._bench.say(f"Cells lie where the model likes: the layer {wanted.name} is gone.")
            self.write()

    def write(self) -> None:
        """Put what is shown into the session."""
        data = self.of.currentData()
        own = data in ("nothing", "source")
        self._bench.session.cells = CellChoice(data) if own else CellChoice("layer", data)
