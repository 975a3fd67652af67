"""ZoomLDM at full size: what :mod:`parity` compares."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import plain_ldm
import plain_ldm_shapes as shapes
import plain_zoomldm as plain
import torch

import napari_ssldiff.models
from napari_ssldiff.models import parts, read_card
from napari_ssldiff.models.convert import convert, layout_of
from napari_ssldiff.models.convert.ldm import ema_names
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
    card = read_card(CATALOGUE / "zoomldm-brca.yaml")
    card = replace(card, parts={**card.parts, "encoder": {"width": 1024}})
    unet = shapes.unet_shapes(shapes.UnetConfig())
    names, averages = ema_names(unet), shapes.random_tensors(unet, 2)
    condition = plain.random_tensors(1024, 512, 2048, 12, 8)
    tensors = {
        # Zeros for the last weights: their averages are to be taken.
        **{k: v.new_zeros(()).expand(v.shape) for k, v in averages.items()},
        **{names[k]: v for k, v in averages.items()},
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(1),
        **shapes.random_tensors(shapes.vq_shapes(shapes.VqConfig())),
        **{f"cond_stage_model.{k}": v for k, v in condition.items()},
        **shapes.schedule_buffers(),
    }
    converted = convert(tensors, card)

    def filled(part: str, made: torch.nn.Module) -> Any:
        made.load_state_dict(converted.parts[part], assign=True)
        return made.eval()

    torch.manual_seed(0)
    rows, contexts = [], []
    for side, magnification in ((1, 0), (2, 1), (4, 2), (8, 7)):
        own = replace(card, cell=card.window // side)
        part = {**card.parts["conditioning"], "magnification": magnification}
        projection = filled("conditioning", parts.projection(part, model_spec(own)))
        raw = torch.randn(1, 1024, side, side)
        vectors = torch.nn.functional.normalize(raw.flatten(2).transpose(1, 2), dim=2)
        contexts.append(plain.forward(condition, raw, magnification, 8))
        found = projection(vectors).context
        rows.append(compared(f"condition of {side} x {side}", found, contexts[-1]))
    image, x, t = torch.rand(1, 3, 256, 256) * 2 - 1, torch.randn(1, 3, 64, 64), torch.tensor([501])
    vae = filled("autoencoder", parts.autoencoder(card.parts["autoencoder"]))
    wanted = plain_ldm.vq_encode(tensors, image)
    rows.append(compared("VQ-f4 encode", vae.encode(image), wanted))
    # What is nearest must not hang on the last digit: latents near to a vector of the codebook.
    codes = tensors["first_stage_model.quantize.embedding.weight"]
    near = codes[torch.randint(len(codes), (1, 64, 64))].permute(0, 3, 1, 2) + 1e-4 * x
    rows.append(compared("VQ-f4 decode", vae.decode_raw(near), plain_ldm.vq_decode(tensors, near)))
    network = filled("denoiser", parts.network(card.parts["denoiser"]))
    begin = time.perf_counter()
    found = network(x, t, contexts[1]).sample
    seconds = time.perf_counter() - begin
    rows.append(compared("U-Net", found, plain_ldm.unet(averages, x, t.float(), contexts[1])))
    unused = sorted(converted.unused)
    return {
        "checkpoint": {
            "layout": layout_of(tensors).name,
            "tensors": len(tensors),
            "taken": {part: len(values) for part, values in converted.parts.items()},
            "known and not needed": f"{len(unused)}, of which {len(unet)} last weights",
            "parameters": {
                part: sum(v.numel() for v in values.values())
                for part, values in converted.parts.items()
            },
        },
        "outputs": rows,
        "seconds_per_call": {"U-Net": round(seconds, 1)},
    }
