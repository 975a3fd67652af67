"""PixCell and ZoomLDM at their published size: conversion and answers against plain torch.

Checkpoints of the published names and shapes with random weights go through the same conversion as
real ones. Run from a checkout:

    python benchmarks/parity_successors.py --model pixcell
    python benchmarks/parity_successors.py --model zoomldm

PixCell-1024 takes some minutes on one core and about 10 GB; the others less.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import plain_ldm
import plain_ldm_shapes as ldm_shapes
import plain_pixart
import plain_zoomldm

from napari_ssldiff.models import parts
from napari_ssldiff.models.card import ModelCard, read_card
from napari_ssldiff.models.convert import Converted, convert, layout_of
from napari_ssldiff.models.convert.ldm import ema_names
from napari_ssldiff.models.load import model_spec

HERE = Path(__file__).parent
CATALOGUE = HERE.parent / "src/napari_ssldiff/models/catalogue"
LIMIT = 1e-4
Tensors = dict[str, torch.Tensor]


def card_of(name: str, width: int) -> ModelCard:
    """A card of the catalogue, its encoder known by the length of its vectors alone."""
    card = read_card(CATALOGUE / f"{name}.yaml")
    own = {**card.parts, "encoder": {"width": width}}
    if "ref" in own["autoencoder"]:
        import yaml

        component = yaml.safe_load((CATALOGUE / f"{own['autoencoder']['ref']}.yaml").read_text())
        own["autoencoder"] = component["autoencoder"]
    return replace(card, parts=own)


def fill(module: torch.nn.Module, tensors: Any) -> Any:
    """A module around the tensors themselves, without a copy."""
    module.load_state_dict(tensors, assign=True)
    return module.eval()


def counted(tensors: Any) -> int:
    """How many numbers there are."""
    return sum(value.numel() for value in tensors.values())


def compare(
    what: str, found: Callable[[], torch.Tensor], wanted: Callable[[], torch.Tensor]
) -> dict[str, Any]:
    """The largest difference of two computations of one thing."""
    marks = [time.perf_counter()]
    one = found()
    marks.append(time.perf_counter())
    other = wanted()
    marks.append(time.perf_counter())
    row = {
        "what": what,
        "shape": list(other.shape),
        "deviation": round(float(other.std()), 4),
        "max_abs_difference": float((one - other).abs().max()),
        "seconds": [round(b - a, 1) for a, b in itertools.pairwise(marks)],
    }
    print(json.dumps(row), flush=True)
    return row


def accounted(tensors: Tensors, converted: Converted) -> dict[str, Any]:
    """What became of the tensors of a checkpoint."""
    return {
        "tensors": len(tensors),
        "unused": len(converted.unused),
        "converted": {name: len(part) for name, part in converted.parts.items()},
        "parameters": {name: counted(part) for name, part in converted.parts.items()},
    }


def pixcell() -> Iterator[dict[str, Any]]:
    """PixCell-256 and -1024 in PixArt's names."""
    for name in ("pixcell-256", "pixcell-1024"):
        yield _pixcell(name)
        gc.collect()


