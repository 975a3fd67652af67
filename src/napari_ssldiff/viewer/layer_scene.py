"""Any image layer as a scene: ours as it is, others wrapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from napari_ssldiff.errors import InputError
from napari_ssldiff.export.provenance import NAMESPACE
from napari_ssldiff.scenes.build import Found, build_scene
from napari_ssldiff.scenes.levels import ArrayLevel, Problems
from napari_ssldiff.scenes.scene import Display, Scene
from napari_ssldiff.viewer.units import pixel_size

if TYPE_CHECKING:
    from napari.layers import Image

#: Marks layers that show a field's cells.
FIELD_KEY = "napari_ssldiff_field"
_CHUNK = 512
_wrapped: WeakKeyDictionary[Any, tuple[Any, Scene]] = WeakKeyDictionary()


def is_source(layer: Any) -> bool:
    """Whether a layer could be a scene: a 2-D image that this plugin did not make itself."""
    from napari.layers import Image

    if not isinstance(layer, Image) or layer.ndim != 2:
        return False
    if FIELD_KEY in layer.metadata:
        return False
    ours = layer.metadata.get(NAMESPACE)
    # An overlay or a preview is not a scene; a synthetic file that was opened again is one.
    return not isinstance(ours, dict) or "overlay_of" not in ours


def scene_of(layer: Image) -> Scene:
    """The scene behind an image layer.

    A layer that our reader made carries it. Any other 2-D image, grey, RGB or RGBA, one level
    or several, is wrapped: nothing is copied, pixels are read where they are needed. The same
    layer gives the same scene as long as its data is the same object.

    Raises
    ------
    InputError
        If the layer is rotated, sheared, mirrored, or its samples or units are of no use.
    """
    ours = layer.metadata.get(NAMESPACE)
    if isinstance(ours, dict) and isinstance(ours.get("scene"), Scene):
        scene: Scene = ours["scene"]
        return scene
    known = _wrapped.get(layer)
    if known is not None and known[0] is layer.data:
        return known[1]
    scene = _wrap(layer)
    _wrapped[layer] = (layer.data, scene)
    return scene


def _wrap(layer: Image) -> Scene:
    name = str(layer.name)
    matrix = np.asarray(layer.affine.affine_matrix)
    if (
        not np.allclose(layer.rotate, np.eye(2))
        or np.any(np.asarray(layer.shear) != 0)
        or not np.allclose(matrix, np.eye(len(matrix)))
        or np.any(np.asarray(layer.scale) <= 0)
    ):
        raise InputError(
            f"the layer {name!r} is rotated, sheared, mirrored or has an affine: "
            "reset its transform, scale and translation may stay"
        )
    size, many = pixel_size(name, np.asarray(layer.scale, float), layer.units)
    centre = np.asarray(layer.translate, float) * many
    arrays = list(layer.data) if layer.multiscale else [layer.data]
    problems = Problems()
    levels = [
        ArrayLevel(
            array, "YXC" if layer.rgb else "YX", "C" if layer.rgb else None, (_CHUNK, _CHUNK),
            problems, name if i == 0 else f"{name} (level {i})",
        )
        for i, array in enumerate(arrays)
    ]  # fmt: skip
    scene = build_scene(
        Found(
            path=str(layer.source.path or f"napari layer {name!r}"),
            name=name,
            levels=levels,
            problems=problems,
            pixel_size=size,
            # napari places the centre of a pixel, a scene its outer corner.
            origin=(float(centre[0] - size.y / 2), float(centre[1] - size.x / 2)),
            facts={"format": "napari layer"},
        ),
        None,
    )
    scene.display = _display(layer, scene)
    return scene


def _display(layer: Image, scene: Scene) -> Display:
    """What the layer shows, not what statistics would choose."""
    if layer.rgb:
        top = 1.0 if scene.dtype.kind == "f" else float(np.iinfo(scene.dtype).max)
        return Display((0, 1, 2), (0.0,) * 3, (top,) * 3)
    low, high = (float(v) for v in layer.contrast_limits)
    return Display((0, 0, 0), (low,) * 3, (max(high, low + 1e-6),) * 3)
