"""Where prompts are synthesised: regions, a whole scene, or a new canvas; and with which."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Region
from napari_ssldiff.scenes.blank import blank_scene
from napari_ssldiff.scenes.lengths import Length
from napari_ssldiff.scenes.scene import PixelSize, Scene
from napari_ssldiff.synthesis.imagine import Prompt, RegionPrompt
from napari_ssldiff.text.conditions import Pictures, Reference
from napari_ssldiff.viewer.reader import layer_data
from napari_ssldiff.viewer.session import Session

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_ssldiff.viewer.backend import Card
    from napari_ssldiff.viewer.region_book import RegionBook

Target = Literal["regions", "scene", "canvas"]
#: Largest edge of a new canvas, in pixels of the model.
LARGEST = 2**16
_canvases = itertools.count(1)


def new_canvas(card: Card, width: Length, height: Length) -> Image:
    """An empty image layer at a model's resolution.

    Raises
    ------
    InputError
        If a side is 0 or beyond :data:`LARGEST`, or of a unit that is not the model's.
    """
    from napari.layers import Image

    size = PixelSize(card.resolution, card.resolution, card.unit)
    shape = height.pixels(size, "the height"), width.pixels(size, "the width")
    if min(shape) < 1 or max(shape) > LARGEST:
        raise InputError(
            f"a canvas has 1 to {LARGEST} pixels of the model a side, got {shape[1]} × {shape[0]}"
        )
    name = f"Canvas {next(_canvases)}"
    # The path tells the regions of one canvas from those of another.
    scene = blank_scene(shape, size, name, path=name)
    levels, attributes, _ = layer_data(scene)
    return Image(levels, **attributes)


def references(regions: RegionBook, scene: Scene | None) -> Pictures:
    """The chosen regions of a scene, as what a field shall be like.

    Raises
    ------
    InputError
        If there is none, or a chosen one is of no use.
    """
    if scene is None:
        raise InputError("there is no scene to take regions of: open an image first")
    return Pictures(tuple(Reference(scene, region) for region in regions.chosen()))


def prompt_of(session: Session, text: str = "", parts: Sequence[RegionPrompt] = ()) -> Prompt:
    """A prompt of the session's: its words or another condition, or ``text`` in their place.

    Raises
    ------
    InputError
        If there is neither.
    """
    words = session.wording
    condition = None if text else words.condition
    text = text or (words.prompt if condition is None else "")
    if condition is None and not text.strip():
        raise InputError("the prompt is empty: describe what the image shall show")
    return Prompt(
        text, words.negative, tuple(parts), seed=session.parameters.seed, guidance=words.guidance,
        feather=words.feather, condition=condition,
    )  # fmt: skip


def prompts_for(
    target: Target, session: Session, regions: RegionBook, scene: Scene
) -> list[tuple[Region, Prompt]]:
    """What to fill with which prompt.

    Regions are filled one by one, each by its own prompt or else the root's; where chosen ones
    touch, each fades into what the other says. A scene or canvas is filled as one, with the root's
    prompt and with the regions' own inside them.

    Raises
    ------
    InputError
        If there is no prompt, no region where regions are to be filled, or a shape with a prompt
        is no region.
    """
    rows = regions.rows()
    own = [(row.region, row.prompt) for row in rows if row.region is not None]
    if target == "regions":
        by_region = {region.vertices: text for region, text in own}
        chosen = [(r, by_region[r.vertices]) for r in regions.chosen()]
        return [
            (region, prompt_of(session, text, _beside(chosen, i, session)))
            for i, (region, text) in enumerate(chosen)
        ]
    for row in rows:
        if row.region is None and row.prompt:
            raise InputError(
                f"region {row.index + 1} cannot show {row.prompt!r}: {row.text}; draw it again, or "
                "delete it"
            )
    parts = [RegionPrompt(region, text) for region, text in own if text]
    return [(Region.from_box(scene.box), prompt_of(session, parts=parts))]


def _beside(
    chosen: Sequence[tuple[Region, str]], index: int, session: Session
) -> list[RegionPrompt]:
    """What the other regions that are filled say, of those that touch one; words alone can."""
    region, own = chosen[index]
    bounds, parts, root = region.bounds.grow(1), [], session.wording.condition
    if not own and root is not None and root.needs != "text":
        return []  # a prior of numbers hears no words
    plain = session.wording.prompt if root is None else ""  # else it is no words
    for i, (other, text) in enumerate(chosen):
        said = text or plain
        if i == index or not said or said == (own or plain):
            continue
        if other.bounds.intersect(bounds).area:
            # Filled later, it lies over this one; what was filled before lies below.
            parts.append(RegionPrompt(other, said, True, region if i < index else None))
    return parts
