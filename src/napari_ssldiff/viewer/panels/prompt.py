"""What the image shall show, in words or otherwise, where, and a button that makes it."""

from __future__ import annotations

from dataclasses import replace

from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from napari_ssldiff.errors import InputError, SSLDiffError
from napari_ssldiff.scenes.lengths import parse_length
from napari_ssldiff.viewer.panels.condition import ConditionBox
from napari_ssldiff.viewer.panels.layout import button, form, group, row
from napari_ssldiff.viewer.session import Wording
from napari_ssldiff.viewer.workbench import Workbench

_TARGETS = (
    ("in the regions", "regions", "Every chosen region by its own prompt, or else by this one"),
    ("all over the scene", "scene", "This prompt everywhere, those of regions inside them"),
    ("on a new canvas", "canvas", "An empty image at the model's resolution, of this size"),
)


class PromptPanel(QWidget):
    """What to show, what to avoid, where and how large, over a :class:`Workbench`."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__()
        self._bench = bench
        self.condition = ConditionBox(bench)
        self.prompt = self.condition.prompt
        self.negative = QLineEdit()
        self.negative.setObjectName("negative")
        self.negative.setPlaceholderText("nothing to avoid")
        self.negative.setToolTip("What to keep away from")
        self.guidance = QDoubleSpinBox()
        self.guidance.setObjectName("words_guidance")
        self.guidance.setRange(0, 100)
        self.guidance.setSingleStep(0.5)
        self.guidance.setSpecialValueText("the prior's")  # what 0 is shown as
        self.guidance.setToolTip("How strictly the embeddings follow what is asked for (1: off)")
        self.feather = QDoubleSpinBox()
        self.feather.setObjectName("words_feather")
        self.feather.setRange(0, 1000)
        self.feather.setDecimals(1)
        self.feather.setSingleStep(0.5)
        self.feather.setValue(Wording().feather)
        self.feather.setSuffix(" cells")
        self.feather.setToolTip("Cells over which the prompt of a region fades into the one around")
        self.target = QComboBox()
        self.target.setObjectName("words_target")
        for i, (text, value, tip) in enumerate(_TARGETS):
            self.target.addItem(text, value)
            self.target.setItemData(i, tip, 3)  # Qt.ItemDataRole.ToolTipRole
        self.size = QLineEdit("1024 x 1024")
        self.size.setObjectName("canvas_size")
        self.size.setToolTip(
            "Width x height of a new canvas: pixels, or 500um x 300um, 1000m x 500m"
        )
        self.go = button(
            "Synthesise", "Make what is asked for; the overlay forms live", self._go, "synthesise"
        )

        box, inside = group("Words")
        rows = form()
        row(rows, "Show", self.condition)
        row(rows, "Avoid", self.negative)
        row(rows, "Guidance", self.guidance)
        row(rows, "Fade", self.feather)
        row(rows, "Where", self.target)
        row(rows, "Size", self.size)
        inside.addLayout(rows)
        line = QHBoxLayout()
        line.addWidget(self.go, 1)
        inside.addLayout(line)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(box)

        self.condition.changed.connect(self.write)
        self.negative.textChanged.connect(self.write)
        self.guidance.valueChanged.connect(self.write)
        self.feather.valueChanged.connect(self.write)
        self.prompt.returnPressed.connect(self._go)
        self.target.currentIndexChanged.connect(self._on_target)
        self._on_target()
        bench.session.events.model_id.connect(self.offer)
        self.offer()

    def offer(self) -> None:
        """Offer what the session's model can be asked for."""
        bench = self._bench
        if not bench.card(bench.session.model_id):
            return
        try:
            self.condition.offer(bench.backend.choices(bench.session.model_id))
        except SSLDiffError as error:
            bench.say(str(error), "error")

    def write(self) -> None:
        """Put what is shown into the session, as far as it can be used."""
        try:
            condition = self.condition.condition
        except InputError:
            condition = None  # told when it is asked for
        numbers = self.condition.kind.currentData() == "numbers"
        self.negative.setEnabled(not numbers)
        self._bench.session.wording = replace(
            self._bench.session.wording,
            prompt=self.prompt.text(),
            negative="" if numbers else self.negative.text(),
            guidance=self.guidance.value() or None,
            feather=self.feather.value(),
            condition=condition,
        )

    def _on_target(self) -> None:
        self.size.setEnabled(self.target.currentData() == "canvas")

    def _go(self) -> None:
        try:
            _ = self.condition.condition
        except InputError as error:
            self._bench.say(str(error), "error")
            return
        target = self.target.currentData()
        if target != "canvas":
            self._bench.synthesise(target)
            return
        try:
            width, height = (
                parse_length(part, "the size")
                for part in self.size.text().replace("×", "x").split("x")
            )
        except (InputError, ValueError):
            text = self.size.text()
            self._bench.say(
                f"The size is a width x a height such as 1024 x 768, got {text!r}", "error"
            )
            return
        if self._bench.synthesise(target, width, height):
            # The next words fill the same canvas unless another is asked for.
            self.target.setCurrentIndex(self.target.findData("scene"))
