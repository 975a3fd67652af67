"""The dialog of models in a real window, with real clicks; runs on PyQt5 and on PyQt6."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.gui
VIT = {"num_classes": 0, "img_size": 32, "embed_dim": 12, "depth": 1, "num_heads": 2}


@pytest.fixture
def store(
    own_cache: Path, make_tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Path:  # fmt: skip
    """One installed model, one known encoder, and a file for the latter."""
    from napari_ssldiff.viewer.native import load_triton_apart

    load_triton_apart()  # a test before may have shown a window
    import timm
    import torch

    from napari_ssldiff.models import entries

    make_tiny_model(own_cache / "models" / "tiny@abc", id="tiny@abc", resolution=0.3)
    card = {
        "kind": "encoder", "id": "tiny-vit", "name": "Tiny ViT", "description": "For tests.",
        "licence": {"name": "BSD-3-Clause", "terms": "Do as you like.", "gated": False},
        "encoder": {
            "library": "timm", "name": "vit_tiny_patch16_224", "options": VIT, "input": 32,
            "mean": [0.5] * 3, "std": [0.5] * 3, "width": 12, "token": "cls",
        },
        "sources": [{"kind": "hub", "repo": "lab/model", "files": [{"name": "vit.pth"}]}],
    }  # fmt: skip
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue" / "tiny-vit.yaml").write_text(yaml.safe_dump(card))
    monkeypatch.setattr(entries, "CATALOGUE", tmp_path / "catalogue")
    network = timm.create_model("vit_tiny_patch16_224", **VIT)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    return tmp_path / "vit.pth"


def test_models_are_fetched_imported_checked_and_removed_by_clicks(
    make_napari_viewer: Callable[..., Any], qtbot: Any, store: Path, own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from qtpy.QtCore import Qt, QTimer
    from qtpy.QtWidgets import QCheckBox, QLabel, QLineEdit, QPlainTextEdit, QPushButton

    from napari_ssldiff.viewer import SSLDiffusionWidget

    viewer = make_napari_viewer()
    widget = SSLDiffusionWidget(viewer)
    viewer.window.add_dock_widget(widget, name="SSL Diffusion")
    combo, session = widget.source.model, widget.bench.session
    session.model_id = "tiny@abc"
    assert combo.currentData() == "tiny@abc"

    def press(name: str, of: Any = None) -> None:
        found = (of or dialog).findChild(QPushButton, name)
        assert found.isEnabled(), name
        qtbot.mouseClick(found, Qt.MouseButton.LeftButton)

    def find(kind: Any, name: str) -> Any:
        found = dialog.findChild(kind, name)
        assert found is not None
        return found

    def click_row(name: str) -> None:
        (item,) = [
            dialog.table.item(n, 0)
            for n in range(dialog.table.rowCount())
            if dialog.table.item(n, 0).text().startswith(name)
        ]
        dialog.table.scrollToItem(item)
        place = dialog.table.visualItemRect(item).center()
        qtbot.mouseClick(dialog.table.viewport(), Qt.MouseButton.LeftButton, pos=place)

    def settled() -> str:
        qtbot.waitUntil(lambda: not dialog.worker.busy, timeout=120_000)
        return str(find(QLabel, "models_status").text())

    dialog: Any = None
    press("models", widget)
    dialog = widget.source.dialog
    qtbot.waitExposed(dialog)
    assert dialog.isVisible()

    # Nothing is fetched before its terms were accepted; they stand there.
    click_row("tiny-vit")
    assert dialog.row.id == "tiny-vit"
    assert "terms: Do as you like." in find(QPlainTextEdit, "models_facts").toPlainText()
    assert not dialog.fetch.isEnabled()
    box = find(QCheckBox, "models_accept")
    box.click()
    from huggingface_hub import constants

    nobody = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nobody)
    press("models_fetch")
    assert "cannot reach http://127.0.0.1:9" in settled()

    # A file that the card does not know is asked about; the window lives on meanwhile.
    ticks: list[int] = []
    timer = QTimer(dialog)
    timer.timeout.connect(lambda: ticks.append(1))
    timer.start(20)
    click_row("tiny-vit")
    line = find(QLineEdit, "models_path")
    qtbot.keyClicks(line, str(store))
    press("models_import")
    yes = find(QPushButton, "models_yes")
    qtbot.waitUntil(yes.isVisible, timeout=120_000)
    assert "knows no hash" in find(QLabel, "models_question").text()
    picture(dialog)
    press("models_yes")
    assert "is installed" in settled()
    assert len(ticks) > 3
    timer.stop()
    click_row("tiny-vit@")
    assert dialog.row.state == "installed"

    # The installed model is checked, then removed, and the dock's list follows.
    click_row("tiny@abc")
    press("models_verify")
    assert settled() == "tiny@abc is sound."
    press("models_remove")
    press("models_no")
    assert combo.findData("tiny@abc") >= 0
    press("models_remove")
    press("models_yes")
    assert "tiny@abc is removed" in settled()
    qtbot.waitUntil(lambda: combo.findData("tiny@abc") < 0, timeout=5_000)
    assert session.model_id != "tiny@abc"
    assert not (own_cache / "models" / "tiny@abc").exists()

    # Closed in the middle of work, it stops it.
    click_row("tiny-vit@")
    press("models_verify")
    dialog.reject()
    qtbot.waitUntil(lambda: not dialog.worker.busy, timeout=120_000)
    assert not dialog.isVisible()
    assert "napari-ssldiff-store" not in {thread.name for thread in threading.enumerate()}


def test_components_are_asked_for_with_their_terms_and_a_source_is_chosen(
    make_napari_viewer: Callable[..., Any], qtbot: Any, own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The catalogue's own cards; only the download itself is not one."""
    from types import SimpleNamespace

    from huggingface_hub import constants
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QCheckBox, QComboBox, QLabel, QPushButton

    from napari_ssldiff.errors import ModelError
    from napari_ssldiff.models import store
    from napari_ssldiff.models.store import together
    from napari_ssldiff.viewer.models_dialog import ModelsDialog

    fetched: list[tuple[str, Any]] = []

    def fetch(name: str, *, source: Any = None, **options: Any) -> Any:
        assert options["accept_licence"]
        fetched.append((name, source))
        if name == "uni2-h":
            raise ModelError("MahmoodLab/UNI2-h is gated and no token is at hand")
        return SimpleNamespace(id=f"{name}@abc")

    for module in (store, together):
        monkeypatch.setattr(module, "fetch", fetch)
    nobody = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nobody)
    viewer = make_napari_viewer()
    dialog = ModelsDialog(viewer.window._qt_window)
    dialog.show()
    qtbot.waitExposed(dialog)
    question, source = dialog.findChild(QLabel, "models_question"), dialog.source

    def press(name: str) -> None:
        found = dialog.findChild(QPushButton, name)
        qtbot.waitUntil(lambda: found.isVisible() and found.isEnabled(), timeout=60_000)
        qtbot.mouseClick(found, Qt.MouseButton.LeftButton)

    def asked(words: str) -> str:
        qtbot.waitUntil(lambda: question.isVisible() and words in question.text(), timeout=60_000)
        return str(question.text())

    dialog.choose("demo-naip")
    assert not source.isVisible()
    assert "download" not in dialog.facts.toPlainText()
    dialog.choose("pixcell-256")
    assert "~2.43 GB" in {dialog.table.item(n, 2).text() for n in range(dialog.table.rowCount())}
    assert isinstance(source, QComboBox)
    assert source.isVisible()
    assert source.currentText() == "StonyBrook-CVLab/PixCell-256 (~2.43 GB)"
    dialog.findChild(QCheckBox, "models_accept").click()
    press("models_fetch")
    asked("Download pixcell-256? About 2.43 GB, as published.")
    assert fetched == []
    press("models_yes")
    told = asked("pixcell-256 needs the autoencoder sd3-vae.")
    assert "licence: Stability AI Community License" in told
    assert "gated: its authors have to let you in first" in told
    picture(dialog, "models-dialog-parts.png")
    press("models_no")
    asked("pixcell-256 needs the encoder uni2-h.")
    assert fetched == []
    press("models_yes")
    qtbot.waitUntil(lambda: not dialog.worker.busy, timeout=60_000)
    assert fetched == [("pixcell-256", 1), ("uni2-h", None)]
    said = dialog.findChild(QLabel, "models_status").text()
    assert said.startswith(
        "pixcell-256@abc is installed. uni2-h is not: MahmoodLab/UNI2-h is gated"
    )

    source.setFocus()
    qtbot.keyClick(source, Qt.Key.Key_End)
    assert source.currentText() == "StonyBrook-CVLab/PixCell-original-weights"
    fetched.clear()
    dialog.findChild(QCheckBox, "models_accept").click()
    press("models_fetch")
    asked("Download pixcell-256? Size not known; about 2.43 GB once it is installed.")
    press("models_no")
    qtbot.waitUntil(lambda: not dialog.worker.busy, timeout=60_000)
    assert fetched == []
    assert dialog.findChild(QLabel, "models_status").text() == "Nothing was downloaded."


def picture(dialog: Any, name: str = "models-dialog.png") -> None:
    """Kept where ``NAPARI_SSLDIFF_PICTURES`` names a folder."""
    import os

    folder = os.environ.get("NAPARI_SSLDIFF_PICTURES")
    if folder:
        dialog.grab().save(str(Path(folder) / name))
