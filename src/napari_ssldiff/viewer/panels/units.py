"""A choice of units for lengths in a scene."""

from __future__ import annotations

from qtpy.QtWidgets import QComboBox

from napari_ssldiff.scenes import Scene

#: How a unit is written behind a number.
SYMBOLS = {"pixel": "px", "micrometer": "µm", "meter": "m"}


class UnitBox(QComboBox):
    """Pixels, and the unit that a scene has on the ground."""

    def __init__(self, name: str, tip: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setToolTip(tip)

    @property
    def unit(self) -> str:
        """The one that is chosen."""
        return str(self.currentData())

    def offer(self, scene: Scene | None) -> None:
        """Offer the units of a scene; the one that is chosen stays if it is among them. Silent."""
        kept = self.currentData()
        own = "pixel" if scene is None else scene.encoder_pixel_size.unit
        self.blockSignals(True)
        self.clear()
        for unit in dict.fromkeys(("pixel", own)):
            if unit in SYMBOLS:
                self.addItem(SYMBOLS[unit], unit)
        self.setCurrentIndex(max(0, self.findData(kept)))
        self.blockSignals(False)
