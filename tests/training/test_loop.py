"""The training loop: what it leaves behind when it is killed, stopped, or out of disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from napari_ssldiff.errors import InputError, ModelError, OutputError
from napari_ssldiff.training import diffusion, encoder, state, weights
from napari_ssldiff.training.loop import Runtime, Schedule, Trainer
from napari_ssldiff.training.runtime import Interrupts

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def interrupts_arrive() -> Iterator[None]:
    """A shell that runs the tests in the background has them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def network(width: int = 8) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.GELU(), nn.Linear(width, 1))


def plan(steps: int = 12, **changes: Any) -> Schedule:
    """Nothing is saved before the end unless a test asks for it."""
    usual = {"warmup": 2, "ema": 0.9, "save_every": 1e9, "log_every": 4, "validate_every": 6}
    return Schedule(**{"steps": steps, **usual, **changes})


def target(x: torch.Tensor) -> torch.Tensor:
    return (x.sum(1, keepdim=True) * 2).sin()


def run(
    folder: Path, schedule: Schedule, at: Any = lambda step: None, **runtime: Any
) -> Iterator[Row]:
    """Train on noisy sines; ``at(step)`` is called in the midst of every step."""
    trainer = Trainer(network(), folder, schedule, seed=1, runtime=Runtime("cpu", **runtime))

    def loss(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        x = torch.from_numpy(rng.normal(size=(16, 4)).astype(np.float32))
        with trainer.autocast():
            made = trainer.module(x + 0.01 * torch.randn_like(x))
        at(step)
        error = (made.float() - target(x)).square().mean()
        return {"loss": error, "abs": error.sqrt()}

    def validate(module: nn.Module) -> dict[str, torch.Tensor]:
        x = torch.randn(64, 4)
        return {"loss": (module(x) - target(x)).square().mean()}

    yield from trainer.run(loss, validate)


def learnt(rows: list[Row]) -> list[Row]:
    """Rows without what the clock says."""
    clock = {"minutes", "steps_per_second", "eta_minutes"}
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


def metrics(folder: Path) -> list[Row]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved_step(folder: Path) -> int:
    return int(json.loads((folder / "state.json").read_text())["step"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption. Do not write to it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    list(run(folder, plan()))
    return folder


def test_rows_tell_step_time_rate_losses_and_what_is_left(whole: Path) -> None:
    rows = metrics(whole)
    assert [row["step"] for row in rows] == [4, 6, 8, 12]
    assert [row["step"] for row in rows if "validation" in row] == [6, 12]
    for key in ("minutes", "lr", "steps_per_second", "eta_minutes", "loss", "abs"):
        assert all(np.isfinite(row[key]) for row in rows), key
    assert rows[-1]["eta_minutes"] == 0


@pytest.mark.parametrize("moment", range(1, 12, 3))
def test_a_run_killed_at_any_step_ends_like_one_that_was_not(
    moment: int, whole: Path, tmp_path: Path
) -> None:
    def kill(step: int) -> None:
        if step == moment:  # what is on the disk now is what a kill leaves
            shutil.copytree(tmp_path / "running", tmp_path / "killed")

    list(run(tmp_path / "running", plan(save_every=0), at=kill))
    assert saved_step(tmp_path / "killed") == moment
    list(run(tmp_path / "killed", plan()))
    assert learnt(metrics(tmp_path / "killed")) == learnt(metrics(whole))
    a, b = (load_file(f / "weights-1-of-1.safetensors") for f in (tmp_path / "killed", whole))
    assert all(torch.equal(a[k], b[k]) for k in b)


def test_rows_after_the_last_state_are_made_again(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "loss": 1}\n{"step": 1')  # cut short by the kill
    list(run(tmp_path / "run", plan(16)))
    assert [row["step"] for row in metrics(tmp_path / "run")] == [4, 6, 8, 12, 16]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_is_then_passed_on(number: int, tmp_path: Path) -> None:
    class Left(BaseException):
        pass

    def leave(number: int, frame: Any) -> None:
        raise Left

    before = signal.signal(number, leave)
    try:
        with pytest.raises(Left):
            list(run(tmp_path, plan(), at=lambda s: signal.raise_signal(number) if s == 6 else 0))
        assert signal.getsignal(number) is leave
    finally:
        signal.signal(number, before)
    assert saved_step(tmp_path) == 7
    assert (tmp_path / "weights-1-of-1.safetensors").exists()


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(whole: Path, tmp_path: Path) -> None:
    def stop(step: int) -> None:
        if step == 6:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        list(run(tmp_path, plan(), at=stop))
    list(run(tmp_path, plan()))
    # The row of step 8 averages steps of both sessions.
    assert learnt(metrics(tmp_path)) == learnt(metrics(whole))
    told = json.loads((tmp_path / "run.json").read_text())
    assert [(s["from_step"], s["to_step"]) for s in told["sessions"]] == [(0, 7), (7, 12)]
    assert {"hardware", "torch", "precision", "device", "started"} <= told.keys()


def test_a_second_signal_is_obeyed_at_once() -> None:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.caught == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_leave_signals_alone(tmp_path: Path) -> None:
    seen: list[Any] = []

    def work() -> None:
        seen.extend(run(tmp_path, plan(4), at=lambda s: seen.append(signal.getsignal(15))))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[:4] == [before] * 4
    assert seen[-1]["step"] == 4


def test_closing_a_run_saves_it(tmp_path: Path) -> None:
    rows = run(tmp_path, plan())
    assert next(rows)["step"] == 4
    rows.close()  # type: ignore[attr-defined]
    assert saved_step(tmp_path) == 4


def test_a_full_disk_is_told_and_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(run(tmp_path, plan(4)))
    before = {p.name: p.read_bytes() for p in tmp_path.glob("state*")}

    def full(tensors: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(OutputError) as caught:
        list(run(tmp_path, plan(8)))
    said = str(caught.value)
    assert "No space left" in said
    assert str(tmp_path) in said
    assert "1 MB" in said
    assert "free some space" in said
    assert "\n" not in said
    assert {p.name: p.read_bytes() for p in tmp_path.glob("state*")} == before
    assert not list(tmp_path.glob(".*.partial"))
    monkeypatch.undo()
    assert list(run(tmp_path, plan(8)))[-1]["step"] == 8


def test_too_little_room_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(OutputError, match=r"needs 1 MB and only .* free; free some space"):
        list(run(tmp_path, plan(), at=lambda step: pytest.fail("a step was made")))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*file.*choose another folder"):
        list(run(tmp_path / "file" / "run", plan()))


def test_a_damaged_state_is_named(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"state\.json is damaged"):
        list(run(tmp_path / "run", plan(16)))
    (tmp_path / "run" / "state.json").write_text(
        '{"step": 12, "elapsed": 1, "file": "gone.safetensors"}'
    )
    with pytest.raises(InputError, match=r"cannot read the weights .*gone"):
        list(run(tmp_path / "run", plan(16)))


def test_a_state_of_an_earlier_version_goes_on(whole: Path, tmp_path: Path) -> None:
    """Before run.json, partial sums and gradient scaling; keys of tensors are the same."""
    (name,) = (p.name for p in whole.glob("state-*"))
    shutil.copy(whole / name, tmp_path / name)
    (tmp_path / "state.json").write_text(json.dumps({"step": 12, "elapsed": 3.5, "file": name}))
    rows = list(run(tmp_path, plan(16)))
    assert [row["step"] for row in rows] == [16]
    assert rows[0]["minutes"] >= round(3.5 / 60, 3)
    keys = set(load_file(whole / name))
    assert {"model.0.weight", "average.module.0.weight", "average.n_averaged"} <= keys
    assert {"optimiser.0.exp_avg", "optimiser.0.exp_avg_sq", "optimiser.0.step"} <= keys


def test_a_loss_that_is_no_number_ends_the_run_and_is_not_saved(tmp_path: Path) -> None:
    trainer = Trainer(network(), tmp_path, plan(save_every=0), runtime=Runtime("cpu"))

    def loss(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        scale = float("nan") if step == 5 else 1.0
        return {"loss": trainer.module(torch.ones(4, 4)).mean() * scale}

    with pytest.raises(InputError, match=r"nan or inf before step 6; .* from step 5 with a lower"):
        list(trainer.run(loss))
    assert saved_step(tmp_path) == 5


def test_validation_sees_averaged_weights_and_changes_nothing(tmp_path: Path, whole: Path) -> None:
    trainer = Trainer(network(), tmp_path, plan(), seed=1, runtime=Runtime("cpu", "no"))

    def loss(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return {"loss": trainer.module(torch.randn(8, 4)).square().mean()}

    def validate(module: nn.Module) -> dict[str, torch.Tensor]:
        assert module is trainer.average.module
        assert not module.training
        assert not torch.is_grad_enabled()
        return {"loss": torch.rand(()), "extra": torch.ones(())}

    with_validation = list(trainer.run(loss, validate))
    drawn = {row["validation"] for row in with_validation if "validation" in row}
    assert len(drawn) == 1  # the same random numbers every time
    assert with_validation[-1]["validation_extra"] == 1
    trainer = Trainer(network(), tmp_path / "b", plan(), seed=1, runtime=Runtime("cpu", "no"))
    last = list(trainer.run(loss))[-1]
    assert (last["step"], last["lr"]) == (12, with_validation[-1]["lr"])
    a, b = (load_file(f / "weights-1-of-1.safetensors") for f in (tmp_path, tmp_path / "b"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_sheets_are_drawn_from_time_to_time_and_at_the_end(tmp_path: Path) -> None:
    trainer = Trainer(network(), tmp_path, plan(4, sheet_every=0), runtime=Runtime("cpu"))
    rows = trainer.run(
        lambda step, rng: {"loss": trainer.module(torch.ones(4, 4)).mean()},
        sheet=lambda module: Image.new("RGB", (9, 7)),
    )
    list(rows)
    names = sorted(p.name for p in tmp_path.glob("samples-*.png"))
    assert names == [f"samples-{step}.png" for step in (1, 2, 3, 4)]
    assert (tmp_path / "curves.png").exists()


def test_precisions_and_devices_that_are_not_there_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="unknown precision 'half': use auto, bf16"):
        Runtime("cpu", "half").resolve()
    with pytest.raises(InputError, match="fp16 needs a CUDA GPU, not cpu; use bf16 or no"):
        Runtime("cpu", "fp16").resolve()
    with pytest.raises(InputError, match="0 threads"):
        Runtime("cpu", threads=0).resolve()
    with pytest.raises(ModelError, match="unknown device 'abacus'"):
        Runtime("abacus").resolve()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process"):
        Runtime("cpu").resolve()


def test_runs_of_different_precision_follow_one_another(tmp_path: Path) -> None:
    seen: dict[str, torch.dtype] = {}
    for precision in ("bf16", "no", "bf16"):
        runtime = Runtime("cpu", precision)
        trainer = Trainer(network(), tmp_path / precision, plan(2), runtime=runtime)

        def loss(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
            with trainer.autocast():  # noqa: B023
                made = trainer.module(torch.ones(4, 4))  # noqa: B023
            seen[precision] = made.dtype  # noqa: B023
            return {"loss": made.float().mean()}

        list(trainer.run(loss))
        assert json.loads((tmp_path / precision / "run.json").read_text())["precision"] == precision
    assert seen == {"bf16": torch.bfloat16, "no": torch.float32}


def test_threads_are_lent_and_given_back(tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), set()
    torch.set_num_threads(2)
    try:
        list(run(tmp_path, plan(2), lambda step: seen.add(torch.get_num_threads()), threads=1))
        assert seen == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def started(path: Path, folder: Path, width: int = 8) -> nn.Module:
    """A network that was told to start from ``path``."""
    torch.manual_seed(77)
    return Trainer(network(width), folder, plan(), runtime=Runtime("cpu", init=path)).averaged


def test_weights_alone_suffice_to_go_on_elsewhere(whole: Path, tmp_path: Path) -> None:
    expected = network()
    weights.restore(expected, whole)
    (tmp_path / "w").mkdir()
    shutil.copy(whole / "weights-1-of-1.safetensors", tmp_path / "w")
    sources = [whole, tmp_path / "w", tmp_path / "w" / "weights-1-of-1.safetensors"]
    sources += [tmp_path / "w" / "weights", next(whole.glob("state-*"))]
    for i, source in enumerate(sources):
        made = started(source, tmp_path / str(i))
        for (name, a), b in zip(
            made.state_dict().items(), expected.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3, msg=f"{source}: {name}")
    rows = list(run(tmp_path / "on", plan(), init=tmp_path / "w"))
    assert rows[0]["lr"] > 0
    assert rows[-1]["validation"] < metrics(whole)[0]["loss"]
    told = json.loads((tmp_path / "on" / "run.json").read_text())
    assert told["init"] == {"from": "w", "fresh": []}


def test_a_run_that_goes_on_does_not_start_over_from_weights(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    rows = list(run(tmp_path / "run", plan(16), init=tmp_path / "not there"))
    assert [row["step"] for row in rows] == [16]


def test_weights_that_do_not_fit_are_refused_by_the_first_tensor(tmp_path: Path) -> None:
    good = {k: v.half() for k, v in network().state_dict().items() if v.is_floating_point()}
    cases = {
        "short": ({k: v for k, v in good.items() if k != "3.bias"}, "1.num_batches_tracked is mis"),
        "wide": (network(9).state_dict(), r"0\.weight has the shape \(9, 4\) and not \(8, 4\)"),
        "more": ({**network().state_dict(), "9.x": torch.ones(1)}, r"9\.x has no place"),
        "other": ({"conv.weight": torch.ones(2)}, "no tensor in .* belongs to this network"),
    }
    for name, (tensors, message) in cases.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(InputError, match=message):
            started(tmp_path / f"{name}.safetensors", tmp_path / f"run-{name}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there are no weights"):
        started(tmp_path / "empty", tmp_path / "run-empty")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"cannot read the weights .*bad"):
        started(tmp_path / "bad.safetensors", tmp_path / "run-bad")


def test_exported_weights_come_in_small_files_and_go_together_again(tmp_path: Path) -> None:
    trainer = Trainer(network(64), tmp_path / "run", plan(), runtime=Runtime("cpu"))
    paths = trainer.export(tmp_path / "net", shard_bytes=600)
    assert [p.name for p in paths] == [
        f"net-{i + 1}-of-{len(paths)}.safetensors" for i in range(len(paths))
    ]
    assert len(paths) > 1
    for path in paths:
        tensors = load_file(path)
        assert state.nbytes(tensors) <= 600
        assert {v.dtype for v in tensors.values()} <= {torch.float16, torch.int64}
    (together,) = weights.read_weights(tmp_path / "net").values()
    assert together.keys() == network().state_dict().keys()
    paths[1].unlink()
    with pytest.raises(InputError, match=f"of {len(paths)} shards of net; copy all"):
        weights.read_weights(tmp_path / "net")


def test_fewer_shards_take_the_place_of_more(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(100), "b": torch.ones(100)}
    assert len(weights.write_shards(tmp_path / "w", tensors, 250)) == 2
    weights.write_shards(tmp_path / "w", tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["w-1-of-1.safetensors"]


DENOISER = {
    "window": 64, "cell": 32, "spatial": 3, "context": 8,
    "network": {"block_out_channels": [8, 16], "layers_per_block": 1,
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
                "attention_head_dim": 8, "norm_num_groups": 4},
}  # fmt: skip


def test_a_denoiser_starts_from_an_installed_model(tiny_folder: Path) -> None:
    model = diffusion.Denoiser(DENOISER, ["own"], 12, 4, 8)
    assert weights.initialise(model, tiny_folder) == []
    unet, projection = (load_file(tiny_folder / f"{n}.safetensors") for n in ("unet", "projection"))
    assert torch.equal(model.unet.state_dict()["conv_in.weight"], unet["conv_in.weight"])
    name = "projections.own.project.weight"
    assert torch.equal(model.state_dict()[name], projection["project.weight"])


def test_a_u_net_goes_on_with_projections_of_another_encoder(tiny_folder: Path) -> None:
    model = diffusion.Denoiser(DENOISER, ["own", "other"], 99, 4, 8)
    fresh = weights.initialise(model, tiny_folder / "unet.safetensors")
    assert fresh == ["projections.own", "projections.other"]
    with pytest.raises(InputError, match=r"projections\.own\.project\.weight has the shape"):
        weights.initialise(model, tiny_folder)


def test_two_sets_of_weights_for_one_place_are_refused(tiny_folder: Path) -> None:
    network = {"name": "resnet10t", "channels": [8, 8, 8, 16]}
    model = encoder.Pretext(network, 12, 16)
    with pytest.raises(InputError, match="encoder and encoder-eval; name one file"):
        weights.initialise(model, tiny_folder)
    fresh = weights.initialise(model, tiny_folder / "encoder-eval.safetensors")
    assert fresh == ["projector"]


def test_nothing_to_restore_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing was trained in .*; run that stage first"):
        weights.restore(network(), tmp_path / "encoder")
