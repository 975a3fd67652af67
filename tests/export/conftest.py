from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray


def make_picture(h: int, w: int, channels: int = 3, dtype: str = "uint8") -> NDArray:
    """A smooth, asymmetric picture: every pixel differs from its mirror and its transpose."""
    y, x = np.mgrid[:h, :w]
    planes = [(y * (3 + c) + x * (7 + 2 * c) + 40 * c) % 251 for c in range(channels)]
    scale = {"uint8": 1, "uint16": 200, "int16": 100, "float32": 0.01}[dtype]
    return (np.stack(planes, -1) * scale).astype(dtype)


@pytest.fixture
def picture() -> Callable[..., NDArray]:
    """The function ``(h, w, channels=3, dtype="uint8") → (h, w, channels)`` picture."""
    return make_picture


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
