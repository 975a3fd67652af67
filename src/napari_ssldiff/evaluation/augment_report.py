"""The experiment's results as a Markdown table, and where they come from."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from napari_ssldiff.processor import processor

_PACKAGES = ("napari-ssldiff", "torch", "diffusers", "numpy", "scikit-learn")


def where_and_when() -> dict[str, Any]:
    """Date, machine and versions of this run, without paths of the machine."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "versions": versions,
    }


def _pair(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} ± {value['sd']:.3f}"


def _gain(value: Mapping[str, Any]) -> str:
    low, high = value["interval"]
    return f"{value['mean']:+.3f} ({low:+.3f} … {high:+.3f})"


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}–{high}"


def markdown(results: Mapping[str, Any]) -> str:
    """The tables of :func:`run_task` and :func:`run_bags` results.

    Parameters
    ----------
    results
        As ``results.json`` holds them: ``tasks`` and, where it was run, ``mil``.
    """
    lines = []
    if results.get("tasks"):
        draws = results["settings"]["draws"]
        lines += [
            f"Balanced accuracy on held-out images, mean ± standard deviation over {draws} draws; "
            "gain = (real + synthetic) − real with its paired 95 % bootstrap interval over draws "
            "and held-out places.",
            "",
            "| task (chance) | labels per class | of them varied | real | synthetic "
            "| real + synthetic | gain |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, task in results["tasks"].items():
            for row in task["rows"]:
                cells = [
                    f"{name} ({task['chance']:.2f})", str(row["labels"]), _range(row["varied"]),
                    _pair(row["real"]), _pair(row["synthetic"]), _pair(row["both"]),
                    _gain(row["gain"]),
                ]  # fmt: skip
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    if results.get("mil"):
        bags = results["mil"]
        cases = list(bags["cases"])
        lines += [
            f"Bags of cells, {bags['counts']['regions']} regions, one of {len(cases)} cases left "
            "out at a time. Exploratory: nothing can be concluded from so few cases.",
            "",
            f"| classifier | trained on | {' | '.join(cases)} | pooled | gain, pooled |",
            "|---|---|" + "---|" * (len(cases) + 2),
        ]
        titles = {"real": "real", "synthetic": "synthetic", "both": "real + synthetic"}
        for name, row in bags["classifiers"].items():
            for condition, title in titles.items():
                values = [_pair(row["per_case"][case][condition]) for case in cases]
                gain = _gain(row["gain"]) if condition == "both" else ""
                cells = [name, title, *values, _pair(row[condition]), gain]
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)
