"""A checkpoint of every layout goes from its file to a variation of a slide, by the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.cli import main

#: The file of the workshop → the card, and what to ask for.
LAYOUTS = {
    "lrdm": ("small-brca", "small-brca"),
    "zoomldm": ("small-zoom", "small-zoom:10x"),
    "pixcell": ("small-pixcell", "small-pixcell"),
    "pixart": ("small-pixcell", "small-pixcell"),
    "cells": ("small-cells", "small-cells"),
    "stain": ("small-stain", "small-stain"),
    "diffusers": ("own-unet", "own-unet"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_becomes_a_variation_of_a_slide(
    layout: str, store: Path, narrow_catalogue: Any, slide: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import zarr

    monkeypatch.setenv("NAPARI_SSLDIFF_CACHE", str(store))
    card, model = LAYOUTS[layout]
    file = narrow_catalogue.files[layout]
    assert main(["models", "import", card, str(file)]) == 2
    assert "knows no hash: make sure" in capsys.readouterr().err
    assert main(["models", "import", card, str(file), "--trust-unknown"]) == 0
    installed = capsys.readouterr().out.strip()
    assert installed.startswith(f"{card}@")
    assert main(["models", "verify", installed]) == 0
    checked = capsys.readouterr().out
    assert f"{installed}: sound" in checked
    assert "tiny-vit@" in checked
    model = model.replace(card, installed)
    out = tmp_path / "out.ome.zarr"
    words = ["vary", str(slide), "--region", "200,200,96,64", "--model", model, "--steps", "2"]
    assert main([*words, "--device", "cpu", "-o", str(out)]) == 0
    pixels = np.asarray(zarr.open_group(out, mode="r")["0"])
    assert pixels.shape == (3, 64, 96)
    assert pixels.std() > 1
    facts = json.loads((out / "zarr.json").read_text())["attributes"]["napari_ssldiff"]
    assert facts["model"] == model
    assert facts["imported"]["model"]["hash_known"] is False
    assert facts["imported"]["model"]["file"] == file.name
    assert facts["imported"]["encoder"]["id"].startswith("tiny-vit@")
    if layout != "cells":
        return
    kept = tmp_path / "kept.ome.zarr"
    assert main([*words, "--cells", "source", "--device", "cpu", "-o", str(kept)]) == 0
    assert not np.array_equal(np.asarray(zarr.open_group(kept, mode="r")["0"]), pixels)
    facts = json.loads((kept / "zarr.json").read_text())["attributes"]["napari_ssldiff"]
    assert facts["request"]["cells"]["bits"]
