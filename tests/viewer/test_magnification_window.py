"""A model of several magnifications in a real window: zooming chooses; PyQt5 and PyQt6."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from napari_ssldiff.geometry import Box, Region

pytestmark = pytest.mark.gui
VARIANTS = {
    "20x": {"resolution": 0.5, "cell": 64, "conditioning": {"magnification": 0}},
    "10x": {"resolution": 1.0, "cell": 32, "conditioning": {"magnification": 1}},
    "5x": {"resolution": 2.0, "cell": 32, "conditioning": {"magnification": 2}},
}


@pytest.fixture
def zoom_model(own_cache: Path, make_tiny_model: Callable[..., Path]) -> str:
    """The family of an installed model with ZoomLDM's conditioning, narrow and of random
    weights."""
    from napari_ssldiff.viewer.native import load_triton_apart

    load_triton_apart()  # a test before may have shown a window
    import diffusers
    import torch
    from safetensors.torch import save_file

    from napari_ssldiff.diffusion.zoomldm import ZoomProjection

    folder = make_tiny_model(own_cache / "models" / "tiny-zoom@abc", id="tiny-zoom@abc")
    card = yaml.safe_load((folder / "card.yaml").read_text())
    sizes = {"layers": 1, "heads": 2, "hidden": 8}
    card["denoiser"]["config"] |= {"in_channels": 4}
    card["conditioning"] = {
        "kind": "zoomldm", "context": 8, "levels": 3, "magnification": 0, **sizes,
        "weights": ["projection.safetensors"],
    }  # fmt: skip
    card |= {"name": "Tiny zoom", "variants": VARIANTS}
    torch.manual_seed(1)
    modules = {
        "unet": diffusers.UNet2DConditionModel(**card["denoiser"]["config"]),
        "projection": ZoomProjection(1, 12, 8, 0, 3, **sizes),
    }
    for name, module in modules.items():
        file = folder / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, file)
        card["weights"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return "tiny-zoom@abc"


def test_zooming_the_camera_chooses_the_magnification_and_generate_takes_it(
    make_napari_viewer: Callable[..., Any], qtbot: Any, zoom_model: str,
    add_slide: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QComboBox, QLabel, QPushButton

    from napari_ssldiff.viewer import SSLDiffusionWidget
    from napari_ssldiff.viewer.backend import EngineBackend
    from napari_ssldiff.viewer.view import camera_of

    loaded: list[str] = []
    load = EngineBackend.load

    def counted(self: EngineBackend, model_id: str, device: str) -> Any:
        loaded.append(model_id)
        return load(self, model_id, device)

    monkeypatch.setattr(EngineBackend, "load", counted)
    viewer = make_napari_viewer(show=True)
    add_slide(viewer)
    widget = SSLDiffusionWidget(viewer)
    viewer.window.add_dock_widget(widget, name="SSL Diffusion")
    bench, session = widget.bench, widget.bench.session

    def combo(name: str) -> Any:
        return widget.findChild(QComboBox, name)

    def choose(name: str, data: str) -> None:
        """As by the keyboard: Home, then down to the row."""
        box = combo(name)
        box.setFocus()
        qtbot.keyClick(box, Qt.Key.Key_Home)
        for _ in range(box.findData(data)):
            qtbot.keyClick(box, Qt.Key.Key_Down)
        assert box.currentData() == data

    said = widget.findChild(QLabel, "variant_told")
    choose("model", "demo-histology")
    assert not combo("variant").isVisibleTo(widget)
    # The three magnifications are one model in the list.
    names = [combo("model").itemText(i) for i in range(combo("model").count())]
    assert [name for name in names if name.startswith("Tiny")] == ["Tiny zoom"]
    choose("model", zoom_model)
    assert combo("variant").isVisibleTo(widget)
    assert [combo("variant").itemData(i) for i in range(4)] == ["", *VARIANTS]
    assert combo("variant").currentText() == "as I look at it"

    camera = camera_of(viewer)
    changes: list[str] = []
    session.events.model_id.connect(changes.append)
    camera.zoom = 2.0  # one pixel of the slide's, 0.5 µm, on one of the screen
    nearest = "20x: nearest to the view's 0.5 µm/px"
    qtbot.waitUntil(lambda: said.text() == nearest, timeout=5_000)
    assert session.model_id == f"{zoom_model}:20x"
    changes.clear()
    for step in range(30):  # a wheel turned quickly, out to 2.3 µm/px
        camera.zoom = 2.0 * (0.43 / 2.0) ** ((step + 1) / 30)
    assert not changes
    qtbot.waitUntil(lambda: session.model_id == f"{zoom_model}:5x", timeout=5_000)
    assert changes == [f"{zoom_model}:5x"]
    assert said.text() == "5x: nearest to the view's 2.33 µm/px"
    assert widget.source.facts.text() == "histology · 2 µm/px · window 64 px"
    assert loaded == []

    def generate() -> dict[str, Any]:
        qtbot.mouseClick(widget.findChild(QPushButton, "generate"), Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: not session.busy, timeout=120_000)
        assert session.status.severity == "success", session.status.text
        facts: dict[str, Any] = viewer.layers["slide · synthetic"].metadata["napari_ssldiff"]
        return facts["request"]

    bench.regions.add(Region.from_box(Box(100, 200, 192, 192)), "rectangle")
    widget.parameters.steps.value = 2
    request = generate()
    assert request["model"] == f"{zoom_model}:5x"
    assert request["field"]["resolution"] == 2.0
    picture(viewer, "magnification-looked.png", qtbot)
    # Pressed at once, before anything has looked.
    camera.zoom = 1.0
    assert generate()["model"] == f"{zoom_model}:10x"
    assert loaded == [f"{zoom_model}:5x", f"{zoom_model}:10x"]

    # A guidance that the user has set stays through a zoom; a fixed magnification, too.
    widget.parameters.guidance.value = 3.5
    choose("variant", "20x")
    assert session.model_id == f"{zoom_model}:20x"
    assert said.text() == "you look at 1 µm/px"
    camera.zoom = 0.43
    qtbot.waitUntil(lambda: "2.33" in said.text(), timeout=5_000)
    assert session.model_id == f"{zoom_model}:20x"
    assert session.parameters.guidance == 3.5
    picture(viewer, "magnification-fixed.png", qtbot)
    assert generate()["model"] == f"{zoom_model}:20x"
    choose("variant", "")
    assert session.model_id == f"{zoom_model}:5x"


def picture(viewer: Any, name: str, qtbot: Any) -> None:
    """Kept where ``NAPARI_SSLDIFF_SHOTS`` names a folder."""
    if folder := os.environ.get("NAPARI_SSLDIFF_SHOTS"):
        viewer.window._qt_window.resize(1400, 1000)
        qtbot.wait(500)
        viewer.window._qt_window.grab().save(f"{folder}/{name}")
