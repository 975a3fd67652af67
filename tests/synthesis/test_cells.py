"""Masks of cells in requests: where they come from, and that the network is shown them in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from napari_ssldiff.cli.cells import cells_of, check_option
from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.synthesis import (
    Sampler,
    SynthesisRequest,
    make_request,
    synthesize,
)
from napari_ssldiff.synthesis.cell_masks import (
    Sheet,
    outlined_cells,
    pictured_cells,
    source_cells,
)
from napari_ssldiff.synthesis.cells import CellMask

REGION = Region.from_box(Box(64, 64, 128, 128))
FAST = Sampler(steps=3, guidance=2.0)


class Copyist(nn.Module):
    """Answers with the picture that it is shown; mid-grey where it is shown none."""

    def __init__(self) -> None:
        super().__init__()
        self.unshown = 0

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> Any:
        shown = x[:, 15:]  # behind 12 of latents and 3 of the condition's map
        self.unshown += int((shown == 0).all(3).all(2).all(1).sum()) if shown.shape[1] else len(x)
        return SimpleNamespace(sample=0.5 * shown if shown.shape[1] else 0 * x[:, :12])


@pytest.fixture
def copyist(painter: Any) -> Any:
    """The painter with a network that heeds the mask alone."""
    own = painter.denoiser
    spec = replace(own.spec, control=True)
    parts = own.autoencoder, Copyist(), own.projection, own.device
    return replace(painter, denoiser=Denoiser(spec, *parts))


@pytest.fixture
def scene(scene_of: Callable[..., Any]) -> Any:
    """Pink, with six dark blue nuclei, at the model's resolution."""
    pixels = np.full((320, 320, 3), (225, 150, 190), np.uint8)
    y, x = np.mgrid[:320, :320]
    for cy in (90, 150):
        for cx in (80, 120, 160):
            pixels[(y - cy) ** 2 + (x - cx) ** 2 < 64] = (90, 60, 140)
    return scene_of(pixels)


def test_the_network_is_shown_cells_where_they_lie(scene: Any, copyist: Any, drawn: Any) -> None:
    square = Region.from_box(Box(100, 70, 30, 50))
    cells = outlined_cells(Sheet(scene, REGION, copyist), [square])
    request = make_request(scene, REGION, copyist, FAST, cells=cells)
    made = drawn(request, copyist, scene)
    light = made.mean(-1) > made.mean()
    assert light[36:66, 6:56].mean() > 0.99
    assert light.sum() == pytest.approx(30 * 50, rel=0.02)
    banded = drawn(request, copyist, scene, budget=1000)
    assert np.abs(banded.astype(int) - made).max() <= 1


def test_what_guidance_leads_away_from_is_shown_no_cells(
    scene: Any, copyist: Any, drawn: Any
) -> None:
    cells = CellMask(np.ones(Sheet(scene, REGION, copyist).canvas.shape, bool))
    network = copyist.denoiser.network
    guided = make_request(scene, REGION, copyist, FAST, cells=cells)
    drawn(guided, copyist, scene)
    assert network.unshown > 0
    network.unshown = 0
    alone = make_request(scene, REGION, copyist, replace(FAST, guidance=1.0), cells=cells)
    list(synthesize(alone, bundle=copyist, scene=scene))
    assert network.unshown == 0


def test_a_picture_of_the_region_is_laid_over_it(scene: Any, copyist: Any) -> None:
    sheet = Sheet(scene, REGION, copyist)
    picture = np.zeros((4, 4), np.uint16)
    picture[1, 2] = 517
    mask = pictured_cells(sheet, picture).mask
    y, x = 64 - sheet.canvas.y, 64 - sheet.canvas.x
    wanted = np.zeros(sheet.canvas.shape, bool)
    wanted[y + 32 : y + 64, x + 64 : x + 96] = True
    assert np.array_equal(mask, wanted)
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[1, 2] = (0, 0, 9)
    assert np.array_equal(pictured_cells(sheet, colour).mask, wanted)


