"""Preset ``paper`` on a card of the paper's models, against its published sampler written out.

The transcription below is slow and plain, in float64, and shares with the engine only the noise
field and the numbers of the weights: networks are those of ``benchmarks/plain_ldm.py``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.canvas import CanvasTask, sample
from napari_ssldiff.diffusion.decode import decode
from napari_ssldiff.diffusion.noise import place_noise
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.diffusion.solvers import PaperDDIM
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.geometry import Box
from napari_ssldiff.models import parts
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.convert import convert
from napari_ssldiff.models.load import model_spec
from napari_ssldiff.synthesis.tokens import window_tokens

# Eight channels in groups of one, and windows of 32 px, which are 8 latents and lie 2 apart.
CHANNELS, WINDOW, STRIDE, FACTOR, WIDTH, SEED = 8, 8, 2, 4, 12, 11
ROWS, COLUMNS = 2, 3


def slerp(t: float, a: Any, b: Any) -> Any:
    dot = float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))
    if abs(dot) > 0.9995:
        return (1 - t) * a + t * b
    angle = math.acos(dot)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def interpolated(grid: Any, i: int, j: int) -> Any:
    """The condition of the window at latent row ``i`` and column ``j``, before it is projected."""
    padded = np.pad(grid, ((0, 1), (0, 1), (0, 0)), mode="edge")
    r, c, ti, tj = i // WINDOW, j // WINDOW, i % WINDOW / WINDOW, j % WINDOW / WINDOW
    top = slerp(tj, padded[r, c], padded[r, c + 1])
    bottom = slerp(tj, padded[r + 1, c], padded[r + 1, c + 1])
    return slerp(ti, top, bottom)


def places() -> list[tuple[int, int]]:
    rows, columns = (range(0, WINDOW * n - WINDOW + 1, STRIDE) for n in (ROWS, COLUMNS))
    return [(i, j) for i in rows for j in columns]


def published_canvases(plain: Any, tensors: dict[str, torch.Tensor], grid: Any) -> Iterator[Any]:
    """The noisy canvas after each of 50 steps; method of Graikos et al. 2024."""
    beta = np.linspace(math.sqrt(0.0015), math.sqrt(0.0195), 1000) ** 2
    alpha_bar, delta, g = np.cumprod(1 - beta), 1000 // 50, 3
    box = Box(0, 0, WINDOW * ROWS, WINDOW * COLUMNS)

    def noise(step: int) -> torch.Tensor:
        return torch.from_numpy(place_noise(SEED, box, 3, step)).double()

    vectors = torch.from_numpy(np.stack([interpolated(grid, i, j) for i, j in places()]))
    c = plain.condition(tensors, vectors)
    u = plain.condition(tensors, torch.zeros_like(vectors))
    x = noise(0)
    for k, t in enumerate(range(1000, 0, -delta)):
        a, last = alpha_bar[t - 1], t - 1 - delta < 0
        after = 1.0 if last else alpha_bar[t - 1 - delta]
        windows = torch.stack([x[:, i : i + WINDOW, j : j + WINDOW] for i, j in places()])
        times = torch.full((len(windows),), float(t), dtype=torch.float64)
        e = (1 + g) * plain.unet(tensors, windows, times, c)
        e = e - g * plain.unet(tensors, windows, times, u)
        x0_windows = windows / math.sqrt(a) - e * math.sqrt((1 - a) / a)
        total, count = torch.zeros_like(x), torch.zeros_like(x)
        for (i, j), made in zip(places(), x0_windows, strict=True):
            total[:, i : i + WINDOW, j : j + WINDOW] += made
            count[:, i : i + WINDOW, j : j + WINDOW] += 1
        x0 = total / count
        eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
        s2 = 0.0 if last else beta[t - 1] * (1 - after) / (1 - a)
        x = math.sqrt(after) * x0 + math.sqrt(1 - after - s2) * eps + math.sqrt(s2) * noise(k + 1)
        yield x


def published_pixels(plain: Any, tensors: dict[str, torch.Tensor], x: torch.Tensor) -> Any:
    """``(3, H, W)`` in [-1, 1]: windows decoded apart, blended by their distance to the middle."""
    edge = WINDOW * FACTOR
    line = np.linspace(-1, 1, edge)
    d2 = line[:, None] ** 2 + line[None, :] ** 2
    weight = torch.from_numpy(np.exp(-d2 / 0.8**2))
    total = torch.zeros(3, *(FACTOR * n for n in x.shape[1:]), dtype=torch.float64)
    count = torch.zeros_like(total)
    for i, j in places():
        made = plain.vq_decode(tensors, x[None, :, i : i + WINDOW, j : j + WINDOW])[0]
        y, c = i * FACTOR, j * FACTOR
        total[:, y : y + edge, c : c + edge] += weight * made
        count[:, y : y + edge, c : c + edge] += weight
    return (total / count).clamp(-1, 1)


@pytest.fixture(scope="module")
def tensors(shapes: Any) -> dict[str, torch.Tensor]:
    unet = shapes.UnetConfig(
        model_channels=CHANNELS,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(2,),
        context_dim=24,
    )
    wanted = shapes.unet_shapes(unet)
    wanted |= shapes.vq_shapes(
        shapes.VqConfig(ch=CHANNELS, ch_mult=(1, 1, 2), num_res_blocks=1, n_embed=64)
    )
    wanted |= shapes.condition_shapes(WIDTH, 24, 20)
    made: dict[str, torch.Tensor] = shapes.random_tensors(wanted)
    # A network that knows nothing ends far out; the codebook has to reach there.
    made["first_stage_model.quantize.embedding.weight"] *= 60
    return made


@pytest.fixture(scope="module")
def card(small_card: Callable[[str], ModelCard]) -> ModelCard:
    base = small_card("brca-20x")
    changed: dict[str, Any] = copy.deepcopy(dict(base.parts))
    changed["denoiser"]["config"] |= {
        "sample_size": WINDOW,
        "block_out_channels": [CHANNELS, 2 * CHANNELS],
        "norm_num_groups": CHANNELS,
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    }
    changed["autoencoder"]["config"] |= {
        "block_out_channels": [CHANNELS, CHANNELS, 2 * CHANNELS],
        "norm_num_groups": CHANNELS,
        "layers_per_block": 1,
        "num_vq_embeddings": 64,
    }
    return replace(base, window=WINDOW * FACTOR, cell=WINDOW * FACTOR, parts=changed)


@pytest.fixture(scope="module")
def model(card: ModelCard, tensors: dict[str, torch.Tensor]) -> Denoiser:
    spec, made = model_spec(card), convert(tensors, card).parts
    modules = {
        "autoencoder": parts.autoencoder(card.parts["autoencoder"]),
        "denoiser": parts.network(card.parts["denoiser"]),
        "conditioning": parts.projection(card.parts["conditioning"], spec),
    }
    for name, module in modules.items():
        module.load_state_dict(made[name])
    return Denoiser(spec, *modules.values(), torch.device("cpu"))  # type: ignore[arg-type]


def test_preset_paper_does_step_by_step_what_was_published(
    model: Denoiser,
    tensors: dict[str, torch.Tensor],
    plain: Any,
    card: ModelCard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plain, "GROUPS", CHANNELS)
    vectors = np.random.default_rng(3).normal(size=(ROWS, COLUMNS, WIDTH)).astype(np.float32)
    vectors[1, 2] = vectors[1, 1] + 0.001  # so near that their mean is a straight line
    edge = float(WINDOW * FACTOR)
    field = EmbeddingField(vectors, (0, 0), (edge, edge), "any", 0.5, "micrometer")
    canvases: list[torch.Tensor] = []
    told: list[float] = []

    class Recording(PaperDDIM):
        def step(self, i: int, x0: Any, x: Any, noise: Any) -> torch.Tensor:
            canvases.append(super().step(i, x0, x, noise))
            return canvases[-1]

    preset = replace(PRESETS["paper"], solver=Recording)
    assert preset.steps == 50
    assert preset.guidance == card.guidance == 4
    assert preset.guidance_interval is None
    task = CanvasTask(
        box=Box(0, 0, WINDOW * ROWS, WINDOW * COLUMNS),
        tokens=window_tokens(field, model.spec),
        steps=preset.steps,
        guidance=preset.guidance,
        strength=1.0,
        seed=SEED,
    )
    hook = model.network.register_forward_pre_hook(lambda _, args: told.append(float(args[1][0])))
    latents = sample(model, task, preset)
    hook.remove()
    assert sorted(set(told), reverse=True) == list(range(1000, 0, -20))

    with torch.inference_mode():
        exact = {name: value.double() for name, value in tensors.items()}
        wanted = list(published_canvases(plain, exact, field.vectors.astype(np.float64)))
        assert len(canvases) == len(wanted) == 50
        for step, (found, right) in enumerate(zip(canvases, wanted, strict=True)):
            worst = float((found - right).abs().max() / right.std())
            assert worst < 2e-5, f"step {step + 1}: {worst}"
        pixels = published_pixels(plain, exact, latents.double())
    *_, (_, image, _) = decode(model, latents, preset, centre=(0, 0))
    assert float(pixels.std()) > 0.2
    torch.testing.assert_close(image.double(), pixels, atol=1e-4, rtol=0)
