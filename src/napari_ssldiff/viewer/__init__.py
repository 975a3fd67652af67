"""Everything that napari sees. Importing this package is cheap: neither torch nor Qt is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_ssldiff.viewer.widget import SSLDiffusionWidget

__all__ = ["SSLDiffusionWidget"]


def __getattr__(name: str) -> Any:
    # Readers and writers live in this package too and must work in scripts without Qt.
    if name == "SSLDiffusionWidget":
        from napari_ssldiff.viewer.widget import SSLDiffusionWidget

        return SSLDiffusionWidget
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
