"""What ``torch.save`` wrote comes out as ``torch.load`` gives it, bit for bit."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_ssldiff.errors import Cancelled, ModelError, OutputError
from napari_ssldiff.models.foreign import Checkpoint, read_checkpoint
from napari_ssldiff.models.foreign.sandbox.container import gathered
from napari_ssldiff.models.foreign.sandbox.state_dict import View
from napari_ssldiff.models.foreign.unpack import unpack

Read = Callable[..., Checkpoint]


def assert_same(have: Mapping[str, torch.Tensor], want: Mapping[str, torch.Tensor]) -> None:
    assert set(have) == set(want)
    for name, tensor in want.items():
        assert have[name].dtype == tensor.dtype, name
        assert have[name].shape == tensor.shape, name
        flat = tensor.detach().contiguous().reshape(-1)
        assert torch.equal(have[name].reshape(-1).view(torch.uint8), flat.view(torch.uint8)), name


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
def test_tensors_are_those_of_torch_load(
    tmp_path: Path, weights: dict[str, torch.Tensor], read: Read, as_zip: bool
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=as_zip)
    checkpoint = read(path)
    assert_same(checkpoint.tensors, torch.load(path, weights_only=True)["state_dict"])
    assert (checkpoint.form, checkpoint.ignored, checkpoint.configs) == ("pickle", (), {})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_protocol_is_read(tmp_path: Path, read: Read, protocol: int) -> None:
    path = tmp_path / "model.pt"
    state = OrderedDict(a=torch.arange(6.0).view(2, 3), b={"c": torch.ones(2), "d": 3, "e": None})
    torch.save(state, path, pickle_protocol=protocol)
    assert_same(read(path).tensors, {"a": state["a"], "b.c": torch.ones(2)})


def test_types_of_eight_bits_and_complex_numbers_are_read(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "model.pt"
    state = {
        "f8": torch.randn(4, 4).to(torch.float8_e4m3fn),
        "u16": torch.arange(4).to(torch.uint16),
        "c": torch.randn(3, 2, dtype=torch.complex64).T,
    }
    torch.save(state, path)
    assert_same(read(path).tensors, state)


def test_a_module_s_state_dict_is_read_with_its_metadata_and_parameters_with_attributes(
    tmp_path: Path, read: Read
) -> None:
    path = tmp_path / "model.pt"
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    state = net.state_dict()
    marked = torch.nn.Parameter(torch.ones(2))
    marked.group = "slow"  # type: ignore[attr-defined]
    torch.save({"model": state | {"marked": marked}}, path)
    assert_same(read(path).tensors, {**net.state_dict(), "marked": torch.ones(2)})


@pytest.mark.parametrize("place", ["state_dict", "model", "teacher", "ema"])
def test_the_state_dict_is_found_where_frameworks_keep_it(
    tmp_path: Path, read: Read, place: str
) -> None:
    path = tmp_path / "model.pt"
    other = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "epoch": 4, "arch": "vit"}
    torch.save({**other, place: {"w": torch.ones(3)}}, path)
    assert_same(read(path).tensors, {"w": torch.ones(3)})


def test_a_lightning_checkpoint_is_read_without_lightning(
    tmp_path: Path,
    weights: dict[str, torch.Tensor],
    foreign_class: Callable[..., type],
    monkeypatch: pytest.MonkeyPatch,
    read: Read,
) -> None:
    saver = foreign_class("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    config = foreign_class("omegaconf.dictconfig.DictConfig")()
    config.__dict__ |= {"_content": {"params": [1, 2]}, "_parent": config}
    optimiser = foreign_class("bitsandbytes.optim.adamw.AdamW8bit")()
    path = tmp_path / "last.ckpt"
    torch.save(
        {
            "epoch": 12,
            "pytorch-lightning_version": "1.4.2",
            "callbacks": {saver: {"best_model_score": torch.tensor(0.1), "dirpath": Path("/x")}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(9)}}, "of": optimiser}],
            "hyper_parameters": defaultdict(list, unet_config=config),
            "state_dict": OrderedDict(weights),
        },
        path,
    )
    monkeypatch.undo()
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    checkpoint = read(path)
    assert_same(checkpoint.tensors, weights)
    assert {
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "omegaconf.dictconfig.DictConfig",
        "bitsandbytes.optim.adamw.AdamW8bit",
    } < set(checkpoint.ignored)


def test_an_archive_that_was_compressed_again_is_read(tmp_path: Path, read: Read) -> None:
    path, again = tmp_path / "a.pt", tmp_path / "b.pt"
    state = {"w": torch.randn(300, 20), "b": torch.arange(9)}
    torch.save(state, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    assert_same(read(again).tensors, state)


@pytest.mark.parametrize("dtype", ["F32", "F16", "I64", "C64"])
def test_big_endian_storages_are_turned(dtype: str) -> None:
    width = {"F32": 4, "F16": 2, "I64": 8, "C64": 8}[dtype]
    plain = bytes(range(6 * width))
    part = 4 if dtype == "C64" else width
    turned = b"".join(plain[i : i + part][::-1] for i in range(0, len(plain), part))
    view = View("0", dtype, width, 0, (3, 2), (2, 1), len(plain))
    assert bytes(gathered(bytearray(turned), view, big_endian=True)) == plain


def test_the_file_made_is_one_that_the_library_reads_and_pins(
    tmp_path: Path, weights: dict[str, torch.Tensor], scratch: Path
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(weights, path)
    made = unpack(path, scratch, check=lambda: None).path
    assert_same(load_file(made), weights)


def test_safetensors_are_mapped_as_they_are(tmp_path: Path, read: Read, scratch: Path) -> None:
    path = tmp_path / "model.safetensors"
    state = {"a": torch.randn(3, 4), "b": torch.arange(3).bfloat16()}
    save_file(state, path)
    checkpoint = read(path)
    assert_same(checkpoint.tensors, state)
    assert checkpoint.form == "safetensors"
    assert not list(scratch.iterdir())


def test_memory_stays_near_the_largest_tensor(tmp_path: Path, scratch: Path) -> None:
    path = tmp_path / "large.ckpt"
    block = torch.randn(20, 250_000)
    state = {f"w{i}": block[i] + 0 for i in range(20)} | {f"v{i}": block + i for i in range(14)}
    torch.save({"state_dict": state}, path)
    assert path.stat().st_size > 290e6
    unpacked = unpack(path, scratch, memory=48 * 2**20, check=lambda: None)
    made = load_file(unpacked.path)
    assert torch.equal(made["w7"], block[7])
    assert torch.equal(made["v13"], block + 13)
    if sys.platform == "linux":
        assert unpacked.peak < 60e6


@pytest.mark.skipif(sys.platform != "linux", reason="no limit on memory there")
def test_a_tight_limit_on_memory_is_told_as_such(tmp_path: Path, scratch: Path) -> None:
    path = tmp_path / "turned.ckpt"
    torch.save({"w": torch.zeros(3000, 2000).T}, path)
    with pytest.raises(ModelError, match=r"turned\.ckpt: reading it needs more than 16 MB"):
        unpack(path, scratch, memory=16 * 2**20, check=lambda: None)
    assert not list(scratch.iterdir())


def test_cancelling_ends_the_child_and_leaves_nothing(tmp_path: Path, scratch: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({f"w{i}": torch.zeros(10) for i in range(4000)}, path)
    polls = []

    def check() -> None:
        polls.append(time.monotonic())
        if len(polls) == 3:
            raise Cancelled("stopped")

    start = time.monotonic()
    with pytest.raises(Cancelled):
        unpack(path, scratch, check=check)
    assert time.monotonic() - start < 20
    assert not list(scratch.iterdir())


def test_a_scratch_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"w": torch.zeros(3)}, path)
    with pytest.raises(OutputError, match="no-such"):
        read_checkpoint(path, tmp_path / "no-such")


def test_importing_the_package_loads_no_torch() -> None:
    root = Path(__file__).parents[3] / "src"
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r}); import napari_ssldiff.models.foreign; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
