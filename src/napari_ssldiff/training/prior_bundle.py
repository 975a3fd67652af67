"""From trained text encoder and priors to installable cards and small safetensors."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from napari_ssldiff.errors import InputError
from napari_ssldiff.models.load import encoder_spec
from napari_ssldiff.models.priors import FILE
from napari_ssldiff.models.quantised import quantised
from napari_ssldiff.text.conditions import PriorKind
from napari_ssldiff.training import prior, text
from napari_ssldiff.training.bundle import stage_facts, write_weights
from napari_ssldiff.training.kept import stage_files
from napari_ssldiff.training.numbers import kept_condition
from napari_ssldiff.training.pipeline import Pipeline
from napari_ssldiff.training.state import write_tensors
from napari_ssldiff.training.worded import Worded

#: Keys of the section ``prior`` that a card needs to build and run the network.
_KEPT = (
    "window", "width", "channels", "condition", "context", "spatial", "network", "prediction",
    "scheduler",
)  # fmt: skip


_KINDS: tuple[PriorKind, ...] = ("text", "csv")


def has_priors(pipeline: Pipeline) -> bool:
    """Whether a run's folder holds priors."""
    worded = Worded(pipeline)
    return any(stage_files(worded.prior_folder(d, k)) for d in pipeline.domains for k in _KINDS)


def write_priors(pipeline: Pipeline, folder: Path) -> Iterator[Path]:
    """Write text encoders, priors and a card for each; yields the cards' paths.

    The layout is ``shared/text/`` (as open_clip reads it) and ``shared/prior-*.safetensors`` beside
    ``<model id>/prior.yaml``; priors of numbers are ``shared/numbers-*.safetensors`` and
    ``<model id>-numbers/prior.yaml``.
    """
    worded, shared = Worded(pipeline), folder / "shared"
    shared.mkdir(parents=True, exist_ok=True)
    for domain in pipeline.domains:
        for kind in _KINDS:
            if stage_files(worded.prior_folder(domain, kind)):
                yield _write_prior(worded, domain, kind, folder)


def _write_prior(worded: Worded, domain: str, kind: PriorKind, folder: Path) -> Path:
    """One prior and its card."""
    pipeline, shared = worded.run, folder / "shared"
    directory, card = worded.prior_folder(domain, kind), worded.card(domain)
    config, condition = worded.prior_config(domain, kind), kept_condition(directory)
    network = prior.result(config, directory)
    listed = write_weights(shared, directory.name, quantised(network.state_dict()))
    interval = [float(n) for n in config.get("guidance_interval", ())]
    about = pipeline.config["domains"][domain]["card"]
    training = {"prior": stage_facts(pipeline.output, directory.name)}
    if kind == "csv":
        name, source, of = f"{card.id}-numbers", "", "numbers"
    elif "encoder" not in condition:
        name, source, of = f"{card.id}-prior", "../shared/text", "descriptions in English"
        written = text.write(*worded.trained(), pipeline.config["text"], shared / "text")
        listed = [*listed, *(f"text/{n}" for n in written)]
        training["text"] = stage_facts(pipeline.output, "text")
    else:
        name, of = f"{card.id}-prior", f"texts and pictures, by {Path(condition['encoder']).name}"
        source, files = _write_encoder(worded, domain, condition, shared)
        listed = [*listed, *files]
        if files:  # the copy is pinned file by file
            condition = {"kind": "text"}
    made: dict[str, Any] = {
        "id": name,
        "domain": worded.subject(domain),
        "description": f"Fields of embeddings for {card.id}, from {of}.",
        "licence": about["licence"],
        "data": about.get("data", []),
        "encoder": encoder_spec(card, "encoder").id,
        "resolution": card.resolution,
        "unit": card.unit,
        "cell": card.cell,
        "guidance": float(config["guidance"]),
        **({"guidance_interval": interval} if interval else {}),
        "config": {k: config[k] for k in _KEPT},
        **({"text": source} if source else {}),
        **({"condition": condition} if condition != {"kind": "text"} else {}),
        "training": dict(sorted(training.items(), reverse=True)),
        "weights": {
            f"../shared/{n}": hashlib.sha256((shared / n).read_bytes()).hexdigest() for n in listed
        },
    }
    target = folder / (card.id if kind == "text" else name) / FILE
    target.parent.mkdir(exist_ok=True)
    target.write_text(yaml.safe_dump(made, sort_keys=False, width=96, allow_unicode=True))
    return target


def _write_encoder(
    worded: Worded, domain: str, condition: Mapping[str, Any], shared: Path
) -> tuple[str, list[str]]:
    """What a card calls another text encoder, and the files of its copy where it was a folder.

    Hub models are not copied: their licence is their own, and the card has their digest.

    Raises
    ------
    InputError
        If it is no longer the one that the prior was trained with.
    """
    encoder, name = worded.text_encoder(domain), str(condition["encoder"])
    if encoder.digest != condition["sha256"]:
        raise InputError(f"{name} has changed since the prior of {domain} was trained with it")
    source = Path(name)
    if not source.is_dir():
        return name, []
    target = shared / f"text-{source.name}"
    target.mkdir(exist_ok=True)
    plain = [p for p in sorted(source.iterdir()) if p.suffix in (".json", ".txt", ".model")]
    for path in plain:
        shutil.copyfile(path, target / path.name)
    # Written anew rather than copied: whatever it was in, here it is no pickle, and fp16.
    weights = {k: v.detach().clone() for k, v in encoder.model.state_dict().items()}
    write_tensors(
        target / "open_clip_model.safetensors",
        {k: v.half() if v.is_floating_point() else v for k, v in weights.items()},
    )
    files = [*(p.name for p in plain), "open_clip_model.safetensors"]
    return f"../shared/{target.name}", [f"{target.name}/{n}" for n in files]
