"""Actions of the user's whose errors are told instead of raised."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from napari_ssldiff.errors import SSLDiffError
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
