"""The stages that give a model words or numbers: a text encoder for all domains, priors for each.

They build on finished models: the one that was bundled in this run's folder, else the one that is
installed. A prior is bound to the very encoder whose fields it makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.models.card import ModelCard, read_card
from napari_ssldiff.models.load import load_encoder
from napari_ssldiff.models.registry import get_card
from napari_ssldiff.text.captions import Captions
from napari_ssldiff.text.columns import Columns
from napari_ssldiff.text.conditions import PriorKind
from napari_ssldiff.text.encoder import TextEncoder, load_text_encoder
from napari_ssldiff.text.facts import fact_names
from napari_ssldiff.text.pictures import THUMB
from napari_ssldiff.training import meanings as m
from napari_ssldiff.training import prior as prior_room
from napari_ssldiff.training import text as text_room
from napari_ssldiff.training.config import prior_section
from napari_ssldiff.training.kept import changed, digest, note_of, stage_files, write_note
from napari_ssldiff.training.loop import Schedule
from napari_ssldiff.training.numbers import (
    ImageNumbers,
    keep_condition,
    kept_condition,
    read_numbers,
)
from napari_ssldiff.training.prepared import Prepared
from napari_ssldiff.training.runtime import Runtime

#: Stages of this module, in their order.
WORDED = ("text", "prior")


@lru_cache(maxsize=1)
def _loaded(name: str) -> TextEncoder:
    """Another text encoder: large ones take seconds, and are asked for more than once."""
    return load_text_encoder(name)


@dataclass(frozen=True)
class Worded:
    """The text stages of a run.

    Parameters
    ----------
    run
        Its configuration, images and folder.
    """

    run: Prepared

    def card(self, domain: str) -> ModelCard:
        """The finished pixel model of a domain.

        Raises
        ------
        ModelError
            If it is neither bundled in this run's folder nor installed.
        """
        model = str(self.run.config["domains"][domain]["model"])
        own = self.run.output / "bundle" / model / "card.yaml"
        if own.is_file():
            return read_card(own)
        try:
            return get_card(model)
        except ModelError:
            raise ModelError(
                f"words are given to a finished model, and {model} is neither installed nor in "
                f"{own.parent}: run `napari-ssldiff train bundle DATA -o {self.run.output}` first"
            ) from None

    def subject(self, domain: str) -> str:
        """What captions of a domain speak of: ``"histology"`` or ``"remote sensing"``."""
        return str(self.run.config["domains"][domain]["card"]["domain"])

    @cached_property
    def subjects(self) -> list[str]:
        """Of all domains, each once."""
        return list(dict.fromkeys(self.subject(d) for d in self.run.domains))

    def kind(self, domain: str) -> PriorKind:
        """What the prior of a domain is conditioned on, as the configuration has it now."""
        return "csv" if prior_section(self.run.config, domain).get("csv") else "text"

    def prior_folder(self, domain: str, kind: PriorKind) -> Path:
        """Where the prior of that kind lies, whatever the configuration says now."""
        return self.run.output / f"{'numbers' if kind == 'csv' else 'prior'}-{domain}"

    def prior_config(self, domain: str, kind: PriorKind | None = None) -> dict[str, Any]:
        """The section ``prior`` as it holds for one domain, with widths of vectors and conditions.

        Parameters
        ----------
        kind
            By default what the configuration says.
        """
        if (kind or self.kind(domain)) == "csv":
            condition = self.columns(domain).width
        elif self.encoder_name(domain) is None:
            condition = int(self.run.config["text"]["width"])
        else:
            condition = self.text_encoder(domain).width
        width = int(self.card(domain).parts["encoder"]["width"])
        return {**prior_section(self.run.config, domain), "width": width, "condition": condition}

    def columns(self, domain: str) -> Columns:
        """Of a prior of numbers: those it was begun with, else those of the table."""
        folder = self.prior_folder(domain, "csv")
        if stage_files(folder):
            return Columns.from_list(kept_condition(folder)["columns"])
        return self.numbers(domain).columns

    def numbers(self, domain: str) -> ImageNumbers:
        """The table of a domain, matched with its images.

        Raises
        ------
        InputError
            If it cannot be used.
        """
        images = self.run.images
        path = images.paths[0] / str(prior_section(self.run.config, domain)["csv"])
        train, held = (
            [s.name for entry in images.sources(domain, "pixels", part) for s in entry]
            for part in ("train", "validation")
        )
        return read_numbers(path, train, held, self.run.log)

    def condition(self, domain: str) -> dict[str, Any]:
        """What a prior is to be conditioned on, as its card says it."""
        if self.kind(domain) == "csv":
            return {"kind": "csv", "columns": self.numbers(domain).columns.to_list()}
        name = self.encoder_name(domain)
        if name is None:
            return {"kind": "text"}
        return {"kind": "text", "encoder": name, "sha256": self.text_encoder(domain).digest}

    def meanings(self, domain: str, part: str = "train", runtime: Runtime | None = None) -> m.Areas:
        """Fields, facts and small pictures of a domain's images, kept in the output folder."""
        tail = "" if part == "train" else f"-{part}"
        path = self.run.output / f"meanings-{domain}{tail}.safetensors"
        card, config = self.card(domain), self.prior_config(domain)
        section = self.run.config["domains"][domain]
        origin = {
            "encoder": digest([card.weights[n] for n in card.parts["encoder"]["weights"]]),
            "configuration": digest(
                [config[k] for k in ("seed", "versions")]
                + [section[k] for k in ("resolution", "unit", "augment", "pixels")]
            ),
            "layout": "with sources; stains apart",
            "facts": digest(list(fact_names(self.subject(domain)))),
            **self.run.image_origin(domain, part),
        }
        if path.is_file() and note_of(path).is_file() and not changed(path, origin):
            return m.Areas(m.load(path))
        sets = self.run.images.sets(domain, "pixels", part, card.cell * 2)
        if not sets:
            return m.Areas([])
        versions = int(config["versions"]) if part == "train" else 1
        self.run.log(f"embedding the images of {domain} ({part})")
        encoder = load_encoder(card, torch.device("cpu"))
        entries = section["pixels"]
        made = list(
            m.prepare(
                sets, section["augment"], encoder.network, card.cell, self.subject(domain),
                versions, m.label_table(self.run.images.paths[0], entries),
                int(config["seed"]), runtime,
            )
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        note_of(path).unlink(missing_ok=True)
        m.save(path, made)
        write_note(path, origin)
        return m.Areas(made)

    def captions(self, domain: str, runtime: Runtime | None = None) -> Captions:
        """Captions of a domain's areas; quantiles are those of its training images."""
        cells = int(self.run.config["text"]["cells"])
        found = self.meanings(domain, "train", runtime)
        return m.captions_of(self.subject(domain), found, min(cells, found.largest))

    def corpus(self, part: str, runtime: Runtime | None = None) -> dict[str, Any]:
        """By subject: areas, and the captions of the training images."""
        pairs = {
            self.subject(d): (self.meanings(d, part, runtime), self.captions(d, runtime))
            for d in self.run.domains
        }
        return {k: pair for k, pair in pairs.items() if len(pair[0])}

    def trained(self) -> tuple[Any, text_room.Words]:
        """The text encoder that ``train text`` made, and its words.

        Raises
        ------
        InputError
            If it was not trained.
        """
        folder = self.run.folder("text")
        if not stage_files(folder):
            raise InputError(
                f"prior needs {folder}, which holds no trained network: run `napari-ssldiff train "
                f"text DATA -o {self.run.output}` first, or name another text encoder by "
                "--text-encoder"
            )
        return text_room.result(self.subjects, self.run.config["text"], folder)

    def encoder_name(self, domain: str) -> str | None:
        """The open_clip model that a prior of words is trained with; ``None``: our own."""
        return prior_section(self.run.config, domain).get("text_encoder")

    def text_encoder(self, domain: str) -> TextEncoder:
        """The text encoder of a prior of words.

        Raises
        ------
        InputError, ModelError
            If it was not trained, or cannot be loaded.
        """
        name = self.encoder_name(domain)
        if name is not None:
            return _loaded(name)
        return text_room.encoder_of(*self.trained(), self.run.config["text"])

    def start(
        self,
        stage: str,
        domain: str | None,
        plan: Schedule,
        folder: Path,
        runtime: Runtime,
        rehearsal: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Train one part of a stage in ``folder``.

        Parameters
        ----------
        rehearsal
            On noise and without validation, for what takes as long as the real thing.
        """
        if stage == "text":
            corpus = self._noise() if rehearsal else self.corpus("train", runtime)
            held = {} if rehearsal else self.corpus("validation", runtime)
            yield from text_room.train(
                corpus, self.run.config["text"], plan, folder,
                runtime=runtime, validation=held or None,
            )  # fmt: skip
            return
        assert domain is not None
        config = self.prior_config(domain)
        if rehearsal:
            found, apart = self._noise()[self.subject(domain)][0], None
        else:
            found = self.meanings(domain, "train", runtime)
            apart = self.meanings(domain, "validation", runtime)
        conditioner = self._conditioning(domain, runtime, rehearsal)
        keep_condition(folder, self.condition(domain))
        yield from prior_room.train(
            found, conditioner, config, plan, folder, runtime=runtime, validation=apart
        )

    def _conditioning(
        self, domain: str, runtime: Runtime, rehearsal: bool
    ) -> prior_room.Conditioning:
        if self.kind(domain) == "csv":
            return self.numbers(domain)
        config, encoder = prior_section(self.run.config, domain), self.text_encoder(domain)
        encoder.model.to(runtime.resolve().device)
        noise = self._noise()[self.subject(domain)][1] if rehearsal else None
        captions = noise or self.captions(domain, runtime)
        return prior_room.Conditioner(
            encoder, captions, float(config["said"]), float(config["noise"])
        )

    def _noise(self) -> dict[str, tuple[m.Areas, Captions]]:
        """A corpus of the right shapes and no content."""
        rng, made = np.random.default_rng(0), {}
        for domain in self.run.domains:
            window = int(prior_section(self.run.config, domain)["window"])
            subject, side = self.subject(domain), 2 * window
            width = int(self.card(domain).parts["encoder"]["width"])
            vectors = rng.normal(size=(side, side, width)).astype(np.float32)
            facts = rng.random((side, side, len(fact_names(subject)))).astype(np.float32)
            edge = side * THUMB
            picture = rng.integers(0, 256, (edge, edge, 3), np.uint8)
            found = m.Areas([m.Meaning(vectors, facts, picture)])
            made[subject] = (found, m.captions_of(subject, found, side // 2, 64))
        return made
