"""How to sample: magicgui widgets over the session's parameters."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

from magicgui.widgets import (
    CheckBox,
    ComboBox,
    Container,
    FloatSlider,
    FloatSpinBox,
    PushButton,
    SpinBox,
)
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_ssldiff.viewer.panels.layout import form, group, row
from napari_ssldiff.viewer.session import PRESETS, Session

_MAX_SEED = 2**31 - 1  # what a Qt spin box holds


class ParameterPanel(QWidget):
    """Strength, guidance, steps, seed and preset. Writes every change into the session."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._model_guidance = 1.0
        self.strength = FloatSlider(
            value=1.0, min=0.0, max=1.0, step=0.01, name="strength", label="Strength",
            tooltip="1 makes new pixels from the embeddings alone; 0 changes next to nothing",
        )  # fmt: skip
        self.guidance = FloatSpinBox(
            value=1.0, min=0.0, max=100.0, step=0.5, name="guidance", label="Guidance",
            tooltip="How strictly pixels follow the embeddings (diffusers' guidance_scale; 1: off)",
        )  # fmt: skip
        self.steps = SpinBox(
            value=PRESETS["bulk"].steps, min=1, max=1000, name="steps", label="Steps",
            tooltip="Solver steps: more are slower and finer",
        )  # fmt: skip
        self.seed = SpinBox(
            value=0, min=0, max=_MAX_SEED, name="seed",
            tooltip="The same seed gives the same pixels",
        )  # fmt: skip
        self.random = PushButton(text="Random", name="random", tooltip="Another seed")
        self.preset = ComboBox(
            value="bulk", choices=list(PRESETS), name="preset", label="Preset",
            tooltip="bulk: DPM-Solver++, the default; draft: a few quick steps by a distilled "
            "network, whose steps and guidance are fixed; lazy: every tile by itself, the same to "
            "the bit in any order; paper: DDIM as in Graikos et al. 2024, slow",
        )  # fmt: skip
        self.over = CheckBox(
            value=False, name="over", text="over the overlay",
            tooltip="Take for the source what the overlay shows: vary a variation again, or smooth "
            "borders at a strength of about 0.3",
        )  # fmt: skip
        self.random.native.setMinimumWidth(76)
        self.random.native.setObjectName("random")
        pair: list[Any] = [self.seed, self.random]
        seeds = Container(widgets=pair, layout="horizontal", labels=False)
        seeds.margins = (0, 0, 0, 0)
        box, inside = group("Parameters")
        rows = form()
        for widget in (self.strength, self.guidance, self.steps):
            row(rows, widget.label, widget.native)
        row(rows, "Seed", seeds.native)
        row(rows, self.preset.label, self.preset.native)
        row(rows, "Start", self.over.native)
        inside.addLayout(rows)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(box)

        for widget in (self.strength, self.guidance, self.steps, self.seed):
            widget.changed.connect(self.write)
        self.over.changed.connect(self.write)
        self.preset.changed.connect(self._on_preset)
        self.random.changed.connect(self.another_seed)
        self.write()

    def set_guidance(self, value: float) -> None:
        """The chosen model's own guidance; a preset that has one of its own keeps it."""
        self._model_guidance = value
        preset = PRESETS[str(self.preset.value)]
        self.guidance.value = value if preset.guidance is None else preset.guidance

    def another_seed(self) -> None:
        """A seed nobody chose."""
        self.seed.value = secrets.randbelow(_MAX_SEED)

    def write(self) -> None:
        """Put what is shown into the session."""
        self._session.parameters = replace(
            self._session.parameters,
            strength=float(self.strength.value),
            guidance=float(self.guidance.value),
            steps=int(self.steps.value),
            seed=int(self.seed.value),
            preset=str(self.preset.value),
            over=bool(self.over.value),
        )

    def _on_preset(self, preset: str) -> None:
        self.steps.value = PRESETS[preset].steps
        self.set_guidance(self._model_guidance)
        self.write()
