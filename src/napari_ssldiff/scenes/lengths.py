"""Lengths as people write them: in pixels, micrometres or metres."""

from __future__ import annotations

import re
from dataclasses import dataclass

from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes.scene import PixelSize

#: What people write → the unit it means.
UNITS = {
    "um": "micrometer", "µm": "micrometer", "μm": "micrometer", "mpp": "micrometer",
    "micron": "micrometer", "micrometer": "micrometer", "micrometre": "micrometer",
    "m": "meter", "meter": "meter", "metre": "meter",
    "px": "pixel", "pixel": "pixel", "pixels": "pixel", "": "pixel",
}  # fmt: skip


@dataclass(frozen=True)
class Length:
    """A length of at least 0 in ``"pixel"``, ``"micrometer"`` or ``"meter"``."""

    value: float
    unit: str = "pixel"

    def pixels(self, size: PixelSize, option: str) -> int:
        """The same in pixels of a size, rounded up: a length above 0 is at least a pixel.

        Raises
        ------
        InputError
            Naming ``option``, if the pixels have another unit, or none.
        """
        if self.unit == "pixel" or not self.value:
            return int(-(-self.value // 1))
        if size.unit != self.unit:
            raise InputError(
                f"{option} is in {self.unit}s, but pixels here are measured in {size.unit}s: give "
                "it in pixels"
            )
        return int(-(-self.value // min(size.y, size.x)))


def parse_length(text: str, option: str) -> Length:
    """``24``, ``24px``, ``12um`` or ``30m`` → a :class:`Length`.

    Raises
    ------
    InputError
        Naming ``option``, if it is no such length.
    """
    match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*([a-zµμ]*)\s*", str(text))
    try:
        if match is None:
            raise ValueError
        length = Length(float(match[1]), UNITS[match[2]])
        if not 0 <= length.value < 1e9:
            raise ValueError
    except (KeyError, ValueError):
        raise InputError(
            f"{option} is a length of at least 0 in pixels, um or m, such as 24 or 12um; got "
            f"{text!r}"
        ) from None
    return length