def test_the_nuclei_of_the_source_are_found(scene: Any, copyist: Any) -> None:
    sheet = Sheet(scene, REGION, copyist)
    mask = source_cells(sheet).mask
    for cy in (90, 150):
        for cx in (80, 120, 160):
            assert mask[cy - sheet.canvas.y, cx - sheet.canvas.x]
    assert not mask[120 - sheet.canvas.y, 100 - sheet.canvas.x]
    elsewhere = replace(copyist, card=replace(copyist.card, domain="remote sensing"))
    with pytest.raises(InputError, match="looked for in histology"):
        source_cells(Sheet(scene, REGION, elsewhere))


def test_the_option_takes_files_and_the_source(scene: Any, copyist: Any, tmp_path: Path) -> None:
    how = {"grid": "source", "around": 0, "grow": 0}
    ring = [[70, 100], [120, 100], [120, 130], [70, 130], [70, 100]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    outlines = tmp_path / "cells.geojson"
    outlines.write_text(json.dumps([feature]))
    found = cells_of(str(outlines), scene, REGION, copyist, **how)
    canvas = Sheet(scene, REGION, copyist).canvas
    wanted = np.zeros(canvas.shape, bool)
    wanted[100 - canvas.y : 130 - canvas.y, 70 - canvas.x : 120 - canvas.x] = True
    assert found == CellMask(wanted)
    part = np.zeros((128, 128, 4), np.uint8)
    part[..., 3] = 255  # opaque everywhere, which is no cell
    part[36:66, 6:56, :3] = 255
    Image.fromarray(part).save(tmp_path / "cells.png")
    assert cells_of(str(tmp_path / "cells.png"), scene, REGION, copyist, **how) == found
    nuclei = cells_of("source", scene, REGION, copyist, **how)
    assert nuclei is not None
    assert nuclei.mask.any()
    assert cells_of(None, scene, REGION, copyist, **how) is None
    with pytest.raises(InputError, match=r"there is no file 'cels\.png'"):
        check_option("cels.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="cannot read the mask of cells"):
        cells_of(str(tmp_path / "text.png"), scene, REGION, copyist, **how)


def test_a_request_carries_its_cells(scene: Any, copyist: Any) -> None:
    shape = Sheet(scene, REGION, copyist).canvas.shape
    cells = CellMask(np.random.default_rng(0).random(shape) < 0.3)
    plain = make_request(scene, REGION, copyist, FAST)
    request = plain.with_(cells=cells)
    assert "cells" not in plain.to_dict()
    again = SynthesisRequest.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again == request
    assert again.digest == request.digest != plain.digest
    broken = request.to_dict()
    broken["cells"]["shape"] = [9999, 9999]
    with pytest.raises(InputError, match="not a synthesis request"):
        SynthesisRequest.from_dict(broken)


def test_cells_that_cannot_be_are_refused(scene: Any, copyist: Any, painter: Any) -> None:
    with pytest.raises(InputError, match=r"takes no mask of cells.*pixcell-256-cells"):
        Sheet(scene, REGION, painter)
    with pytest.raises(InputError, match="none of the 1 cells lies on the region"):
        outlined_cells(Sheet(scene, REGION, copyist), [Region.from_box(Box(300, 300, 9, 9))])
    with pytest.raises(InputError, match=r"is \(h, w\) bool"):
        CellMask(np.zeros((2, 2), np.uint8))  # type: ignore[arg-type]
    cells = CellMask(np.ones((10, 10), bool))
    wrong = make_request(scene, REGION, copyist, FAST, cells=cells)
    with pytest.raises(InputError, match="the mask of cells has 10 × 10 pixels"):
        list(synthesize(wrong, bundle=copyist, scene=scene))
    with pytest.raises(InputError, match="takes no mask of cells"):
        list(synthesize(wrong, bundle=painter, scene=scene))
    lazy = Sampler(preset="lazy", guidance=1.0)
    request = make_request(scene, REGION, copyist, lazy, cells=cells)
    with pytest.raises(InputError, match="choose another preset"):
        list(synthesize(request, bundle=copyist, scene=scene))
