"""What the bundled models really do, on images that anyone has or makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from napari_ssldiff.diffusion.canvas import sample
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.embeddings import EmbeddingField
from napari_ssldiff.evaluation.fidelity import synthesise_region
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models import ModelBundle, list_models, load_bundle
from napari_ssldiff.models.registry import BUNDLED
from napari_ssldiff.scenes import Scene, open_scene
from napari_ssldiff.synthesis import Sampler, TileDone, make_request, synthesize
from napari_ssldiff.synthesis.invert import invert_region
from napari_ssldiff.synthesis.prepare import embed_region, frame_of
from napari_ssldiff.synthesis.run import canvas_task, to_uint8

REGION = Region.from_box(Box(64, 64, 192, 192))


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    """The histology model, on the CPU."""
    return load_bundle("demo-histology", "cpu")


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """scikit-image's immunohistochemistry, a real 512² image."""
    path: Path = tmp_path_factory.mktemp("ihc") / "ihc.png"
    Image.fromarray(skimage.data.immunohistochemistry()).save(path)
    with open_scene(path) as scene:
        yield scene


def correlation(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Normalised cross-correlation of two images' grey levels."""
    return float(np.corrcoef(a.mean(-1).ravel(), b.mean(-1).ravel())[0, 1])


def psnr(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """In dB; 99 for identical images."""
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def test_all_bundled_weights_stay_within_the_project_s_budget() -> None:
    files = list(BUNDLED.rglob("*.safetensors"))
    assert files
    assert sum(f.stat().st_size for f in files) <= 60e6
    assert max(f.stat().st_size for f in files) <= 16 * 2**20


@pytest.mark.parametrize("model", ["demo-histology", "demo-naip"])
def test_a_bundled_card_says_what_made_the_model_and_of_what(model: str) -> None:
    card = next(c for c in list_models() if c.id == model)
    for key in ("data", "limits", "intended_use", "licence", "training"):
        assert card.extra[key]
    assert card.extra["training"]["diffusion"]["steps"] > 1000
    assert {card.weight_path(name).suffix for name in card.weights} == {".safetensors"}


def test_the_same_request_gives_the_same_pixels_and_another_seed_others(
    bundle: ModelBundle, tissue: Scene
) -> None:
    real, first, _ = synthesise_region(tissue, REGION, bundle, Sampler(seed=0, steps=8))
    again = synthesise_region(tissue, REGION, bundle, Sampler(seed=0, steps=8))[1]
    other = synthesise_region(tissue, REGION, bundle, Sampler(seed=1, steps=8))[1]
    assert np.array_equal(first, again)
    assert abs(correlation(first, other)) < 0.6
    assert abs(correlation(other, real)) < 0.6


def test_pixels_hardly_depend_on_the_batch_shape(bundle: ModelBundle, tissue: Scene) -> None:
    request = make_request(tissue, REGION, bundle, Sampler(steps=8))
    frame = frame_of(tissue, REGION, bundle, "model")
    task = canvas_task(request, bundle, tissue, frame)
    pictures = []
    with torch.inference_mode():
        for batch in (16, 3):
            z = sample(bundle.denoiser, replace(task, batch=batch), PRESETS["bulk"])
            pictures.append(to_uint8(bundle.denoiser.autoencoder.decode(z[None])[0]))
    assert psnr(*pictures) >= 50


def test_strength_0_is_the_autoencoder_round_trip_and_a_good_one(
    bundle: ModelBundle, tissue: Scene
) -> None:
    real, made, round_trip = synthesise_region(tissue, REGION, bundle, Sampler(strength=0))
    assert psnr(made, round_trip) >= 50
    assert psnr(made, real) >= 22


@pytest.mark.parametrize("model", [card.id for card in list_models()])
def test_no_line_is_drawn_along_the_border_of_an_image(model: str, tissue: Scene) -> None:
    networks = load_bundle(model, "cpu").denoiser.autoencoder
    pixels = tissue.read_rgb(Box(0, 0, 256, 256))
    image = torch.from_numpy(pixels).permute(2, 0, 1).float()[None] / 127.5 - 1
    with torch.inference_mode():
        made = networks.decode(networks.encode(image))
    error = ((made - image)[0] * 127.5).numpy()
    for line in (error[:, 0], error[:, -1], error[:, :, 0], error[:, :, -1]):
        assert np.abs(line.mean(1)).max() < 12, line.mean(1)


def test_four_quadrants_come_out_in_their_own_places(bundle: ModelBundle, tmp_path: Path) -> None:
    """The paper's published notebook gives the transposed layout; ours must not."""
    cell, side = bundle.spec.cell, 2
    ihc = skimage.data.immunohistochemistry()
    white = np.full((cell, cell, 3), 243, np.uint8)
    # Three cells of the image that differ most from each other in brightness.
    tiles = ihc.reshape(8, cell, 8, cell, 3).transpose(0, 2, 1, 3, 4).reshape(64, cell, cell, 3)
    order = np.argsort(tiles.mean(axis=(1, 2, 3)))
    cells = np.stack([tiles[order[48]], white, tiles[order[0]], tiles[order[24]]])
    prototypes = bundle.encoder.embed(cells)
    layout = np.array([[0, 1], [2, 3]]).repeat(side, 0).repeat(side, 1)
    blank = tmp_path / "blank.png"
    Image.new("RGB", (2 * side * cell,) * 2, "white").save(blank)
    with open_scene(blank) as canvas:
        field = EmbeddingField(
            prototypes[layout], (0, 0), (cell, cell), bundle.encoder.spec.id, 0.5, "micrometer"
        )
        request = make_request(
            canvas, Region.from_box(canvas.box), bundle, Sampler(), field=field, grid="model"
        )
        made = np.zeros((*canvas.shape, 3), np.uint8)
        for event in synthesize(request, bundle=bundle, scene=canvas):
            if isinstance(event, TileDone):
                made[event.box.slices] = event.pixels[..., :3]
    n = 2 * side
    parts = made.reshape(n, cell, n, cell, 3).transpose(0, 2, 1, 3, 4).reshape(-1, cell, cell, 3)
    seen = bundle.encoder.embed(parts).reshape(n, n, -1)
    right_top, left_bottom = seen[:side, side:].mean((0, 1)), seen[side:, :side].mean((0, 1))
    assert right_top @ prototypes[1] > right_top @ prototypes[2] + 0.2
    assert left_bottom @ prototypes[2] > left_bottom @ prototypes[1] + 0.2


@pytest.mark.slow
def test_a_field_can_be_had_from_pixels_and_the_model_alone(
    bundle: ModelBundle, tissue: Scene, scene_of: Any
) -> None:
    # What the model painted itself is of its own domain, whatever the photograph was of.
    own = Sampler(seed=3, steps=8, guidance=1.0)
    image = synthesise_region(tissue, REGION, bundle, own)[1]
    scene = scene_of(image)
    whole = Region.from_box(scene.box)
    wanted = embed_region(scene, whole, bundle).vectors
    field = invert_region(scene, whole, bundle, steps=50, batch=2, seed=1)
    found = float((field.vectors * wanted).sum(-1).mean())
    # Chance: one direction for all cells, as the vectors of an image are much alike.
    directions = np.random.default_rng(0).normal(size=(200, wanted.shape[-1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    by_chance = (directions @ wanted.reshape(-1, wanted.shape[-1]).T).mean(1)
    assert found > np.quantile(by_chance, 0.95)

    def gap(vectors: np.ndarray[Any, Any]) -> float:
        """Of mean colours, between the image and what a field is painted as."""
        given = replace(field, vectors=vectors)
        request = make_request(scene, whole, bundle, own, field=given)
        made = [e.pixels for e in synthesize(request, bundle=bundle, scene=scene)
                if isinstance(e, TileDone)]  # fmt: skip
        return float(np.abs(made[0][..., :3].mean((0, 1)) - image.mean((0, 1))).mean())

    others = [gap(np.broadcast_to(d, wanted.shape).astype(np.float32)) for d in directions[:3]]
    assert gap(field.vectors) < min(others)
