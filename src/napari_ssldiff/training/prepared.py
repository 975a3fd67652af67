"""Samples that the denoiser learns from: every image encoded once, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import InputError
from napari_ssldiff.training import diffusion
from napari_ssldiff.training.data import ImageSet
from napari_ssldiff.training.kept import changed, digest, file_digest, note_of, write_note
from napari_ssldiff.training.runtime import Runtime
from napari_ssldiff.training.trained import Trained

_ANYWHERE = Runtime()


@dataclass(frozen=True)
class Prepared(Trained):
    """Trained networks, and the samples that they make of the images."""

    def samples_path(self, domain: str, part: str = "train") -> Path:
        """Where prepared samples are kept."""
        tail = "" if part == "train" else f"-{part}"
        return self.output / f"samples-{domain}{tail}.safetensors"

    def every_sample(
        self, part: str, runtime: Runtime = _ANYWHERE
    ) -> dict[str, list[diffusion.Sample]]:
        """Samples of all domains; none of a domain that has no images in this part."""
        if part == "validation" and self.config.get("validation") is None:
            return {}
        pairs = {d: self.samples(d, part, runtime) for d in self.domains}
        return {d: samples for d, samples in pairs.items() if samples}

    def samples(
        self, domain: str, part: str = "train", runtime: Runtime = _ANYWHERE
    ) -> list[diffusion.Sample]:
        """Prepared latents and fields of a domain, kept in the output folder.

        They are made again when the encoder, the autoencoder, the images or what the
        configuration says of them has changed. Where the encoder's folder is not at hand (the
        samples alone were copied to another machine) they are taken as they are.
        """
        path = self.samples_path(domain, part)
        here = self.at_hand("encoder", domain) and self.at_hand("autoencoder")
        if path.is_file() and not here:
            self.log(f"taking {path.name} as it is: what it was made from is not in {self.output}")
            return diffusion.load_samples(path)
        origin = self.sample_origin(domain, part)
        if path.is_file():
            differs = changed(path, origin)
            if not differs:
                if not note_of(path).exists():
                    self.log(f"trusting {path.name}, which has no note of what it was made from")
                    write_note(path, origin)
                return diffusion.load_samples(path)
            self.log(f"{path.name} is made again: changed {', '.join(differs)}")
        window = int(self.config["diffusion"]["window"])
        sets = self.images.sets(domain, "pixels", part, window)
        if not sets:
            return []
        prepared = self.prepare(domain, sets, None if part == "train" else 1, runtime)
        # Never old samples without their old note: those would be trusted.
        path.unlink(missing_ok=True)
        note_of(path).unlink(missing_ok=True)
        diffusion.save_samples(path, prepared)
        write_note(path, origin)
        return prepared

    def sample_origin(self, domain: str, part: str = "train") -> dict[str, str]:
        """Digests of everything that a domain's samples are made from, as far as it is here."""
        config, domain_part = self.config["diffusion"], self.config["domains"][domain]
        self.encoder(domain)  # made now if it is not kept yet: its digest is part of the key
        self.autoencoder()
        origin = {
            "encoder": file_digest(self.kept_path(f"encoder-{domain}")),
            "autoencoder": file_digest(self.kept_path("autoencoder")),
            "configuration": digest(
                [config[k] for k in ("seed", "window", "cell", "versions")]
                + [domain_part[k] for k in ("resolution", "unit", "augment", "pixels")]
            ),
        }
        return {**origin, **self.image_origin(domain, part)}

    def image_origin(self, domain: str, part: str = "train") -> dict[str, str]:
        """A digest of the image files of a domain; nothing where they were not brought here."""
        try:
            sources = self.images.sources(domain, "pixels", part)
        except InputError:
            return {}  # networks and samples may be here without them
        files = [
            [(s.name, s.path.stat().st_size if s.path.is_file() else 0) for s in entry]
            for entry in sources
        ]
        return {"images": digest(files)}

    def prepare(
        self,
        domain: str,
        sets: Sequence[ImageSet],
        versions: int | None = None,
        runtime: Runtime = _ANYWHERE,
    ) -> list[diffusion.Sample]:
        """Encode image sets into samples; told in the log, since it takes its time.

        Parameters
        ----------
        versions
            Augmented forms per image; ``None`` takes the configuration's.
        """
        config = self.config["diffusion"]
        if versions is None:
            stated = config["versions"]
            versions = int(stated[domain] if isinstance(stated, dict) else stated)
        total = sum(max(1, round(versions * one.weight)) * len(one.images) for one in sets)
        self.log(f"preparing {total} samples of {domain}")
        augmentation = self.config["domains"][domain]["augment"]
        made = []
        for sample in diffusion.prepare(
            sets,
            augmentation,
            self.encoder(domain),
            self.autoencoder(),
            config,
            versions,
            runtime=runtime,
        ):
            made.append(sample)
            if len(made) % max(1, total // 10) == 0:
                self.log(f"prepared {len(made)} of {total} samples of {domain}")
        return made

    def noise(self) -> dict[str, list[diffusion.Sample]]:
        """One sample per domain, of the right shape and no content."""
        config, rng = self.config["diffusion"], np.random.default_rng(0)
        window, cell = int(config["window"]), int(config["cell"])
        side, n = 2 * window // cell, 2 * window // self.factor
        made = {}
        for name in self.domains:
            vectors = rng.normal(size=(side, side, int(self.config["encoder"]["width"])))
            field = EmbeddingField(
                vectors.astype(np.float32), (0, 0), (cell, cell), "noise", 1.0, "pixel"
            )
            latents = torch.from_numpy(rng.normal(size=(self.latent_channels, n, n))).half()
            made[name] = [diffusion.Sample(latents, field)]
        return made
