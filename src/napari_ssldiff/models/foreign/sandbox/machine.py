"""The stack machine that reads a pickle as data. It imports nothing and calls nothing by name.

The opcodes are decoded by the standard library's ``pickletools``, which only takes them apart.
Protocols 0 to 4 are known, and of 5 what a file can hold. See PEP 307, 3154 and 574.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, Protocol

from .records import KNOWN, Dict, Global, Placeholder, Refused, called

#: Opcodes of one pickle; a U-Net with its optimiser has some 10⁵.
MOST_OPCODES = 1_000_000

#: Those that push what they carry.
_VALUES = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BYTEARRAY8"}
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Stream(Protocol):
    """What opcodes are read from."""

    def read(self, size: int, /) -> bytes: ...

    def readline(self) -> bytes: ...


class Machine:
    """Reads one pickle after the other; memo and stack are each pickle's own.

    Parameters
    ----------
    persistent
        Gives the record of a persistent id.
    """

    def __init__(self, persistent: Callable[[object], object]) -> None:
        self.persistent = persistent
        self.placeholders: dict[str, Placeholder] = {}

    def run(self, stream: Stream) -> object:
        """The object that a pickle describes.

        Raises
        ------
        Refused
            If the pickle is damaged, too long, or uses what a checkpoint never does.
        """
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
                if count >= MOST_OPCODES:
                    raise Refused(f"its pickle has more than {MOST_OPCODES:,} instructions")
                name = opcode.name
                if name in _VALUES:
                    self.stack.append(argument)
                elif name in _CONSTANTS:
                    self.stack.append(_CONSTANTS[name])
                elif name != "STOP":
                    self.step(name, argument)
            return self.stack.pop()
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as fault:
            raise Refused(f"its pickle is damaged ({type(fault).__name__}: {fault})") from None

    def step(self, name: str, argument: Any) -> None:
        """Carry one instruction out."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MARK":
                self.marks.append(stack)
                self.stack = []
            case "POP_MARK":
                self.since_mark()
            case "POP":
                stack.pop() if stack else self.since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                length = _TUPLES[name]
                if len(stack) < length:
                    raise Refused("its pickle is damaged (a tuple lacks items)")
                stack[-length:] = [tuple(stack[-length:])]
            case "TUPLE" | "FROZENSET":
                items = self.since_mark()
                self.stack.append(tuple(items))
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_DICT":
                stack.append(Dict())
            case "LIST":
                items = self.since_mark()
                self.stack.append(items)
            case "DICT":
                items = self.since_mark()
                self.stack.append(Dict())
                self.fill(items)
            case "APPEND":
                value = stack.pop()
                self.extend([value])
            case "APPENDS" | "ADDITEMS":
                self.extend(self.since_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.fill([key, value])
            case "SETITEMS":
                self.fill(self.since_mark())
            case _:
                self.objects(name, argument)

    def objects(self, name: str, argument: Any) -> None:
        """Carry out an instruction that names, makes or fills an object."""
        stack = self.stack
        match name:
            case "GLOBAL":
                stack.append(self.named(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if type(module) is not str or type(attribute) is not str:
                    raise Refused("its pickle is damaged (a name is no text)")
                stack.append(self.named(f"{module}.{attribute}"))
            case "REDUCE" | "NEWOBJ":
                args, function = stack.pop(), stack.pop()
                stack.append(self.made(function, args))
            case "NEWOBJ_EX":
                words, args, function = stack.pop(), stack.pop(), stack.pop()
                if words and isinstance(function, Global):
                    function = self.placeholder(function.name)
                stack.append(self.made(function, args))
            case "INST":
                args = tuple(self.since_mark())
                self.stack.append(self.made(self.named(argument.replace(" ", ".", 1)), args))
            case "OBJ":
                function, *rest = self.since_mark()
                self.stack.append(self.made(function, tuple(rest)))
            case "BUILD":
                state = stack.pop()
                if not isinstance(stack[-1], Placeholder):
                    stack[-1].extras.append(state)
            case "PERSID":
                stack.append(self.persistent(argument))
            case "BINPERSID":
                stack.append(self.persistent(stack.pop()))
            case _:
                raise Refused(f"its pickle uses {name}, which no checkpoint needs")

    def since_mark(self) -> list[Any]:
        """What was pushed since the last mark, which goes."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def extend(self, values: list[Any]) -> None:
        """Add items to the list on top; a placeholder swallows them."""
        top = self.stack[-1]
        if isinstance(top, list):
            top.extend(values)
        elif not isinstance(top, Placeholder):
            raise Refused("its pickle is damaged (items for what is no list)")

    def fill(self, flat: list[Any]) -> None:
        """Set keys and values in the dictionary on top; a placeholder swallows them."""
        top = self.stack[-1]
        if isinstance(top, Dict):
            for key, value in zip(flat[::2], flat[1::2], strict=True):
                top.put(key, value)
        elif not isinstance(top, Placeholder):
            raise Refused("its pickle is damaged (items for what is no dictionary)")

    def named(self, name: str) -> Global | Placeholder:
        """A known global, or a placeholder for it. Nothing is looked up but a table of names."""
        return KNOWN.get(name) or self.placeholder(name)

    def placeholder(self, name: str) -> Placeholder:
        """The one placeholder of a name."""
        return self.placeholders.setdefault(name, Placeholder(name))

    def made(self, function: object, args: object) -> object:
        """What a call stands for: a record where the global is known, else its placeholder."""
        if isinstance(function, Placeholder):
            return function
        if not isinstance(function, Global):
            raise Refused("its pickle is damaged (a call of what is no function)")
        out = called(function, args)
        return self.placeholder(out.name) if isinstance(out, Placeholder) else out
