"""How much memory a call takes, counted on tensors that hold no numbers."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")


class _Living(TorchDispatchMode):
    """Bytes of the storages that operators made and that are still there, and their most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.most = 0, 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class _Fused(TorchFunctionMode):
    """Attention as the kernels of CPUs and GPUs do it, which never hold the matrix of weights."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            query = args[0] if args else kwargs["query"]
            value = args[2] if len(args) > 2 else kwargs["value"]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def peak_bytes(module: nn.Module, call: Callable[[Any], object]) -> int | None:
    """The most bytes that ``call(module)`` holds at once beside weights and inputs, in fp32.

    Nothing is computed. Kernels may take room of their own, and allocators waste some.

    Parameters
    ----------
    call
        Is given a copy of the module on the meta device; its inputs must be there too.

    Returns
    -------
    ``None`` where the module looks at numbers, which are not there.
    """
    ghost = copy.deepcopy(module).to(META).eval()
    with _Living() as living, _Fused():
        try:
            call(ghost)
        except (NotImplementedError, RuntimeError):
            return None
    return int(living.most)
