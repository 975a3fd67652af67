"""Pickles that would harm: nothing of them runs, and what they hang on weights is refused."""

from __future__ import annotations

import os
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.foreign import Checkpoint
from napari_ssldiff.models.foreign.sandbox import main as child
from napari_ssldiff.models.foreign.unpack import EXPANSION, SLACK

Read = Callable[..., Checkpoint]


class Call:
    """Pickled, it calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.fixture
def answer(tmp_path: Path) -> Callable[[Path], dict[str, Any]]:
    """What the child says of a file, without its limits and in this process, which is quick."""
    made: list[int] = []

    def ask(path: Path) -> dict[str, Any]:
        made.append(1)
        target = tmp_path / f"{len(made)}.safetensors"
        return child.answer(str(path), str(target), EXPANSION * path.stat().st_size + SLACK)

    return ask


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
def test_code_beside_the_state_dict_is_ignored_and_never_called(
    tmp_path: Path, read: Read, as_zip: bool
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.ckpt"
    calls = [Call(os.system, f"touch {marker}"), Call(eval, f"open({str(marker)!r}, 'w')")]
    torch.save(
        {"hyper_parameters": calls, "state_dict": {"w": torch.ones(3)}},
        path,
        _use_new_zipfile_serialization=as_zip,
    )
    checkpoint = read(path)
    assert torch.equal(checkpoint.tensors["w"], torch.ones(3))
    assert f"{os.system.__module__}.system" in checkpoint.ignored
    assert {"builtins.eval", "__builtin__.eval"} & set(checkpoint.ignored)
    assert not marker.exists()


def test_the_marker_would_appear_if_the_code_ran(tmp_path: Path) -> None:
    """The proof above is worth something: Python's own unpickler does call it."""
    marker, path = tmp_path / "marker", tmp_path / "evil.ckpt"
    torch.save({"x": Call(Path.touch, marker)}, path)
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_no_module_is_imported_by_its_name(
    tmp_path: Path, write_zip: Callable[..., Path], read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "trap_module.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"w": torch.ones(1)}, "note": "x"}, path)
    with zipfile.ZipFile(path) as archive:
        stream = archive.read("a/data.pkl")
        blocks = {"0": archive.read("a/data/0")}
    trap = b"}" + b"X\x05\x00\x00\x00trapsctrap_module\nTrap\n)Rs"
    merged = stream.replace(b"\x80\x02}", b"\x80\x02" + trap, 1)
    assert read(write_zip(merged, blocks)).ignored == ("trap_module.Trap",)
    assert not marker.exists()


def _state(evil: Any) -> dict[str, Any]:
    tensor = torch.nn.Parameter(torch.ones(2))
    tensor.hook = evil  # type: ignore[attr-defined]
    with_metadata = torch.nn.Linear(1, 1).state_dict()
    with_metadata._metadata["evil"] = evil  # type: ignore[attr-defined]
    return {
        "value": {"state_dict": {"w": torch.ones(2), "bad": evil}},
        "nested": {"model": {"w": torch.ones(2), "bad": {"deep": [1, (2, evil)]}}},
        "top level": {"w": torch.ones(2), "bad": evil},
        "attribute": {"w": torch.ones(2), "bad": tensor},
        "metadata": {"state_dict": {"bad": with_metadata}},
        "whole": {"state_dict": evil},
    }


@pytest.mark.parametrize(
    "where", ["value", "nested", "top level", "attribute", "metadata", "whole"]
)
def test_code_under_the_state_dict_is_refused(
    tmp_path: Path, answer: Callable[[Path], dict[str, Any]], where: str
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.ckpt"
    torch.save(_state(Call(os.system, f"touch {marker}"))[where], path)
    said = answer(path)["error"]
    assert "code is reachable" in said
    assert f"{os.system.__module__}.system" in said
    assert ("state_dict" if where == "whole" else "bad") in said
    assert not marker.exists()


def test_a_refusal_reaches_the_user_with_the_file_s_name(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2), "bad": Call(os.system, "true")}}, path)
    with pytest.raises(ModelError, match=r"evil\.ckpt: code is reachable .*'bad' holds"):
        read(path)


def test_code_as_a_key_is_refused(
    tmp_path: Path, answer: Callable[[Path], dict[str, Any]], foreign_class: Callable[..., type]
) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {foreign_class("evil.Key"): torch.ones(2)}}, path)
    assert "'' holds evil.Key" in answer(path)["error"]


