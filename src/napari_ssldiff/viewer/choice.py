"""Which model is taken for a scene, and of several magnifications which one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_ssldiff.errors import InputError, SSLDiffError
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.text.captions import heard
from napari_ssldiff.text.conditions import Pictures
from napari_ssldiff.viewer.backend import Backend, Card
from napari_ssldiff.viewer.magnification import families, family_of, looked_at, looks
from napari_ssldiff.viewer.session import Session, Status, Wording
from napari_ssldiff.viewer.view import camera_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image


class ModelChoice:
    """The models at hand and the session's choice among them. Main thread only.

    Nothing here loads a model: cards say all that is asked for.
    """

    #: There are other models than before.
    changed = Signal()
    #: The camera has zoomed; call :meth:`look` when that suits.
    zoomed = Signal()

    def __init__(self, viewer: ViewerModel, backend: Backend, session: Session) -> None:
        self._viewer, self._backend, self._session = viewer, backend, session
        self._source: Image | None = None
        self._scene: Scene | None = None
        self.cards: Sequence[Card] = ()
        self._load()
        camera_of(viewer).events.zoom.connect(self._on_zoom)

    def card(self, model_id: str) -> Card | None:
        """The card of a model."""
        return next((card for card in self.cards if card.id == model_id), None)

    @property
    def taken(self) -> Card:
        """The card of the model that work begins with now: the view is looked at once more.

        Raises
        ------
        InputError
            If there is none.
        """
        self.look()
        card = self.card(self._session.model_id)
        if card is None:
            raise InputError("there is no model: train one with 'napari-ssldiff train'")
        return card

    def attach(self, source: Image | None, scene: Scene | None) -> None:
        """Turn to a scene; its nearest model is chosen."""
        self._source, self._scene = source, scene
        if scene is not None and self.cards:
            self.take(self._backend.choose(scene).id)
        else:
            self.look()

    def take(self, model_id: str, variant: str | None = None) -> None:
        """Choose a model by its id, with or without a variant behind it.

        Parameters
        ----------
        variant
            The magnification, nothing for the one that suits the view. ``None``: as it is for the
            model that is chosen already, nothing for another.
        """
        if variant is None:
            same = family_of(model_id) == family_of(self._session.model_id)
            variant = self._session.variant if same else ""
        self._session.variant = variant
        found = self.card(model_id) or families(self.cards).get(model_id)
        self._session.model_id = "" if found is None else found.id
        self.look()

    def suit(self, wording: Wording) -> None:
        """Choose a model for what is asked for, where neither a scene nor the user has chosen one:
        of those that take words the one whose captions know most of them, or else the first.
        """
        if self.card(self._session.model_id) is not None or not self.cards:
            return
        if isinstance(wording.condition, Pictures) and wording.condition.references:
            return self.take(self._backend.choose(wording.condition.references[0].scene).id)
        worded = [card for card in self.cards if self._backend.choices(card.id).words]
        text = wording.prompt if wording.condition is None else ""
        self.take(max(worded or self.cards, key=lambda card: heard(card.domain, text)).id)

    def fix(self, variant: str) -> None:
        """Choose a magnification for good; nothing for the one that suits the view."""
        self._session.variant = variant
        self.look()

    def look(self) -> None:
        """Notice how closely the user looks. Cheap: reads no file."""
        looks(self._session, self.cards, looked_at(self._viewer, self._source, self._scene))

    def refresh(self) -> None:
        """Look again which models there are; one that is gone is no longer chosen."""
        self._load()
        if self.card(self._session.model_id) is None:
            at_hand = self._scene is not None and bool(self.cards)
            self.take(self._backend.choose(self._scene).id if at_hand else "")  # type: ignore[arg-type]
        self.changed.emit()

    def close(self) -> None:
        """Stop listening. Safe to call twice."""
        camera_of(self._viewer).events.zoom.disconnect(self._on_zoom)

    def _load(self) -> None:
        try:
            self.cards = list(self._backend.models())
        except SSLDiffError as error:
            self._session.status = Status(f"{str(error)[:1].upper()}{str(error)[1:]}", "error")

    def _on_zoom(self, event: Any = None) -> None:
        self.zoomed.emit()
