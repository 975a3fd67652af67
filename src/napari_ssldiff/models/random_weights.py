"""A model of a card's shape with random weights: what it costs is real, what it makes is not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.models.card import ModelCard, read_card
from napari_ssldiff.models.entries import catalogue
from napari_ssldiff.models.load import ModelBundle, assemble, resolve_device
from napari_ssldiff.models.memory import MemoryOptions
from napari_ssldiff.models.resolve import cards_of

#: Cards without weights, for models that are too large or not ours to bundle.
SHAPES = Path(__file__).parent / "shapes"


def shape_card(config: str) -> ModelCard:
    """A card by the name of a packaged shape or of a model in the catalogue, or by its path.

    Of a model with variants it is the first, or the one behind a colon (``zoomldm-brca:10x``). A
    path may be that of a card or of its folder.

    Raises
    ------
    InputError
        If there is none.
    ModelError
        If it is not a card.
    """
    path = Path(config)
    for candidate in (SHAPES / f"{config}.yaml", path / "card.yaml", path):
        if candidate.is_file():
            return read_card(candidate)
    shapes = sorted(p.stem for p in SHAPES.glob("*.yaml"))
    models = {name: entry for name, entry in catalogue().items() if entry.kind == "model"}
    name = config.partition(":")[0]
    if name in models:
        cards = {card.id: card for card in cards_of(models[name])}
        if config in (name, *cards):
            return cards.get(config, next(iter(cards.values())))
        shapes, models = list(cards), {}
    known = ", ".join([*shapes, *models])
    raise InputError(f"no card at {config!r}: give a card.yaml, its folder, or one of {known}")


def has_random_weights(card: ModelCard) -> bool:
    """Whether :func:`random_bundle` made this model."""
    return bool(card.extra.get("random_weights"))


def _bare(part: Any) -> Any:
    if not (isinstance(part, dict) and "weights" in part):
        return part
    # A component that is not installed is as good as any without weights.
    return {**{key: value for key, value in part.items() if key != "absent"}, "weights": []}


def random_bundle(
    card: ModelCard,
    device: str = "auto",
    seed: int = 0,
    options: MemoryOptions | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> ModelBundle:
    """A card's model with its networks as they are before training; no weight file is read.

    Its id ends in ``-random``. A student is left out: a draft then runs on the network itself,
    which costs the same. ``options`` and ``tell`` are
    :func:`~napari_ssldiff.models.load.load_bundle`'s.

    Raises
    ------
    ModelError
        If the device is not there, the card describes no model, or its encoder is a folder of
        weights.
    """
    where = resolve_device(device)
    if card.parts["encoder"].get("library") != "timm":
        raise ModelError(
            f"the encoder of {card.id} cannot be made without weights: its card must name a timm "
            "architecture"
        )
    parts = {name: _bare(part) for name, part in card.parts.items() if name != "student"}
    # Other weights, hence another id and another hash than the trained model's.
    own = replace(
        card, id=f"{card.id}-random", parts=parts, weights={"random": str(seed)},
        extra={**card.extra, "random_weights": True},
    )  # fmt: skip
    devices = [where] if where.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return assemble(
            own, where, fill=lambda card, module, names: None, options=options, tell=tell,
            making=nullcontext,
        )  # fmt: skip
