from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np

from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.export import provenance_of
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.synthesis.request import Sampler, Source, SynthesisRequest


def test_the_request_can_be_restored_from_the_provenance_alone() -> None:
    vectors = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    field = EmbeddingField(vectors, (1, 2), (15, 13), "enc@1", 0.5, "micrometer")
    request = SynthesisRequest(
        model="demo-histology",
        model_hash="0" * 64,
        field=field,
        region=Region.from_box(Box(1, 2, 30, 40)),
        source=Source("a.svs", (100, 200), (0.5, 0.5), "micrometer"),
        sampler=Sampler(seed=11),
    )
    facts = json.loads(json.dumps(provenance_of(request, extra={"device": "cpu"})))
    restored = SynthesisRequest.from_dict(facts["request"])
    assert restored.digest == request.digest == facts["request_digest"]
    assert facts["seed"] == 11
    assert facts["device"] == "cpu"
    assert facts["model"] == "demo-histology"
    assert facts["model_hash"] == "0" * 64


def test_extra_facts_cannot_unmark_a_synthetic_image() -> None:
    request = SimpleNamespace(
        to_dict=lambda: {"model": "m"},
        digest="d",
        model="m",
        model_hash="h",
        sampler=SimpleNamespace(seed=1),
    )
    facts = provenance_of(request, extra={"synthetic": False, "note": "a real slide"})
    assert facts["synthetic"] is True
    assert facts["note"] != "a real slide"
    assert {"numpy", "zarr", "torch", "diffusers"} <= set(facts["versions"])
    assert facts["created"].endswith("+00:00")
    assert "CVPR 2024" in facts["citation"]
