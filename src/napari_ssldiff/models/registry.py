"""Which models there are, and which one suits a scene. Imports no torch."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

from napari_ssldiff.cache import cache_dir
from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.models.card import ModelCard, read_card
from napari_ssldiff.scenes.scene import Scene

BUNDLED = Path(__file__).parent / "bundled"


def _folders() -> list[Path]:
    return [BUNDLED, cache_dir() / "models"]


@lru_cache(maxsize=64)
def _read(path: Path, stamp: int) -> ModelCard:
    return read_card(path)


def list_models() -> list[ModelCard]:
    """Cards of all installed models, bundled ones first. A broken card is an error."""
    paths = [p for folder in _folders() for p in sorted(folder.glob("*/card.yaml"))]
    return [_read(p, p.stat().st_mtime_ns) for p in paths]


def get_card(model: str) -> ModelCard:
    """The card with this id, or the one in a folder given by path.

    Raises
    ------
    ModelError
        If there is none.
    """
    cards = {card.id: card for card in list_models()}
    if model in cards:
        return cards[model]
    if (Path(model) / "card.yaml").is_file():
        return read_card(Path(model) / "card.yaml")
    known = ", ".join(cards) or "none installed"
    raise ModelError(f"unknown model {model!r}: known are {known}, or a folder with a card.yaml")


def choose_model(scene: Scene) -> ModelCard:
    """The card nearest to a scene in domain and resolution.

    The unit tells the domain: micrometres are slides, metres and degrees are scenes seen from
    above. Among those the nearest resolution on a log scale wins. A scene without a pixel size
    is taken for histology at the model's own resolution.

    Raises
    ------
    InputError
        If no model has the scene's unit.
    """
    size = scene.encoder_pixel_size
    unit = "micrometer" if size.unit == "pixel" else size.unit
    if scene.crs and size.unit in ("pixel", "degree"):
        unit = "meter"
    fitting = [card for card in list_models() if card.unit == unit]
    if not fitting:
        raise InputError(
            f"no installed model works in {unit}, the unit of {scene.name}: name one with --model"
        )
    if size.unit == "pixel":
        return fitting[0]
    return min(fitting, key=lambda card: abs(math.log(card.resolution / size.y)))
