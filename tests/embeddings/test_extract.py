"""A region of a scene becomes a field: every cell in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_ssldiff.embeddings.encoder import EncoderSpec, NetworkEncoder, build_network
from napari_ssldiff.embeddings.extract import embed_box, grid_scale, holds_tissue
from napari_ssldiff.errors import Cancelled, InputError, ModelError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import PixelSize, Scene, open_scene

SPEC = EncoderSpec("mean@1", 0.5, "micrometer", 16, 16, (0, 0, 0), (1, 1, 1), 4)


class MeanEncoder:
    """An encoder that says what it saw: the mean colour, and 1."""

    def __init__(self, spec: EncoderSpec = SPEC) -> None:
        self.spec, self.calls = spec, 0

    def embed(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.calls += 1
        mean = cells.astype(np.float32).mean(axis=(1, 2))
        out = np.concatenate([mean, np.full((len(cells), 1), 255, np.float32)], 1)
        return np.asarray(out / np.linalg.norm(out, axis=1, keepdims=True), np.float32)


def in_memory(pixels: NDArray[np.uint8], size: PixelSize | None = None) -> Scene:
    """A scene without a file."""
    size = size or PixelSize(0.5, 0.5, "micrometer")
    return Scene("memory", "memory", [pixels], size)  # type: ignore[list-item]


def colours(rows: int, columns: int, cell: int) -> NDArray[np.uint8]:
    """Flat cells: red tells the row, green the column."""
    image = np.zeros((rows * cell, columns * cell, 3), np.uint8)
    image[..., 0] = (np.arange(rows * cell) // cell * 10)[:, None]
    image[..., 1] = (np.arange(columns * cell) // cell * 10)[None, :]
    return image


def test_every_cell_lies_where_it_was_read_also_across_blocks() -> None:
    scene = in_memory(colours(11, 19, 16))  # more than one block of 8 × 8 both ways
    field = embed_box(scene, scene.box, MeanEncoder())
    assert field.shape == (11, 19)
    red = field.vectors[..., 0] / field.vectors[..., 3] * 255
    green = field.vectors[..., 1] / field.vectors[..., 3] * 255
    np.testing.assert_allclose(red, np.broadcast_to(np.arange(11)[:, None] * 10, (11, 19)), atol=1)
    np.testing.assert_allclose(green, np.broadcast_to(np.arange(19) * 10, (11, 19)), atol=1)


def test_a_box_that_starts_inside_has_its_origin_there() -> None:
    scene = in_memory(colours(11, 19, 16))
    field = embed_box(scene, Box(32, 48, 32, 40), MeanEncoder())
    assert (field.origin, field.cell, field.shape) == ((32, 48), (16, 16), (2, 3))
    assert field.vectors[0, 0, 0] / field.vectors[0, 0, 3] * 255 == pytest.approx(20, abs=1)
    assert field.vectors[0, 0, 1] / field.vectors[0, 0, 3] * 255 == pytest.approx(30, abs=1)


def test_a_finer_scene_has_larger_cells_in_its_own_pixels() -> None:
    scene = in_memory(colours(4, 6, 32), PixelSize(0.25, 0.25, "micrometer"))
    field = embed_box(scene, Box(0, 0, 64, 96), MeanEncoder())
    assert (field.cell, field.shape) == ((32, 32), (4, 6))
    red = field.vectors[..., 0] / field.vectors[..., 3] * 255
    np.testing.assert_allclose(red[:, 2], [0, 10, 20, 30], atol=2)


def test_an_empty_slide_is_background_and_a_coloured_cell_is_not() -> None:
    image = np.full((64, 64, 3), 250, np.uint8)
    image[16:32, 32:48] = (180, 90, 160)
    field = embed_box(in_memory(image), Box(0, 0, 64, 64), MeanEncoder())
    assert field.valid is not None
    assert np.argwhere(field.valid).tolist() == [[1, 2]]


def test_contrast_alone_makes_a_cell_count_as_content() -> None:
    flat = np.full((1, 16, 16, 3), 250, np.uint8)
    rough = flat.copy()
    rough[:, ::2] = 225
    assert holds_tissue(np.concatenate([flat, rough]), (250, 250, 250)).tolist() == [False, True]


def test_a_second_call_reads_the_cache_and_another_place_or_encoder_does_not(
    write_scene: Callable[..., Path], tmp_path: Path
) -> None:
    with open_scene(write_scene(colours(4, 4, 16))) as scene:
        encoder, cache = MeanEncoder(), tmp_path / "fields"
        first = embed_box(scene, scene.box, encoder, cache=cache)
        calls = encoder.calls
        assert embed_box(scene, scene.box, encoder, cache=cache) == first
        assert encoder.calls == calls
        embed_box(scene, Box(0, 0, 32, 32), encoder, cache=cache)
        assert encoder.calls > calls
        smaller = MeanEncoder(replace(SPEC, cell=8))
        assert embed_box(scene, scene.box, smaller, cache=cache).shape == (8, 8)


def test_a_changed_image_is_embedded_again(
    write_scene: Callable[..., Path], tmp_path: Path
) -> None:
    fields = []
    for pixels in (colours(4, 4, 16), 255 - colours(4, 4, 16)):
        with open_scene(write_scene(pixels)) as scene:
            import os

            os.utime(scene.path, ns=(len(fields), len(fields)))
            fields.append(embed_box(scene, scene.box, MeanEncoder(), cache=tmp_path / "fields"))
    assert fields[0] != fields[1]


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff", b'{"format": "napari-ssldiff'])
def test_a_damaged_cache_entry_is_replaced(
    write_scene: Callable[..., Path], tmp_path: Path, content: bytes
) -> None:
    with open_scene(write_scene(colours(4, 4, 16))) as scene:
        cache = tmp_path / "fields"
        first = embed_box(scene, scene.box, MeanEncoder(), cache=cache)
        (entry,) = cache.iterdir()
        entry.write_bytes(content)
        assert embed_box(scene, scene.box, MeanEncoder(), cache=cache) == first
        assert len(entry.read_bytes()) > 100


def test_a_cache_that_cannot_be_written_only_costs_time(
    write_scene: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with open_scene(write_scene(colours(4, 4, 16))) as scene:
        field = embed_box(scene, scene.box, MeanEncoder(), cache=tmp_path / "file" / "fields")
    assert field.shape == (4, 4)


def test_cancelling_stops_before_the_next_block() -> None:
    encoder = MeanEncoder()

    def check() -> None:
        if encoder.calls >= 2:
            raise Cancelled("stop")

    scene = in_memory(colours(24, 24, 16))
    with pytest.raises(Cancelled):
        embed_box(scene, scene.box, encoder, check=check)
    assert encoder.calls == 2


def test_progress_ends_at_the_number_of_cells() -> None:
    scene, told = in_memory(colours(9, 10, 16)), []
    embed_box(scene, scene.box, MeanEncoder(), progress=lambda n, total: told.append((n, total)))
    assert told[-1] == (90, 90)
    assert [n for n, _ in told] == sorted(n for n, _ in told)


def test_a_satellite_scene_is_refused_by_a_slide_encoder() -> None:
    scene = in_memory(colours(2, 2, 16), PixelSize(0.6, 0.6, "meter"))
    with pytest.raises(InputError, match=r"meter.*mean@1.*micrometer"):
        embed_box(scene, scene.box, MeanEncoder())


def test_a_scene_without_a_pixel_size_is_taken_at_the_encoders_resolution() -> None:
    scene = in_memory(colours(3, 3, 16), PixelSize(1, 1))
    assert grid_scale(scene, SPEC) == (1.0, 1.0)
    assert embed_box(scene, scene.box, MeanEncoder()).shape == (3, 3)


def test_a_network_gives_unit_vectors_whatever_the_batch(bundle: Any) -> None:
    cells = np.random.default_rng(0).integers(0, 255, (7, 32, 32, 3), np.uint8)
    encoder = bundle.encoder
    vectors = encoder.embed(cells)
    assert (vectors.shape, vectors.dtype) == ((7, 12), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    small = NetworkEncoder(encoder.spec, encoder.network, torch.device("cpu"), batch=2)
    np.testing.assert_allclose(small.embed(cells), vectors, atol=1e-5)
    assert encoder.embed(cells[:0]).shape == (0, 12)


def test_cells_of_another_size_are_resized_to_the_networks_input(bundle: Any) -> None:
    cells = np.full((1, 64, 64, 3), 77, np.uint8)
    np.testing.assert_allclose(
        bundle.encoder.embed(cells), bundle.encoder.embed(cells[:, ::2, ::2]), atol=1e-4
    )


def test_a_network_of_another_width_than_its_card_says_is_refused(bundle: Any) -> None:
    with pytest.raises(ModelError, match=r"vectors of 12.*says 13"):
        NetworkEncoder(
            replace(bundle.encoder.spec, width=13), bundle.encoder.network, torch.device("cpu")
        )


def test_unknown_libraries_and_architectures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown encoder library 'keras'"):
        build_network("keras", "x", {}, 4)
    with pytest.raises(ModelError, match="does not know the architecture"):
        build_network("timm", "no_such_net", {}, 4)
    with pytest.raises(ModelError, match="cannot load the encoder"):
        build_network("transformers", str(tmp_path), {}, 4)
