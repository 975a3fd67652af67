"""What a run tells while it goes: rows of metrics, sessions, time left."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from napari_ssldiff.training.state import replace_file, writing


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl``; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def eta_minutes(step: int, steps: int, elapsed: float, budget: float, pace: float) -> float:
    """Minutes to the end: of the steps or of the time box, whichever comes first.

    Parameters
    ----------
    elapsed, budget
        Seconds; the budget may be infinite.
    pace
        Seconds per step.
    """
    return max(0.0, min((steps - step) * pace, budget - elapsed)) / 60


class Journal:
    """``metrics.jsonl`` and ``run.json`` of one run's folder.

    Parameters
    ----------
    directory
        The run's folder.
    facts
        ``hardware``, ``torch``, ``precision``, ``device`` and the like of this session.
    """

    def __init__(self, directory: Path, facts: Mapping[str, Any]) -> None:
        self.directory, self.facts = directory, dict(facts)
        self.metrics = directory / "metrics.jsonl"
        self._run: dict[str, Any] = {}

    def begin(self, step: int) -> None:
        """Open a session at ``step``; rows of later steps are dropped, they will come again."""
        rows = read_rows(self.metrics)
        kept = "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step)
        if self.metrics.exists() and kept != self.metrics.read_text(encoding="utf-8"):
            replace_file(self.metrics, kept)
        path = self.directory / "run.json"
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            sessions, started = list(before["sessions"]), str(before["started"])
        except (OSError, ValueError, KeyError, TypeError):
            sessions, started = [], _now()
        session = {"started": _now(), "ended": _now(), "from_step": step, "to_step": step}
        self._run = {
            **self.facts,
            "started": started,
            "sessions": [*sessions, {**session, **self.facts}],
        }
        self._write()

    def reached(self, step: int) -> None:
        """Note how far this session came: at every save, since a kill does not announce itself."""
        self._run["sessions"][-1] |= {"ended": _now(), "to_step": step}
        self._write()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row of metrics."""
        with writing(self.directory), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _write(self) -> None:
        replace_file(self.directory / "run.json", json.dumps(self._run, indent=2) + "\n")


class Means:
    """Running means of named scalars, fetched from the device only when they are asked for."""

    def __init__(self, sums: Mapping[str, float] | None = None, count: int = 0) -> None:
        self._sums, self.count = dict(sums or {}), count
        self._new: list[dict[str, torch.Tensor]] = []

    def add(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Take the scalars of one step."""
        self._new.append({k: v.detach() for k, v in terms.items()})
        self.count += 1

    @property
    def sums(self) -> dict[str, float]:
        """Sums so far, per name."""
        if self._new:
            flat = torch.stack([v.float() for terms in self._new for v in terms.values()])
            names = [k for terms in self._new for k in terms]
            for name, value in zip(names, flat.cpu().tolist(), strict=True):
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._new.clear()
        return self._sums

    def take(self) -> dict[str, float]:
        """Means so far, rounded to six decimals; starts anew."""
        means = {k: round(v / self.count, 6) for k, v in self.sums.items()}
        self._sums, self.count = {}, 0
        return means

    @property
    def finite(self) -> bool:
        """Whether every sum is a number."""
        return all(math.isfinite(v) for v in self.sums.values())


class Watch:
    """Seconds of this session."""

    def __init__(self, step: int, elapsed: float) -> None:
        self._step, self._before, self._start = step, elapsed, time.monotonic()
        self._marks: dict[str, float] = {}

    @property
    def elapsed(self) -> float:
        """Of the whole run, earlier sessions included."""
        return self._before + time.monotonic() - self._start

    def pace(self, step: int) -> float:
        """Seconds per step."""
        return max(1e-9, (time.monotonic() - self._start) / max(1, step - self._step))

    def mark(self, what: str) -> None:
        """Something was done."""
        self._marks[what] = time.monotonic()

    def since(self, what: str) -> float:
        """Seconds since it was done last."""
        return time.monotonic() - self._marks.get(what, self._start)
