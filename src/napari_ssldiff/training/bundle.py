"""From trained networks to an installable model: fp16 safetensors and cards."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from napari_ssldiff import __version__
from napari_ssldiff.training import diffusion
from napari_ssldiff.training.pipeline import Pipeline

#: No weight file is larger than this, in bytes.
SHARD = 15 * 2**20


def _shards(state: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """fp16 tensors in groups of at most :data:`SHARD` bytes, in order."""
    groups: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        value = tensor.detach().cpu()
        if value.is_floating_point():
            value = value.half()
        length = value.numel() * value.element_size()
        if size + length > SHARD and groups[-1]:
            groups.append({})
            size = 0
        groups[-1][name] = value.clone().contiguous()
        size += length
    return groups


def _write(folder: Path, name: str, module: nn.Module) -> list[str]:
    groups = _shards(module.state_dict())
    if len(groups) == 1:
        names = [f"{name}.safetensors"]
    else:
        names = [f"{name}-{i + 1}-of-{len(groups)}.safetensors" for i in range(len(groups))]
    for file, group in zip(names, groups, strict=True):
        save_file(group, folder / file)
    return names


def _training(pipeline: Pipeline, stage: str) -> dict[str, Any]:
    """What a stage's metrics say: steps, minutes, last row."""
    path = pipeline.output / stage / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    last = rows[-1]
    return {"steps": last["step"], "minutes": last["minutes"], "loss": last["loss"]}


def _commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True
    )
    return done.stdout.strip() or f"napari-ssldiff {__version__}"


def _encoder_part(section: Mapping[str, Any], name: str, weights: list[str]) -> dict[str, Any]:
    options = {k: v for k, v in section["network"].items() if k != "name"}
    return {
        "id": name,
        "library": "timm",
        "name": section["network"]["name"],
        "options": options,
        "input": int(section["input"]),
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "width": int(section["width"]),
        "objective": section["objective"],
        "weights": weights,
    }


def write_bundle(pipeline: Pipeline, folder: Path) -> Iterator[Path]:
    """Write weights and one card per domain; yields the cards' paths.

    The layout is ``shared/*.safetensors`` beside ``<model id>/card.yaml``. Text of the cards
    (name, description, data, licence, attribution) comes from the configuration's domains.
    """
    shared = folder / "shared"
    shared.mkdir(parents=True, exist_ok=True)
    config = pipeline.config["diffusion"]
    vae = pipeline.autoencoder()
    denoiser = diffusion.result(
        config,
        pipeline.domains,
        int(pipeline.config["encoder"]["width"]),
        int(pipeline.config["autoencoder"]["network"]["latent_channels"]),
        pipeline.factor,
        pipeline.output / "diffusion",
    )
    files = {
        "autoencoder": _write(shared, "autoencoder", vae),
        "unet": _write(shared, "unet", denoiser.unet),
        "evaluation": _write(shared, "encoder-eval", pipeline.evaluation_encoder()),
    }
    network = pipeline.config["autoencoder"]["network"]
    for domain in pipeline.domains:
        part = pipeline.config["domains"][domain]
        model = str(part["model"])
        encoder = _write(shared, f"encoder-{domain}", pipeline.encoder(domain))
        projection = _write(shared, f"projection-{domain}", denoiser.projections[domain])
        listed = [
            *files["autoencoder"],
            *files["unet"],
            *files["evaluation"],
            *encoder,
            *projection,
        ]

        def relative(names: list[str]) -> list[str]:
            return [f"../shared/{n}" for n in names]

        card = {
            "id": model,
            **part["card"],
            "resolution": float(part["resolution"]),
            "unit": part["unit"],
            "window": int(config["window"]),
            "cell": int(config["cell"]),
            "guidance": float(config["guidance"]),
            "autoencoder": {
                "class": network["class"],
                "config": {k: v for k, v in network.items() if k != "class"},
                "patch": int(pipeline.config["autoencoder"]["patch"]),
                "linear": int(pipeline.config["autoencoder"]["linear"]),
                "factor": pipeline.factor,
                "channels": int(network["latent_channels"]),
                "weights": relative(files["autoencoder"]),
            },
            "denoiser": {
                "class": "UNet2DConditionModel",
                "config": {
                    k: v
                    for k, v in denoiser.unet.config.items()  # type: ignore[union-attr,operator]
                    if k in ("sample_size", "in_channels", "out_channels", "cross_attention_dim")
                    or k in config["network"]
                },
                "prediction": config["prediction"],
                "weights": relative(files["unet"]),
            },
            "conditioning": {
                "rule": "linear projection of unit vectors; the null condition is the zero vector",
                "context": int(config["context"]),
                "spatial": int(config["spatial"]),
                "weights": relative(projection),
            },
            "scheduler": dict(config["scheduler"]),
            "encoder": _encoder_part(
                pipeline.config["encoder"], f"{model}-encoder", relative(encoder)
            ),
            "evaluation_encoder": _encoder_part(
                pipeline.config["encoder-eval"], "demo-encoder-eval", relative(files["evaluation"])
            ),
            "training": {
                "commit": _commit(),
                "command": "napari-ssldiff train STAGE DATA -o DIR --minutes N",
                "hardware": part.get("hardware", config.get("hardware", "not recorded")),
                "autoencoder": _training(pipeline, "autoencoder"),
                "encoder": _training(pipeline, f"encoder-{domain}"),
                "encoder-eval": _training(pipeline, "encoder-eval"),
                "diffusion": _training(pipeline, "diffusion"),
            },
            "weights": {
                f"../shared/{n}": hashlib.sha256((shared / n).read_bytes()).hexdigest()
                for n in listed
            },
        }
        target = folder / model / "card.yaml"
        target.parent.mkdir(exist_ok=True)
        target.write_text(yaml.safe_dump(card, sort_keys=False, width=96, allow_unicode=True))
        yield target