def test_a_whole_module_is_refused_with_the_way_out(
    tmp_path: Path, answer: Callable[[Path], dict[str, Any]]
) -> None:
    path = tmp_path / "net.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    assert "object of torch.nn.modules.linear.Linear instead" in answer(path)["error"]


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (lambda: torch.eye(3).to_sparse(), "special tensor"),
        (
            lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            "special tensor",
        ),
        (lambda: torch.ones(2, dtype=torch.complex128), "safetensors lacks"),
        (lambda: torch.ones(2, dtype=torch.complex64).conj(), "conjugate"),
    ],
    ids=["sparse", "quantised", "complex128", "conjugate"],
)
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
def test_tensors_of_special_kinds_are_refused(
    tmp_path: Path,
    answer: Callable[[Path], dict[str, Any]],
    tensor: Callable[[], torch.Tensor],
    said: str,
) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(1), "special": tensor()}, path)
    error = answer(path)["error"]
    assert "'special'" in error
    assert said in error


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({}, None),
        ({"numel": 5}, "16 bytes instead of 20"),
        ({"size": (5,)}, "beyond its storage"),
        ({"offset": 1}, "beyond its storage"),
        ({"size": (2, 2), "stride": (3, 1)}, "beyond its storage"),
        ({"offset": -1}, "odd shape"),
        ({"stride": (-1,)}, "odd shape"),
        ({"size": (-4,)}, "odd shape"),
        ({"size": (2, 2)}, "odd shape"),
        ({"size": (1,) * 99, "stride": (1,) * 99}, "odd shape"),
        ({"size": (2**70,), "stride": (0,)}, "zip bomb"),
        ({"size": (2**40,), "numel": 2**40}, "zip bomb"),
        ({"numel": -4}, "other than a storage"),
        ({"key": "7"}, "made/data/7 is missing"),
        ({"key": "../data.pkl"}, "missing"),
        ({"kind": "EvilStorage"}, "other than a storage"),
        ({"kind": "DoubleStorage"}, "16 bytes instead of 32"),
        ({"name": "\ud800"}, "Unicode"),
        ({"name": "__metadata__"}, "reserved"),
    ],
)
def test_numbers_that_lie_are_refused(
    write_zip: Callable[..., Path],
    tensor_pickle: Callable[..., bytes],
    answer: Callable[[Path], dict[str, Any]],
    numbers: dict[str, Any],
    said: str | None,
) -> None:
    reply = answer(write_zip(tensor_pickle(**numbers), {"0": bytes(16)}))
    if said is None:
        assert reply["tensors"] == 1
    else:
        assert said in reply["error"]


