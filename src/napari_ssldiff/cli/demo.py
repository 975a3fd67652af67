"""The main job on a sample: open, region, embed, vary, export. With a window or without."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from napari_ssldiff.cli.deliver import Meter, picture, render, say, write_result
from napari_ssldiff.export import check_output
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.samples import demo_sample
from napari_ssldiff.scenes import Scene, open_scene


def has_display() -> bool:
    """Whether a window can be opened: macOS and Windows always, X11 or Wayland elsewhere."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def demo_region(scene: Scene) -> Region:
    """A square of up to 768 px that holds content: the busiest of nine places."""
    side = min(768, scene.shape[0] // 2, scene.shape[1] // 2)
    rows = [round(f * (scene.shape[0] - side)) for f in (0.15, 0.5, 0.85)]
    columns = [round(f * (scene.shape[1] - side)) for f in (0.15, 0.5, 0.85)]
    boxes = [Box(y, x, side, side) for y in rows for x in columns]
    return Region.from_box(max(boxes, key=lambda box: float(scene.read_rgb(box)[::4, ::4].std())))


def free_name(folder: Path) -> tuple[Path, Path]:
    """Names of an OME-Zarr and a picture that do not exist yet."""
    number = 1
    while True:
        tail = "" if number == 1 else f"-{number}"
        store, image = folder / f"variation{tail}.ome.zarr", folder / f"variation{tail}.png"
        if not store.exists() and not image.exists():
            return store, image
        number += 1


def run(out: Path, *, headless: bool = False) -> None:
    """Run the demo.

    Parameters
    ----------
    out
        Folder of the results; made where it is missing.
    headless
        No window even where there is a display.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    from napari_ssldiff.errors import OutputError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {out}: {error.strerror}") from None
    store, image = free_name(out)
    check_output(store)
    path, sentence = demo_sample()
    say(sentence)
    if headless or not has_display():
        if not headless:
            say("no display: doing the same without a window")
        run_headless(path, store, image)
        return
    from napari_ssldiff.viewer.demo import run_in_window

    with open_scene(path) as scene:
        region = demo_region(scene)
    run_in_window(path, region, store, image)


def run_headless(path: Path, store_path: Path, image: Path) -> None:
    """Vary a region of ``path`` and write the OME-Zarr and a side-by-side picture."""
    from napari_ssldiff.models import choose_model, load_bundle
    from napari_ssldiff.synthesis import make_request

    progress = Meter()
    with open_scene(path) as scene:
        region = demo_region(scene)
        box = region.bounds
        say(f"opened {scene.name}: {scene.shape[1]} × {scene.shape[0]} px")
        say(f"region: x {box.x}, y {box.y}, {box.w} × {box.h} px")
        card = choose_model(scene)
        say(f"model: {card.id} ({card.name})")
        bundle = load_bundle(card)
        request = make_request(scene, region, bundle, progress=progress)
        drawn = render(request, bundle, scene, progress)
        overlay, computed = drawn.store, {**bundle.computed, **drawn.computed}
        try:
            write_result(store_path, request, scene, overlay, "0.5", computed)
            picture(image, request, scene, overlay)
        finally:
            overlay.close()
    drawn.report(store_path)
    say("the picture shows source and synthesis side by side; the OME-Zarr opens in napari")
    print(image)
    print(store_path)