@torch.inference_mode()
def _pixcell(name: str) -> dict[str, Any]:
    card = card_of(name, 1536)
    config = card.parts["denoiser"]["config"]
    size, tokens = config["sample_size"], (card.window // card.cell) ** 2
    places = config["interpolation_scale"]
    tensors = plain_pixart.random_tensors(1152, 28, size, tokens, 1536, scale=places)
    converted = convert(tensors, card)
    with torch.device("meta"):
        network = parts.network(card.parts["denoiser"])
    # The fixed places of patches are no weights: the module on the device meta lacks them.
    patches: Any = network.transformer.pos_embed
    made = type(patches)(size, size, 2, in_channels=1, embed_dim=1152, interpolation_scale=places)
    patches.pos_embed = made.pos_embed
    fill(network, converted.parts["denoiser"])
    projection = fill(
        parts.projection(card.parts["conditioning"], model_spec(card)),
        converted.parts["conditioning"],
    )
    torch.manual_seed(0)
    x, t = torch.randn(1, 16, size, size), torch.tensor([700])
    vectors = torch.nn.functional.normalize(torch.randn(1, tokens, 1536), dim=2)

    def answer(asked: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = network(x, t, projection(asked).context).sample
        return made

    def plain(captions: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = plain_pixart.forward(tensors, x, t, captions, 16)[:, :16]
        return made

    null = tensors["y_embedder.y_embedding"][None]
    rows = [
        compare("conditioned", lambda: answer(vectors), lambda: plain(vectors * projection.scale))
    ]
    if size <= 64:  # once is enough where it takes minutes
        zeros = torch.zeros_like(vectors)
        rows.append(compare("no condition", lambda: answer(zeros), lambda: plain(null)))
    return {"card": name, "layout": layout_of(tensors).name, **accounted(tensors, converted),
            "answers": rows}  # fmt: skip


@torch.inference_mode()
def zoomldm() -> Iterator[dict[str, Any]]:
    """ZoomLDM for BRCA, averages and all."""
    card = card_of("zoomldm-brca", 1024)
    unet = ldm_shapes.unet_shapes(ldm_shapes.UnetConfig())
    names = ema_names(unet)
    averages = ldm_shapes.random_tensors(unet, 2)
    condition = plain_zoomldm.random_tensors(1024, 512, 2048, 12, 8)
    tensors = {
        # The last weights are other numbers than their averages, and must not be taken.
        **{k: v.new_zeros(()).expand(v.shape) for k, v in averages.items()},
        **{names[k]: v for k, v in averages.items()},
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(1),
        **ldm_shapes.random_tensors(ldm_shapes.vq_shapes(ldm_shapes.VqConfig())),
        **{f"cond_stage_model.{k}": v for k, v in condition.items()},
        **ldm_shapes.schedule_buffers(),
    }
    converted = convert(tensors, card)
    network = fill(parts.network(card.parts["denoiser"]), converted.parts["denoiser"])
    vae = fill(parts.autoencoder(card.parts["autoencoder"]), converted.parts["autoencoder"])
    torch.manual_seed(0)
    x, t = torch.randn(1, 3, 64, 64), torch.tensor([501])
    images = torch.rand(1, 3, 256, 256) * 2 - 1
    rows, contexts = [], []
    for side, magnification in ((1, 0), (2, 1), (8, 7)):
        part = {**card.parts["conditioning"], "magnification": magnification}
        own = replace(card, cell=256 // side)
        projection = fill(parts.projection(part, model_spec(own)), converted.parts["conditioning"])
        raw = torch.randn(1, 1024, side, side)
        vectors = torch.nn.functional.normalize(raw.flatten(2).transpose(1, 2), dim=2)
        wanted = plain_zoomldm.forward(condition, raw, magnification, 8)
        rows.append(
            compare(
                f"condition of {side} x {side}",
                lambda projection=projection, vectors=vectors: projection(vectors).context,
                lambda wanted=wanted: wanted,
            )
        )
        contexts.append(wanted)
    rows.append(
        compare(
            "U-Net",
            lambda: network(x, t, contexts[1]).sample,
            lambda: plain_ldm.unet(averages, x, t.float(), contexts[1]),
        )
    )
    rows.append(
        compare(
            "encoding", lambda: vae.encode(images), lambda: plain_ldm.vq_encode(tensors, images)
        )
    )
    rows.append(
        compare("decoding", lambda: vae.decode_raw(x), lambda: plain_ldm.vq_decode(tensors, x))
    )
    yield {"card": "zoomldm-brca", "layout": layout_of(tensors).name,
           **accounted(tensors, converted), "answers": rows}  # fmt: skip


MODELS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {"pixcell": pixcell, "zoomldm": zoomldm}


def main() -> None:
    """Measure one family and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    runs = list(MODELS[arguments.model]())
    worst = max(row["max_abs_difference"] for run in runs for row in run["answers"])
    result = {
        "model": arguments.model,
        "weights": "random, published names and shapes",
        "precision": "fp32",
        "torch": torch.__version__,
        "limit": LIMIT,
        "max_abs_difference": worst,
        "runs": runs,
    }
    path = arguments.output or HERE / f"results/parity-{arguments.model}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"largest difference {worst:.2g}: {path}")
    if worst > LIMIT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
