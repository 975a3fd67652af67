"""The networks that earlier stages have trained, finished for those that come after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from napari_ssldiff.diffusion.autoencoder import Autoencoder
from napari_ssldiff.scenes import PixelSize
from napari_ssldiff.training import autoencoder, diffusion, encoder
from napari_ssldiff.training.config import prior_section
from napari_ssldiff.training.images import Images, Log, silent
from napari_ssldiff.training.kept import digest, file_digest, kept_module, stage_files


@dataclass(frozen=True)
class Trained:
    """One configuration, its images, one output folder.

    Parameters
    ----------
    config
        See ``configs/own.yaml``; every domain's resolution a number.
    data
        Files and folders; globs are relative to the first.
    output
        Where states, metrics and results go.
    fallback
        Pixel size of images that do not say theirs.
    log
        Told what was skipped, left out or made again.
    """

    config: dict[str, Any]
    data: Path | Sequence[Path]
    output: Path
    fallback: PixelSize | None = None
    log: Log = silent

    @cached_property
    def images(self) -> Images:
        """The images of every domain, read when they are needed."""
        data = (self.data,) if isinstance(self.data, Path) else tuple(self.data)
        return Images(self.config, data, self.fallback, self.log)

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

    @property
    def latent_channels(self) -> int:
        """Of the autoencoder."""
        return int(self.config["autoencoder"]["network"]["latent_channels"])

    def folder(self, stage: str, domain: str | None = None) -> Path:
        """Where a stage's state lies; priors of words and of numbers have folders of their own."""
        if stage == "prior" and domain and prior_section(self.config, domain).get("csv"):
            return self.output / f"numbers-{domain}"
        return self.output / (f"{stage}-{domain}" if stage in ("encoder", "prior") else stage)

    def kept_path(self, name: str) -> Path:
        """Where the finished network of a stage's folder ``name`` is kept."""
        return self.output / "trained" / f"{name}.safetensors"

    def at_hand(self, stage: str, domain: str | None = None) -> bool:
        """Whether a stage was trained here, or its finished network brought along."""
        folder = self.folder(stage, domain)
        return bool(stage_files(folder)) or self.kept_path(folder.name).is_file()

    def denoiser(self) -> diffusion.Denoiser:
        """The trained denoiser of all domains."""
        width = int(self.config["encoder"]["width"])
        return diffusion.result(
            self.config["diffusion"],
            self.domains,
            width,
            self.latent_channels,
            self.factor,
            self.folder("diffusion"),
        )

    def _result(
        self, name: str, section: str, build: Callable[[], Any], make: Callable[[], Any]
    ) -> Any:
        path, files = self.kept_path(name), stage_files(self.output / name)
        origin = {
            "configuration": digest(
                {k: v for k, v in self.config[section].items() if k != "schedule"}
            ),
        }
        # Only the finished network was brought here: nothing to compare its weights with.
        if files or not path.is_file():
            origin["weights"] = file_digest(*files)
        return kept_module(path, origin, build, make)

    def encoder(self, domain: str) -> torch.nn.Module:
        """The trained encoder of a domain."""
        return self._encoder(f"encoder-{domain}", "encoder", [domain])

    def evaluation_encoder(self) -> torch.nn.Module:
        """The trained encoder for measurement."""
        return self._encoder("encoder-eval", "encoder-eval", self.domains)

    def _encoder(self, name: str, section: str, domains: Sequence[str]) -> torch.nn.Module:
        config = self.config[section]
        module: torch.nn.Module = self._result(
            name,
            section,
            lambda: encoder.build(config["network"], int(config["width"])),
            lambda: encoder.result(
                [self.images.sets(d, "encoder") for d in domains], config, self.output / name
            )[0],
        )
        return module

    def autoencoder(self) -> Autoencoder:
        """The trained autoencoder, its latents scaled."""
        config, folder = self.config["autoencoder"], self.folder("autoencoder")

        def make() -> Autoencoder:
            model = autoencoder.result(config, folder)
            crops = [
                autoencoder.calibration_images(self.images.sets(d, "pixels"), 24)
                for d in self.domains
            ]
            autoencoder.calibrate(
                model,
                torch.cat(crops),
                self.factor,
                coarse_to_fine=float(config.get("coarse_to_fine", 0)),
            )
            return model

        model = self._result("autoencoder", "autoencoder", lambda: autoencoder.build(config), make)
        assert isinstance(model, Autoencoder)
        return model

    def decoder(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Latents → images, for sample sheets; ``None`` where the autoencoder is not at hand."""
        if not self.at_hand("autoencoder"):
            return None
        return torch.no_grad()(self.autoencoder().decode)
