"""PixCell at full size: what :mod:`parity` compares.

Both models have all their 608 M weights. They answer on a window of 256 px, PixCell-1024 with its
grid of 4 × 4 embeddings: on its own window of 1024 px one answer takes 6.4 TFLOP.
"""

from __future__ import annotations

import copy
import gc
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import plain_pixart as plain
import torch
import yaml

import napari_ssldiff.models
from napari_ssldiff.models import parts, read_card
from napari_ssldiff.models.convert import convert, layout_of
from napari_ssldiff.models.convert.pixcell import pixart_tensors
from napari_ssldiff.models.skeleton import model_spec

CATALOGUE = Path(napari_ssldiff.models.__file__).parent / "catalogue"
SIZE = 32


def check() -> dict[str, Any]:
    """Counts of both checkpoints' tensors, and differences of all outputs."""
    models = {}
    for name in ("pixcell-256", "pixcell-256-cells", "pixcell-1024"):
        models[name] = _check(name)
        gc.collect()
    return {
        "checkpoint": {name: made["checkpoint"] for name, made in models.items()},
        "outputs": [row for made in models.values() for row in made["outputs"]],
        "seconds_per_call": {name: made["seconds"] for name, made in models.items()},
    }


def _folder(tensors: plain.Tensors, second: plain.Tensors) -> plain.Tensors:
    """Transformer and ControlNet as the published folder names them."""
    names = {"c_embedder.proj": "cond_pos_embed.proj", "outlets.": "controlnet_blocks."}
    left = {k: v for k, v in tensors.items() if k not in ("pos_embed", "y_embedder.y_embedding")}
    out = {f"transformer.{k}": v for k, v in pixart_tensors(left).items()}
    null = "caption_projection.uncond_embedding"
    out[f"transformer.{null}"] = tensors["y_embedder.y_embedding"]
    own = {k: v for k, v in second.items() if k.startswith(tuple(names))}
    left = {k: v for k, v in second.items() if k not in own and k != "pos_embed"}
    out |= {f"controlnet.{k}": v for k, v in pixart_tensors(left).items()}
    for key, value in own.items():
        old = next(n for n in names if key.startswith(n))
        out[f"controlnet.{key.replace(old, names[old])}"] = value
    return out


@torch.inference_mode()
def _check(name: str) -> dict[str, Any]:
    card = read_card(CATALOGUE / f"{name}.yaml")
    own: dict[str, Any] = copy.deepcopy(dict(card.parts))
    own["encoder"] = {"width": 1536}
    own["autoencoder"] = yaml.safe_load((CATALOGUE / "sd3-vae.yaml").read_text())["autoencoder"]
    config = own["denoiser"]["config"]
    config["sample_size"] = SIZE
    card = replace(card, parts=own)
    tokens, places = (card.window // card.cell) ** 2, config["interpolation_scale"]
    tensors = plain.random_tensors(1152, 28, SIZE, tokens, 1536, scale=places)
    second: dict[str, torch.Tensor] = {}
    if control := card.parts["denoiser"].get("control"):
        second = plain.random_control(1152, control["blocks"], SIZE, 1536, scale=places)
    source = _folder(tensors, second) if second else tensors
    converted = convert(source, card)
    with torch.device("meta"):
        network: Any = parts.network(card.parts["denoiser"])
    # The fixed places of patches are no weights: a module on the device meta lacks them.
    patches = network.transformer.pos_embed
    made = type(patches)(SIZE, SIZE, 2, in_channels=1, embed_dim=1152, interpolation_scale=places)
    for module in network.modules():
        if isinstance(module, type(patches)):
            module.pos_embed = made.pos_embed
    network.load_state_dict(converted.parts["denoiser"], assign=True)
    network.eval()
    projection: Any = parts.projection(card.parts["conditioning"], model_spec(card))
    projection.load_state_dict(converted.parts["conditioning"])
    torch.manual_seed(0)
    x, t = torch.randn(1, 16, SIZE, SIZE), torch.tensor([700])
    vectors = torch.nn.functional.normalize(torch.randn(1, tokens, 1536), dim=2)
    null = tensors["y_embedder.y_embedding"][None]
    picture = torch.randn(1, 16, SIZE, SIZE)
    asked_for = [
        ("conditioned", vectors, vectors * projection.scale, False),
        ("no condition", torch.zeros_like(vectors), null, False),
    ]
    if second:
        asked_for.append(("with a mask", vectors, vectors * projection.scale, True))
    rows = []
    for what, asked, captions, shown in asked_for:
        begin = time.perf_counter()
        inputs = torch.cat([x, picture], 1) if shown else x
        found = network(inputs, t, projection(asked).context).sample
        seconds = time.perf_counter() - begin
        added = plain.control(second, x, picture, t, captions, 16) if shown else None
        wanted = plain.forward(tensors, x, t, captions, 16, added)[:, :16]
        rows.append(
            {
                "what": f"{name}, {what}",
                "shape": list(wanted.shape),
                "deviation": round(float(wanted.std()), 4),
                "max_difference": float((found - wanted).abs().max()),
            }
        )
    taken = {part: len(values) for part, values in converted.parts.items()}
    return {
        "checkpoint": {
            "layout": layout_of(source).name,
            "tensors": len(source),
            "taken, with three and two for each that is split": taken,
            "known and not needed": sorted(converted.unused),
            "parameters": sum(v.numel() for v in converted.parts["denoiser"].values()),
        },
        "outputs": rows,
        "seconds": round(seconds, 1),
    }
