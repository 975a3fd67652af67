"""What the user chose and how the work stands: a model that views listen to, free of Qt."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from psygnal import SignalGroupDescriptor

from napari_ssldiff.scenes.lengths import Length
from napari_ssldiff.text.conditions import Condition


@dataclass(frozen=True)
class PresetDefaults:
    """Steps of a preset, and its guidance where it has one of its own."""

    steps: int
    guidance: float | None = None


#: What :mod:`napari_ssldiff.diffusion.presets` says, known without loading torch.
PRESETS = {
    "bulk": PresetDefaults(20),
    "draft": PresetDefaults(4, 1.0),
    "lazy": PresetDefaults(20),
    "paper": PresetDefaults(50, 4.0),
}

_NONE = Length(0)

Severity = Literal["info", "success", "error"]


@dataclass(frozen=True)
class Edges:
    """How a variation meets what is around it, as in
    :class:`napari_ssldiff.synthesis.request.SynthesisRequest`, in any unit."""

    grow: Length = _NONE
    feather: Length = _NONE
    context: Length = _NONE
    match: Length = _NONE


@dataclass(frozen=True)
class Parameters:
    """How to sample; the meaning is that of :class:`napari_ssldiff.synthesis.request.Sampler`.

    Kept apart from it because that room may load torch. ``over`` takes for the source what the
    overlay shows, where it shows something: variations of variations, and at a low strength the
    smoothing of borders.
    """

    strength: float = 1.0
    guidance: float | None = None
    steps: int | None = None
    seed: int = 0
    preset: str = "bulk"
    edges: Edges = Edges()
    over: bool = False


@dataclass(frozen=True)
class Wording:
    """What is to be seen, as in :class:`napari_ssldiff.synthesis.imagine.Prompt`.

    ``condition`` takes the place of the prompt; ``feather`` is in cells.
    """

    prompt: str = ""
    negative: str = ""
    guidance: float | None = None
    feather: float = 1.0
    condition: Condition | None = None


@dataclass(frozen=True)
class WorkProgress:
    """Stage in words, part done in [0, 1] (``None``: unknown) and seconds left, if known."""

    stage: str = ""
    fraction: float | None = None
    seconds_left: float | None = None

    @property
    def text(self) -> str:
        """One line for a progress bar."""
        parts = [self.stage]
        if self.fraction is not None:
            parts.append(f"{self.fraction:.0%}")
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return " · ".join(part for part in parts if part)


@dataclass(frozen=True)
class Status:
    """The last word to the user."""

    text: str = ""
    severity: Severity = "info"


@dataclass(frozen=True)
class Guide:
    """The coarse picture that a variation keeps to.

    Parameters
    ----------
    of
        ``"nothing"``, ``"source"`` or ``"layer"``.
    layer
        Of the viewer, where ``of`` says so.
    pixel
        How long the picture's pixels are; in pixels, of the model's. Of length 0 they are as long
        as the layer's own detail.
    strength
        How much it is kept to, in [0, 1].
    """

    of: Literal["nothing", "source", "layer"] = "nothing"
    layer: Any = None
    pixel: Length = _NONE
    strength: float = 1.0


@dataclass(frozen=True)
class CellChoice:
    """Where the cells of a variation are to lie.

    Parameters
    ----------
    of
        ``"nothing"``: where the model likes; ``"source"``: where the source has nuclei; or
        ``"layer"``.
    layer
        A Labels layer of the viewer, where ``of`` says so.
    """

    of: Literal["nothing", "source", "layer"] = "nothing"
    layer: Any = None


@dataclass(frozen=True)
class Looked:
    """How large a pixel of the screen is in the scene that it shows.

    Parameters
    ----------
    resolution
        Its length, on the ground where there is a projection; never less than that of the scene's
        own pixels, because a view does not show more than the scene has.
    unit
        Of that length: micrometer, meter or degree.
    """

    resolution: float
    unit: str


@dataclass
class Session:
    """State shared by the dock widget's panels. Each field has a signal in ``events``.

    ``model_id`` names a variant where the model has several; ``variant`` is the one that was
    chosen, empty where ``looked`` decides, which is ``None`` where the scene has no pixel size.
    ``held`` says that the jobs are paused. ``slides`` counts the endless slides that are open,
    ``missing`` the tiles that their views still lack; ``slides_paused`` says that none of these is
    made.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    model_id: str = ""
    variant: str = ""
    looked: Looked | None = None
    device: str = "auto"
    devices: tuple[str, ...] = ()
    parameters: Parameters = field(default_factory=Parameters)
    guide: Guide = field(default_factory=Guide)
    cells: CellChoice = field(default_factory=CellChoice)
    wording: Wording = field(default_factory=Wording)
    busy: bool = False
    cancelling: bool = False
    held: bool = False
    waiting: int = 0
    slides: int = 0
    missing: int = 0
    slides_paused: bool = False
    progress: WorkProgress = field(default_factory=WorkProgress)
    status: Status = field(default_factory=Status)


class Eta:
    """Seconds left of a stage, from how fast it went so far.

    Parameters
    ----------
    clock
        Seconds, increasing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage = ""
        self._start = (0.0, 0.0)

    def update(self, stage: str, fraction: float | None) -> float | None:
        """Seconds left, or ``None`` while a guess would be worth nothing."""
        if fraction is None:
            self._stage = ""
            return None
        now = self._clock()
        if stage != self._stage or fraction < self._start[1]:
            self._stage, self._start = stage, (now, fraction)
            return None
        elapsed, gained = now - self._start[0], fraction - self._start[1]
        if gained <= 0 or elapsed < 0.5:
            return None
        return elapsed / gained * max(0.0, 1 - fraction)


def duration(seconds: float) -> str:
    """``"8 s"``, ``"2 min 05 s"`` or ``"1 h 10 min"``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
