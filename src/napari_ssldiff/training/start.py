"""How a run begins: which configuration, at which resolution, and a note of the command."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
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


def with_condition(
    pipeline: Pipeline, condition: str | None, text_encoder: str | None, domain: str | None
) -> Pipeline:
    """A run whose priors are conditioned on something else, which its configuration keeps.

    Parameters
    ----------
    condition
        ``text``, or ``csv:FILE`` of one domain.
    text_encoder
        As for :func:`~napari_ssldiff.text.encoder.load_text_encoder`; ``own``: what ``train text``
        makes.
    domain
        By default all.

    Raises
    ------
    InputError
        If the condition is of another kind, or one table is given for several domains.
    """
    if (condition is None and text_encoder is None) or "prior" not in pipeline.config:
        return pipeline
    kind, _, file = (condition or "").partition(":")
    if condition is not None and (kind not in ("text", "csv") or bool(file) != (kind == "csv")):
        raise InputError(f"--condition is text or csv:FILE, got {condition!r}")
    if kind == "csv" and domain is None and len(pipeline.domains) > 1:
        raise InputError(
            "a table is about the images of one domain: name it by --domain, one of "
            f"{', '.join(pipeline.domains)}"
        )
    config = copy.deepcopy(pipeline.config)
    section = config["prior"]
    for name in [domain] if domain else pipeline.domains:
        own = section.setdefault("domains", {}).setdefault(name, {})
        if condition is not None:
            own["csv"] = str(Path(file).absolute()) if file else ""
        if text_encoder == "own":
            own["text_encoder"] = None
        elif text_encoder is not None:
            folder = Path(text_encoder)
            own["text_encoder"] = str(folder.absolute()) if folder.is_dir() else text_encoder
    return replace(pipeline, config=config)


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
