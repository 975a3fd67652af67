"""Copies between the host and a device that wait for nothing they need not wait for."""

from __future__ import annotations

import torch


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``values`` on ``device``.

    From the host to CUDA the copy goes through pinned memory and does not hold the caller up:
    what is asked of the device next comes after it in any case, and torch keeps the pinned block
    until then. Elsewhere this is ``values.to(device)``.
    """
    if device.type == "cuda" and values.device.type == "cpu" and values.numel():
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
