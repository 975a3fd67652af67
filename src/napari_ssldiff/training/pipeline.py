"""Stages of a training run, from a configuration and images to an installable model.

    encoder       one per domain
    encoder-eval  one for all domains, of another objective, for measurement only
    autoencoder   one for all domains
    diffusion     one network, one projection per domain
    distil        a student of it that needs few steps
    bundle        weights as fp16 safetensors, with a card per domain
    text          a small text encoder for all domains of the bundled models
    prior         one per domain: fields from texts; then bundle again

Stages run into one folder; each goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_ssldiff.errors import InputError
from napari_ssldiff.training import autoencoder, diffusion, encoder
from napari_ssldiff.training.config import DEFAULT_CONFIG, read_config
from napari_ssldiff.training.loop import Schedule
from napari_ssldiff.training.prepared import Prepared
from napari_ssldiff.training.runtime import Runtime
from napari_ssldiff.training.worded import WORDED, Worded

__all__ = ["DEFAULT_CONFIG", "STAGES", "Pipeline", "read_config"]

STAGES = (
    "encoder", "encoder-eval", "autoencoder", "diffusion", "distil", "bundle", "text", "prior",
)  # fmt: skip

_ANYWHERE = Runtime()


@dataclass(frozen=True)
class Pipeline(Prepared):
    """One configuration, its images, one output folder: runs the stages."""

    def schedule(self, stage: str, minutes: float | None, steps: int | None) -> Schedule:
        """The configuration's, boxed and cut as asked."""
        plan = dict(self.config[stage]["schedule"])
        return Schedule(minutes=minutes, **(plan if steps is None else {**plan, "steps": steps}))

    def train(
        self,
        stage: str,
        minutes: float | None = None,
        domain: str | None = None,
        *,
        steps: int | None = None,
        runtime: Runtime = _ANYWHERE,
    ) -> Iterator[dict[str, Any]]:
        """Run a stage; yields rows of metrics.

        Parameters
        ----------
        minutes
            Time box of the whole stage, earlier calls included.
        domain
            Of the stages ``encoder`` and ``prior``; by default all, one after the other.
        steps
            Instead of the configuration's.
        runtime
            Device, precision, threads, weights to start from.

        Raises
        ------
        InputError
            If the stage is unknown or the data does not hold what the configuration names.
        """
        if stage == "bundle" or stage not in STAGES:
            raise InputError(f"unknown training stage {stage!r}: {', '.join(STAGES)} are known")
        if stage not in self.config:
            raise InputError(f"the configuration has no section {stage}")
        plan = self.schedule(stage, minutes, steps)
        for name in self.parts(stage, domain):
            yield from self.start(stage, name, plan, self.folder(stage, name), runtime)

    def parts(self, stage: str, domain: str | None = None) -> list[str | None]:
        """Domains that a stage treats one by one, or ``[None]`` where it treats all at once."""
        if stage not in ("encoder", "prior"):
            return [None]
        return [domain] if domain else list(self.domains)

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
            On noise instead of samples and without validation: what takes as long as the real
            thing, for as many steps as the caller lets it.
        """
        if stage in WORDED:
            yield from Worded(self).start(stage, domain, plan, folder, runtime, rehearsal)
            return
        config = self.config[stage]
        if stage in ("encoder", "encoder-eval", "autoencoder"):
            names = [domain] if domain else self.domains
            kind = "pixels" if stage == "autoencoder" else "encoder"
            run: Any = autoencoder.train if stage == "autoencoder" else encoder.train
            held = [] if rehearsal else self.images.groups(names, kind, "validation")
            groups = self.images.groups(names, kind)
            yield from run(groups, config, plan, folder, runtime=runtime, validation=held or None)
            return
        samples = self.noise() if rehearsal else self.every_sample("train", runtime)
        if stage == "diffusion":
            aside = {} if rehearsal else self.every_sample("validation", runtime)
            yield from diffusion.train(
                samples,
                config,
                self.factor,
                plan,
                folder,
                runtime=runtime,
                validation=aside or None,
                decoder=None if rehearsal else self.decoder(),
            )
            return
        from napari_ssldiff.training import distil

        aside = {} if rehearsal else self.every_sample("validation", runtime)
        yield from distil.train(
            samples,
            config,
            self.config["diffusion"],
            self.factor,
            plan,
            folder,
            teacher=self.denoiser(),
            runtime=runtime,
            validation=aside or None,
        )
