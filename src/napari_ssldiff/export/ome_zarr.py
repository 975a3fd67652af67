"""OME-Zarr out: pixels, place, colours, what is synthetic, and where it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from napari_ssldiff.errors import Cancelled, InputError
from napari_ssldiff.export import ome_metadata as meta
from napari_ssldiff.export.downsample import halve_max, halve_mean
from napari_ssldiff.export.files import check_output, whole_output, writing
from napari_ssldiff.export.provenance import stamped
from napari_ssldiff.export.pyramid_writer import Layout, PyramidWriter
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.scene import PixelSize

Version = Literal["0.5", "0.4"]


class Sliceable(Protocol):
    """An array-like that is read by slicing its first two axes, y and x."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, index: Any) -> Any: ...


def write_ome_zarr(
    path: str | Path,
    pixels: Sliceable,
    *,
    pixel_size: PixelSize,
    translation: tuple[float, float] = (0.0, 0.0),
    synthetic: Sliceable | None = None,
    provenance: Mapping[str, Any] | None = None,
    version: Version = "0.5",
    name: str = "image",
    channel_names: Sequence[str] | None = None,
    channel_colors: Sequence[str] | None = None,
    windows: Sequence[tuple[float, float]] | None = None,
    chunk: int = 512,
    shard: int = 2048,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``pixels`` as OME-Zarr with a pyramid; the output appears whole or not at all.

    Reads, averages and writes block by block (one shard at a time, one writer), so neither the
    image nor a level is ever in memory as a whole.

    Parameters
    ----------
    path
        Ends in ``.zarr``, by custom in ``.ome.zarr``.
    pixels
        ``(h, w, c)`` integers, floats or booleans; numpy, Zarr, dask or a
        :class:`~napari_ssldiff.export.lazy.LazyImage`.
    pixel_size
        Of level 0.
    translation
        Physical position ``(y, x)`` of the outer corner of pixel (0, 0), in its unit. The
        metadata place pixel centres, so half a pixel is added per level.
    synthetic
        ``(h, w)``, nonzero where a pixel is synthetic; written as ``labels/synthetic``.
    provenance
        For the root attribute ``napari_ssldiff``, such as
        :func:`~napari_ssldiff.export.provenance.provenance_of` gives. It may mark the whole
        image as synthetic; it cannot unmark one whose mask says otherwise.
    version
        OME-Zarr ``"0.5"`` (Zarr 3) or ``"0.4"`` (Zarr 2, for older Java readers).
    name
        Of the image.
    channel_names, channel_colors
        One per channel; red, green, blue by default, colours as six hex digits.
    windows
        ``(start, end)`` of the values shown, per channel; by default 0…255 for 8 bit and the
        smallest and largest value otherwise.
    chunk, shard
        Edges in pixels; a shard is whole chunks. Shards apply to 0.5 only.
    progress
        Called with blocks done and blocks in all, on the calling thread.
    cancel
        Asked before every block; true stops the work.
    overwrite
        Whether an existing Zarr at ``path`` is replaced, once the new one is complete.

    Returns
    -------
    The absolute path of what was written.

    Raises
    ------
    OutputError
        If the place cannot be written, exists, or the disk is full.
    InputError
        If the pixels or the mask cannot be written as they are.
    Cancelled
        If ``cancel`` said so. In all these cases nothing is left behind.
    """
    target = check_output(path, overwrite)
    shape, channels, dtype = _checked(pixels, synthetic, version, chunk, shard)
    if windows is not None and len(windows) != channels:
        raise InputError(f"{channels} channels need as many windows, got {len(windows)}")
    look = meta.default_channels(channels, channel_names, channel_colors)
    layout = Layout(chunk, 0 if version == "0.4" else shard, version)

    def guard() -> AbstractContextManager[None]:
        return writing(target)

    def read(box: Box) -> NDArray[Any]:
        return np.asarray(pixels[box.slices]).astype(dtype, copy=False)

    def read_mask(box: Box) -> NDArray[np.uint8]:
        assert synthetic is not None
        return np.asarray(np.asarray(synthetic[box.slices]) != 0, np.uint8)

    with whole_output(target, overwrite) as partial:
        zarr_format: Literal[2, 3] = 2 if version == "0.4" else 3
        with guard():
            root = zarr.create_group(LocalStore(partial), zarr_format=zarr_format)
        image = PyramidWriter(root, shape, channels, dtype, layout, halve_mean, guard)
        mask = None
        if synthetic is not None:
            with guard():
                labels = root.create_group("labels")
                label = labels.create_group(meta.LABEL)
            mask = PyramidWriter(label, shape, 0, np.dtype(np.uint8), layout, halve_max, guard)
        steps = _Steps(image.blocks + (mask.blocks if mask else 0), progress, cancel)

        finest = sum(1 for _ in Box(0, 0, *shape).tiles(layout.block(shape)))
        shown = _Range(channels)
        for i, block in enumerate(steps.over(image.write(read))):
            if i < finest and windows is None and dtype != np.uint8:
                shown.add(block)
        marked = 0
        if mask is not None:
            for i, block in enumerate(steps.over(mask.write(read_mask))):
                marked += int(np.count_nonzero(block)) if i < finest else 0

        def entry(axes: str, title: str, method: str) -> dict[str, Any]:
            levels = len(image.shapes)
            return meta.multiscales(title, axes, levels, pixel_size, translation, version, method)

        facts = {} if mask is None else {"synthetic_pixels": marked}
        stamp = stamped(provenance, synthetic=marked > 0, **facts)
        limits = windows or ([(0.0, 255.0)] * channels if dtype == np.uint8 else shown.limits())
        with guard():
            if mask is not None:
                labels.attrs.update(meta.labels_attributes(version))
                label.attrs.update(meta.label_attributes(entry("yx", meta.LABEL, "max"), version))
            # Last: until here no reader takes the folder for an image.
            root.attrs.update(
                meta.root_attributes(
                    entry("cyx", name, "mean"), meta.omero(look, limits, dtype), stamp, version
                )
            )
    return target


class _Steps:
    """Counts blocks, reports them, and stops between two."""

    def __init__(
        self,
        total: int,
        progress: Callable[[int, int], None] | None,
        cancel: Callable[[], bool] | None,
    ) -> None:
        self._done, self._total = 0, total
        self._progress, self._cancel = progress, cancel

    def over(self, blocks: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """The same blocks, one by one."""
        while True:
            if self._cancel is not None and self._cancel():
                raise Cancelled(
                    f"the export was cancelled after {self._done} of {self._total} blocks; "
                    "nothing was written"
                )
            block = next(blocks, None)
            if block is None:
                return
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)
            yield block


class _Range:
    """Smallest and largest finite value per channel."""

    def __init__(self, channels: int) -> None:
        self._low, self._high = np.full(channels, np.inf), np.full(channels, -np.inf)

    def add(self, block: NDArray[Any]) -> None:
        for c in range(block.shape[-1]):
            values = block[..., c]
            if values.dtype.kind == "f":
                values = values[np.isfinite(values)]
            if values.size:
                self._low[c] = min(self._low[c], float(values.min()))
                self._high[c] = max(self._high[c], float(values.max()))

    def limits(self) -> list[tuple[float, float]]:
        """Per channel, never empty: a constant channel gets a window of 1."""
        pairs = []
        for low, high in zip(self._low.tolist(), self._high.tolist(), strict=True):
            low, high = (low, high) if low <= high else (0.0, 1.0)
            pairs.append((low, high if high > low else low + 1))
        return pairs


def _checked(
    pixels: Sliceable, synthetic: Sliceable | None, version: str, chunk: int, shard: int
) -> tuple[tuple[int, int], int, np.dtype[Any]]:
    """``(h, w)``, channels and dtype to write.

    Raises
    ------
    InputError
        If one of them cannot be written.
    """
    if version not in ("0.4", "0.5"):
        raise InputError(f"unknown OME-Zarr version {version!r}: 0.5 and 0.4 can be written")
    if chunk < 1 or shard < chunk or shard % chunk:
        raise InputError(
            f"a shard must be whole chunks, got a shard of {shard} and a chunk of {chunk}"
        )
    shape = tuple(int(n) for n in pixels.shape)
    if len(shape) != 3 or 0 in shape:
        raise InputError(f"an image of shape (height, width, channels) is needed, got {shape}")
    dtype = np.dtype(pixels.dtype)
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    if dtype.kind not in "iuf":
        raise InputError(f"samples of type {dtype} cannot be written: use integers or floats")
    if synthetic is not None and tuple(synthetic.shape) != shape[:2]:
        raise InputError(
            f"the synthetic mask has the shape {tuple(synthetic.shape)}, the image {shape[:2]}"
        )
    return (shape[0], shape[1]), shape[2], dtype.newbyteorder("=")
