"""Samples in a real viewer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.mark.gui
def test_the_menu_of_samples_opens_one_through_the_plugins_own_reader(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from npe2 import PluginManager
    from skimage.data import immunohistochemistry

    monkeypatch.setenv("NAPARI_SSLDIFF_CACHE", str(tmp_path))
    viewer = make_napari_viewer()
    # The fixture hides installed plugins; ours is asked for by name.
    manager = PluginManager.instance()
    if "napari-ssldiff" not in manager:
        manager.register(_manifest())
    viewer.open_sample("napari-ssldiff", "immunohistochemistry")
    (layer,) = viewer.layers
    finest = layer.data[0] if layer.multiscale else layer.data
    assert layer.rgb
    assert np.array_equal(np.asarray(finest), immunohistochemistry())


def _manifest() -> Any:
    from npe2 import PluginManifest

    return PluginManifest.from_distribution("napari-ssldiff")
