from __future__ import annotations

import pytest

from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes import PixelSize
from napari_ssldiff.scenes.lengths import Length, parse_length


def test_lengths_are_read_with_and_without_a_unit() -> None:
    assert parse_length("24", "--grow") == parse_length(" 24px", "--grow") == Length(24.0)
    assert (
        parse_length("12.5um", "--grow")
        == parse_length("12.5 µm", "-")
        == Length(12.5, "micrometer")
    )
    assert parse_length("30m", "--grow") == Length(30.0, "meter")


@pytest.mark.parametrize("text", ["", "-1", "12 parsec", "um", "nan", "inf", "1e99", "1,5"])
def test_what_is_no_length_is_named(text: str) -> None:
    with pytest.raises(InputError, match="--grow is a length of at least 0"):
        parse_length(text, "--grow")


def test_lengths_become_whole_pixels_and_never_less_than_asked() -> None:
    size = PixelSize(0.5, 0.25, "micrometer")
    assert Length(12.0, "micrometer").pixels(size, "grow") == 48
    assert Length(0.1, "micrometer").pixels(size, "grow") == 1
    assert Length(0.0, "micrometer").pixels(PixelSize(1, 1, "pixel"), "grow") == 0
    assert Length(7.2).pixels(size, "grow") == 8
    with pytest.raises(InputError, match="grow is in meters, but pixels here are measured in mic"):
        Length(3.0, "meter").pixels(size, "grow")
