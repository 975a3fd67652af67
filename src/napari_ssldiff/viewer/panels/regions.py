"""The list of regions, in step with their Shapes layer."""

from __future__ import annotations

from functools import partial

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_ssldiff.viewer.panels.layout import button, group
from napari_ssldiff.viewer.workbench import Workbench


class RegionPanel(QWidget):
    """Draw, choose, delete and take over regions."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__()
        self._bench = bench
        self._listening = True
        self.list = QListWidget()
        self.list.setObjectName("regions")
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.list.setMinimumHeight(54)
        self.list.setMaximumHeight(88)
        self.hint = QLabel("No region yet: draw one on the image.")
        self.hint.setWordWrap(True)
        self.hint.setStyleSheet("color: palette(mid);")
        self.rectangle = button(
            "Rectangle", "Drag a rectangle on the image", lambda: bench.draw("rectangle"),
            "draw_rectangle",
        )  # fmt: skip
        self.polygon = button(
            "Polygon", "Click the corners of a polygon; a double click ends it",
            lambda: bench.draw("polygon"), "draw_polygon",
        )  # fmt: skip
        self.delete = button(
            "Delete", "Delete the selected regions", bench.regions.remove_selected, "delete_region"
        )
        self.prompt = QLineEdit()
        self.prompt.setObjectName("region_prompt")
        self.prompt.setPlaceholderText("prompt of the selected regions: as below")
        self.prompt.setToolTip("What the selected regions show when words are synthesised")
        self.adopt = QPushButton("From layer")
        self.adopt.setObjectName("adopt_shapes")
        self.adopt.setToolTip("Take over the shapes of another layer, converted to this scene")
        self.menu = QMenu(self.adopt)
        self.menu.aboutToShow.connect(self.fill_menu)
        self.adopt.setMenu(self.menu)

        box, inside = group("Regions")
        row = QHBoxLayout()
        row.setSpacing(4)
        for widget in (self.rectangle, self.polygon, self.adopt, self.delete):
            row.addWidget(widget, 1)
        inside.addLayout(row)
        inside.addWidget(self.hint)
        inside.addWidget(self.list)
        inside.addWidget(self.prompt)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(box)

        self.list.itemSelectionChanged.connect(self._on_select)
        self.prompt.textEdited.connect(bench.regions.set_prompt)
        bench.regions.changed.connect(self.show_rows)
        bench.regions.selection_changed.connect(self.show_selection)
        self.show_rows()

    def show_rows(self) -> None:
        """List the layer's shapes."""
        rows = self._bench.regions.rows()
        self._listening = False
        self.list.clear()
        for row in rows:
            told = f"   “{row.prompt}”" if row.prompt else ""
            item = QListWidgetItem(f"{row.index + 1}   {row.text}{told}")
            item.setToolTip(row.text)
            if row.region is None:
                item.setForeground(Qt.GlobalColor.red)
            self.list.addItem(item)
        self._listening = True
        self.list.setVisible(bool(rows))
        self.hint.setVisible(not rows)
        self.show_selection()

    def show_selection(self) -> None:
        """Select what is selected in the layer."""
        chosen = self._bench.regions.selected
        self._listening = False
        for i in range(self.list.count()):
            self.list.item(i).setSelected(i in chosen)
        self._listening = True
        self.delete.setEnabled(bool(chosen))
        self.prompt.setVisible(bool(chosen))
        texts = {row.prompt for row in self._bench.regions.rows() if row.index in chosen}
        text = texts.pop() if len(texts) == 1 else ""
        if text != self.prompt.text():
            self.prompt.setText(text)

    def fill_menu(self) -> None:
        """Offer the other Shapes layers."""
        self.menu.clear()
        layers = self._bench.regions.foreign()
        for layer in layers:
            self.menu.addAction(str(layer.name), partial(self._bench.adopt, layer))
        if not layers:
            self.menu.addAction("no other Shapes layer").setEnabled(False)

    def _on_select(self) -> None:
        if self._listening:
            self._bench.regions.select({index.row() for index in self.list.selectedIndexes()})
