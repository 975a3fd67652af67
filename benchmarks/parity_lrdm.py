"""The paper's models at full size: what :mod:`parity` compares."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_ldm as plain
import plain_ldm_shapes as shapes
import torch

import napari_ssldiff.models
from napari_ssldiff.models import parts, read_card
from napari_ssldiff.models.convert import convert
from napari_ssldiff.models.load import model_spec

CATALOGUE = Path(napari_ssldiff.models.__file__).parent / "catalogue"


def compared(what: str, found: torch.Tensor, wanted: torch.Tensor) -> dict[str, Any]:
    """A row of the result."""
    return {
        "what": what,
        "shape": list(wanted.shape),
        "deviation": round(float(wanted.std()), 4),
        "max_difference": float((found - wanted).abs().max()),
    }


@torch.inference_mode()
def check() -> dict[str, Any]:
    """Counts of a whole checkpoint's tensors, and differences of all outputs."""
    card = read_card(CATALOGUE / "brca-20x.yaml")
    groups = {
        "U-Net": shapes.unet_shapes(shapes.UnetConfig()),
        "VQ-f4": shapes.vq_shapes(shapes.VqConfig()),
        "conditioning": shapes.condition_shapes(384, 512, 768),
    }
    wanted = {name: shape for group in groups.values() for name, shape in group.items()}
    tensors = {**shapes.random_tensors(wanted), **shapes.schedule_buffers()}
    converted, spec = convert(tensors, card), model_spec(card)

    def module(part: str, make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
        with torch.device("meta"):
            made = make()
        made.load_state_dict(converted.parts[part], assign=True)
        return made.eval()

    rows, seconds = [], {}
    autoencoder: Any = module("autoencoder", lambda: parts.autoencoder(card.parts["autoencoder"]))
    projection = module("conditioning", lambda: parts.projection(card.parts["conditioning"], spec))
    torch.manual_seed(0)
    vectors = torch.randn(2, 384)
    context = plain.condition(tensors, vectors)
    rows.append(compared("conditioning", projection(vectors[:, None]).context, context))
    null = plain.condition(tensors, torch.zeros(1, 384))
    rows.append(compared("null condition", projection(torch.zeros(1, 1, 384)).context, null))

    image, latents = torch.rand(1, 3, 256, 256) * 2 - 1, torch.randn(1, 3, 64, 64)
    rows.append(
        compared("VQ-f4 encode", autoencoder.encode(image), plain.vq_encode(tensors, image))
    )
    # What is nearest must not hang on the last digit: latents near to a vector of the codebook.
    codes = tensors["first_stage_model.quantize.embedding.weight"]
    near = codes[torch.randint(len(codes), (1, 64, 64))].permute(0, 3, 1, 2) + 1e-4 * latents
    rows.append(
        compared("VQ-f4 decode", autoencoder.decode_raw(near), plain.vq_decode(tensors, near))
    )
    theirs = autoencoder.network.quantize(latents)[2][2].reshape(1, 64, 64)
    other = int((theirs != plain.quantise(tensors, latents)).sum())
    del autoencoder
    gc.collect()

    network: Any = module("denoiser", lambda: parts.network(card.parts["denoiser"]))
    for name, t in (("U-Net, t = 1000", 1000.0), ("U-Net, t = 19", 19.0)):
        begin = time.process_time()  # of all threads; others may be using the machine
        found = network(latents, torch.tensor([t]), context[:1]).sample
        seconds[name] = round(time.process_time() - begin, 1)
        answer = plain.unet(tensors, latents, torch.tensor([t]), context[:1])
        rows.append(compared(name, found, answer))
    counts = {
        name: {"tensors": len(group), "parameters": shapes.parameters(group)}
        for name, group in groups.items()
    }
    taken = sum(len(part) for part in converted.parts.values()) - 4  # buffers of our autoencoder
    return {
        "checkpoint": {
            **counts,
            "tensors": len(tensors),
            "taken": taken,
            "known and not needed": sorted(converted.unused),
        },
        "outputs": rows,
        "codes": {"of arbitrary latents": latents[0, 0].numel(), "that differ": other},
        "cpu_seconds_per_call": seconds,
    }
