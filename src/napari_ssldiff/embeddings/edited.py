"""A field with what was done to it, step by step, and the way back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import InputError


@dataclass(frozen=True)
class EditedField:
    """A field and the edits that have made it.

    Parameters
    ----------
    field
        As it is now.
    before
        The same before the last edit; ``None`` where there was none.
    step
        JSON on the last edit; ``""`` where there was none.
    origin
        How the field came about before any edit, as JSON objects, the oldest first.
    """

    field: EmbeddingField
    before: EditedField | None = None
    step: str = ""
    origin: tuple[str, ...] = ()

    def then(self, field: EmbeddingField, op: str, **facts: Any) -> EditedField:
        """The field after one more edit.

        Parameters
        ----------
        field
            The result, in the same frame.
        op, facts
            What was done, as JSON can say it.

        Raises
        ------
        InputError
            If the result lies elsewhere or is of another encoder: that is no edit.
        """
        if frame_of(field) != frame_of(self.field):
            raise InputError("an edit keeps a field's place, cells and encoder; open the other one")
        step = json.dumps({"made": "edit", "op": op, **facts})
        return EditedField(field, self, step, self.origin)

    def undone(self) -> EditedField:
        """The field before the last edit, bit for bit.

        Raises
        ------
        InputError
            If there was none.
        """
        if self.before is None:
            raise InputError("there is nothing to undo")
        return self.before

    @property
    def history(self) -> tuple[str, ...]:
        """JSON objects, its origin and one per edit, the oldest first: a request's ``history``."""
        return self.origin if self.before is None else (*self.before.history, self.step)


def frame_of(field: EmbeddingField) -> tuple[Any, ...]:
    """What two fields must share for one to take the other's place."""
    return (
        field.shape, field.width, field.origin, field.cell,
        field.encoder, field.resolution, field.unit,
    )  # fmt: skip


def changed_cells(a: EmbeddingField, b: EmbeddingField) -> NDArray[np.bool_]:
    """``(rows, columns)``: where two fields of one frame differ."""
    return np.asarray((a.vectors != b.vectors).any(-1))
