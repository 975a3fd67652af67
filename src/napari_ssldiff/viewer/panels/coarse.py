"""The coarse picture that a variation keeps to: whose, in which pixels, how strictly."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import FloatSlider
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QHBoxLayout, QVBoxLayout, QWidget

from napari_ssldiff.scenes.lengths import Length
from napari_ssldiff.viewer.guides import offered
from napari_ssldiff.viewer.panels.layout import form, group, narrow, row, show_row
from napari_ssldiff.viewer.panels.units import UnitBox
from napari_ssldiff.viewer.session import Guide
from napari_ssldiff.viewer.workbench import Workbench

#: What is shown at first: pixels of the model for the source, the layer's own detail for a layer.
_FIRST = {"source": 16.0, "layer": 0.0}


class CoarsePanel(QWidget):
    """A chooser, and below it, where something is chosen, two rows over the session's guide."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__()
        self._bench = bench
        self._lengths = dict(_FIRST)
        self.of = QComboBox()
        self.of.setObjectName("guide_of")
        self.of.setToolTip(
            "What a variation shall look like from afar; finer detail is new. Edits of embeddings "
            "do not heed it"
        )
        narrow(self.of)
        self.pixel = QDoubleSpinBox()
        self.pixel.setObjectName("guide_pixel")
        self.pixel.setRange(0, 100_000)
        self.pixel.setDecimals(1)
        self.pixel.setToolTip("How large the coarse picture's pixels are: larger ones leave more "
                              "open")  # fmt: skip
        self.unit = UnitBox("guide_unit", "px: pixels of the model")
        self.strength = FloatSlider(
            value=1.0, min=0.0, max=1.0, step=0.01, name="guide_strength", label="Strength",
            tooltip="How strictly it is kept to; 0 does not heed it",
        )  # fmt: skip
        self.strength.native.setObjectName("guide_strength")
        self.length = QWidget()
        line = QHBoxLayout(self.length)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.pixel, 2)
        line.addWidget(self.unit, 1)
        box, inside = group("Keep the coarse picture")
        self._rows = rows = form()
        row(rows, "Of", self.of)
        row(rows, "Pixels", self.length)
        row(rows, "Strength", self.strength.native)
        inside.addLayout(rows)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(box)

        self.show_layers()
        self.show_units()
        self.of.currentIndexChanged.connect(self._on_of)
        self.pixel.valueChanged.connect(self.write)
        self.unit.currentIndexChanged.connect(self.write)
        self.strength.changed.connect(self.write)
        bench.scenes_changed.connect(self.show_layers)
        bench.scene_changed.connect(self.show_layers)
        bench.scene_changed.connect(self.show_units)
        self._on_of()

    def show_layers(self) -> None:
        """Offer nothing, the source and the layers that may show a coarse picture."""
        guide = self._bench.session.guide
        shown: list[tuple[str, Any]] = [
            ("nothing", "nothing"),
            ("the source", "source"),
            *((str(layer.name), layer) for layer in offered(
                self._bench.viewer.layers, self._bench.source)),
        ]  # fmt: skip
        chosen = guide.layer if guide.of == "layer" else None
        self.of.blockSignals(True)
        self.of.clear()
        for text, data in shown:
            self.of.addItem(text, data)
        there = [i for i, (_, data) in enumerate(shown) if data is chosen or data == guide.of]
        self.of.setCurrentIndex(there[0] if there else 0)
        self.of.blockSignals(False)
        if not there:
            self._bench.say(
                f"The coarse picture of {guide.layer.name} is not kept any more: the layer is gone."
            )
            self._on_of()

    def show_units(self) -> None:
        """Offer pixels of the model, and the unit that the scene has on the ground."""
        self.unit.offer(self._bench.scene)
        self.write()

    def write(self) -> None:
        """Put what is shown into the session."""
        of, layer = self._chosen()
        if of in self._lengths:
            self._lengths[of] = self.pixel.value()
        pixel = Length(self.pixel.value(), self.unit.unit)
        self._bench.session.guide = Guide(of, layer, pixel, float(self.strength.value))

    def _chosen(self) -> tuple[Any, Any]:
        data = self.of.currentData()
        return (data, None) if data in ("nothing", "source") else ("layer", data)

    def _on_of(self) -> None:
        of, _ = self._chosen()
        for widget in (self.length, self.strength.native):
            show_row(self._rows, widget, of != "nothing")
        self.pixel.blockSignals(True)
        # 0 is a layer's own detail; the source's own would guide nothing that is coarser.
        self.pixel.setMinimum(0 if of == "layer" else 0.1)
        self.pixel.setSpecialValueText("its own" if of == "layer" else "")
        self.pixel.setValue(self._lengths.get(of, self.pixel.value()))
        self.pixel.blockSignals(False)
        self.write()
