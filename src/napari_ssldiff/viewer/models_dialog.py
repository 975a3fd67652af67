"""The models on this machine and the ones that are known: fetch, import, verify, remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QDialog,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QProgressBar,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_ssldiff.errors import SSLDiffError
from napari_ssldiff.viewer.panels.layout import button, group
from napari_ssldiff.viewer.store_worker import StoreWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_ssldiff.models.entries import Entry
    from napari_ssldiff.models.store.facts import Row
    from napari_ssldiff.models.store.work import Work

_COLUMNS = ("Model", "Kind", "Size", "Gated", "State", "Licence")
_RED = "color: #e5605c;"


class ModelsDialog(QDialog):
    """A table of models and what can be done with them. Never blocks the window.

    ``changed`` tells that something was installed or removed.
    """

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("models_dialog")
        self.setWindowTitle("Models")
        self.resize(860, 640)
        self._rows: list[Row] = []
        self._closing = False
        self._answered: Callable[[bool], None] = lambda yes: None
        self.worker = StoreWorker(self)
        self._build()
        self.worker.progress.connect(self._on_progress)
        self.worker.question.connect(lambda text: self._ask(text, self.worker.answer))
        self.worker.ended.connect(self._on_ended)
        self.refresh()

    def _build(self) -> None:
        self.table = QTableWidget(0, len(_COLUMNS))
        self.table.setObjectName("models_table")
        self.table.setHorizontalHeaderLabels(_COLUMNS)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.verticalHeader().setVisible(False)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setStretchLastSection(True)
        self.table.itemSelectionChanged.connect(self._on_selected)
        self.facts = QPlainTextEdit()
        self.facts.setObjectName("models_facts")
        self.facts.setReadOnly(True)

        self.accept_terms = QCheckBox("I have read its terms and accept them")
        self.accept_terms.setObjectName("models_accept")
        self.accept_terms.toggled.connect(self._enable)
        self.fetch = button("Fetch…", "Download and install it", self._fetch, "models_fetch")
        self.verify = button(
            "Verify", "Check hashes, shapes and numbers of its files", self._verify, "models_verify"
        )
        self.remove = button("Remove…", "Delete it from this disk", self._remove, "models_remove")
        self.source = QComboBox()
        self.source.setObjectName("models_source")
        self.source.setToolTip("Where to download it from")
        one = QHBoxLayout()
        one.addWidget(self.accept_terms, 1)
        one.addWidget(self.source)
        for widget in (self.fetch, self.verify, self.remove):
            one.addWidget(widget)

        self.path = QLineEdit()
        self.path.setObjectName("models_path")
        self.path.setPlaceholderText("a checkpoint on this disk: .ckpt, .safetensors, or a folder")
        self.path.textChanged.connect(self._enable)
        self.importing = button(
            "Import", "Install it as the model chosen above, or as the card that it fits",
            self._import, "models_import",
        )  # fmt: skip
        two = QHBoxLayout()
        two.addWidget(self.path, 1)
        two.addWidget(button("File…", "Choose a file", self._browse_file, "models_file"))
        two.addWidget(button("Folder…", "Choose a folder", self._browse_folder, "models_folder"))
        two.addWidget(self.importing)
        box, inside = group("Import")
        inside.addLayout(two)

        self.question = QLabel()
        self.question.setObjectName("models_question")
        self.question.setWordWrap(True)
        self.yes = button("Yes", "Go on", lambda: self._reply(True), "models_yes")
        self.no = button("No", "Leave it", lambda: self._reply(False), "models_no")
        self._asking = QWidget()
        three = QHBoxLayout(self._asking)
        three.setContentsMargins(0, 0, 0, 0)
        three.addWidget(self.question, 1)
        three.addWidget(self.yes)
        three.addWidget(self.no)
        self._asking.setVisible(False)

        self.progress = QProgressBar()
        self.progress.setObjectName("models_progress")
        self.progress.setRange(0, 1000)
        self.cancel = button("Cancel", "Stop what goes on", self.worker.cancel, "models_cancel")
        four = QHBoxLayout()
        four.addWidget(self.progress, 1)
        four.addWidget(self.cancel)
        self.status = QLabel()
        self.status.setObjectName("models_status")
        self.status.setWordWrap(True)
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

        layout = QVBoxLayout(self)
        layout.addWidget(self.table, 3)
        layout.addWidget(self.facts, 2)
        layout.addLayout(one)
        layout.addWidget(box)
        layout.addWidget(self._asking)
        layout.addLayout(four)
        layout.addWidget(self.status)

    # What is shown

    def refresh(self) -> None:
        """Read the table anew; asks no network."""
        from napari_ssldiff.models.store.facts import rows

        chosen = self.row.id if self.row else ""
        try:
            self._rows = rows()
        except SSLDiffError as error:  # a bundled card is broken
            self._say(str(error), False)
        self.table.setRowCount(len(self._rows))
        for number, row in enumerate(self._rows):
            gated = "gated" if row.gated else ""
            cells = row.id, row.kind, row.size_text, gated, row.state, row.licence
            for column, text in enumerate(cells):
                item = QTableWidgetItem(text)
                item.setToolTip(row.note or row.name)
                self.table.setItem(number, column, item)
        self.choose(chosen)

    def choose(self, name: str) -> None:
        """Select a row by id; the first where there is none."""
        ids = [row.id for row in self._rows]
        if ids:
            self.table.selectRow(ids.index(name) if name in ids else 0)
        self._on_selected()

    @property
    def row(self) -> Row | None:
        """The row that is selected."""
        number = self.table.currentRow()
        return self._rows[number] if 0 <= number < len(self._rows) else None

    def _on_selected(self) -> None:
        row = self.row
        self.accept_terms.setChecked(False)
        if row is not None:
            self.facts.setPlainText("\n".join(_facts(row)))
        self.source.clear()
        for number, name in (_sources(row) if row is not None else {}).items():
            self.source.addItem(name, number)
        self.source.setVisible(self.source.count() > 1)
        self._enable()

    def _enable(self) -> None:
        row, busy = self.row, self.worker.busy
        state = row.state if row else ""
        fetchable = state == "known" and row is not None and " fetch " in row.note
        self.accept_terms.setEnabled(fetchable and not busy)
        self.source.setEnabled(not busy)
        self.fetch.setEnabled(fetchable and self.accept_terms.isChecked() and not busy)
        self.verify.setEnabled(state in ("installed", "bundled", "broken") and not busy)
        self.remove.setEnabled(state in ("installed", "broken") and not busy)
        self.importing.setEnabled(bool(self.path.text().strip()) and not busy)
        self.cancel.setEnabled(busy)

    def _say(self, text: str, well: bool = True) -> None:
        self.status.setStyleSheet("" if well else _RED)
        self.status.setText(text)

    # What the user does

    def _fetch(self) -> None:
        from napari_ssldiff.models.store import fetch
        from napari_ssldiff.models.store.together import fetch_parts

        assert self.row is not None
        name, source = self.row.id, self.source.currentData()

        def act(work: Work) -> str:
            wanted = _agreed(name, source, work)
            if wanted is None:
                return "Nothing was downloaded."
            entry = fetch(name, accept_licence=True, source=source, work=work)
            outcomes = fetch_parts(wanted, work=work)
            here = [entry.id, *(o.entry.id for o in outcomes if o.entry is not None)]
            failed = [f" {o.id} is not: {o.why}." for o in outcomes if o.entry is None]
            verb = "is" if len(here) == 1 else "are"
            return f"{', '.join(here)} {verb} installed.{''.join(failed)}"

        self._start(act)

    def _import(self) -> None:
        from napari_ssldiff.models.store import import_model

        path = Path(self.path.text().strip())
        name = self.row.id if self.row and self.row.state in ("known", "installed") else None

        def act(work: Work) -> str:
            entry = import_model(name and name.partition("@")[0], path, work=work)
            return f"{entry.id} is installed."

        self._start(act)

    def _verify(self) -> None:
        from napari_ssldiff.errors import ModelError
        from napari_ssldiff.models.store.verify import find, verify

        assert self.row is not None
        name = self.row.id

        def act(work: Work) -> str:
            wrong = [line for entry in find(name) for line in verify(entry, work)]
            if wrong:
                raise ModelError(f"{name} is not sound: {'; '.join(wrong)}")
            return f"{name} is sound."

        self._start(act)

    def _remove(self) -> None:
        from napari_ssldiff.models.store import remove
        from napari_ssldiff.models.store.places import in_words

        assert self.row is not None
        name = self.row.id

        def act(work: Work) -> str:
            names, freed = remove(name)
            return f"{', '.join(names)} is removed: {in_words(freed)} freed."

        def reply(yes: bool) -> None:
            if yes:
                self._start(act)

        self._ask(f"Delete {name} from this disk?", reply)

    def _browse_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Import a checkpoint", self.path.text())
        if path:
            self.path.setText(path)

    def _browse_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Import a folder", self.path.text())
        if path:
            self.path.setText(path)

    # Work that goes on

    def _start(self, act: Callable[[Work], str]) -> None:
        self._say("Working…")
        self.worker.start(act)
        self._enable()

    def _ask(self, text: str, answered: Callable[[bool], None]) -> None:
        self._say("Waiting for your answer.")
        self.question.setText(text)
        self._answered = answered
        self._asking.setVisible(True)

    def _reply(self, yes: bool) -> None:
        self._asking.setVisible(False)
        self._say("")
        self._answered(yes)

    def _on_progress(self, stage: str, fraction: float) -> None:
        self.progress.setValue(round(1000 * fraction))
        self._say(f"{stage[:1].upper()}{stage[1:]}…")

    def _on_ended(self, text: str, well: bool) -> None:
        self._asking.setVisible(False)
        self.progress.setValue(0)
        self._say(text, well)
        self.refresh()
        self.changed.emit()
        if self._closing:
            super().reject()

    def showEvent(self, event: QShowEvent) -> None:
        """Opened again, it stays open."""
        self._closing = False
        super().showEvent(event)

    def reject(self) -> None:
        """Close; what goes on is cancelled first, and the dialog closes when it has ended."""
        if self.worker.busy:
            self._closing = True
            self.hide()
            self.worker.cancel()
        else:
            super().reject()


def _facts(row: Row) -> list[str]:
    """All of a row's card in plain words."""
    from napari_ssldiff.models.store.facts import card_of_row, explain

    entry = card_of_row(row)
    note = f": {row.note}" if row.note else ""
    return explain(entry, f"{row.state}{note}") if entry else [row.id, row.note]


