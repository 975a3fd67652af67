"""Masks of cells in the dock: what is offered, what the worker reads, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import dask.array
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels

from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.viewer.backend import Choices
from napari_ssldiff.viewer.cells import Cells, offered_labels
from napari_ssldiff.viewer.layer_scene import FIELD_KEY
from napari_ssldiff.viewer.messages import JobDone
from napari_ssldiff.viewer.session import CellChoice
from napari_ssldiff.viewer.workbench import Workbench

BOX = Box(128, 256, 128, 192)
REGION = Region.from_box(BOX)
# Where the slide lies: 0.5 µm per pixel, away from the origin.
PLACE = {"scale": (0.5, 0.5), "translate": (100.25, 50.25), "units": ("micrometer",) * 2}


@pytest.fixture
def bench(backend: Any, add_slide: Callable[..., Any], post: Any) -> Iterator[Workbench]:
    viewer = ViewerModel()
    add_slide(viewer)
    backend.choices = lambda model_id: Choices(cells=model_id == "demo-histology")
    bench = Workbench(viewer, post.deliver, backend)
    bench.regions.add(REGION, "rectangle")
    yield bench
    assert bench.close()


@pytest.fixture
def heard(bundle: Any) -> Any:
    """A model that takes a mask of cells, of 0.5 µm/px, which are the slide's."""
    own = bundle.denoiser
    spec = replace(own.spec, control=True)
    parts = own.autoencoder, own.network, own.projection, own.device
    return replace(bundle, denoiser=Denoiser(spec, *parts))


def asked(bench: Workbench, post: Any, backend: Any, choice: CellChoice) -> Cells | None:
    """What the engine was given when Generate was pressed."""
    bench.session.cells = choice
    assert bench.generate(), bench.session.status.text
    assert isinstance(post.end(bench.handle), JobDone)
    found: Cells | None = backend.masks[-1]
    return found


def test_cells_lie_where_a_labels_layer_has_them(
    bench: Workbench, post: Any, backend: Any, heard: Any
) -> None:
    labels = np.zeros((700, 900), np.int32)
    labels[140:150, 300:330] = 7
    layer = Labels(labels, name="segmentation", **PLACE)
    bench.viewer.add_layer(layer)
    assert asked(bench, post, backend, CellChoice()) is None
    cells = asked(bench, post, backend, CellChoice("layer", layer))
    assert cells is not None
    assert bench.scene is not None
    found = cells.mask(bench.scene, REGION, heard, around=0, grow=0).mask
    assert found.sum() == 300
    rows, columns = np.nonzero(found)
    assert (np.ptp(rows), np.ptp(columns)) == (9, 29)
    # The same, coarser and from a file that is not read whole.
    coarse = {**PLACE, "scale": (1.0, 1.0), "translate": (100.5, 50.5)}
    lazy = dask.array.from_array(labels[::2, ::2], chunks=64)
    layer = bench.viewer.add_labels(lazy, name="lazy", **coarse)
    cells = asked(bench, post, backend, CellChoice("layer", layer))
    assert cells is not None
    again = cells.mask(bench.scene, REGION, heard, around=0, grow=0).mask
    assert np.array_equal(again, found)


def test_the_sources_own_nuclei_are_looked_for_by_the_worker(
    bench: Workbench, post: Any, backend: Any, heard: Any, bundle: Any
) -> None:
    cells = asked(bench, post, backend, CellChoice("source"))
    assert cells is not None
    assert bench.scene is not None
    found = cells.mask(bench.scene, REGION, heard, around=0, grow=0)
    assert found.mask.shape[0] >= BOX.h
    with pytest.raises(InputError, match="takes no mask of cells"):
        cells.mask(bench.scene, REGION, bundle, around=0, grow=0)


def test_a_model_that_takes_none_is_not_asked(bench: Workbench, post: Any, backend: Any) -> None:
    bench.session.model_id = "demo-naip"
    assert asked(bench, post, backend, CellChoice("source")) is None


def test_a_layer_that_does_not_cover_the_region_is_refused(bench: Workbench) -> None:
    layer = bench.viewer.add_labels(np.zeros((200, 200), int), name="part", **PLACE)
    bench.session.cells = CellChoice("layer", layer)
    assert not bench.generate()
    said = bench.session.status.text
    assert "'part' does not cover the region: there is no mask of cells" in said


def test_flat_labels_are_offered_but_not_the_editors_brush(bench: Workbench) -> None:
    mine = bench.viewer.add_labels(np.zeros((9, 9), int), name="mine")
    brush = bench.viewer.add_labels(np.zeros((9, 9), int), name="brush", metadata={FIELD_KEY: "x"})
    bench.viewer.add_labels(np.zeros((2, 9, 9), int), name="stack")
    assert offered_labels(bench.viewer.layers) == [mine]
    assert brush not in offered_labels(bench.viewer.layers)
