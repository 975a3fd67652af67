"""From trained text encoder and priors to installable cards and small safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from napari_ssldiff.models.load import encoder_spec
from napari_ssldiff.models.priors import FILE
from napari_ssldiff.models.quantised import quantised
from napari_ssldiff.training import prior, text
from napari_ssldiff.training.bundle import stage_facts, write_weights
from napari_ssldiff.training.kept import stage_files
from napari_ssldiff.training.pipeline import Pipeline
from napari_ssldiff.training.worded import Worded

#: Keys of the section ``prior`` that a card needs to build and run the network.
_KEPT = (
    "window", "width", "channels", "condition", "context", "spatial", "network", "prediction",
    "scheduler",
)  # fmt: skip


def has_priors(pipeline: Pipeline) -> bool:
    """Whether a run's folder holds priors."""
    return any(stage_files(pipeline.folder("prior", d)) for d in pipeline.domains)


def write_priors(pipeline: Pipeline, folder: Path) -> Iterator[Path]:
    """Write text encoder, priors and a card for each; yields the cards' paths.

    The layout is ``shared/text/`` (as open_clip reads it) and ``shared/prior-*.safetensors`` beside
    ``<model id>/prior.yaml``.
    """
    worded, shared = Worded(pipeline), folder / "shared"
    shared.mkdir(parents=True, exist_ok=True)
    model, words = worded.encoder()
    names = text.write(model, words, pipeline.config["text"], shared / "text")
    for domain in pipeline.domains:
        directory = pipeline.folder("prior", domain)
        if not stage_files(directory):
            continue
        config, card = worded.prior_config(domain), worded.card(domain)
        network = prior.result(config, directory)
        own = write_weights(shared, f"prior-{domain}", quantised(network.state_dict()))
        listed = [*own, *(f"text/{name}" for name in names)]
        about = pipeline.config["domains"][domain]["card"]
        made: dict[str, Any] = {
            "id": f"{card.id}-prior",
            "domain": worded.subject(domain),
            "description": f"Fields of embeddings for {card.id}, from descriptions in English.",
            "licence": about["licence"],
            "data": about.get("data", []),
            "encoder": encoder_spec(card, "encoder").id,
            "resolution": card.resolution,
            "unit": card.unit,
            "cell": card.cell,
            "guidance": float(config["guidance"]),
            "config": {k: config[k] for k in _KEPT},
            "text": "../shared/text",
            "training": {
                "text": stage_facts(pipeline.output, "text"),
                "prior": stage_facts(pipeline.output, directory.name),
            },
            "weights": {
                f"../shared/{n}": hashlib.sha256((shared / n).read_bytes()).hexdigest()
                for n in listed
            },
        }
        target = folder / card.id / FILE
        target.parent.mkdir(exist_ok=True)
        target.write_text(yaml.safe_dump(made, sort_keys=False, width=96, allow_unicode=True))
        yield target
