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

from napari_ssldiff import __version__
from napari_ssldiff.training.kept import stage_files
from napari_ssldiff.training.pipeline import Pipeline
from napari_ssldiff.training.progress import read_rows
from napari_ssldiff.training.start import read_commands
from napari_ssldiff.training.state import write_tensors
from napari_ssldiff.training.weights import shards


def write_weights(folder: Path, name: str, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Write tensors as fp16 into ``NAME.safetensors`` or shards of it; returns the file names."""
    groups = shards(tensors)
    if len(groups) == 1:
        names = [f"{name}.safetensors"]
    else:
        names = [f"{name}-{i + 1}-of-{len(groups)}.safetensors" for i in range(len(groups))]
    for file, group in zip(names, groups, strict=True):
        write_tensors(folder / file, group)
    return names


def stage_facts(output: Path, stage: str) -> dict[str, Any]:
    """What a stage's own records say of it.

    Returns
    -------
    ``steps``, ``minutes`` and ``loss`` of its last row (``validation`` too, where there is one),
    ``hardware`` (several, where its sessions ran on several), and the ``command``. What no record
    says is left out.
    """
    facts: dict[str, Any] = {}
    rows = read_rows(output / stage / "metrics.jsonl")
    if rows:
        facts = {"steps": rows[-1]["step"], "minutes": rows[-1]["minutes"]}
        facts["loss"] = rows[-1]["loss"]
        held = [row["validation"] for row in rows if "validation" in row]
        facts |= {"validation": held[-1]} if held else {}
    hardware = _hardware(output / stage / "run.json")
    facts |= {"hardware": hardware} if hardware else {}
    command = read_commands(output).get(stage)
    return {**facts, "command": command} if command else facts


def _hardware(path: Path) -> str:
    """The machines of a run's sessions, in the order they came."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    sessions = [s for s in record.get("sessions", []) if "hardware" in s] or [record]
    named = [
        f"{s['hardware']} ({s.get('device', '?')}, {s.get('precision', '?')}, torch "
        f"{s.get('torch', '?')})"
        for s in sessions
        if "hardware" in s
    ]
    return "; then ".join(dict.fromkeys(named))


def _student(pipeline: Pipeline, shared: Path) -> dict[str, Any] | None:
    """The card's part on the distilled student, its weights written; ``None`` without one."""
    if "distil" not in pipeline.config or not stage_files(pipeline.folder("distil")):
        return None
    from napari_ssldiff.training import distil

    config = pipeline.config["distil"]
    return {
        "method": distil.METHOD,
        "rank": int(config["rank"]),
        "alpha": float(config["alpha"]),
        "steps": int(config["steps"]),
        "guidance": float(config["guidance"]),
        "weights": write_weights(shared, "student", distil.lora_state(pipeline.folder("distil"))),
    }


def _commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True
    )
    return done.stdout.strip() or f"napari-ssldiff {__version__}"


def _training(pipeline: Pipeline, domain: str) -> dict[str, Any]:
    """How a domain's model came about, stage by stage."""
    config, name = pipeline.config, pipeline.config.get("name", "own")
    folders = {
        "autoencoder": "autoencoder",
        "encoder": f"encoder-{domain}",
        "encoder-eval": "encoder-eval",
        "diffusion": "diffusion",
        "distil": "distil",
    }
    stages = {k: stage_facts(pipeline.output, v) for k, v in folders.items()}
    hardware = stages["diffusion"].get("hardware") or config["domains"][domain].get("hardware")
    return {
        "commit": _commit(),
        "config": name,
        "command": f"napari-ssldiff train STAGE DATA -o DIR --config {name}",
        "hardware": hardware or config["diffusion"].get("hardware", "not recorded"),
        **{k: facts for k, facts in stages.items() if facts},
    }


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
    denoiser = pipeline.denoiser()
    files = {
        "autoencoder": write_weights(shared, "autoencoder", vae.state_dict()),
        "unet": write_weights(shared, "unet", denoiser.unet.state_dict()),
        "evaluation": write_weights(
            shared, "encoder-eval", pipeline.evaluation_encoder().state_dict()
        ),
    }
    student = _student(pipeline, shared)
    if student:
        files["student"] = student["weights"]
    name = str(pipeline.config.get("name", "own"))
    network = pipeline.config["autoencoder"]["network"]
    for domain in pipeline.domains:
        part = pipeline.config["domains"][domain]
        model = str(part["model"])
        encoder = write_weights(shared, f"encoder-{domain}", pipeline.encoder(domain).state_dict())
        projection = write_weights(
            shared, f"projection-{domain}", denoiser.projections[domain].state_dict()
        )
        listed = [n for names in files.values() for n in names] + encoder + projection

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
                pipeline.config["encoder-eval"],
                f"{name}-encoder-eval",
                relative(files["evaluation"]),
            ),
            **({"student": {**student, "weights": relative(files["student"])}} if student else {}),
            "training": _training(pipeline, domain),
            "weights": {
                f"../shared/{n}": hashlib.sha256((shared / n).read_bytes()).hexdigest()
                for n in listed
            },
        }
        target = folder / model / "card.yaml"
        target.parent.mkdir(exist_ok=True)
        target.write_text(yaml.safe_dump(card, sort_keys=False, width=96, allow_unicode=True))
        yield target
