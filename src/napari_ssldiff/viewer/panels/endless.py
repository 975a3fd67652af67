"""A slide without bounds, made of what a region holds or of words."""

from __future__ import annotations

from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_ssldiff.viewer.panels.layout import button, form, group, row
from napari_ssldiff.viewer.workbench import Workbench

_ARRANGEMENTS = (
    ("as it lies, mirrored", "mirror", "The region's own layout, continued by reflection"),
    ("shuffled", "shuffle", "Tissues of the region, spread by chance; the seed chooses"),
    ("of words", "words", "What the panel Words asks for, everywhere; needs no region"),
)
_EDGES = (2**14, 2**17, 2**20, 2**23)


class EndlessPanel(QWidget):
    """Opens endless slides and tells how far their views are, over a :class:`Workbench`."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__()
        self._bench = bench
        self.arrangement = QComboBox()
        self.arrangement.setObjectName("arrangement")
        for i, (text, value, tip) in enumerate(_ARRANGEMENTS):
            self.arrangement.addItem(text, value)
            self.arrangement.setItemData(i, tip, 3)  # Qt.ItemDataRole.ToolTipRole
        self.arrangement.setToolTip(
            "How the plane is filled: with what the region holds, or what words say"
        )
        self.edge = QComboBox()
        self.edge.setObjectName("edge")
        for edge in _EDGES:
            self.edge.addItem(f"{edge:,} px".replace(",", " "), edge)
        self.edge.setCurrentIndex(_EDGES.index(2**20))
        self.edge.setToolTip("Edge of the slide, in pixels of the model; it costs nothing")
        self.open = button(
            "Open endless slide",
            "A new layer without bounds, made where you look, of the chosen region or of words",
            self._open,
            "open_endless",
        )
        self.pause = QPushButton("Pause")
        self.pause.setObjectName("pause_endless")
        self.pause.setToolTip("Make no tiles for now")
        self.pause.setCheckable(True)
        self.state = QLabel()
        self.state.setObjectName("endless_state")

        box, inside = group("Endless slide")
        rows = form()
        row(rows, "Layout", self.arrangement)
        row(rows, "Edge", self.edge)
        inside.addLayout(rows)
        line = QHBoxLayout()
        line.addWidget(self.open, 2)
        line.addWidget(self.pause, 1)
        inside.addLayout(line)
        inside.addWidget(self.state)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(box)

        self.pause.toggled.connect(bench.slides.pause)
        session = bench.session
        for signal in (session.events.slides, session.events.missing, session.events.slides_paused):
            signal.connect(self.show_state)
        self.show_state()

    def show_state(self) -> None:
        """How many tiles the views of open slides still lack."""
        session = self._bench.session
        self.pause.setEnabled(bool(session.slides))
        self.pause.setText("Go on" if session.slides_paused else "Pause")
        if not session.slides:
            text = "None is open."
        elif not session.missing:
            text = "What you see is made, or too wide to be made."
        else:
            text = f"{session.missing} tiles of the view to make"
            text += ": paused" if session.slides_paused else "…"
        self.state.setText(text)

    def _open(self) -> None:
        self._bench.open_endless(self.arrangement.currentData(), self.edge.currentData())
