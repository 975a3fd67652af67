"""OME-Zarr 0.4 and 0.5 from a folder, a zip file and a web server."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import open_scene

RGB = [{"color": c, "label": n} for c, n in (("FF0000", "r"), ("00FF00", "g"), ("0000FF", "b"))]


def write(
    path: Path, levels: list[Any], axes: str = "cyx", version: str = "0.5", **extra: Any
) -> Path:
    """A minimal valid OME-Zarr image at 0.25 µm, its corner at y 10, x 20 µm."""
    root = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for i, level in enumerate(levels):
        root.create_array(str(i), data=level, chunks=tuple(64 if a in "yx" else 1 for a in axes))
        step = 0.25 * 2**i
        scale = [step if a in "yx" else 1.0 for a in axes]
        shift = [{"y": 10 + step / 2, "x": 20 + step / 2}.get(a, 0.0) for a in axes]
        datasets.append(
            {
                "path": extra.get("paths", {}).get(i, str(i)),
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale},
                    {"type": "translation", "translation": shift},
                ],
            }
        )
    kinds = {"c": "channel", "t": "time"}
    described = [
        {"name": a, "type": kinds.get(a, "space"), **({"unit": "micrometer"} if a in "yx" else {})}
        for a in axes
    ]
    own: dict[str, Any] = {"multiscales": [{"axes": described, "datasets": datasets}]}
    if "channels" in extra:
        own["omero"] = {"channels": extra["channels"]}
    if version == "0.4":
        own["multiscales"][0]["version"] = "0.4"
        root.attrs.update(own)
    else:
        root.attrs["ome"] = {"version": version, **own}
    return path


@pytest.fixture
def image(smooth: Any) -> Any:
    return smooth(200, 260)


def planes(image: Any) -> list[Any]:
    return [np.moveaxis(image[::s, ::s], -1, 0) for s in (1, 2)]


def assert_is(scene: Any, image: Any) -> None:
    assert [level.shape for level in scene.levels] == [image.shape, image[::2, ::2].shape]
    np.testing.assert_array_equal(scene.read_rgb(Box(30, 40, 100, 120)), image[30:130, 40:160])
    np.testing.assert_array_equal(np.asarray(scene.levels[1]), image[::2, ::2])
    assert scene.band_names == ("red", "green", "blue")
    assert scene.pixel_size.to_list() == [0.25, 0.25, "micrometer"]
    assert scene.origin == (pytest.approx(10), pytest.approx(20))
    assert not scene.problems


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_folder_comes_back_as_rgb_at_its_place(tmp_path: Path, image: Any, version: str) -> None:
    path = write(tmp_path / "a.ome.zarr", planes(image), version=version, channels=RGB)
    with open_scene(path) as scene:
        assert_is(scene, image)
        assert scene.facts["format"] == f"OME-Zarr {version}"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_zip_file_opens_whether_or_not_it_holds_the_folder(
    tmp_path: Path, image: Any, version: str, nested: bool
) -> None:
    write(tmp_path / "in/a.ome.zarr", planes(image), version=version, channels=RGB)
    base = tmp_path / "in" if nested else tmp_path / "in/a.ome.zarr"
    archive = shutil.make_archive(str(tmp_path / "a.zarr"), "zip", base)
    with open_scene(archive) as scene:
        assert_is(scene, image)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_url_opens(tmp_path: Path, image: Any, version: str, server: str) -> None:
    write(tmp_path / "a.ome.zarr", planes(image), version=version, channels=RGB)
    with open_scene(f"{server}/a.ome.zarr") as scene:
        assert_is(scene, image)


def test_a_url_with_nothing_behind_it_is_refused_in_one_line(server: str) -> None:
    with pytest.raises(InputError) as caught:
        open_scene(f"{server}/nothing.zarr")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="download"):
        open_scene(f"{server}/slide.svs")


@pytest.mark.parametrize("axes", ["yxc", "tczyx", "czyx"])
def test_axes_come_in_any_order_and_of_t_and_z_the_first(
    tmp_path: Path, image: Any, axes: str
) -> None:
    order = {a: i for i, a in enumerate(axes)}
    data = image.transpose(np.argsort([order[a] for a in "yxc"]))
    for a in axes:
        if a in "tz":
            data = np.stack([data, np.zeros_like(data)], order[a])
    path = write(tmp_path / "a.zarr", [data], axes=axes)
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read(scene.box), image)


def test_channels_in_the_order_blue_green_red_are_shown_as_rgb(tmp_path: Path, image: Any) -> None:
    data = np.moveaxis(image[..., ::-1], -1, 0)
    path = write(tmp_path / "a.zarr", [data], channels=RGB[::-1])
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read_rgb(scene.box), image)


@pytest.mark.parametrize("bad", ["../secret", "/etc", "a/../../b", "..\\x", "http://x/y", ""])
def test_a_level_outside_the_image_is_refused(tmp_path: Path, image: Any, bad: str) -> None:
    write(tmp_path / "secret", planes(image))
    path = write(tmp_path / "a.zarr", planes(image), paths={1: bad})
    with pytest.raises(InputError, match="leaves the image"):
        open_scene(path)


def test_a_level_that_is_a_link_to_elsewhere_is_refused(tmp_path: Path, image: Any) -> None:
    other = write(tmp_path / "other.zarr", planes(image))
    path = write(tmp_path / "a.zarr", planes(image))
    shutil.rmtree(path / "1")
    (path / "1").symlink_to(other / "1")
    with pytest.raises(InputError, match="leaves the image"):
        open_scene(path)


@pytest.mark.parametrize("spoil", ["{", "[]", '{"zarr_format": 3, "node_type": "group"}'])
def test_broken_metadata_are_refused_in_one_line(tmp_path: Path, image: Any, spoil: str) -> None:
    path = write(tmp_path / "a.zarr", planes(image))
    (path / "zarr.json").write_text(spoil)
    with pytest.raises(InputError) as caught:
        open_scene(path)
    assert "\n" not in str(caught.value)


def test_a_missing_level_is_named(tmp_path: Path, image: Any) -> None:
    path = write(tmp_path / "a.zarr", planes(image))
    shutil.rmtree(path / "1")
    with pytest.raises(InputError, match="level '1'"):
        open_scene(path)


def test_provenance_beside_the_metadata_is_kept(tmp_path: Path, image: Any) -> None:
    path = write(tmp_path / "a.zarr", planes(image))
    text = json.loads((path / "zarr.json").read_text())
    text["attributes"]["napari_ssldiff"] = {"synthetic": True}
    (path / "zarr.json").write_text(json.dumps(text))
    with open_scene(path) as scene:
        assert scene.facts["napari_ssldiff"] == {"synthetic": True}


def test_a_bare_zarr_array_opens(tmp_path: Path, image: Any) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=image, chunks=(64, 64, 3))
    with open_scene(tmp_path / "a.zarr") as scene:
        np.testing.assert_array_equal(scene.read(scene.box), image)
