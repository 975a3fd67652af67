"""PixCell's virtual staining at full size: what :mod:`parity` compares.

The flow has all its 24 M weights and goes all its 100 steps; its answers are compared with those of
plain torch in double precision. The transformer's file is built in names and shapes alone, and its
tensors are counted; numbers are merged in the layers of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import plain_stain as plain
import torch

from napari_ssldiff.embeddings.flow import along_flow
from napari_ssldiff.models import parts
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.convert import convert, layout_of
from napari_ssldiff.models.convert.adapter import merge_adapter
from napari_ssldiff.models.entries import known
from napari_ssldiff.models.resolve import cards_of

WIDTH, CAPTION, TOKENS, RANK = 1152, 1536, 16, 4
LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


def check() -> dict[str, Any]:
    """Counts of the pair's tensors, and differences of all outputs."""
    card = cards_of(known("pixcell-mist-her2"))[0]
    flow = plain.random_tensors(CAPTION, 1024, 6)
    pair = {
        **{f"lora.{name}": torch.empty(shape, device="meta") for name, shape in _saved(card)},
        **{f"mlp.{name}": tensor for name, tensor in flow.items()},
    }
    converted = convert(pair, card)
    return {
        "checkpoint": {
            "layout": layout_of(pair).name,
            "tensors": len(pair),
            "taken": {part: len(values) for part, values in converted.parts.items()},
            "known and not needed": sorted(converted.unused),
            "parameters": {
                part: sum(v.numel() for v in values.values())
                for part, values in converted.parts.items()
            },
        },
        "outputs": [_flow(card, converted.parts["translation"], flow), *_merged()],
    }


def _saved(card: ModelCard) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the transformer's file, as peft leaves them."""
    with torch.device("meta"):
        network: Any = parts.network(card.parts["denoiser"])
    for name, tensor in network.transformer.state_dict().items():
        layer, _, leaf = name.rpartition(".")
        changed = ".attn2." in layer and layer.partition(".attn2.")[2] in LAYERS
        yield (f"{layer}.base_layer.{leaf}" if changed else name), tuple(tensor.shape)
        if changed and leaf == "weight":
            yield f"{layer}.lora_A.default.weight", (RANK, WIDTH)
            yield f"{layer}.lora_B.default.weight", (WIDTH, RANK)
    yield "caption_projection.uncond_embedding", (TOKENS, CAPTION)
    yield "y_pos_embed.y_pos_embed", (1, TOKENS, CAPTION)


@torch.inference_mode()
def _flow(card: ModelCard, taken: Any, flow: Any) -> dict[str, Any]:
    network = parts.translation(card.parts["translation"], CAPTION)
    network.load_state_dict(taken)
    torch.manual_seed(0)
    scale = float(card.parts["conditioning"]["scale"])
    vectors = torch.nn.functional.normalize(torch.randn(TOKENS, CAPTION), dim=1) * scale
    steps = int(card.parts["translation"]["steps"])
    found = along_flow(network.eval(), vectors, steps)
    exact = {name: tensor.double() for name, tensor in flow.items()}
    wanted = plain.translated(exact, vectors.double(), steps)
    return _row(f"flow, {steps} steps of {TOKENS} cells", found.double(), wanted)


def _merged() -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for layer in LAYERS:
        tensors[f"{layer}.base_layer.weight"] = torch.randn(WIDTH, WIDTH) / WIDTH**0.5
        tensors[f"{layer}.lora_A.default.weight"] = torch.randn(RANK, WIDTH) / RANK
        tensors[f"{layer}.lora_B.default.weight"] = torch.randn(WIDTH, RANK) / WIDTH**0.5
    merged = merge_adapter(tensors, {"rank": RANK, "alpha": RANK})
    for layer in LAYERS:
        base, down, up = (
            tensors[f"{layer}.{name}.weight"].double()
            for name in ("base_layer", "lora_A.default", "lora_B.default")
        )
        vectors = torch.randn(TOKENS, WIDTH).double()
        # As an adapter computes: its own way beside the layer's.
        wanted = vectors @ base.T + (vectors @ down.T) @ up.T
        found = vectors @ merged[f"{layer}.weight"].double().T
        yield _row(f"merged {layer} of one block", found, wanted)


def _row(what: str, found: torch.Tensor, wanted: torch.Tensor) -> dict[str, Any]:
    return {
        "what": what,
        "shape": list(wanted.shape),
        "deviation": round(float(wanted.std()), 4),
        "max_difference": float((found - wanted).abs().max()),
    }
