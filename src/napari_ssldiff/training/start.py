"""How a run begins: which configuration, at which resolution, and a note of the command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes import PixelSize
from napari_ssldiff.training.config import choose_config, read_config, with_resolution
from napari_ssldiff.training.data import list_sources
from napari_ssldiff.training.images import Log, silent
from napari_ssldiff.training.pipeline import Pipeline
from napari_ssldiff.training.sources import RUN_MARK, common_size
from napari_ssldiff.training.state import replace_file


def open_pipeline(
    data: Sequence[Path],
    output: Path,
    config: str | None = None,
    *,
    resolution: PixelSize | None = None,
    fallback: PixelSize | None = None,
    log: Log = silent,
) -> Pipeline:
    """Read the configuration and settle what it leaves open.

    Parameters
    ----------
    config
        Name of a packaged configuration, or a path; see :func:`choose_config` for ``None``.
    resolution
        Of the model, for domains of resolution ``auto``; by default the median of their images.
    fallback
        Pixel size of images that do not say theirs.

    Raises
    ------
    InputError
        If the data or the configuration cannot be used.
    """
    for path in data:
        if not path.exists():
            raise InputError(f"no folder of images, and no image, at {path}")
    path, why = choose_config(config, data, output)
    read = read_config(path)
    log(f"configuration: {read['name']} ({path}), {why}")
    sizes: dict[str, PixelSize] = {}
    for name, domain in read["domains"].items():
        if resolution is not None:
            sizes[name] = resolution
        elif domain["resolution"] == "auto":
            entry = domain["pixels"][0]
            if "pixel_size" in entry:
                own = float(entry["pixel_size"])
                sizes[name] = PixelSize(own, own, domain["unit"])
            else:
                sizes[name] = common_size(list_sources(data, entry), fallback)
            size = sizes[name]
            log(f"resolution of {name}: {size.y:g} {size.unit} per pixel, that of the images")
    return Pipeline(with_resolution(read, sizes), tuple(data), output, fallback, log)


def read_commands(output: Path) -> dict[str, str]:
    """``{stage folder: command}`` of a run; empty where nothing is noted."""
    try:
        noted = json.loads((output / RUN_MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in noted.items()} if isinstance(noted, dict) else {}


def note_command(output: Path, names: Sequence[str], command: str) -> None:
    """Write down the command that stage folders were trained by, the last one of each."""
    noted: Mapping[str, Any] = {**read_commands(output), **dict.fromkeys(names, command)}
    replace_file(output / RUN_MARK, json.dumps(noted, indent=2) + "\n")
