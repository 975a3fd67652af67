"""Noise is a function of place."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_ssldiff.diffusion.noise import philox, place_noise
from napari_ssldiff.geometry import Box

# Known answers that come with the Random123 library (Salmon et al. 2011): counter, key, output.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_answers(counter: str, key: str, expected: str) -> None:
    words = tuple(np.array([int(w, 16)], np.uint32) for w in counter.split())
    k0, k1 = (int(w, 16) for w in key.split())
    out = philox(words, (k0, k1))  # type: ignore[arg-type]
    assert " ".join(f"{int(w[0]):08x}" for w in out) == expected


@pytest.mark.parametrize("part", [Box(-5, -9, 4, 6), Box(0, 0, 3, 3), Box(7, -2, 13, 22)])
def test_a_part_of_the_noise_is_the_noise_of_the_part(part: Box) -> None:
    whole = Box(-10, -12, 40, 50)
    noise = place_noise(3, whole, 5, 2)
    inner = part.shift(-whole.y, -whole.x)
    assert np.array_equal(noise[(slice(None), *inner.slices)], place_noise(3, part, 5, 2))


def test_noise_is_standard_normal_and_white() -> None:
    noise = place_noise(0, Box(0, 0, 200, 300), 8).astype(np.float64)
    n = noise.size
    assert abs(noise.mean()) < 4 / n**0.5
    assert noise.var() == pytest.approx(1, abs=4 * (2 / n) ** 0.5)
    assert (noise**4).mean() == pytest.approx(3, abs=0.05)
    flat = np.corrcoef(noise.reshape(8, -1)) - np.eye(8)
    assert np.abs(flat).max() < 5 / 60000**0.5
    for shifted in (noise[:, 1:] * noise[:, :-1], noise[..., 1:] * noise[..., :-1]):
        assert abs(shifted.mean()) < 5 / n**0.5


def test_seed_and_step_each_give_unrelated_noise() -> None:
    box = Box(0, 0, 100, 100)
    base = place_noise(1, box, 4, 0).ravel()
    for other in (
        place_noise(2, box, 4, 0),
        place_noise(1, box, 4, 1),
        place_noise(1 + 2**32, box, 4, 0),
        place_noise(2**63 - 1, box, 4, 0),
    ):
        assert abs(np.corrcoef(base, other.ravel())[0, 1]) < 0.03


def test_channels_do_not_depend_on_how_many_there_are() -> None:
    box = Box(-2, 5, 6, 7)
    assert np.array_equal(place_noise(9, box, 3), place_noise(9, box, 8)[:3])
    assert place_noise(9, box, 3).dtype == np.float32


def by_hand(seed: int, y: int, x: int, channel: int, step: int) -> tuple[list[int], float]:
    """The words of a place and its normal, in Python's own whole numbers."""
    c = [x % 2**32, y % 2**32, channel // 4, step]
    key = [seed % 2**32, seed >> 32]
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(second >> 32) ^ c[1] ^ key[0], second % 2**32,
             (first >> 32) ^ c[3] ^ key[1], first % 2**32]  # fmt: skip
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    u = [(w + 1) / 2**32 for w in c]
    pair, second_of_pair = divmod(channel % 4, 2)
    radius, angle = math.sqrt(-2 * math.log(u[2 * pair])), 2 * math.pi * u[2 * pair + 1]
    return c, radius * (math.sin(angle) if second_of_pair else math.cos(angle))


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 3, 2**64 - 1])
@pytest.mark.parametrize("place", [(0, 0), (-1, 5), (10**6, -(10**6)), (2**31, 3)])
def test_every_place_has_the_words_and_normals_of_the_definition(
    seed: int, place: tuple[int, int]
) -> None:
    """Whole numbers are the same on every system; logarithm and cosine nearly."""
    (y, x), step = place, 3
    made = place_noise(seed, Box(y, x, 1, 1), 8, step)[:, 0, 0]
    for channel in range(8):
        words, normal = by_hand(seed, y, x, channel, step)
        counter = (x % 2**32, y % 2**32, channel // 4, step)
        ours = philox(
            tuple(np.array([c], np.uint32) for c in counter),  # type: ignore[arg-type]
            (seed % 2**32, seed >> 32),
        )
        assert [int(w[0]) for w in ours] == words
        assert made[channel] == pytest.approx(normal, abs=1e-6)
