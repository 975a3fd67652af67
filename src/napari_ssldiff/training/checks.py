"""What can be refused before the first step: places, stages before, images, room on the disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from napari_ssldiff.errors import InputError, OutputError
from napari_ssldiff.text.prior import PriorNetwork
from napari_ssldiff.training import autoencoder, diffusion, encoder, text
from napari_ssldiff.training.kept import stage_files
from napari_ssldiff.training.numbers import check_begun
from napari_ssldiff.training.pipeline import STAGES, Pipeline
from napari_ssldiff.training.prior_bundle import has_priors
from napari_ssldiff.training.runtime import Runtime
from napari_ssldiff.training.weights import read_weights
from napari_ssldiff.training.worded import WORDED, Worded

#: Weights, their average and AdamW's two moments, all float32.
STATE_BYTES = 4 * 4


def check_stage(stage: str) -> None:
    """Refuse a stage that does not exist.

    Raises
    ------
    InputError
        Listing those that do.
    """
    if stage not in STAGES:
        raise InputError(f"unknown training stage {stage!r}: choose one of {', '.join(STAGES)}")


def check(
    pipeline: Pipeline, stage: str, domain: str | None = None, runtime: Runtime | None = None
) -> None:
    """Refuse what could not end well; reads the images, which stay in the pipeline.

    Raises
    ------
    InputError, ModelError
        If the images, the stages before, the device or the weights to start from will not do.
    OutputError
        If the output folder cannot be written or cannot hold the state.
    """
    check_stage(stage)
    if stage != "bundle" and stage not in pipeline.config:
        raise InputError(
            f"the configuration {pipeline.config.get('name', '')} has no section {stage}: "
            "configs/demo.yaml shows one"
        )
    if domain is not None and domain not in pipeline.domains:
        raise InputError(
            f"no domain {domain!r} in the configuration: it has {', '.join(pipeline.domains)}"
        )
    if stage in WORDED:
        _check_worded(pipeline, stage, domain)
    if runtime is not None:
        runtime.resolve()
        if runtime.init is not None:
            read_weights(runtime.init)
    only_words = stage == "bundle" and not stage_files(pipeline.folder("diffusion"))
    if not (only_words and has_priors(pipeline)):
        check_stages_before(pipeline, stage)
    for section in ("encoder", "encoder-eval"):
        objective = pipeline.config[section]["objective"]
        if objective not in encoder.OBJECTIVES:
            known = ", ".join(encoder.OBJECTIVES)
            raise InputError(f"{section}.objective {objective!r} is not known: use {known}")
    bytes_needed = 0
    if stage != "bundle":
        parts = len(pipeline.parts(stage, domain))
        # While a state is written the one before is still there.
        bytes_needed = parts * parameters(network(pipeline, stage, domain)) * STATE_BYTES * 2
    check_space(pipeline.output, bytes_needed)
    check_images(pipeline, stage, domain)


def network(pipeline: Pipeline, stage: str, domain: str | None = None) -> nn.Module:
    """The network of a stage without memory for its weights: for names, shapes and counts.

    Parameters
    ----------
    domain
        Of a prior; by default the first.
    """
    config = pipeline.config
    if stage == "text":
        section = config[stage]
        subjects = Worded(pipeline).subjects
        words = text.Words(subjects, int(section["text"]["context_length"]))
        return text.build(section, len(words.table))
    if stage == "prior":
        return PriorNetwork(Worded(pipeline).prior_config(domain or pipeline.domains[0]))
    with torch.device("meta"):
        if stage == "autoencoder":
            return autoencoder.build(config[stage])
        if stage in ("encoder", "encoder-eval"):
            part = config[stage]
            return encoder.Pretext(part["network"], int(part["width"]), int(part["projector"]))
        return diffusion.Denoiser(
            config["diffusion"],
            pipeline.domains,
            int(config["encoder"]["width"]),
            pipeline.latent_channels,
            pipeline.factor,
        )


def _check_worded(pipeline: Pipeline, stage: str, domain: str | None) -> None:
    """Refuse text stages without their sections, their models, the text encoder or the table."""
    for section in ("text", "prior"):
        if section not in pipeline.config:
            raise InputError(
                f"the configuration {pipeline.config.get('name', '')} has no section {section}: "
                "configs/demo.yaml shows one"
            )
    worded = Worded(pipeline)
    for name in pipeline.domains:
        worded.card(name)
    if stage != "prior":
        return
    for name in [domain] if domain else pipeline.domains:
        check_begun(pipeline.folder("prior", name), worded.condition(name))
        if worded.kind(name) == "text" and worded.encoder_name(name) is None:
            worded.trained()


def parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def check_space(folder: Path, size: int) -> None:
    """Refuse a folder that cannot be written or whose disk has less than ``size`` bytes free.

    Nothing is made: the first folder above that exists is asked.
    """
    place = folder
    while not place.exists() and place.parent != place:
        place = place.parent
    if not place.is_dir():
        raise OutputError(f"cannot write into {folder}: {place} is no folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write into {folder}: no permission to write in {place}")
    free = shutil.disk_usage(place).free
    if free < size:
        raise OutputError(
            f"{folder} cannot hold the training state: it needs {size / 1e6:.0f} MB and "
            f"{free / 1e6:.0f} MB are free; free some space or choose another folder"
        )


def needs(pipeline: Pipeline, stage: str) -> list[tuple[str, str | None]]:
    """Stages, with their domain, whose results a stage builds on."""
    encoders: list[tuple[str, str | None]] = [("encoder", d) for d in pipeline.domains]
    if stage in ("diffusion", "distil"):
        # Samples that were copied here alone serve as well.
        made = [
            pair
            for d, pair in zip(pipeline.domains, encoders, strict=True)
            if not pipeline.samples_path(d).is_file()
        ]
        before: list[tuple[str, str | None]] = [*made, *([("autoencoder", None)] if made else [])]
        return before if stage == "diffusion" else [*before, ("diffusion", None)]
    if stage == "bundle":
        return [*encoders, ("encoder-eval", None), ("autoencoder", None), ("diffusion", None)]
    return []


def check_stages_before(pipeline: Pipeline, stage: str) -> None:
    """Refuse a stage whose predecessors are missing, or are of other shapes than configured."""
    for name, domain in needs(pipeline, stage):
        folder = pipeline.folder(name, domain)
        if not stage_files(folder) and pipeline.at_hand(name, domain):
            continue  # its finished network was brought along
        if not stage_files(folder):
            option = f" --domain {domain}" if domain and len(pipeline.domains) > 1 else ""
            raise InputError(
                f"{stage} needs {folder}, which holds no trained network: run `napari-ssldiff "
                f"train {name} DATA -o {pipeline.output}{option}` first"
            )
        _check_shapes(pipeline, name, folder)


def _check_shapes(pipeline: Pipeline, name: str, folder: Path) -> None:
    wanted = network(pipeline, name)
    found = next(iter(read_weights(folder).values()))
    shapes = {k: tuple(v.shape) for k, v in wanted.state_dict().items()}
    misfit = next((k for k, s in shapes.items() if k not in found or found[k].shape != s), None)
    if misfit is None:
        return
    section: dict[str, Any] = pipeline.config[name]
    if isinstance(wanted, encoder.Pretext):
        head = f"backbone.{wanted.backbone.default_cfg['classifier']}.weight"  # type: ignore[index]
        if head in found and found[head].shape[0] != int(section["width"]):
            raise InputError(
                f"the encoder in {folder} has a width of {found[head].shape[0]}, the configuration "
                f"says {section['width']}: train it again in another folder, or set encoder.width"
            )
    if name == "autoencoder" and "shift" in found:
        channels = found["shift"].numel()
        if channels != pipeline.latent_channels:
            raise InputError(
                f"the autoencoder in {folder} has {channels} latent channels, the configuration "
                f"says {pipeline.latent_channels}: train it again in another folder, or set "
                "autoencoder.network.latent_channels"
            )
    raise InputError(
        f"{folder} holds another network than the configuration's section {name} (at {misfit}): "
        "choose another folder or configuration"
    )


def check_images(pipeline: Pipeline, stage: str, domain: str | None = None) -> None:
    """Read the images that a stage will need, and refuse too few or too small ones."""
    if stage == "bundle":
        return
    kinds = {"encoder": "encoder", "encoder-eval": "encoder"}
    kind = kinds.get(stage, "pixels")
    samples = stage in ("diffusion", "distil")
    for name in [domain] if domain and stage == "encoder" else pipeline.domains:
        if samples and pipeline.samples_path(name).is_file():
            continue
        names = {
            source.path
            for part in ("train", "validation")
            for entry in pipeline.images.sources(name, kind, part)
            for source in entry
        }
        if len(names) < 2:
            only = next(iter(names)).name
            raise InputError(
                f"only one image ({only}) for {name}: self-supervision compares images and "
                "validation sets some aside, so give at least two"
            )
        window = int(pipeline.config["diffusion"]["window"]) if samples else None
        sets = [pipeline.images.sets(name, kind, part, window) for part in ("train", "validation")]
        if len({source for part in sets for one in part for source in one.sources}) < 2:
            raise InputError(
                f"only one image of {name} can be used: self-supervision compares images and "
                "validation sets some aside, so give at least two"
            )