def _sources(row: Row) -> dict[int, str]:
    """Where a program can fetch a row's model from: numbers, and places in words."""
    from napari_ssldiff.models.store.facts import card_of_row, source_names

    entry = card_of_row(row) if row.state == "known" else None
    return {} if entry is None else source_names(entry)


def _agreed(name: str, source: int | None, work: Work) -> list[Entry] | None:
    """The missing components that are wanted with a model, each asked for with its terms; ``None``
    where the download itself is not wanted. Runs on the store's thread: the hub tells sizes."""
    from napari_ssldiff.errors import ModelError
    from napari_ssldiff.models.entries import known
    from napari_ssldiff.models.store.facts import consent
    from napari_ssldiff.models.store.fetch import size_of
    from napari_ssldiff.models.store.together import missing_parts

    entry = known(name)
    amount = size_of(entry, source)
    if amount is not None:
        told = f"{amount.told[:1].upper()}{amount.told[1:]}"
        if not work.ask(f"Download {name}? {told}."):
            return None
    wanted = []
    for part in missing_parts(entry):
        try:
            lines = consent(part, size_of(part))
        except ModelError:  # no program can fetch it; its own row says how
            continue
        asked = f"{name} needs the {part.kind} {part.id}. Fetch it too, and accept its terms?"
        if work.ask("\n".join([asked, *lines])):
            wanted.append(part)
    return wanted
