"""Which tensors of a checkpoint are taken, and what may not hang on them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .records import Dict, Key, Placeholder, Refused, Storage, Tensor

#: Where training frameworks keep a state dict, the first that is there: Lightning; most others;
#: DINO, iBOT and HIPT, whose teacher is the better network.
PLACES = ("state_dict", "model_state_dict", "model", "teacher", "module", "ema", "student")
#: Containers inside containers, and objects altogether, under a state dict.
DEEPEST = 64
MOST_OBJECTS = 1_000_000


@dataclass(frozen=True)
class View:
    """A tensor whose numbers are known to be sane: elements within its storage, no negatives."""

    storage: str
    code: str
    itemsize: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    storage_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor when contiguous."""
        return math.prod(self.size) * self.itemsize

    @property
    def canonical(self) -> tuple[int, ...]:
        """Strides of the contiguous tensor, in elements."""
        return tuple(math.prod(self.size[axis + 1 :]) for axis in range(len(self.size)))

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in order, without gaps."""
        pairs = zip(self.size, self.stride, self.canonical, strict=True)
        return all(n == 1 or have == want for n, have, want in pairs)


def shown(text: object) -> str:
    """A name out of a foreign file, fit for one line of a terminal."""
    return ascii(str(text))[1:-1][:200]


def chosen(root: object) -> tuple[str, Dict]:
    """The state dict of a checkpoint, and its place.

    Raises
    ------
    Refused
        If there is none, or an object stands where it should be.
    """
    if isinstance(root, Placeholder):
        raise Refused(
            f"it holds an object of {shown(root.name)} instead of a state dict; save the object's "
            "state_dict() as safetensors where you trust its code"
        )
    if not isinstance(root, Dict):
        raise Refused(f"it holds a {type(root).__name__.lower()} instead of a state dict")
    for place in PLACES:
        value = root.get(place)
        if isinstance(value, Placeholder):
            raise Refused(_code(place, value))
        if isinstance(value, Dict):
            return f"{place!r}", value
    return "its top level", root


def taken(root: object) -> dict[str, View]:
    """Every tensor under the state dict, by its name; nested names are joined by dots.

    Raises
    ------
    Refused
        If code is reachable from there, or a tensor is of a kind that is not read or damaged.
    """
    place, state = chosen(root)
    out: dict[str, View] = {}
    waiting: list[tuple[str, object, int]] = [("", state, 0)]
    seen = 0
    while waiting:
        name, value, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST or seen > MOST_OBJECTS:
            raise Refused(f"its state dict is nested too deeply or too large at {shown(name)!r}")
        below: list[tuple[str, object]] = []
        if isinstance(value, Placeholder):
            raise Refused(_code(name, value))
        if isinstance(value, Tensor):
            if name in out or name == "__metadata__":
                raise Refused(f"two tensors are called {shown(name)!r}, or its name is reserved")
            out[name] = viewed(name, value)
            _inert(name, value.extras)
        elif isinstance(value, Storage):
            raise Refused(f"{shown(name)!r} is a bare storage and no tensor")
        elif isinstance(value, Dict):
            _inert(name, value.extras)
            _inert(name, [key.value for key in value if isinstance(key, Key)])
            below = [(_joined(name, key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            below = [(_joined(name, index), item) for index, item in enumerate(value)]
        waiting += [(child, item, depth + 1) for child, item in reversed(below)]
    if not out:
        raise Refused(f"no tensors are in it (looked under {place})")
    return out


def viewed(name: str, tensor: Tensor) -> View:
    """A tensor's description, checked."""
    dtype, storage = tensor.dtype, tensor.storage
    if not dtype.code:
        raise Refused(
            f"{shown(name)!r} is quantised or of a type that safetensors lacks; save it as float32"
        )
    if tensor.metadata:
        raise Refused(f"{shown(name)!r} is a conjugate or negated view; save a plain copy")
    size, stride, offset = tensor.size, tensor.stride, tensor.offset
    sane = (
        type(size) is tuple
        and type(stride) is tuple
        and len(size) == len(stride) <= DEEPEST
        and all(type(number) is int and number >= 0 for number in (offset, *size, *stride))
    )
    if not sane:
        raise Refused(f"{shown(name)!r} has an odd shape, stride or offset: the file is damaged")
    bytes_there = storage.numel * storage.dtype.itemsize
    view = View(storage.key, dtype.code, dtype.itemsize, offset, size, stride, bytes_there)
    if view.nbytes:
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if (last + 1) * dtype.itemsize > bytes_there:
            raise Refused(f"{shown(name)!r} reaches beyond its storage: the file is damaged")
    return view


def _joined(name: str, key: object) -> str:
    if isinstance(key, Key):
        raise Refused(f"a key under {shown(name)!r} is neither text nor a number")
    text = f"{name}.{key}" if name else str(key)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Refused(f"the name {shown(text)!r} is not valid Unicode") from None
    return text


def _inert(name: str, values: list[object]) -> None:
    """Refuse code among what hangs on a tensor or a dictionary, however deep."""
    waiting, seen = list(values), set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Placeholder):
            raise Refused(_code(name, value))
        if isinstance(value, Dict | Tensor | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Dict):
                waiting += [key.value for key in value if isinstance(key, Key)]
                waiting += [*value.values(), *value.extras]
            else:
                waiting += value.extras if isinstance(value, Tensor) else value


def _code(name: str, value: Placeholder) -> str:
    if value.name.startswith("torch._utils._rebuild_"):
        return (
            f"{shown(name)!r} is a sparse, quantised or otherwise special tensor "
            f"({shown(value.name)}); save it dense, as float32"
        )
    return (
        f"code is reachable from its state dict: {shown(name)!r} holds {shown(value.name)}; "
        "save plain tensors as safetensors where you trust that code"
    )
