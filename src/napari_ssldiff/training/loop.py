"""One resumable, time-boxed training loop for every network.

State is safetensors plus JSON, written whole and then renamed; a run that was killed goes on
at the step after its last checkpoint with the same batches, because batches are a function of
the step.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from napari_ssldiff.errors import InputError

Loss = Callable[[int, np.random.Generator], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Parameters
    ----------
    steps
        Number of optimiser steps.
    minutes
        Time box of this call; ``None`` means until ``steps``. The learning rate follows
        whichever of the two is further on, so a time-boxed run still ends at rate 0.
    lr
        Peak learning rate of AdamW, after ``warmup`` steps; cosine to 0 from then on.
    ema
        Decay of the exponential moving average of the weights.
    """

    steps: int
    minutes: float | None = None
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.998
    clip: float = 1.0
    save_every: float = 120.0

    def rate(self, step: int, progress: float) -> float:
        """Learning rate at ``step`` when ``progress`` in [0, 1] of the run is over."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _flatten(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"optimiser.{index}.{key}": value
        for index, state in optimiser.state_dict()["state"].items()
        for key, value in state.items()
    }


class Trainer:
    """Trains one module.

    Parameters
    ----------
    module
        What is trained; its parameters and buffers are the weights.
    directory
        Where ``state.safetensors``, ``state.json`` and ``metrics.jsonl`` go.
    schedule
        Steps, time and rates.
    seed
        Batches are drawn from ``default_rng([seed, step])``.
    """

    def __init__(
        self, module: torch.nn.Module, directory: Path, schedule: Schedule, seed: int = 0
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.module, self.directory, self.schedule, self.seed = module, directory, schedule, seed
        self.step, self.elapsed, self._saved = 0, 0.0, 1
        self.optimiser = torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad],
            lr=schedule.lr,
            weight_decay=schedule.weight_decay,
            betas=(0.9, 0.99),
        )
        self.average = AveragedModel(
            module, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema), use_buffers=False
        )
        if (directory / "state.json").exists():
            self._resume()

    @property
    def averaged(self) -> torch.nn.Module:
        """The module with averaged weights."""
        for mine, theirs in zip(self.average.module.buffers(), self.module.buffers(), strict=True):
            mine.copy_(theirs)
        return self.average.module

    def _resume(self) -> None:
        info = json.loads((self.directory / "state.json").read_text())
        state = load_file(self.directory / info["file"])
        model = {k[6:]: v for k, v in state.items() if k.startswith("model.")}
        try:
            self.module.load_state_dict(model)
        except RuntimeError:
            raise InputError(
                f"{self.directory} holds the state of another network; choose another folder"
            ) from None
        self.average.load_state_dict(
            {k[8:]: v for k, v in state.items() if k.startswith("average.")}
        )
        optimiser = self.optimiser.state_dict()
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in state.items():
            if key.startswith("optimiser."):
                _, index, name = key.split(".")
                slots.setdefault(int(index), {})[name] = value
        optimiser["state"] = slots
        self.optimiser.load_state_dict(optimiser)
        self.step, self.elapsed = int(info["step"]), float(info["elapsed"])
        self._saved = int(info["file"].removeprefix("state-").removesuffix(".safetensors"))
        self._forget_later_metrics()

    def _forget_later_metrics(self) -> None:
        """Drop rows of steps after the checkpoint; they will be made again."""
        path = self.directory / "metrics.jsonl"
        if not path.exists():
            return
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] <= self.step]
        if len(kept) < len(lines):
            partial = path.with_name(".metrics.jsonl.partial")
            partial.write_text("".join(kept))
            partial.replace(path)

    def save(self) -> None:
        """Write the state; the JSON that names it is replaced last."""
        # Never over the file that state.json names: a kill between the two renames must leave a
        # pair that fits.
        self._saved = 1 - self._saved
        name = f"state-{self._saved}.safetensors"
        tensors = {f"model.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= _flatten(self.optimiser)
        tensors = {k: v.detach().clone().contiguous().cpu() for k, v in tensors.items()}
        partial = self.directory / f".{name}.partial"
        save_file(tensors, partial)
        partial.replace(self.directory / name)
        info = {"step": self.step, "elapsed": self.elapsed, "file": name}
        marker = self.directory / ".state.json.partial"
        marker.write_text(json.dumps(info))
        marker.replace(self.directory / "state.json")

    def run(self, loss: Loss, log_every: int = 20) -> Iterator[dict[str, Any]]:
        """Train; yields a row of metrics every ``log_every`` steps and after the last one.

        ``loss(step, rng)`` returns named scalar tensors; ``"loss"`` is minimised.
        """
        start, saved = time.monotonic(), time.monotonic()
        before = self.elapsed
        budget = self.schedule.minutes * 60 if self.schedule.minutes else math.inf
        sums: dict[str, float] = {}
        count = 0
        while self.step < self.schedule.steps and self.elapsed < budget:
            progress = max(self.step / self.schedule.steps, self.elapsed / budget)
            rate = self.schedule.rate(self.step, progress)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            rng = np.random.default_rng([self.seed, self.step])
            torch.manual_seed(self.seed * 1_000_003 + self.step)
            terms = loss(self.step, rng)
            self.optimiser.zero_grad(set_to_none=True)
            terms["loss"].backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.schedule.clip)
            self.optimiser.step()
            self.average.update_parameters(self.module)
            self.step += 1
            self.elapsed = before + time.monotonic() - start
            for key, value in terms.items():
                sums[key] = sums.get(key, 0.0) + float(value.detach())
            count += 1
            last = self.step >= self.schedule.steps or self.elapsed >= budget
            if self.step % log_every == 0 or last:
                row = {"step": self.step, "minutes": round(self.elapsed / 60, 3), "lr": rate}
                row |= {k: round(v / count, 6) for k, v in sums.items()}
                sums, count = {}, 0
                with (self.directory / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")
                if last or time.monotonic() - saved > self.schedule.save_every:
                    self.save()
                    saved = time.monotonic()
                yield row
