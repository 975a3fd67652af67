"""The tensors of safetensors files as one mapping, and a look for numbers that are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ssldiff.errors import ModelError

if TYPE_CHECKING:
    import torch

#: Elements that are looked at in one go.
CHUNK = 2**22


def nothing() -> None:
    """A check that never stops anything."""


class MappedTensors(Mapping[str, "torch.Tensor"]):
    """Tensors of safetensors files, each mapped into memory when it is asked for.

    Parameters
    ----------
    files
        Prefix of names → files. The tensor ``key`` of a file is called ``prefix + key``.

    Raises
    ------
    ModelError
        If a file is damaged, or two tensors have one name.
    """

    def __init__(self, files: Mapping[str, tuple[Path, ...]]) -> None:
        from safetensors import SafetensorError, safe_open

        self._places: dict[str, tuple[Any, Path, str]] = {}
        for prefix, paths in files.items():
            for path in paths:
                try:
                    handle: Any = safe_open(str(path), framework="pt")
                    keys = list(handle.keys())
                except (OSError, SafetensorError, ValueError) as fault:
                    raise ModelError(
                        f"{path} is no whole safetensors file ({fault}); fetch it again"
                    ) from fault
                for key in keys:
                    if prefix + key in self._places:
                        raise ModelError(
                            f"{path}: a tensor called {prefix + key!r} is in two files; "
                            "name one of them"
                        )
                    self._places[prefix + key] = handle, path, key

    def __getitem__(self, name: str) -> torch.Tensor:
        """The tensor on the CPU; its bytes are read from the file when they are used."""
        from safetensors import SafetensorError

        handle, path, key = self._places[name]
        try:
            tensor: torch.Tensor = handle.get_tensor(key)
        except (SafetensorError, RuntimeError, ValueError) as fault:
            raise ModelError(
                f"{path}: the tensor {name!r} cannot be read ({fault}); fetch the file again"
            ) from fault
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def check_finite(
    tensors: Mapping[str, torch.Tensor], *, check: Callable[[], None] = nothing
) -> None:
    """Make sure that no weight is NaN or infinite; four million numbers are looked at in a go.

    Parameters
    ----------
    tensors
        Weights by name; those of whole numbers are passed over.
    check
        Called between pieces; what it raises ends the work.

    Raises
    ------
    ModelError
        Naming the first tensors that are not finite.
    """
    wrong = []
    for name, tensor in tensors.items():
        check()
        if (tensor.is_floating_point() or tensor.is_complex()) and not _finite(tensor, check):
            wrong.append(name)
    if wrong:
        first = ", ".join(repr(name) for name in wrong[:3])
        raise ModelError(
            f"{len(wrong)} of {len(tensors)} tensors hold NaN or infinity ({first}"
            f"{', …' if len(wrong) > 3 else ''}): take another checkpoint"
        )


def _finite(tensor: torch.Tensor, check: Callable[[], None]) -> bool:
    flat = tensor.reshape(-1)
    for piece in flat.split(CHUNK):
        check()
        # Types of eight bits have no isfinite.
        wide = piece.float() if piece.is_floating_point() and piece.itemsize == 1 else piece
        # A sum is finite only if all its terms are, and far quicker; it may overflow all the same.
        if not bool(wide.sum().isfinite()) and not bool(wide.isfinite().all()):
            return False
    return True
