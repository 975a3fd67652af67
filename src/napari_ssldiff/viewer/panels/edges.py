"""How a variation meets what is around it: lengths over the session's parameters."""

from __future__ import annotations

from dataclasses import replace

from qtpy.QtWidgets import QDoubleSpinBox, QVBoxLayout, QWidget

from napari_ssldiff.scenes.lengths import Length
from napari_ssldiff.viewer.panels.layout import form, group, row
from napari_ssldiff.viewer.panels.units import SYMBOLS, UnitBox
from napari_ssldiff.viewer.session import Edges
from napari_ssldiff.viewer.workbench import Workbench

_FIELDS = (
    ("grow", "Grow", "Moves the region's edge outwards"),
    ("feather", "Feather", "The variation fades in over so much inside that edge"),
    ("context", "Context", "The source around the region stays, and the variation continues it"),
    ("match", "Match", "Brightness and stain are made to agree with so much of the surroundings"),
)


class EdgePanel(QWidget):
    """Grow, feather, context and match, in pixels or in the scene's own unit."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__()
        self._bench = bench
        self.unit = UnitBox("edge_unit", "What the four lengths are in")
        self.fields: dict[str, QDoubleSpinBox] = {}
        box, inside = group("Edges")
        rows = form()
        for name, text, tip in _FIELDS:
            field = QDoubleSpinBox()
            field.setObjectName(name)
            field.setToolTip(f"{tip}; 0: off")
            field.setRange(0, 100_000)
            field.setDecimals(0)
            field.setSpecialValueText("off")
            field.valueChanged.connect(self.write)
            self.fields[name] = field
            row(rows, text, field)
        row(rows, "Unit", self.unit)
        inside.addLayout(rows)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(box)
        self.unit.currentIndexChanged.connect(self.write)
        bench.scene_changed.connect(self.show_units)
        self.show_units()

    def show_units(self) -> None:
        """Offer pixels, and the unit that the scene has on the ground."""
        self.unit.offer(self._bench.scene)
        self.write()

    def write(self) -> None:
        """Put what is shown into the session."""
        unit = self.unit.unit
        for field in self.fields.values():
            field.setSuffix(f" {SYMBOLS[unit]}")
        edges = Edges(**{n: Length(field.value(), unit) for n, field in self.fields.items()})
        session = self._bench.session
        session.parameters = replace(session.parameters, edges=edges)
