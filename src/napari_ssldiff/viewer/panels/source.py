"""Which scene, which model, which device."""

from __future__ import annotations

from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSpinBox, QVBoxLayout, QWidget

from napari_ssldiff.scenes.extend import STEP
from napari_ssldiff.viewer.magnification import (
    families,
    family_name,
    family_of,
    length,
    told_of,
    variant_of,
    variants,
)
from napari_ssldiff.viewer.models_dialog import ModelsDialog
from napari_ssldiff.viewer.panels.layout import button, form, group, narrow, row, show_row
from napari_ssldiff.viewer.workbench import Workbench

DEVICES = ("auto", "cpu", "cuda", "mps")


class SourcePanel(QWidget):
    """Choosers over a :class:`Workbench`."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__()
        self._bench = bench
        self.scene = QComboBox()
        self.scene.setObjectName("scene")
        self.scene.setToolTip("The image to vary")
        self.model = QComboBox()
        self.model.setObjectName("model")
        self.variant = QComboBox()
        self.variant.setObjectName("variant")
        self.variant.setToolTip("The model's magnification; by itself it follows your zoom")
        self.variant_told = QLabel()
        self.variant_told.setObjectName("variant_told")
        self.variant_told.setWordWrap(True)
        self.device = QComboBox()
        self.device.setObjectName("device")
        self.device.setToolTip("Where the model runs; auto takes the fastest that is there")
        self.facts = QLabel()
        self.facts.setObjectName("model_facts")
        self.facts.setWordWrap(True)
        for label in (self.facts, self.variant_told):
            label.setStyleSheet("color: palette(mid); font-size: 11px;")
        self.margin = QSpinBox()
        self.margin.setObjectName("margin")
        self.margin.setRange(STEP, 64 * STEP)
        self.margin.setSingleStep(STEP)
        self.margin.setValue(2 * STEP)
        self.margin.setSuffix(" px")
        self.extend = button(
            "Extend", "A new layer with so much room around the image: regions drawn there grow it",
            lambda: bench.extend(self.margin.value()), "extend",
        )  # fmt: skip
        for combo in (self.scene, self.model, self.variant):
            narrow(combo)

        box, inside = group("Scene and model")
        rows = form()
        row(rows, "Scene", self.scene)
        beyond = QWidget()
        line = QHBoxLayout(beyond)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.margin, 1)
        line.addWidget(self.extend, 1)
        row(rows, "Edge", beyond)
        self.manage = button(
            "Models…", "Fetch, import, check and remove models", self.show_models, "models"
        )
        self.dialog: ModelsDialog | None = None
        choice = QWidget()
        line = QHBoxLayout(choice)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.model, 1)
        line.addWidget(self.manage)
        row(rows, "Model", choice)
        row(rows, "", self.facts)
        self.magnified = QWidget()
        lines = QVBoxLayout(self.magnified)
        lines.setContentsMargins(0, 0, 0, 0)
        lines.setSpacing(2)
        lines.addWidget(self.variant)
        lines.addWidget(self.variant_told)
        row(rows, "Level", self.magnified)
        self._rows = rows
        row(rows, "Device", self.device)
        inside.addLayout(rows)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(box)

        for device in DEVICES:
            self.device.addItem(device, device)
        self.show_scenes()
        self.show_cards()
        self.scene.activated.connect(self._on_scene)
        self.model.activated.connect(self._on_model)
        self.variant.activated.connect(self._on_variant)
        self.device.activated.connect(self._on_device)
        bench.scenes_changed.connect(self.show_scenes)
        bench.scene_changed.connect(self.show_scenes)
        bench.choice.changed.connect(self.show_cards)
        bench.session.events.model_id.connect(self.show_model)
        for event in (bench.session.events.looked, bench.session.events.variant):
            event.connect(self.show_variant)
        bench.session.events.devices.connect(self.show_devices)

    def show_scenes(self) -> None:
        """List the image layers, the chosen one current."""
        layers = self._bench.sources()
        self.scene.clear()
        for layer in layers:
            self.scene.addItem(str(layer.name), layer)
        if not layers:
            self.scene.addItem("open an image first", None)
        self.scene.setEnabled(bool(layers))
        if self._bench.source in layers:
            self.scene.setCurrentIndex(layers.index(self._bench.source))

    def show_cards(self) -> None:
        """List the models, the chosen one current."""
        self.model.clear()
        for family, card in families(self._bench.choice.cards).items():
            self.model.addItem(family_name(card), family)
        self.show_model()

    def show_models(self) -> None:
        """Open the dialog of models, or bring it to the front."""
        if self.dialog is None:
            self.dialog = ModelsDialog(self)
            self.dialog.changed.connect(self._bench.refresh_models)
        self.dialog.show()
        self.dialog.raise_()

    def show_model(self) -> None:
        """Make the session's model the current one and say what it is."""
        chosen = family_of(self._bench.session.model_id)
        self.model.setCurrentIndex(self.model.findData(chosen))
        card = self._bench.card(self._bench.session.model_id)
        self.model.setToolTip("" if card is None else card.description)
        self.facts.setText(
            "no model"
            if card is None
            else f"{card.domain} · {length(card.resolution, card.unit)} · window {card.window} px"
        )
        own = variants(self._bench.choice.cards, chosen)
        items = [("as I look at it", "")]
        for each in own:
            name = variant_of(each.id)
            items.append((f"{name} · {length(each.resolution, each.unit)}", name))
        shown = [(self.variant.itemText(i), self.variant.itemData(i))
                 for i in range(self.variant.count())]  # fmt: skip
        if items != shown:
            self.variant.clear()
            for text, name in items:
                self.variant.addItem(text, name)
        show_row(self._rows, self.magnified, bool(own))
        self.show_variant()

    def show_variant(self) -> None:
        """Which magnification is taken, and why."""
        session = self._bench.session
        self.variant.setCurrentIndex(max(0, self.variant.findData(session.variant)))
        self.variant_told.setText(told_of(session, self._bench.choice.cards))

    def show_devices(self) -> None:
        """Grey out what this machine lacks, once torch has told."""
        have = {"auto", *self._bench.session.devices}
        for i in range(self.device.count()):
            item = self.device.model().item(i)
            item.setEnabled(self.device.itemData(i) in have)
            item.setToolTip("" if item.isEnabled() else "not available on this machine")

    def _on_scene(self, index: int) -> None:
        self._bench.choose_source(self.scene.itemData(index))

    def _on_model(self, index: int) -> None:
        self._bench.choice.take(self.model.itemData(index) or "")

    def _on_variant(self, index: int) -> None:
        self._bench.choice.fix(self.variant.itemData(index))

    def _on_device(self, index: int) -> None:
        self._bench.session.device = self.device.itemData(index)
