"""What is said to the user, and asked: errors, and before very large regions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from napari_ssldiff.errors import InputError, SSLDiffError
from napari_ssldiff.geometry import Region
from napari_ssldiff.viewer.session import Severity


class Speaker(Protocol):
    """Something with a status line."""

    def say(self, text: str, severity: Severity = "info") -> None: ...


P = ParamSpec("P")
Someone = TypeVar("Someone", bound=Speaker)


def told(
    action: Callable[Concatenate[Someone, P], None],
) -> Callable[Concatenate[Someone, P], bool]:
    """Errors that the user can mend go to the status line; whether there was none."""

    @functools.wraps(action)
    def run(self: Someone, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        try:
            action(self, *args, **kwargs)
        except SSLDiffError as error:
            self.say(str(error), "error")
            return False
        return True

    return run


def line_of(error: Exception) -> str:
    """An error in one line for the user."""
    if isinstance(error, SSLDiffError):
        return str(error)
    if out_of_memory(error):
        return "the device ran out of memory: draw a smaller region or choose another device"
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says so; told without torch, which the window does not load."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


#: Regions larger than this are asked about: they take minutes to hours and gigabytes.
LARGE = 64_000_000


def guard_size(region: Region, what: str, confirm: Callable[[str], bool]) -> None:
    """Ask before a very large region is worked on.

    Raises
    ------
    InputError
        If the answer is no.
    """
    b = region.bounds
    if b.area <= LARGE:
        return
    text = f"the region of {b.w} × {b.h} px is {b.area / 1e6:.0f} Mpx large"
    if not confirm(f"T{text[1:]}, which may take hours. Shall all of it be {what}?"):
        raise InputError(f"{text}: draw one of at most {LARGE / 1e6:.0f} Mpx")


def notify(text: str) -> None:
    """A napari notification about an error."""
    from napari.utils.notifications import show_error

    show_error(text)