HOSTILE = {
    "extension": (b"\x82\x01", "EXT1"),
    "buffer": (b"\x97", "NEXT_BUFFER"),
    "underflow": (b"R", "damaged"),
    "no mark": (b"t", "damaged"),
    "no memo": (b"h\x09", "damaged"),
    "a call of a number": (b"K\x01)R", "call of what is no function"),
    "a state for a list": (b"]}b", "damaged"),
    "a list filled as a dictionary": (b"]K\x01K\x02s", "no dictionary"),
    "a builder with odd arguments": (b"ctorch._utils\n_rebuild_tensor_v2\nK\x01\x85R", "odd"),
    "an ordered dictionary of numbers": (b"ccollections\nOrderedDict\nK\x01\x85R", "no list"),
    "a text of 4 GB": (b"X\xff\xff\xff\xff", "damaged"),
    "a text of 16 EB": (b"\x8d" + b"\xff" * 7 + b"\x0f", "damaged"),
    "a number of 2 GB": (b"\x8b" + struct.pack("<i", 2**31 - 1), "damaged"),
    "no opcode": (b"\xff", "damaged"),
    "nothing": (b"", "damaged"),
    "a name that is no text": (b"K\x01K\x02\x93", "no text"),
    "a persistent id that is none": (b"K\x01Q", "other than a storage"),
    "a list": (b"]", "a list instead"),
    "nothing in it": (b"}", "no tensors"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_odd_instructions_are_refused(
    write_zip: Callable[..., Path], answer: Callable[[Path], dict[str, Any]], name: str
) -> None:
    code, said = HOSTILE[name]
    end = b"" if name == "nothing" else b"."
    assert said in answer(write_zip(b"\x80\x04" + code + end))["error"]


@pytest.mark.parametrize(
    "code",
    [
        b"(ios\nsystem\nX\x04\x00\x00\x00true",
        b"(cos\nsystem\nX\x04\x00\x00\x00trueo",
        b"cos\nsystem\nX\x04\x00\x00\x00true\x85R",
        b"cos\nsystem\nX\x04\x00\x00\x00true\x85\x81",
        b"cos\nsystem\n)}\x92",
        b"\x8c\x02os\x8c\x06system\x93)R",
        b"cos\nsystem\n)R}X\x01\x00\x00\x00aK\x01sb",
        b"cos\nsystem\n)RK\x01a",
        b"cbuiltins\ngetattr\ncos\nsystem\nX\x08\x00\x00\x00__call__\x86R)R",
        b"ctorch._utils\n_rebuild_parameter\ncos\nsystem\n)R\x89N\x87R",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\n)NtR",
    ],
)
def test_every_way_to_call_gives_a_placeholder(
    write_zip: Callable[..., Path],
    answer: Callable[[Path], dict[str, Any]],
    code: bytes,
) -> None:
    if code.startswith(b"(i"):  # INST takes its arguments from the mark on
        code = b"(X\x04\x00\x00\x00trueios\nsystem\n"
    stream = b"\x80\x04}X\x0a\x00\x00\x00state_dict}X\x03\x00\x00\x00bad" + code + b"ss."
    said = answer(write_zip(stream))["error"]
    assert "code is reachable" in said
    assert "'bad'" in said


def test_deep_nesting_and_too_many_objects_are_refused(
    write_zip: Callable[..., Path],
    answer: Callable[[Path], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("napari_ssldiff.models.foreign.sandbox.state_dict.MOST_OBJECTS", 20_000)
    name = b"X\x01\x00\x00\x00a"
    lists = b"\x80\x04}" + name + b"]" * 20_000 + b"a" * 19_999 + b"s."
    tuples = b"\x80\x04}" + name + b")" + b"\x85" * 20_000 + b"s."
    assert "nested" in answer(write_zip(lists))["error"]
    assert "nested" in answer(write_zip(tuples))["error"]
    # A key is never hashed by what is in it: Python's hash of deep tuples overflows the C stack.
    key = b"\x80\x04})" + b"\x85" * 100_000 + b"K\x01s."
    assert "neither text" in answer(write_zip(key))["error"]
    # Each list holds the one before ten times: 10⁹ paths through nine lists.
    laughs = b"\x80\x04}" + name + b"]\x94"
    for level in range(9):
        laughs += b"0](" + (b"h" + bytes([level])) * 10 + b"e\x94"
    assert "too large" in answer(write_zip(laughs + b"s."))["error"]
    cycle = b"\x80\x04}\x94" + name + b"h\x00s."
    assert "nested" in answer(write_zip(cycle))["error"]


def test_a_pickle_without_end_is_refused(
    write_zip: Callable[..., Path],
    answer: Callable[[Path], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("napari_ssldiff.models.foreign.sandbox.machine.MOST_OPCODES", 10_000)
    assert "10,000 instructions" in answer(write_zip(b"\x80\x04" + b"N0" * 6000))["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="no limit on memory there")
def test_a_pickle_that_fills_memory_is_stopped_by_the_limit(
    write_zip: Callable[..., Path], read: Read, scratch: Path
) -> None:
    path = write_zip(b"\x80\x04" + b"]" * 900_000)
    with pytest.raises(ModelError, match="needs more than 24 MB"):
        read(path, memory=24 * 2**20)
    assert not list(scratch.iterdir())


def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    write_zip: Callable[..., Path],
    tensor_pickle: Callable[..., bytes],
    read: Read,
    scratch: Path,
) -> None:
    numel = 16 * 2**20
    stream = tensor_pickle(size=(numel,), numel=numel)
    path = write_zip(stream, {"0": bytes(4 * numel)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**18
    with pytest.raises(ModelError, match=r"67,108,864 bytes.*zip bomb"):
        read(path)
    assert not list(scratch.iterdir())


def test_a_pickle_stream_of_excessive_size_is_refused(
    write_zip: Callable[..., Path], answer: Callable[[Path], dict[str, Any]]
) -> None:
    path = write_zip(bytes(65 * 2**20), compression=zipfile.ZIP_DEFLATED)
    assert "larger than" in answer(path)["error"]


def test_names_that_are_shown_hold_no_control_characters(
    write_zip: Callable[..., Path], answer: Callable[[Path], dict[str, Any]]
) -> None:
    evil = b"X\x05\x00\x00\x00\x1b[31mX\x02\x00\x00\x00\r\n\x93"
    stream = b"\x80\x04}X\x01\x00\x00\x00a" + evil + b"s."
    assert answer(write_zip(stream))["error"].isprintable()
