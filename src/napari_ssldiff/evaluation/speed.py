"""How long one region takes on this machine."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from napari_ssldiff.errors import InputError, ModelError
from napari_ssldiff.evaluation.regions import Tile
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.scenes import open_scene
from napari_ssldiff.synthesis import Finished, Sampler, make_request, synthesize


def region_seconds(
    bundle: ModelBundle, tile: Tile, sampler: Sampler, repeats: int = 5
) -> dict[str, Any]:
    """Seconds of one synthesis of the tile's region, after one run to warm up.

    Embedding is not in it: a session embeds a region once and varies it often.

    Returns
    -------
    Median, all repeats, network evaluations and what it ran on.
    """
    seconds, evaluations = [], 0
    with open_scene(tile.path) as scene:
        request = make_request(scene, tile.region, bundle, sampler, grid="model")
        for _ in range(repeats + 1):
            start = time.perf_counter()
            for event in synthesize(request, bundle=bundle, scene=scene):
                if isinstance(event, Finished):
                    evaluations = event.evaluations
            seconds.append(time.perf_counter() - start)
    return {
        "median_s": float(np.median(seconds[1:])),
        "all_s": seconds[1:],
        "n": repeats,
        "region": list(tile.pixels.shape[:2]),
        "preset": request.sampler.preset,
        "steps": request.sampler.steps,
        "guidance": request.sampler.guidance,
        "evaluations": evaluations,
        "device": str(bundle.device),
        "torch_threads": torch.get_num_threads(),
    }


def timing_figures(bundle: ModelBundle, tile: Tile, sampler: Sampler) -> dict[str, Any]:
    """The sampler's time, and the preset ``draft``'s where this model has one."""
    out = {"default": region_seconds(bundle, tile, sampler)}
    if sampler.preset != "draft":
        try:
            draft = Sampler(preset="draft", seed=sampler.seed)
            out["draft"] = region_seconds(bundle, tile, draft)
        except (InputError, ModelError):
            pass  # no such preset, or a model without a student
    return out
