"""What a field shall be like: words, a class, pictures, or numbers.

A prior is conditioned on one kind of vector, ``"text"`` (vectors of a text encoder, of either of
its sides) or ``"csv"`` (numbers of a table's columns); each condition's ``needs`` says which. How a
condition becomes a vector is :func:`napari_ssldiff.synthesis.meaning.meaning`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from napari_ssldiff.geometry import Region
from napari_ssldiff.scenes.scene import Scene

PriorKind = Literal["text", "csv"]


@dataclass(frozen=True)
class Text:
    """A description in words; it may place things ("A beside B")."""

    prompt: str
    kind: ClassVar[str] = "text"
    needs: ClassVar[PriorKind] = "text"

    @property
    def told(self) -> str:
        """A short name."""
        return self.prompt


@dataclass(frozen=True)
class ClassLabel:
    """One of the classes that the captions of a prior's domain know."""

    name: str
    kind: ClassVar[str] = "class"
    needs: ClassVar[PriorKind] = "text"

    @property
    def told(self) -> str:
        """A short name."""
        return self.name


@dataclass(frozen=True, eq=False)
class Reference:
    """A region of a scene, in level-0 pixels, read when it is needed."""

    scene: Scene
    region: Region


@dataclass(frozen=True, eq=False)
class Pictures:
    """What regions of other images show."""

    references: tuple[Reference, ...]
    kind: ClassVar[str] = "pictures"
    needs: ClassVar[PriorKind] = "text"

    @property
    def told(self) -> str:
        """A short name."""
        names = dict.fromkeys(one.scene.name for one in self.references)
        return f"like {', '.join(names)}"


@dataclass(frozen=True)
class Numbers:
    """Values of a table's columns, by name; columns left out are unknown."""

    values: Mapping[str, float]
    kind: ClassVar[str] = "numbers"
    needs: ClassVar[PriorKind] = "csv"

    @property
    def told(self) -> str:
        """A short name."""
        return ", ".join(f"{name} {value:g}" for name, value in self.values.items())


Condition = Text | ClassLabel | Pictures | Numbers
