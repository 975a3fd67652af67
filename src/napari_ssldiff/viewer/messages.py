"""What the worker tells the main thread. Plain data, so that a process could send it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.geometry import Box, Region


@dataclass(frozen=True)
class JobStarted:
    """The worker has taken up ``job``."""

    job: int


@dataclass(frozen=True)
class DevicesFound:
    """Devices of this machine, known once torch is loaded."""

    devices: tuple[str, ...]


@dataclass(frozen=True)
class JobProgress:
    """Where a job stands: the stage in words and its part done, in [0, 1] or unknown."""

    job: int
    stage: str
    fraction: float | None = None


@dataclass(frozen=True)
class JobPrepared:
    """The request is complete; ``provenance`` is what its pixels will carry, ``notes`` are lines
    on how words were read."""

    job: int
    provenance: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobPreview:
    """``region`` as the sampler sees it now: ``(h, w, 3)`` uint8 over ``box``."""

    job: int
    box: Box
    pixels: NDArray[np.uint8]
    region: Region


@dataclass(frozen=True)
class JobPainted:
    """Finished pixels are in the overlay's store; ``box`` in level-0 pixels."""

    job: int
    box: Box


@dataclass(frozen=True)
class PatchDone:
    """One of the regions that a job makes one after another is finished."""

    job: int


@dataclass(frozen=True)
class JobDone:
    """The job is finished; ``text`` says what came of it."""

    job: int
    text: str


@dataclass(frozen=True)
class JobCancelled:
    """The user stopped the job."""

    job: int
    text: str


@dataclass(frozen=True)
class JobFailed:
    """The job broke; ``text`` is one line for the user."""

    job: int
    text: str


@dataclass(frozen=True)
class SlideOpened:
    """An endless slide is there to be shown; ``slide`` is a
    :class:`~napari_ssldiff.viewer.endless.EndlessSlide`."""

    job: int
    slide: Any


@dataclass(frozen=True)
class FieldOpened:
    """A region's embeddings are there to be looked at; ``opened`` is an
    :class:`~napari_ssldiff.viewer.field_job.OpenedField`."""

    job: int
    opened: Any


@dataclass(frozen=True)
class KindFound:
    """Words or a region have become a kind of cell; ``kind`` is a
    :class:`~napari_ssldiff.viewer.kinds.Kind`, ``of`` the digest of the field that it was made for;
    nothing where it is one of every field."""

    job: int
    kind: Any
    of: str = ""


@dataclass(frozen=True)
class ColoursFound:
    """Colours of an encoder are there; ``palette`` is a
    :class:`~napari_ssldiff.embeddings.colours.Palette`."""

    job: int
    encoder: str
    palette: Any


@dataclass(frozen=True)
class PicturesRead:
    """The pixels of real cells like ``of``, a :class:`~napari_ssldiff.viewer.pointing.Pointed`, as
    far as they could be read, and why not further. No job's message."""

    job: int
    of: Any
    pictures: tuple[Any, ...]
    problem: str = ""


@dataclass(frozen=True)
class NearFound:
    """Cells of a data set most like one of the field's; ``found`` is a
    :class:`~napari_ssldiff.viewer.lookup.Elsewhere`. No job's message."""

    job: int
    found: Any


@dataclass(frozen=True)
class TileMade:
    """A tile of an endless slide was made; ``box`` in its level-0 pixels."""

    chore: int
    box: Box


@dataclass(frozen=True)
class ChoreFailed:
    """A chore broke and is not served any more; ``text`` is one line for the user."""

    chore: int
    text: str


Message: TypeAlias = (
    JobStarted
    | DevicesFound
    | JobProgress
    | JobPrepared
    | JobPreview
    | JobPainted
    | PatchDone
    | JobDone
    | JobCancelled
    | JobFailed
    | SlideOpened
    | FieldOpened
    | KindFound
    | ColoursFound
    | PicturesRead
    | NearFound
    | TileMade
    | ChoreFailed
)
