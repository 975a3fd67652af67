"""Stages of a training run, from a configuration and a data folder to an installable model.

    autoencoder   one for all domains
    encoder       one per domain
    encoder-eval  one for all domains, of another objective, for measurement only
    diffusion     one network, one projection per domain
    bundle        weights as fp16 safetensors, with a card per domain

Stages run in that order into one folder; each goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.errors import InputError
from napari_ssldiff.training import autoencoder, diffusion, encoder
from napari_ssldiff.training.data import ImageSet, load_sets
from napari_ssldiff.training.loop import Schedule

STAGES = ("autoencoder", "encoder", "encoder-eval", "diffusion", "bundle")
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "demo.yaml"


def read_config(path: Path) -> dict[str, Any]:
    """Read a training configuration.

    Raises
    ------
    InputError
        If it is missing or lacks a section.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the configuration {path}: {error}") from None
    needed = ("domains", "autoencoder", "encoder", "encoder-eval", "diffusion")
    missing = [k for k in needed if not isinstance(config, dict) or k not in config]
    if missing:
        raise InputError(f"the configuration {path} lacks {', '.join(missing)}")
    return dict(config)


@dataclass(frozen=True)
class Pipeline:
    """One configuration, one data folder, one output folder.

    Parameters
    ----------
    config
        See ``configs/demo.yaml``.
    data
        Folder that the configuration's globs are relative to.
    output
        Where states, metrics and results go.
    """

    config: dict[str, Any]
    data: Path
    output: Path

    @property
    def domains(self) -> list[str]:
        """Names of the domains."""
        return list(self.config["domains"])

    @property
    def factor(self) -> int:
        """Pixels per latent."""
        network = self.config["autoencoder"]["network"]
        return int(self.config["autoencoder"]["patch"]) * int(
            2 ** (len(network["block_out_channels"]) - 1)
        )

    def sets(self, domain: str, kind: str) -> tuple[ImageSet, ...]:
        """Image sets of a domain; ``kind`` is ``"pixels"`` or ``"encoder"``."""
        part = self.config["domains"][domain]
        return load_sets(self.data, part[kind], float(part["resolution"]))

    def _groups(
        self, domains: Sequence[str], kind: str
    ) -> list[tuple[tuple[ImageSet, ...], dict[str, Any]]]:
        return [(self.sets(d, kind), dict(self.config["domains"][d]["augment"])) for d in domains]

    def _schedule(self, section: str, minutes: float | None) -> Schedule:
        return Schedule(minutes=minutes, **self.config[section]["schedule"])

    def train(
        self, stage: str, minutes: float | None = None, domain: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Run a stage; yields rows of metrics.

        Parameters
        ----------
        minutes
            Time box of the whole stage, earlier calls included.
        domain
            Of the stage ``encoder``; by default all, one after the other.

        Raises
        ------
        InputError
            If the stage is unknown or the data does not hold what the configuration names.
        """
        if stage not in STAGES[:-1]:
            raise InputError(f"unknown training stage {stage!r}: {', '.join(STAGES)} are known")
        if stage == "autoencoder":
            groups = self._groups(self.domains, "pixels")
            yield from autoencoder.train(
                groups, self.config[stage], self._schedule(stage, minutes), self.output / stage
            )
        elif stage == "encoder":
            for name in [domain] if domain else self.domains:
                yield from encoder.train(
                    self._groups([name], "encoder"),
                    self.config[stage],
                    self._schedule(stage, minutes),
                    self.output / f"encoder-{name}",
                )
        elif stage == "encoder-eval":
            yield from encoder.train(
                self._groups(self.domains, "encoder"),
                self.config[stage],
                self._schedule(stage, minutes),
                self.output / stage,
            )
        else:
            samples = {d: self.samples(d) for d in self.domains}
            yield from diffusion.train(
                samples,
                self.config[stage],
                self.factor,
                self._schedule(stage, minutes),
                self.output / stage,
            )

    def encoder(self, domain: str) -> torch.nn.Module:
        """The trained encoder of a domain."""
        model, _ = encoder.result(
            [self.sets(domain, "encoder")],
            self.config["encoder"],
            self.output / f"encoder-{domain}",
        )
        return model

    def evaluation_encoder(self) -> torch.nn.Module:
        """The trained encoder for measurement."""
        sets = [self.sets(d, "encoder") for d in self.domains]
        model, _ = encoder.result(sets, self.config["encoder-eval"], self.output / "encoder-eval")
        return model

    def autoencoder(self) -> Autoencoder:
        """The trained autoencoder, its latents standardised."""
        model = autoencoder.result(self.config["autoencoder"], self.output / "autoencoder")
        crops = [autoencoder.calibration_images(self.sets(d, "pixels"), 24) for d in self.domains]
        autoencoder.calibrate(model, torch.cat(crops), self.factor)
        return model

    def samples(self, domain: str) -> list[diffusion.Sample]:
        """Prepared latents and fields of a domain, from the output folder where they are."""
        path = self.output / f"samples-{domain}.safetensors"
        if path.exists():
            return diffusion.load_samples(path)
        config = self.config["diffusion"]
        part = self.config["domains"][domain]
        prepared = list(
            diffusion.prepare(
                self.sets(domain, "pixels"),
                part["augment"],
                self.encoder(domain),
                self.autoencoder(),
                config,
                int(config["versions"][domain]),
            )
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        diffusion.save_samples(path, prepared)
        return prepared
