"""What a training configuration holds: its keys, the kinds of their values, and what fits.

A specification maps keys to what their values are; a trailing ``?`` marks a key that may be left
out. Networks, cards and losses are free: the libraries and stages that take them know their keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_NUMBER = (int, float)
_TEXT_OR_NUMBER = (str, int, float)
_FOLDS = {"table": str, "key": str, "fold": str}
_ENTRY = {
    "name": str,
    "glob?": str,
    "pixel_size?": _NUMBER,
    "weight?": _NUMBER,
    "tissue?": bool,
    "aspect?": _NUMBER,
    "limit?": int,
    "budget_mb?": _NUMBER,
    "folds?": _FOLDS,
    "labels?": {"table": str, "key": str, "column": str},
}
#: A domain's lists of entries.
ENTRIES = ("pixels", "encoder")
_DOMAIN = {
    "model": str,
    "resolution": _TEXT_OR_NUMBER,
    "unit": str,
    "card": dict,
    "pixels": [_ENTRY],
    "encoder": [_ENTRY],
    "augment": {
        f"{name}?": _NUMBER for name in ("stain", "light", "season", "density", "shrink", "turn")
    },
    "hardware?": str,
}
_SCHEDULE = {
    "steps": int,
    "lr?": _NUMBER,
    "warmup?": int,
    "ema?": _NUMBER,
    "weight_decay?": _NUMBER,
    "clip?": _NUMBER,
    "save_every?": _NUMBER,
    "sheet_every?": _NUMBER,
    "validate_every?": int,
    "log_every?": int,
}
_ENCODER = {
    "input": int,
    "width": int,
    "network": dict,
    "objective": str,
    "projector": int,
    "batch": int,
    "view": dict,
    "seed": int,
    "schedule": _SCHEDULE,
}
_CONFIG: dict[str, Any] = {
    "name?": str,
    "seed?": int,
    "validation?": _TEXT_OR_NUMBER,
    "domains": dict,
    "autoencoder": {
        "seed": int,
        "patch": int,
        "linear": int,
        "network": dict,
        "crops": list,
        "pixels": int,
        "latent_noise": _NUMBER,
        "coarse_to_fine?": _NUMBER,
        "loss": dict.fromkeys(("l1", "edge", "spectrum", "power", "whiteness"), _NUMBER),
        "schedule": _SCHEDULE,
    },
    "encoder": _ENCODER,
    "encoder-eval": _ENCODER,
    "diffusion": {
        "seed": int,
        "window": int,
        "cell": int,
        "unconditional": _NUMBER,
        "guidance": _NUMBER,
        "hardware?": str,
        "prediction": str,
        "scheduler": dict,
        "timesteps?": {"mean": _NUMBER, "std": _NUMBER},
        "spatial": int,
        "context": int,
        "network": dict,
        "batch": int,
        "versions": (int, dict),
        "shares?": dict,
        "schedule": _SCHEDULE,
    },
    "text?": {
        "seed": int,
        "width": int,
        "vision": dict,
        "text": dict,
        "cells": int,
        "composed?": _NUMBER,
        "batch": int,
        "schedule": _SCHEDULE,
    },
    "prior?": {
        "seed": int,
        "window": int,
        "channels": int,
        "context": int,
        "spatial": int,
        "sharpness": _NUMBER,
        "said": _NUMBER,
        "noise": _NUMBER,
        "composed": _NUMBER,
        "unconditional": _NUMBER,
        "guidance": _NUMBER,
        "guidance_interval?": [_NUMBER],
        "most_weight?": _NUMBER,
        "csv?": str,
        "text_encoder?": str,
        "domains?": dict,
        "prediction": str,
        "scheduler": dict,
        "network": dict,
        "batch": int,
        "versions": int,
        "schedule": _SCHEDULE,
    },
    "distil?": {
        "seed": int,
        "rank": int,
        "alpha": _NUMBER,
        "steps": int,
        "guidance": _NUMBER,
        "teacher_steps": int,
        "batch": int,
        "hardware?": str,
        "schedule": _SCHEDULE,
    },
}
_KINDS = {
    str: "text",
    int: "a whole number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
}


def problems(config: Mapping[str, Any]) -> list[str]:
    """What is wrong with a configuration, one phrase each: keys, kinds, then what does not fit."""
    found = _key_problems("", config, _CONFIG)
    domains = config.get("domains")
    if isinstance(domains, dict):
        if not domains:
            found.append("domains is empty")
        for name, domain in domains.items():
            found += _key_problems(f"domains.{name}", domain, _DOMAIN)
    return found or _misfits(config)


def _key_problems(where: str, value: Any, spec: Any) -> list[str]:
    """Keys that are missing or unknown at ``where``, and values of a wrong kind."""
    place = where or "it"
    if isinstance(spec, list):
        if not isinstance(value, list) or not value:
            return [f"{place} must be a list of at least one entry"]
        return [p for i, v in enumerate(value) for p in _key_problems(f"{where}[{i}]", v, spec[0])]
    if not isinstance(spec, dict):
        kinds = spec if isinstance(spec, tuple) else (spec,)
        # bool is an int to Python, but no number to whoever writes YAML
        wrong = isinstance(value, bool) and bool not in kinds
        if isinstance(value, kinds) and not wrong:
            return []
        names = "a number" if kinds == _NUMBER else " or ".join(
            dict.fromkeys(_KINDS.get(k, "a number") for k in kinds)
        )  # fmt: skip
        hint = " (YAML reads 1e-3 as text: write 0.001)" if kinds == _NUMBER else ""
        return [f"{place} must be {names}, got {value!r}{hint}"]
    if not isinstance(value, dict):
        return [f"{place} must be a mapping"]
    known = {key.rstrip("?"): kind for key, kind in spec.items()}
    dot = f"{where}." if where else ""
    found = [f"{dot}{k} is not known" for k in value if k not in known]
    found += [f"{dot}{k} is missing" for k in spec if not k.endswith("?") and k not in value]
    for key, kind in known.items():
        if key in value:
            found += _key_problems(f"{dot}{key}", value[key], kind)
    return found


def _misfits(config: Mapping[str, Any]) -> list[str]:
    """Values that are of the right kind but do not fit each other."""
    found = []
    diffusion, validation = config["diffusion"], config.get("validation")
    if diffusion["window"] % diffusion["cell"]:
        found.append("diffusion.window must be a multiple of diffusion.cell")
    for section in ("autoencoder", "diffusion"):
        if not config[section]["network"]:
            found.append(f"{section}.network is empty")
    pixels = config["autoencoder"]
    lacking = [k for k in ("class", "latent_channels", "block_out_channels")
               if k not in pixels["network"]]  # fmt: skip
    found += [f"autoencoder.network.{key} is missing" for key in lacking]
    if not lacking:
        factor = pixels["patch"] * 2 ** (len(pixels["network"]["block_out_channels"]) - 1)
        if pixels["linear"] not in (0, factor):
            found.append(f"autoencoder.linear is the pixels per latent, {factor}, or 0")
        for key in ("window", "cell"):
            if diffusion[key] % factor:
                found.append(f"diffusion.{key} must be a multiple of the {factor} px of a latent")
    if diffusion.get("timesteps", {"std": 1})["std"] <= 0:
        found.append("diffusion.timesteps.std must be more than 0")
    interval = config.get("prior", {}).get("guidance_interval", (0, 1))
    if len(interval) != 2 or not interval[0] < interval[1]:
        found.append(f"prior.guidance_interval is two numbers, low below high, got {interval}")
    if config["encoder"]["input"] != diffusion["cell"]:
        found.append("encoder.input must be diffusion.cell: an embedding describes one cell")
    for section in ("encoder", "encoder-eval"):
        if "name" not in config[section]["network"]:
            found.append(f"{section}.network.name is missing")
    for key in ("versions", "shares"):
        stated = diffusion.get(key)
        if isinstance(stated, dict):
            found += [
                f"diffusion.{key}.{d} is missing" for d in config["domains"] if d not in stated
            ]
            found += [
                f"diffusion.{key}.{d} is no domain" for d in stated if d not in config["domains"]
            ]
            found += [
                f"diffusion.{key}.{d} is a number above 0, got {n!r}"
                for d, n in stated.items()
                if isinstance(n, bool) or not isinstance(n, int | float) or not 0 < n < math.inf
            ]
    if isinstance(validation, int | float) and not 0 < validation < 1:
        found.append(f"validation is a fold's name or a share between 0 and 1, got {validation}")
    for name, domain in config["domains"].items():
        found += _domain_misfits(f"domains.{name}", domain)
    return found


def _domain_misfits(where: str, domain: Mapping[str, Any]) -> list[str]:
    """The same of one domain."""
    found = []
    size, unit = domain["resolution"], domain["unit"]
    if size != "auto" and (not isinstance(size, int | float) or size <= 0):
        found.append(f"{where}.resolution is a positive number or auto, got {size!r}")
    if unit not in ("micrometer", "meter") and not (unit == "auto" and size == "auto"):
        found.append(f"{where}.unit is micrometer or meter, got {unit!r}")
    for key, amount in domain["augment"].items():
        limit = 1 if key in ("stain", "light", "season", "shrink") else math.inf
        if not 0 <= amount < limit:
            room = "at least 0" + (" and below 1" if limit == 1 else "")
            found.append(f"{where}.augment.{key} is {room}, got {amount}")
    sized = any("pixel_size" in e for kind in ENTRIES for e in domain[kind])
    if unit == "auto" and sized:
        found.append(f"{where}.unit must be given where an entry has a pixel_size")
    found += [
        f"{where}.card.{k} is missing"
        for k in ("name", "domain", "description", "licence")
        if k not in domain["card"]
    ]
    return found
