"""What a foreign pickle may be made of: plain data, tensors by description, and placeholders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any


class Refused(Exception):
    """The file is not read. The text is what the user is told, without the file's name."""


class Dict(dict[Any, Any]):
    """A dictionary, with what a pickle hangs on it beside its items (``_metadata``, hooks)."""

    def __init__(self, *extras: object) -> None:
        super().__init__()
        self.extras = list(extras)

    def put(self, key: object, value: object) -> None:
        """Set an item; keys other than scalars are wrapped, so that hashing one runs nothing."""
        plain = key is None or type(key) in (str, int, float, bool, bytes)
        self[key if plain else Key(key)] = value


@dataclass(frozen=True, eq=False)
class Key:
    """A dictionary's key that is no scalar."""

    value: object


@dataclass(frozen=True, eq=False)
class Placeholder:
    """Stands for a global that is not known, and for everything made with it."""

    name: str


@dataclass(frozen=True, eq=False)
class Global:
    """A known global; ``build`` makes records of arguments, ``dtype`` is what it names."""

    name: str
    build: Callable[..., object] | None = None
    dtype: DType | None = None


@dataclass(frozen=True)
class DType:
    """A type of numbers: safetensors' code (empty: it has none) and bytes per element."""

    code: str
    itemsize: int


@dataclass(frozen=True, eq=False)
class Storage:
    """A block of bytes in the archive, ``numel`` elements of ``dtype`` long."""

    key: str
    dtype: DType
    numel: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage; offset and strides in elements of ``dtype``, as yet unchecked."""

    storage: Storage
    dtype: DType
    offset: Any
    size: Any
    stride: Any
    metadata: object = None
    extras: list[object] = field(default_factory=list)

    def having(self, *extras: object) -> Tensor:
        """The same view, with more hung on it."""
        return replace(self, extras=[*self.extras, *extras])


def _tensor(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object = False,
    hooks: object = None,
    metadata: object = None,
) -> Tensor:
    if not isinstance(storage, Storage):
        raise Refused("a tensor has no storage: the file is damaged")
    return Tensor(storage, storage.dtype, offset, size, stride, metadata, [hooks])


def _tensor_of_dtype(*args: Any) -> Tensor:
    *view, dtype = args[:7]
    if not (isinstance(dtype, Global) and dtype.dtype):
        raise Refused("a tensor has no data type: the file is damaged")
    return replace(_tensor(*view, *args[7:8]), dtype=dtype.dtype)


def _parameter(data: object, requires_grad: object, *extras: object) -> object:
    if isinstance(data, Placeholder):
        return data
    if not isinstance(data, Tensor):
        raise Refused("a parameter has no tensor: the file is damaged")
    return data.having(*extras)


def _of_type(function: object, kind: object, args: object, state: object) -> object:
    """Rebuild a tensor that carries attributes; a class other than torch's own is a placeholder."""
    for part in (kind, function):
        if isinstance(part, Placeholder):
            return part
    if not isinstance(function, Global):
        raise Refused("a tensor is built by what is no function: the file is damaged")
    return _parameter(called(function, args), False, state)


def _mapping(pairs: object = ()) -> Dict:
    out = Dict()
    for key, value in pairs.items() if isinstance(pairs, Dict) else _sequence(pairs):
        out.put(key, value)
    return out


def _sequence(values: object = ()) -> list[Any]:
    if type(values) not in (list, tuple):
        raise Refused("a container is filled with what is no list: the file is damaged")
    return list(values)  # type: ignore[call-overload, no-any-return]


def _known() -> dict[str, Global]:
    """Every global that is data, by its dotted name."""
    builders: dict[str, Callable[..., object] | None] = {
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
        "torch._tensor._rebuild_from_type_v2": _of_type,
        "torch.Tensor": None,
        "torch.nn.parameter.Parameter": None,
        "torch.Size": lambda values=(): tuple(_sequence(values)),
        "torch.device": lambda *names: ":".join(str(name) for name in names),
        "collections.OrderedDict": _mapping,
        "collections.defaultdict": lambda factory=None: Dict(factory),
    }
    for module in ("builtins", "__builtin__"):
        builders[f"{module}.dict"] = _mapping
        builders |= {f"{module}.{name}": _sequence for name in ("list", "set", "frozenset")}
        builders[f"{module}.tuple"] = builders["torch.Size"]
        builders |= {f"{module}.{name}": None for name in ("int", "float", "str", "bool")}
    known = {name: Global(name, build) for name, build in builders.items()}

    storages = {
        "Double": DType("F64", 8),
        "Float": DType("F32", 4),
        "Half": DType("F16", 2),
        "BFloat16": DType("BF16", 2),
        "Long": DType("I64", 8),
        "Int": DType("I32", 4),
        "Short": DType("I16", 2),
        "Char": DType("I8", 1),
        "Byte": DType("U8", 1),
        "Bool": DType("BOOL", 1),
        "ComplexFloat": DType("C64", 8),
        "ComplexDouble": DType("", 16),
        "QInt8": DType("", 1),
        "QUInt8": DType("", 1),
        "QInt32": DType("", 4),
        "QUInt4x2": DType("", 1),
        "QUInt2x4": DType("", 1),
    }
    dtypes = {f"torch.{name}Storage": dtype for name, dtype in storages.items()}
    dtypes["torch.storage.UntypedStorage"] = dtypes["torch.UntypedStorage"] = DType("U8", 1)
    names = {
        "float64": "Double",
        "float32": "Float",
        "float16": "Half",
        "bfloat16": "BFloat16",
        "int64": "Long",
        "int32": "Int",
        "int16": "Short",
        "int8": "Char",
        "uint8": "Byte",
        "bool": "Bool",
        "complex64": "ComplexFloat",
        "complex128": "ComplexDouble",
    }
    dtypes |= {f"torch.{name}": storages[storage] for name, storage in names.items()}
    dtypes |= {
        "torch.uint16": DType("U16", 2),
        "torch.uint32": DType("U32", 4),
        "torch.uint64": DType("U64", 8),
        "torch.float8_e4m3fn": DType("F8_E4M3", 1),
        "torch.float8_e5m2": DType("F8_E5M2", 1),
    }
    return known | {name: Global(name, dtype=dtype) for name, dtype in dtypes.items()}


KNOWN = _known()


def called(function: Global, args: object) -> object:
    """The record that a known global makes of arguments; what makes none gives a placeholder."""
    if function.build is None:
        return Placeholder(function.name)
    if type(args) is not tuple:
        raise Refused(f"{function.name} is called without arguments: the file is damaged")
    try:
        return function.build(*args)
    except (TypeError, ValueError):
        raise Refused(f"{function.name} has odd arguments: the file is damaged") from None
