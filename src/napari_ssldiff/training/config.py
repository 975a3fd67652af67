"""The YAML that defines a family of models: found, read, checked, kept beside a run."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from napari_ssldiff.errors import InputError, OutputError
from napari_ssldiff.scenes import PixelSize
from napari_ssldiff.scenes.lengths import UNITS
from napari_ssldiff.training.specification import ENTRIES, problems

CONFIGS = Path(__file__).parent / "configs"
DEFAULT_CONFIG = CONFIGS / "demo.yaml"
OWN_CONFIG = CONFIGS / "own.yaml"
#: Where a run keeps the configuration that it was started with.
KEPT = "config.yaml"


def parse_size(text: str, option: str) -> PixelSize:
    """``0.5um`` or ``0.6m`` → a :class:`PixelSize` in micrometer or meter.

    Raises
    ------
    InputError
        Naming ``option``, if it is not a positive number with one of these units.
    """
    match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*([a-zµμ]+)\s*", text)
    try:
        if match is None:
            raise ValueError
        value = float(match[1])
        unit = UNITS[match[2]]
        if unit == "pixel":
            raise ValueError
        return PixelSize(value, value, unit)
    except (KeyError, ValueError):
        raise InputError(
            f"{option} is a length per pixel with its unit, such as 0.5um or 0.6m; got {text!r}"
        ) from None


def config_path(name: str) -> Path:
    """The file of ``--config``: a packaged configuration by its name, or a path."""
    packaged = CONFIGS / f"{name}.yaml"
    return packaged if packaged.is_file() and not Path(name).is_file() else Path(name)


def read_config(path: Path) -> dict[str, Any]:
    """Read and check a training configuration.

    Raises
    ------
    InputError
        If it is missing, is no YAML, or has missing or unknown keys or values of a wrong kind;
        each is named with its place.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"cannot read the configuration {path}: {said}") from None
    if not isinstance(config, dict):
        raise InputError(f"the configuration {path} is no mapping of sections; see own.yaml")
    wrong = problems(config)
    if wrong:
        raise InputError(f"the configuration {path}: {'; '.join(wrong)}")
    config.setdefault("name", path.stem)
    return config


def matches_layout(config: Mapping[str, Any], root: Path) -> bool:
    """Whether every glob of a configuration finds something in a folder."""
    globs = {
        entry.get("glob")
        for domain in config["domains"].values()
        for kind in ENTRIES
        for entry in domain[kind]
    }
    return root.is_dir() and all(g and next(root.glob(g), None) is not None for g in globs)


def choose_config(name: str | None, data: Sequence[Path], output: Path) -> tuple[Path, str]:
    """The configuration of a run and why it is that one.

    What ``--config`` names; else the one that the output folder was begun with; else the demo
    models' if the data has their layout, since its folds bind; else the template.
    """
    if name is not None:
        return config_path(name), "as given"
    if (output / KEPT).is_file():
        return output / KEPT, "which this folder was begun with"
    if matches_layout(read_config(DEFAULT_CONFIG), data[0]):
        return DEFAULT_CONFIG, f"because {data[0]} has the layout of the demo models' data"
    return OWN_CONFIG, "the packaged template"


def with_resolution(config: Mapping[str, Any], sizes: Mapping[str, PixelSize]) -> dict[str, Any]:
    """A copy whose domains are at the given resolutions.

    Raises
    ------
    InputError
        If a domain is fixed at another.
    """
    made: dict[str, Any] = copy.deepcopy(dict(config))
    for name, size in sizes.items():
        domain = made["domains"][name]
        if domain["resolution"] == "auto":
            if domain["unit"] not in ("auto", size.unit):
                raise InputError(
                    f"the domain {name} is in {domain['unit']}, but its images are in {size.unit}"
                )
            domain["resolution"], domain["unit"] = size.y, size.unit
        elif (size.y, size.unit) != (domain["resolution"], domain["unit"]):
            raise InputError(
                f"the domain {name} is fixed at {domain['resolution']} {domain['unit']} per pixel: "
                "leave out --resolution, or choose another folder or configuration"
            )
        if domain["card"]["domain"] == "auto":
            ground = domain["unit"] == "meter"
            domain["card"]["domain"] = "remote sensing" if ground else "histology"
    return made


def prior_section(config: Mapping[str, Any], domain: str) -> dict[str, Any]:
    """The section ``prior`` as it holds for one domain."""
    section = config.get("prior", {})
    return {**section, **section.get("domains", {}).get(domain, {})}


def keep_config(config: Mapping[str, Any], output: Path) -> None:
    """Write the configuration into the output folder, whole or not at all."""
    partial = output / f".{KEPT}.partial"
    try:
        output.mkdir(parents=True, exist_ok=True)
        partial.write_text(
            yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        partial.replace(output / KEPT)
    except OSError as error:
        raise OutputError(f"cannot write into the folder {output}: {error.strerror}") from None
