"""One resumable, time-boxed training loop for every network.

State is safetensors plus JSON, written whole and then renamed; a run that was killed goes on
at the step after its last checkpoint with the same batches, because batches are a function of
the step.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from napari_ssldiff.diffusion.threads import cpu_threads
from napari_ssldiff.errors import InputError
from napari_ssldiff.training.curves import draw_curves
from napari_ssldiff.training.progress import Journal, Means, Watch, eta_minutes, read_rows
from napari_ssldiff.training.runtime import Interrupts, Runtime
from napari_ssldiff.training.schedule import Schedule
from napari_ssldiff.training.state import (
    check_room,
    nbytes,
    read_marker,
    read_tensors,
    write_state,
    writing,
)
from napari_ssldiff.training.weights import SHARD, initialise, write_shards

__all__ = ["Runtime", "Schedule", "Trainer"]

#: ``loss(step, rng)``: named scalars; ``"loss"`` is minimised.
Loss = Callable[[int, np.random.Generator], Mapping[str, torch.Tensor]]
#: ``validate(averaged module)``: named scalars; ``"loss"`` becomes the row's ``validation``.
Validate = Callable[[torch.nn.Module], Mapping[str, torch.Tensor]]
#: ``sheet(averaged module)``: a picture that shows what the network can do by now.
Sheet = Callable[[torch.nn.Module], Image.Image]

_ANYWHERE = Runtime()


class Trainer:
    """Trains one module.

    Parameters
    ----------
    module
        What is trained; its parameters and buffers are the weights. It is moved to the device.
    directory
        Where the state, ``metrics.jsonl``, ``run.json``, curves, sample sheets and weights go.
        A state that is there already goes on.
    schedule
        Steps, time and rates.
    seed
        Batches are drawn from ``default_rng([seed, step])``; torch's generators, the device's
        included, are seeded by seed and step.
    runtime
        Device, precision, threads and weights to start from.

    Raises
    ------
    InputError
        If the runtime cannot be had, the weights to start from do not fit, or the folder holds
        the state of another network.
    OutputError
        If the folder cannot be written.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        directory: Path,
        schedule: Schedule,
        seed: int = 0,
        runtime: Runtime = _ANYWHERE,
    ) -> None:
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.schedule, self.seed = directory, schedule, seed
        self.runtime, self.hardware = runtime, runtime.resolve()
        self.step, self.elapsed = 0, 0.0
        state = read_marker(directory)
        facts: dict[str, Any] = {
            "hardware": self.hardware.describe(),
            "torch": torch.__version__,
            "precision": self.hardware.precision,
            "device": str(self.hardware.device),
        }
        if state is None and runtime.init is not None:
            fresh = initialise(module, runtime.init)
            facts["init"] = {"from": runtime.init.name, "fresh": fresh}
        self.module = module.to(self.hardware.device)
        self._accelerator = self.hardware.accelerator()
        parameters = [p for p in module.parameters() if p.requires_grad]
        self._adam = torch.optim.AdamW(
            parameters, lr=schedule.lr, weight_decay=schedule.weight_decay, betas=(0.9, 0.99)
        )
        self.optimiser: Any = self._accelerator.prepare_optimizer(
            self._adam, device_placement=False
        )
        self.average = AveragedModel(
            module, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema), use_buffers=False
        )
        self._means, self._journal = Means(), Journal(directory, facts)
        if state is not None:
            self._resume(state)
        self._safe, self._exported = self.step, -1  # steps that are on the disk

    @property
    def device(self) -> torch.device:
        """Where the module is; move what it is given there."""
        return self.hardware.device

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision, for the forward pass only: take losses of ``.float()`` outside."""
        return self.hardware.autocast()

    @property
    def averaged(self) -> torch.nn.Module:
        """The module with averaged weights."""
        for mine, theirs in zip(self.average.module.buffers(), self.module.buffers(), strict=True):
            mine.copy_(theirs)
        return self.average.module

    @property
    def finished(self) -> bool:
        """Whether all steps are done or the time box is full."""
        return self.step >= self.schedule.steps or self.elapsed >= self.schedule.budget

    def _resume(self, info: Mapping[str, Any]) -> None:
        state = read_tensors(self.directory / info["file"])

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

        optimiser = self._adam.state_dict()
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in part("optimiser.").items():
            index, name = key.split(".")
            slots.setdefault(int(index), {})[name] = value
        optimiser["state"] = slots
        try:
            self.module.load_state_dict(part("model."))
            self.average.load_state_dict(part("average."))
            self._adam.load_state_dict(optimiser)
        except (RuntimeError, ValueError):
            raise InputError(
                f"{self.directory} holds the state of another network; choose another folder"
            ) from None
        if self._accelerator.scaler is not None and info.get("scaler"):
            self._accelerator.scaler.load_state_dict(info["scaler"])
        self.step, self.elapsed = info["step"], float(info["elapsed"])
        self._means = Means(info.get("sums"), int(info.get("count", 0)))

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"model.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, slots in self._adam.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{k}": v for k, v in slots.items()}
        return tensors

    def save(self) -> None:
        """Write the state.

        Raises
        ------
        InputError
            If the loss is no number any more; such a state is worth nothing.
        OutputError
            If the disk is full or read-only; the state before is untouched.
        """
        self._check_loss()
        scaler = self._accelerator.scaler
        info = {
            "step": self.step,
            "elapsed": self.elapsed,
            "sums": self._means.sums,
            "count": self._means.count,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        write_state(self.directory, self._tensors(), info)
        self._safe = self.step
        self._journal.reached(self.step)

    def export(self, prefix: Path, shard_bytes: int = SHARD) -> list[Path]:
        """Write the averaged weights as fp16 ``PREFIX-1-of-N.safetensors`` …; returns the paths.

        Files hold at most ``shard_bytes`` (one tensor larger than that stands alone), so that
        they can be kept where large files cannot.
        """
        return write_shards(prefix, self.averaged.state_dict(), shard_bytes)

    def _leave(self) -> None:
        """Put everything on the disk that is not there yet."""
        if self._safe != self.step:
            self.save()
        if self._exported != self.step:
            self.export(self.directory / "weights")
            self._exported = self.step

    def _check_loss(self) -> None:
        if not self._means.finite:
            raise InputError(
                f"the loss became nan or inf before step {self.step}; train {self.directory} "
                f"again from step {self._safe} with a lower lr, or with precision no"
            )

    def run(
        self,
        loss: Loss,
        validate: Validate | None = None,
        log_every: int | None = None,
        sheet: Sheet | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Train; yields rows of metrics, and leaves ``weights-*.safetensors`` behind.

        A row comes every ``log_every`` steps (default: the schedule's), with every validation
        and at the end. It holds ``step``, ``minutes``, ``lr``, ``steps_per_second``,
        ``eta_minutes``, the means of what ``loss`` returned since the row before and, where
        due, ``validation``.

        SIGINT and SIGTERM, if this is the main thread, are held back until the step is done and
        saved; so is the closing of this generator.

        Parameters
        ----------
        loss
            ``loss(step, rng)`` returns named scalar tensors; ``"loss"`` is minimised.
        validate
            Called with the averaged module in evaluation mode, without gradients and with torch
            seeded; its ``"loss"`` is the row's ``validation``, other names get the prefix
            ``validation_``.
        sheet
            Called likewise; its picture becomes ``samples-STEP.png``.

        Raises
        ------
        InputError
            If the loss becomes nan or inf.
        OutputError
            If the disk is full.
        """
        if self.finished:
            if self.step:
                self._leave()
            return
        # While a state is written the one before is still there.
        moments = sum(p.numel() * p.element_size() * 2 for g in self._groups for p in g["params"])
        fixed = {k: v for k, v in self._tensors().items() if not k.startswith("optimiser.")}
        check_room(self.directory, (nbytes(fixed) + moments) * (1 if self.step else 2))
        self._journal.begin(self.step)
        watch = Watch(self.step, self.elapsed)
        while not self.finished:
            row: dict[str, Any] | None = None
            with Interrupts() as interrupts, cpu_threads(self.runtime.threads):
                while row is None and not self.finished and interrupts.caught is None:
                    rate = self._train(loss)
                    self.elapsed = watch.elapsed
                    row = self._report(rate, validate, log_every, watch)
                    self._keep(sheet, watch)
                if interrupts.caught is not None or self.finished:
                    self._leave()
            if interrupts.caught is not None:
                signal.raise_signal(interrupts.caught)
            if row is not None:
                try:
                    yield row
                except GeneratorExit:
                    self._leave()
                    raise

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self._adam.param_groups

    def _train(self, loss: Loss) -> float:
        """One step; returns its learning rate."""
        progress = max(self.step / self.schedule.steps, self.elapsed / self.schedule.budget)
        rate = self.schedule.rate(self.step, progress)
        for group in self._groups:
            group["lr"] = rate
        rng = np.random.default_rng([self.seed, self.step])
        torch.manual_seed(self.seed * 1_000_003 + self.step)
        terms = loss(self.step, rng)
        self.optimiser.zero_grad()
        self._accelerator.backward(terms["loss"])
        self._accelerator.clip_grad_norm_(self.module.parameters(), self.schedule.clip)
        self.optimiser.step()
        self.average.update_parameters(self.module)
        self.step += 1
        self._means.add(terms)
        return rate

    def _report(
        self, rate: float, validate: Validate | None, every: int | None, watch: Watch
    ) -> dict[str, Any] | None:
        plan = self.schedule
        due = validate is not None and (self.step % plan.validate_every == 0 or self.finished)
        if not (due or self.finished or self.step % (every or plan.log_every) == 0):
            return None
        pace = watch.pace(self.step)
        eta = eta_minutes(self.step, plan.steps, self.elapsed, plan.budget, pace)
        row: dict[str, Any] = {"step": self.step, "minutes": round(self.elapsed / 60, 3)}
        row |= {"lr": rate, "steps_per_second": round(1 / pace, 3), "eta_minutes": round(eta, 2)}
        self._check_loss()
        row |= self._means.take()
        if due and validate is not None:
            with torch.no_grad():
                terms = validate(self._shown())
            row |= {
                "validation" if k == "loss" else f"validation_{k}": round(float(v), 6)
                for k, v in terms.items()
            }
        self._journal.append(row)
        return row

    def _shown(self) -> torch.nn.Module:
        """The averaged module as others see it, with torch seeded."""
        torch.manual_seed(self.seed)
        return self.averaged.eval()

    def _keep(self, sheet: Sheet | None, watch: Watch) -> None:
        """Save, and draw, when it is time."""
        if self.finished or watch.since("save") > self.schedule.save_every:
            self.save()
            with writing(self.directory):
                rows = read_rows(self.directory / "metrics.jsonl")
                draw_curves(rows, self.directory / "curves.png")
            watch.mark("save")
        if sheet and (self.finished or watch.since("sheet") > self.schedule.sheet_every):
            with torch.no_grad():
                picture = sheet(self._shown())
            with writing(self.directory):
                picture.save(self.directory / f"samples-{self.step}.png")
            watch.mark("sheet")
