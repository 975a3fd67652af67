"""Generate, watch, cancel, export."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_ssldiff.viewer.panels.layout import button
from napari_ssldiff.viewer.workbench import Workbench

# Without a colour of its own a line has that of napari's theme.
_STYLES = {"info": "", "success": "color: #4caf7a;", "error": "color: #e5605c;"}
_SCALE = 1000


class RunPanel(QWidget):
    """Buttons, a progress bar and the status line over a :class:`Workbench`."""

    def __init__(self, bench: Workbench, export: Callable[[], None]) -> None:
        super().__init__()
        self._session = session = bench.session
        self.generate = button(
            "Generate variation", "Vary the selected regions (all, where none is selected)",
            bench.generate, "generate",
        )  # fmt: skip
        self.generate.setMinimumHeight(34)
        self.generate.setStyleSheet("QPushButton { font-weight: bold; }")
        self.bar = QProgressBar()
        self.bar.setObjectName("progress")
        self.bar.setRange(0, _SCALE)
        self.bar.setTextVisible(False)
        self.bar.setMaximumHeight(10)
        self.stage = QLabel()
        self.stage.setObjectName("stage")
        self.pause = QPushButton("Pause")
        self.pause.setObjectName("pause")
        self.pause.setToolTip("Hold the work where it is; it goes on from there")
        self.pause.clicked.connect(lambda checked=False: bench.hold(not session.held))
        self.cancel = button("Cancel", "Stop; finished tiles stay", bench.cancel, "cancel")
        self.export = button(
            "Export…", "Write regions or the whole scene as OME-Zarr", export, "export"
        )
        self.status = QLabel()
        self.status.setObjectName("status")
        self.status.setWordWrap(True)
        self.status.setMinimumHeight(34)
        self.status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.MinimumExpanding)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.generate)
        layout.addWidget(self.bar)
        layout.addWidget(self.stage)
        row = QHBoxLayout()
        row.addWidget(self.pause, 1)
        row.addWidget(self.cancel, 1)
        row.addWidget(self.export, 1)
        layout.addLayout(row)
        layout.addWidget(self.status)

        events = session.events
        for signal in (events.busy, events.cancelling, events.held, events.progress):
            signal.connect(self.show_progress)
        session.events.status.connect(self.show_status)
        self.show_progress()
        self.show_status()

    def show_progress(self) -> None:
        """Bar, stage and buttons as the session has them."""
        session, progress = self._session, self._session.progress
        unknown = session.busy and progress.fraction is None
        self.bar.setRange(0, 0 if unknown else _SCALE)  # 0 … 0 is Qt's busy bar
        if not unknown:
            self.bar.setValue(round((progress.fraction or 0) * _SCALE))
        self.bar.setEnabled(session.busy)
        text = progress.text or "Ready"
        self.stage.setText("Cancelling…" if session.cancelling else text)
        self.cancel.setEnabled(session.busy and not session.cancelling)
        self.pause.setEnabled(session.busy and not session.cancelling)
        self.pause.setText("Go on" if session.held else "Pause")
        self.generate.setText("Queue another variation" if session.busy else "Generate variation")

    def show_status(self) -> None:
        """The last word, in its colour."""
        status = self._session.status
        self.status.setText(status.text)
        self.status.setToolTip(status.text)
        self.status.setStyleSheet(_STYLES[status.severity])
