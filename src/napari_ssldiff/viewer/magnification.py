"""Of a model with several magnifications, the one that suits what the user looks at.

Each magnification is a model of its own, with an id of two parts: ``zoomldm-brca@1f2e:5x``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari_ssldiff.models.registry import variant_for
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.viewer.session import Looked, Session
from napari_ssldiff.viewer.view import pixels_on_screen

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_ssldiff.viewer.backend import Card

_SYMBOLS = {"micrometer": "µm/px", "meter": "m/px"}


def family_of(model_id: str) -> str:
    """An id without its variant."""
    return model_id.partition(":")[0]


def variant_of(model_id: str) -> str:
    """The variant of an id; nothing where it has none."""
    return model_id.partition(":")[2]


def family_name(card: Card) -> str:
    """A card's name without its variant."""
    variant = variant_of(card.id)
    return card.name.removesuffix(f", {variant}") if variant else card.name


def families(cards: Sequence[Card]) -> dict[str, Card]:
    """The first card of every model, in their order, by the id without variant."""
    found: dict[str, Card] = {}
    for card in cards:
        found.setdefault(family_of(card.id), card)
    return found


def variants(cards: Sequence[Card], model_id: str) -> list[Card]:
    """The magnifications of a model, in their order; none where it has one."""
    own = [card for card in cards if family_of(card.id) == family_of(model_id)]
    return own if len(own) > 1 else []


def length(value: float, unit: str) -> str:
    """``"0.5 µm/px"``."""
    return f"{value:.3g} {_SYMBOLS.get(unit, f'{unit}/px')}"


def looked_at(viewer: ViewerModel, source: Image | None, scene: Scene | None) -> Looked | None:
    """The length of a screen pixel in the scene; ``None`` where its pixels have none."""
    if source is None or scene is None:
        return None
    size = scene.encoder_pixel_size
    if size.unit == "pixel":
        return None
    y, x = pixels_on_screen(viewer, source)
    # The finer of both axes: what is seen along it must not be lost.
    resolution = min(max(y, 1.0) * size.y, max(x, 1.0) * size.x)
    return Looked(float(f"{resolution:.3g}"), size.unit)  # three digits: fewer words to change


def looks(session: Session, cards: Sequence[Card], looked: Looked | None) -> None:
    """Bring a session's model to the magnification that was chosen, or that is nearest.

    Reads and loads nothing. A model of one magnification stays; so does the one of several where
    the view says nothing in its unit, unless none is named yet: then it is the finest.
    """
    session.looked = looked
    own = variants(cards, session.model_id)
    if not own:
        return
    chosen = [card for card in own if variant_of(card.id) == session.variant]
    if session.variant and chosen:
        session.model_id = chosen[0].id
    elif looked is not None and looked.unit == own[0].unit:
        session.model_id = variant_for(own, looked.resolution).id
    elif looked is None:
        session.model_id = min(own, key=lambda card: card.resolution).id


def fits(session: Session, model_id: str) -> bool:
    """Whether a model is the chosen one, or a magnification of it while the view decides."""
    same = family_of(session.model_id) == family_of(model_id)
    return session.model_id == model_id or (same and not session.variant)


def told_of(session: Session, cards: Sequence[Card]) -> str:
    """In words, which magnification is taken and why; nothing for a model of one."""
    own = variants(cards, session.model_id)
    card = next((card for card in own if card.id == session.model_id), None)
    if card is None:
        return ""
    looked = session.looked
    if looked is None:
        return f"{variant_of(card.id)}: the image has no pixel size"
    shown = length(looked.resolution, looked.unit)
    if session.variant:
        return f"you look at {shown}"
    return f"{variant_of(card.id)}: nearest to the view's {shown}"
