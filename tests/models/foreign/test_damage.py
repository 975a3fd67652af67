"""Files that are cut off, altered, missing or something else."""

from __future__ import annotations

import errno
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.foreign import Checkpoint, check_finite
from napari_ssldiff.models.foreign.sandbox import main as child

Read = Callable[..., Checkpoint]
STATE = {"w": torch.arange(400.0).view(20, 20).T, "b": torch.arange(30).half()}
MOST = 2**24


def saved(path: Path, as_zip: bool) -> bytes:
    torch.save({"state_dict": STATE, "epoch": 3}, path, _use_new_zipfile_serialization=as_zip)
    return path.read_bytes()


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, as_zip: bool) -> None:
    path, target = tmp_path / "cut.pt", tmp_path / "out.safetensors"
    whole = saved(path, as_zip)
    for length in {*range(1, len(whole), 37), *range(len(whole) - 40, len(whole))}:
        path.write_bytes(whole[:length])
        reply = child.answer(str(path), str(target), MOST)
        assert "error" in reply, length
        target.unlink(missing_ok=True)


@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
def test_a_truncated_file_is_told_by_name(
    tmp_path: Path, read: Read, scratch: Path, as_zip: bool, fraction: float
) -> None:
    path = tmp_path / "cut.ckpt"
    whole = saved(path, as_zip)
    path.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(ModelError, match=r"cut\.ckpt"):
        read(path)
    assert not list(scratch.iterdir())


def test_an_altered_archive_is_refused_or_means_the_same(tmp_path: Path) -> None:
    path, target = tmp_path / "altered.pt", tmp_path / "out.safetensors"
    whole = saved(path, True)
    dice = random.Random(5)
    refused = 0
    for place in dice.sample(range(len(whole)), 300):
        altered = bytearray(whole)
        altered[place] ^= 1 << dice.randrange(8)
        path.write_bytes(altered)
        reply = child.answer(str(path), str(target), MOST)
        refused += "error" in reply
        if "error" not in reply:
            assert all(torch.equal(load_file(target)[name], STATE[name]) for name in STATE), place
        target.unlink(missing_ok=True)
    assert refused > 100


def test_an_altered_legacy_file_never_does_more_than_give_other_tensors(tmp_path: Path) -> None:
    """The legacy form has no checksums; the sha256 that a card pins is what finds it."""
    path, target = tmp_path / "altered.pt", tmp_path / "out.safetensors"
    whole = saved(path, False)
    dice = random.Random(6)
    for place in dice.sample(range(len(whole)), 300):
        altered = bytearray(whole)
        altered[place] = dice.randrange(256)
        path.write_bytes(altered)
        reply = child.answer(str(path), str(target), MOST)
        assert "error" in reply or load_file(target)
        assert "cannot be read" not in reply.get("error", ""), reply
        target.unlink(missing_ok=True)


def test_an_altered_weight_in_an_archive_is_told(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "altered.pt"
    whole = saved(path, True)
    needle = STATE["b"].numpy().tobytes()
    assert whole.count(needle) == 1
    path.write_bytes(whole.replace(needle, needle[:-1] + b"\x00"))
    with pytest.raises(ModelError, match=r"altered\.pt: it is truncated or damaged .*CRC"):
        read(path)


def test_a_header_whose_length_begins_as_a_pickle_does_is_safetensors(
    tmp_path: Path, read: Read
) -> None:
    """A length of 128, or 384 and so on: its low byte is 0x80."""
    path = tmp_path / "model.safetensors"
    for padding in range(0, 512, 8):
        save_file({"w": torch.ones(3)}, path, {"note": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail("no header of such a length")
    found = read(path)
    assert found.form == "safetensors"
    assert torch.equal(found.tensors["w"], torch.ones(3))
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    with pytest.raises(ModelError):
        read(path)


def test_damaged_safetensors_are_refused(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(64)}, path)
    whole = path.read_bytes()
    changes = {
        "cut": whole[:-3],
        "cut in the header": whole[:40],
        "longer": whole + b"x",
        "offsets": whole.replace(b"[0,256]", b"[0,999]"),
        "shape": whole.replace(b"[64]", b"[65]"),
        "type": whole.replace(b"F32", b"F99"),
        "no JSON": whole[:9] + b"!!" + whole[11:],
        "a header of 16 EB": b"\xff" * 8 + whole[8:],
    }
    for change, damaged in changes.items():
        assert damaged != whole, change
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            read(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
        (b"just some text that is no checkpoint", "no checkpoint"),
        (b"\x80\x04N.", "none that torch.save makes"),
        (b"PK\x03\x04" + bytes(200), "damaged"),
    ],
)
def test_files_of_another_kind_are_told_apart(
    tmp_path: Path, read: Read, content: bytes, said: str
) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"model\.ckpt.*{said}"):
        read(path)


def test_a_torchscript_program_is_refused(write_zip: Callable[..., Path], read: Read) -> None:
    path = write_zip(b"\x80\x02}.")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("made/constants.pkl", b"\x80\x02).")
    with pytest.raises(ModelError, match="TorchScript"):
        read(path)


def test_missing_and_unreadable_files_are_told(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"gone\.ckpt does not exist"):
        read(tmp_path / "gone.ckpt")
    path = tmp_path / "locked.ckpt"
    saved(path, True)

    def locked(self: Path, *_: object, **__: object) -> None:
        # Tests may run as a user who may read everything, whatever a file's rights.
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", locked)
    with pytest.raises(ModelError, match=r"locked\.ckpt cannot be read"):
        read(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_named(bad: float, dtype: torch.dtype) -> None:
    tensors = {"good": torch.ones(5, dtype=dtype), "steps": torch.arange(3)}
    check_finite(tensors)
    tensors["conv.weight"] = torch.tensor([1.0, bad]).to(dtype)
    with pytest.raises(ModelError, match=r"1 of 3 tensors .*'conv\.weight'"):
        check_finite(tensors)


def test_large_finite_weights_whose_sum_overflows_are_finite() -> None:
    check_finite({"w": torch.full((100,), 6e4).half(), "v": torch.full((9,), 3e38)})


def test_a_nan_at_the_end_of_a_large_or_small_type_is_found() -> None:
    large = torch.zeros(2**22 + 1)
    large[-1] = float("nan")
    eight = torch.tensor([1.0, float("nan")]).to(torch.float8_e5m2)
    polls: list[int] = []
    with pytest.raises(ModelError, match="2 of 2"):
        check_finite({"large": large, "eight": eight}, check=lambda: polls.append(1))
    assert len(polls) > 3
