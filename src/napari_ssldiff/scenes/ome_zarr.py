"""OME-Zarr 0.4 and 0.5: a folder, a zip file, or a URL (https://ngff.openmicroscopy.org)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import FsspecStore, LocalStore, ZipStore

from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes.build import Found, build_scene
from napari_ssldiff.scenes.levels import ArrayLevel, Level, Problems, one_line
from napari_ssldiff.scenes.ome_frame import Frame, frame
from napari_ssldiff.scenes.scene import PixelSize, Scene

_PROVENANCE = "napari_ssldiff"
_MARKERS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")
_BARE_BANDS = 12


def is_zarr_folder(path: Path) -> bool:
    """Whether a folder looks like the root of a Zarr hierarchy."""
    return any((path / marker).is_file() for marker in _MARKERS)


def open_ome_zarr(location: str, bands: tuple[int, int, int] | None = None) -> Scene:
    """Open the first image of an OME-Zarr hierarchy as a scene.

    Axes may be any of t, c, z, y, x (or y, x, c); at t and z the first is taken.

    Parameters
    ----------
    location
        Folder, ``.zip`` file or URL.

    Raises
    ------
    InputError
        If it is no OME-Zarr image, or its metadata point outside of it.
    """
    problems = Problems()
    store, prefix = _store(location)
    closers: list[Callable[[], None]] = [store.close]
    try:
        try:
            root = zarr.open(store, mode="r", path=prefix)
        except Exception as error:  # zarr passes on whatever its store raised
            raise InputError(f"{location} cannot be opened as Zarr: {one_line(error)}") from error
        name = location.rstrip("/").rsplit("/", 1)[-1] if _is_url(location) else Path(location).name
        if isinstance(root, zarr.Array):
            found = _bare(root, location, name, problems)
        else:
            found = _image(root, location, name, problems)
        found.closers = closers
        return build_scene(found, bands)
    except BaseException:
        for close in closers:
            close()
        raise


def _is_url(location: str) -> bool:
    return "://" in location


def _store(location: str) -> tuple[Any, str]:
    """The read-only store, and the path of the root group within it."""
    if _is_url(location):
        if location.rstrip("/").endswith(".zip"):
            raise InputError(f"{location} is a remote zip file: download it and open the copy")
        try:
            return FsspecStore.from_url(location.rstrip("/"), read_only=True), ""
        except (ImportError, ValueError) as error:
            raise InputError(f"{location} cannot be opened: {one_line(error)}") from error
    if Path(location).is_dir():
        return LocalStore(location, read_only=True), ""
    return ZipStore(location, mode="r", read_only=True), _root_in_zip(location)


def _root_in_zip(location: str) -> str:
    """The outermost folder of a zip file that is a Zarr group: many zips hold the folder itself."""
    import zipfile

    try:
        with zipfile.ZipFile(location) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{location} is no readable zip file: {one_line(error)}") from error
    roots = [n.rpartition("/")[0] for n in names if n.rpartition("/")[2] in _MARKERS]
    if not roots:
        raise InputError(f"{location} holds no OME-Zarr: no zarr.json or .zgroup inside")
    return min(roots, key=lambda r: (r.count("/") + bool(r), r))


def _attributes(group: zarr.Group) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """All attributes, and OME's own: under ``ome`` since 0.5, at the top before."""
    every = group.attrs.asdict()
    own = every.get("ome")
    return every, own if isinstance(own, Mapping) else every


