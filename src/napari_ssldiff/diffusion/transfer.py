"""Copies between the host and a device that wait for nothing they need not wait for."""

from __future__ import annotations

import torch

#: Bytes of the largest block that is pinned: a call's windows are far smaller.
PINNED = 64 * 2**20


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``values`` on ``device``.

    From the host to CUDA the copy goes through pinned memory and does not hold the caller up:
    what is asked of the device next comes after it in any case, and torch keeps the pinned block
    until then. Where the system pins no more, or the block is large (torch keeps pinned memory),
    and elsewhere, this is ``values.to(device)``.
    """
    if device.type == "cuda" and values.device.type == "cpu" and 0 < values.nbytes <= PINNED:
        try:
            pinned = values.pin_memory()
        except RuntimeError:
            return values.to(device)
        return pinned.to(device, non_blocking=True)
    return values.to(device)
