"""A checkpoint of every layout goes from its file to a variation of a slide, by the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    "diffusers": ("own-unet", "own-unet"),
}


@pytest.fixture(scope="module")
def store(workshop: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the encoder and the autoencoder are installed."""
    from napari_ssldiff.models import entries

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAPARI_SSLDIFF_CACHE", str(folder))
        patch.setattr(entries, "CATALOGUE", workshop.catalogue)
        for card, file in (("tiny-vit", "encoder"), ("small-vae", "autoencoder")):
            words = ["models", "import", card, str(workshop.files[file]), "--trust-unknown"]
            assert main(words) == 0
    return folder


@pytest.fixture
def slide(write_scene: Callable[..., Path]) -> Path:
    """Real tissue: the slide among the real images, where they are, else scikit-image's."""
    import os

    from skimage import data

    found = Path(os.environ.get("NAPARI_SSLDIFF_DATA", "/nowhere")) / "samples/cmu_small_region.svs"
    return found if found.is_file() else write_scene(data.immunohistochemistry())


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