def _image(root: zarr.Group, location: str, name: str, problems: Problems) -> Found:
    every, own = _attributes(root)
    group, prefix = root, ""
    if "multiscales" not in own and "plate" not in own and "0" in root:
        inner = root["0"]  # bioformats2raw wraps images in numbered groups
        if isinstance(inner, zarr.Group):
            group, prefix = inner, "0/"
            every, own = _attributes(group)
    multiscales = own.get("multiscales")
    if not isinstance(multiscales, Sequence) or not multiscales:
        kind = "a plate: open one of its images" if "plate" in own else "no OME-Zarr image"
        raise InputError(f"{location} is {kind} (no multiscales in its metadata)")
    entry = multiscales[0]
    version = str(entry.get("version") or own.get("version") or "unknown")
    place = frame(entry, location)
    axes = place.axes
    paths = [_inside(d.get("path"), location, prefix) for d in entry["datasets"]]
    band_axis = "C" if "C" in axes else None
    levels: list[Level] = []
    for i, path in enumerate(paths):
        try:
            array = group[path]
        except Exception as error:
            raise InputError(f"{location} lacks its level {path!r}: {one_line(error)}") from error
        if not isinstance(array, zarr.Array) or array.ndim != len(axes):
            raise InputError(f"{location}: level {path!r} is no array with the axes {axes.lower()}")
        chunk = (array.chunks[axes.index("Y")], array.chunks[axes.index("X")])
        label = name if i == 0 else f"{name} (level {i})"
        levels.append(ArrayLevel(array, axes, band_axis, chunk, problems, label))
    facts: dict[str, Any] = {
        "format": f"OME-Zarr {version}",
        "axes": axes.lower(),
        "zarr_format": group.metadata.zarr_format,
    }
    unread = (
        {a: n for a, n in zip(axes, levels[0].source.shape, strict=True) if a in "TZ" and n > 1}
        if isinstance(levels[0], ArrayLevel)
        else {}
    )
    if unread:
        facts["first_of"] = unread
    provenance = every.get(_PROVENANCE)
    if isinstance(provenance, Mapping):
        facts[_PROVENANCE] = dict(provenance)
    return _found(location, name, levels, problems, place, own, facts)


def _found(
    location: str,
    name: str,
    levels: list[Level],
    problems: Problems,
    place: Frame,
    own: Mapping[str, Any],
    facts: dict[str, Any],
) -> Found:
    origin = (
        place.translation[0] - place.pixel_size.y / 2,
        place.translation[1] - place.pixel_size.x / 2,
    )
    return Found(
        path=location,
        name=name,
        levels=levels,
        problems=problems,
        pixel_size=place.pixel_size,
        origin=origin if place.placed else (0.0, 0.0),
        band_names=_names(own, levels[0].shape[2], levels[0].dtype),
        scales=place.scales,
        facts=facts,
    )


def _inside(path: Any, location: str, prefix: str) -> str:
    """A dataset's path, refused where it could leave the image's own folder."""
    text = path if isinstance(path, str) else ""
    parts = text.replace("\\", "/").split("/")
    leaves = not text or text.startswith(("/", "\\")) or ".." in parts or ":" in text
    if not leaves and not _is_url(location) and Path(location).is_dir():
        root = os.path.realpath(location)
        target = os.path.realpath(os.path.join(root, prefix + text))
        leaves = os.path.commonpath([root, target]) != root
    if leaves:
        raise InputError(f"{location}: the level path {path!r} leaves the image; refused")
    return text


def _names(own: Mapping[str, Any], count: int, dtype: np.dtype[Any]) -> tuple[str, ...] | None:
    """Channel names. Red, green and blue by colour count as an RGB image, in that order."""
    omero = own.get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(channels, Sequence) or len(channels) != count:
        return None
    colours = [str(c.get("color", "")).upper()[:6] for c in channels]
    primary = {"FF0000": "red", "00FF00": "green", "0000FF": "blue"}
    if count == 3 and dtype == np.uint8 and set(colours) == set(primary):
        return tuple(primary[c] for c in colours)
    return tuple(str(c.get("label", f"channel {i + 1}")) for i, c in enumerate(channels))


def _bare(array: zarr.Array[Any], location: str, name: str, problems: Problems) -> Found:
    """A Zarr array without OME metadata, its axes guessed from its shape."""
    if array.ndim == 2:
        axes = "YX"
    elif array.ndim == 3 and array.shape[-1] <= _BARE_BANDS:
        axes = "YXC"
    elif array.ndim == 3 and array.shape[0] <= _BARE_BANDS:
        axes = "CYX"
    else:
        raise InputError(
            f"{location} is a Zarr array of shape {array.shape} without OME metadata: only "
            "(y, x), (y, x, band) and (band, y, x) can be opened"
        )
    chunk = (array.chunks[axes.index("Y")], array.chunks[axes.index("X")])
    level = ArrayLevel(array, axes, "C" if "C" in axes else None, chunk, problems, name)
    facts = {"format": "Zarr array", "axes": axes.lower()}
    return Found(location, name, [level], problems, PixelSize(1, 1), facts=facts)
