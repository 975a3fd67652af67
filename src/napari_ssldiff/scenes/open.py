"""One door for every format: look at the file, not only at its name."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from napari_ssldiff.errors import InputError, SSLDiffError
from napari_ssldiff.scenes.scene import Scene

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What OpenSlide reads best, and could not be told from other files by its first bytes.
_SLIDES = frozenset({".ndpi", ".mrxs", ".scn", ".bif", ".dcm", ".vms", ".vmu", ".svslide", ".zvi"})


def open_scene(path: str | os.PathLike[str], *, bands: tuple[int, int, int] | None = None) -> Scene:
    """Open an image as a lazy pyramid; nothing but headers and a few samples is read.

    Parameters
    ----------
    path
        A file (SVS and other TIFF, OME-TIFF, GeoTIFF, COG, PNG, JPEG, zipped OME-Zarr; with the
        extra ``openslide`` also NDPI, MRXS, SCN, BIF, DICOM), an OME-Zarr folder, or the URL
        of one.
    bands
        Indices of the bands to show as red, green and blue; by default those so named, else
        the first three.

    Returns
    -------
    A :class:`Scene` that holds its file open: close it, or use it in a ``with`` statement.

    Raises
    ------
    InputError
        In one line, if there is nothing at ``path`` or it cannot be opened.
    """
    text = os.fspath(path)
    try:
        return _open(text, bands)
    except (SSLDiffError, MemoryError):
        raise
    except Exception as error:  # damaged files fail in a hundred ways inside the libraries
        said = " ".join(str(error).split())[:160]
        raise InputError(f"{text} cannot be opened: {type(error).__name__}: {said}") from error


def _open(text: str, bands: tuple[int, int, int] | None) -> Scene:
    if text.startswith("file://"):
        from urllib.parse import unquote, urlparse

        text = unquote(urlparse(text).path)
    if "://" in text:
        return _open_url(text, bands)
    path = Path(text).expanduser()
    if not path.exists():
        raise InputError(f"{text} does not exist")
    if path.is_dir():
        return _open_folder(path, bands)
    if not path.is_file():
        raise InputError(f"{text} is not a file")
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"{text} cannot be read: {error.strerror}") from error
    if not head:
        raise InputError(f"{text} is empty")
    tiff = head.startswith(_TIFF)
    if path.suffix.lower() in _SLIDES and (_has_openslide() or not tiff):
        from napari_ssldiff.scenes.openslide import open_slide

        try:
            return open_slide(path, bands)
        except InputError:
            if not tiff:
                raise
    if tiff:
        from napari_ssldiff.scenes.tiff import open_tiff

        return open_tiff(path, bands)
    if head.startswith(b"PK\x03\x04"):
        from napari_ssldiff.scenes.ome_zarr import open_ome_zarr

        return open_ome_zarr(str(path), bands)
    from napari_ssldiff.scenes.raster_image import open_raster_image

    return open_raster_image(path, bands)


def _has_openslide() -> bool:
    return importlib.util.find_spec("openslide") is not None


def _open_url(text: str, bands: tuple[int, int, int] | None) -> Scene:
    last = text.split("?")[0].rstrip("/").rsplit("/", 1)[-1].lower()
    if last.endswith((".tif", ".tiff", ".svs", ".ndpi", ".png", ".jpg", ".jpeg")):
        raise InputError(f"{text}: only OME-Zarr is read over a network; download the file first")
    from napari_ssldiff.scenes.ome_zarr import open_ome_zarr

    return open_ome_zarr(text, bands)


def _open_folder(path: Path, bands: tuple[int, int, int] | None) -> Scene:
    from napari_ssldiff.scenes.ome_zarr import is_zarr_folder, open_ome_zarr

    if is_zarr_folder(path):
        return open_ome_zarr(str(path), bands)
    dicom = next(iter(sorted(path.glob("*.dcm"))), None)
    if dicom is None:
        raise InputError(
            f"{path} is a folder but no OME-Zarr (no zarr.json or .zgroup inside): "
            "open a file, or the .zarr folder itself"
        )
    from napari_ssldiff.scenes.openslide import open_slide

    return open_slide(dicom, bands)
