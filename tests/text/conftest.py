"""A tiny text encoder and a tiny prior with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from napari_ssldiff.text.encoder import TextEncoder, load_text_encoder
from napari_ssldiff.text.prior import Prior, PriorFacts, PriorNetwork
from napari_ssldiff.training.text import Words, build, write

TEXT: dict[str, Any] = {
    "width": 16,
    "vision": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text": {"context_length": 16, "width": 16, "heads": 2, "layers": 1},
}
PRIOR: dict[str, Any] = {
    "window": 4, "width": 12, "channels": 8, "condition": 16, "context": 16, "spatial": 4,
    "prediction": "sample",
    "scheduler": {
        "beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195,
        "num_train_timesteps": 1000,
    },
    "network": {
        "block_out_channels": [16], "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"],
        "attention_head_dim": 8, "norm_num_groups": 8,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text encoder as ``train`` writes it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("text")
    words = Words(["histology", "remote sensing"], 16)
    write(build(TEXT, len(words.table)), words, TEXT, folder)
    return folder


@pytest.fixture(scope="session")
def text(text_folder: Path) -> TextEncoder:
    return load_text_encoder(text_folder)


@pytest.fixture(scope="session")
def prior() -> Prior:
    torch.manual_seed(0)
    network = PriorNetwork(PRIOR)
    network.axes.fit(torch.nn.functional.normalize(torch.randn(400, 12), dim=1), 0.5)
    facts = PriorFacts("tiny-prior", "tiny@1", 0.5, "micrometer", 32, 2.0)
    return Prior(facts, PRIOR, network, torch.device("cpu"))
