"""The dock widget *SSL Diffusion*: panels put together, and the thread's messages brought home."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QApplication, QFrame, QMessageBox, QScrollArea, QVBoxLayout, QWidget

from napari_ssldiff.viewer.backend import Backend
from napari_ssldiff.viewer.export_dialog import ExportDialog, suggested_path
from napari_ssldiff.viewer.field_editor import FieldEditor
from napari_ssldiff.viewer.magnification import family_of
from napari_ssldiff.viewer.panels.cells import CellPanel
from napari_ssldiff.viewer.panels.coarse import CoarsePanel
from napari_ssldiff.viewer.panels.edges import EdgePanel
from napari_ssldiff.viewer.panels.endless import EndlessPanel
from napari_ssldiff.viewer.panels.field import FieldPanel
from napari_ssldiff.viewer.panels.parameters import ParameterPanel
from napari_ssldiff.viewer.panels.prompt import PromptPanel
from napari_ssldiff.viewer.panels.regions import RegionPanel
from napari_ssldiff.viewer.panels.run import RunPanel
from napari_ssldiff.viewer.panels.source import SourcePanel
from napari_ssldiff.viewer.workbench import Workbench

if TYPE_CHECKING:
    import napari

_TICK = 100  # ms: the overlay is drawn at most ten times a second
_REST = 150  # ms between two looks at how far the user has zoomed

# Widgets until Qt has destroyed them. Python's garbage collector runs on whatever thread
# allocates, the worker's included, and a widget that dies there takes the process with it.
_alive: dict[int, tuple[QWidget, QObject]] = {}


class Mailbox(QObject):
    """Carries messages from the worker's thread to the main one."""

    arrived = Signal(object)


class SSLDiffusionWidget(QWidget):
    """Vary regions of a scene by diffusion guided with self-supervised embeddings.

    Parameters
    ----------
    napari_viewer
        The viewer that it belongs to.
    backend
        Another engine than this package's own.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer, backend: Backend | None = None) -> None:
        super().__init__()
        self.setObjectName("ssl_diffusion")
        self._mailbox = Mailbox()
        # Queued in every case: a signal of another thread must not run its slot there.
        self._mailbox.arrived.connect(self._on_message, Qt.ConnectionType.QueuedConnection)
        # Weak: who holds the bench, as the thread does, must not keep the widget alive with it.
        ask = weakref.WeakMethod(self._ask)
        self.bench = Workbench(
            napari_viewer,
            self._mailbox.arrived.emit,
            backend,
            lambda question: bool((alive := ask()) and alive(question)),
        )
        self.source = SourcePanel(self.bench)
        self.regions = RegionPanel(self.bench)
        self.prompt = PromptPanel(self.bench)
        self.parameters = ParameterPanel(self.bench.session)
        self.edges = EdgePanel(self.bench)
        self.coarse = CoarsePanel(self.bench)
        self.cells = CellPanel(self.bench)
        self.run = RunPanel(self.bench, self.show_export)
        self.endless = EndlessPanel(self.bench)
        self.field = FieldPanel(self.bench)
        self.dialog: ExportDialog | None = None
        self._lay_out()

        self._timer = QTimer(self)
        self._timer.setInterval(_TICK)
        self._timer.timeout.connect(self._on_tick)
        self._zoom = QTimer(self)
        self._zoom.setInterval(_REST)
        self._zoom.setSingleShot(True)
        self._zoom.timeout.connect(self.bench.choice.look)
        self.bench.choice.zoomed.connect(self._on_zoom)
        session = self.bench.session
        session.events.busy.connect(self._on_work)
        session.events.slides.connect(self._on_work)
        session.events.model_id.connect(self._on_model)
        self._guided_as: tuple[str, float] | None = None
        self._on_model()
        self._on_work()
        # The window may be destroyed without any close event reaching a docked widget.
        _alive[id(self)] = (self, self._mailbox)
        self.destroyed.connect(partial(_retire, id(self), self.bench, self.field.editor))
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.bench.close)

    def changeEvent(self, event: QEvent) -> None:
        """Notice that the dock has let go of the widget, as when the user closes it."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            QTimer.singleShot(0, self._leave)

    def _leave(self) -> None:
        if self.parent() is None:  # not just on its way into another dock
            self.field.close_editor()
            self.bench.close()
            self.deleteLater()

    def show_export(self) -> None:
        """Ask where to export to; the answer starts the job."""
        scene = self.bench.scene
        if scene is None:
            self.bench.say("There is no scene: open an image first", "error")
            return
        dialog = ExportDialog(
            suggested_path(scene.path, scene.name), bool(self.bench.regions.rows()), self
        )
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.chosen.connect(self.bench.export)
        dialog.finished.connect(self._on_dialog_finished)
        self.dialog = dialog
        dialog.open()  # not exec: that would hold up everything else

    def _lay_out(self) -> None:
        inner = QWidget()
        layout = QVBoxLayout(inner)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.setSpacing(8)
        panels = (
            self.source, self.regions, self.prompt, self.parameters, self.edges, self.coarse,
            self.cells, self.run, self.field, self.endless,
        )  # fmt: skip
        for panel in panels:
            layout.addWidget(panel)
        layout.addStretch(1)
        area = QScrollArea()  # small screens: nothing is squeezed, nothing unreachable
        area.setWidget(inner)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)
        self.setMinimumWidth(330)

    def _on_message(self, message: Any) -> None:
        self.bench.handle(message)

    def _on_tick(self) -> None:
        self.bench.tick()

    def _on_work(self) -> None:
        session = self.bench.session
        if session.busy or session.slides:
            if not self._timer.isActive():
                self._timer.start()
        else:
            self._timer.stop()
            self.bench.tick()

    def _on_model(self) -> None:
        card = self.bench.card(self.bench.session.model_id)
        if card is None:
            return
        # A zoom that takes another magnification leaves a guidance that the user has set.
        key = family_of(card.id), card.guidance
        if key != self._guided_as:
            self._guided_as = key
            self.parameters.set_guidance(card.guidance)

    def _on_zoom(self) -> None:
        if not self._zoom.isActive():  # many steps of a wheel, one look
            self._zoom.start()

    def _on_dialog_finished(self) -> None:
        self.dialog = None

    def _ask(self, question: str) -> bool:
        buttons = QMessageBox.StandardButton
        answer = QMessageBox.question(self, "SSL Diffusion", question, buttons.Yes | buttons.No)
        return bool(answer == buttons.Yes)


def _retire(key: int, bench: Workbench, editor: FieldEditor, *_: object) -> None:
    """Qt is destroying a widget: end its thread, on the main thread, then let Python have it."""
    editor.close()
    if bench.close():
        _alive.pop(key, None)
