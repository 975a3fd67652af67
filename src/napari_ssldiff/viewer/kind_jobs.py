"""Kinds of cells that the worker makes: of words, of another region, of two descriptions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_ssldiff.embeddings.edit import average, direction, stretched, typical
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.geometry import Region
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.scenes.thumbnail import thumbnail
from napari_ssldiff.viewer.field_job import PICTURE
from napari_ssldiff.viewer.jobs import Post, Reporter, load_model, next_id
from napari_ssldiff.viewer.kinds import Content, Kind, Shift
from napari_ssldiff.viewer.messages import KindFound
from napari_ssldiff.viewer.session import Parameters
from napari_ssldiff.viewer.worker import Engine, JobControl

if TYPE_CHECKING:
    from napari_ssldiff.synthesis.imagine import Imagined, Prompt


@dataclass(frozen=True, eq=False)
class WordsJob:
    """The kind of cell that a prompt asks for: the mean direction of a small field made of them.

    With two prompts it is the way from what the second describes to what the first does.

    Parameters
    ----------
    scene, region
        Where it will be painted.
    prompt
        What for.
    away
        Those to move away from.
    angle
        How far to move, in radians, where there are two.
    """

    scene: Scene
    region: Region
    model_id: str
    device: str
    parameters: Parameters
    prompt: Prompt
    away: Prompt | None = None
    angle: float = 0.0
    id: int = field(default_factory=next_id)

    def run(self, engine: Engine, control: JobControl, post: Post) -> str:
        """Load, imagine, average."""
        report = Reporter(self.id, post)
        bundle, token = load_model(self, engine, control, report)
        report("Reading the words")
        made: list[Imagined] = [
            engine.backend.imagine(
                self.scene, self.region, bundle, prompt, self.parameters,
                progress=report, cancel=token,
            ) for prompt in (self.prompt, self.away) if prompt is not None
        ]  # fmt: skip
        post(KindFound(self.id, self._kind(made)))
        notes = dict.fromkeys(note for imagined in made for note in imagined.notes)
        told = "".join(f" {note[:1].upper()}{note[1:]}." for note in notes)
        wanted = self.prompt.root.told
        if self.away is not None:
            return f"Cells move from {self.away.root.told!r} towards {wanted!r}.{told}"
        return f"{wanted!r} can be painted now.{told}"

    def _kind(self, made: Sequence[Imagined]) -> Kind:
        (imagined, *others), records = made, [json.loads(one.record) for one in made]
        vector, encoder = average(imagined.field), imagined.field.encoder
        if self.away is None:
            return Kind(vector, self.prompt.root.told, encoder, facts=records[0])
        along = direction(imagined.field.vectors, others[0].field.vectors)
        return Kind(
            vector, f"{self.away.root.told} → {self.prompt.root.told}", encoder,
            goal=Shift(along, self.angle), op="move",
            facts={"angle": round(self.angle, 4), "towards": records[0], "away": records[1]},
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class RegionJob:
    """The cells of another region, to be mixed into the field that is open.

    Parameters
    ----------
    scene, region
        Whose cells.
    number
        Which region it is, for its name.
    opened
        The field that is open.
    """

    scene: Scene
    region: Region
    number: int
    model_id: str
    device: str
    opened: EmbeddingField
    id: int = field(default_factory=next_id)

    def run(self, engine: Engine, control: JobControl, post: Post) -> str:
        """Load, embed, stretch."""
        report = Reporter(self.id, post)
        bundle, token = load_model(self, engine, control, report)
        report("Reading the region")
        made = engine.backend.embed(self.scene, self.region, bundle, progress=report, cancel=token)
        b = self.region.bounds
        kind = Kind(
            typical(made),
            f"region {self.number}",
            made.encoder,
            thumbnail(self.scene, (b.y, b.x), (b.h, b.w), PICTURE),
            Content(stretched(made, self.opened).vectors),
            "mix",
            {"scene": self.scene.path, "region": self.region.to_list(), "field": made.digest},
        )
        post(KindFound(self.id, kind, self.opened.digest))
        rows, columns = made.shape
        return f"Mixing with region {self.number}, {rows} × {columns} cells: move the amount."
