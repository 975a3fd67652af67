"""Pixels to latents and back, of any canvas; tokens to conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from napari_ssldiff.diffusion import decode as room
from napari_ssldiff.diffusion.autoencoder import BORDER, Autoencoder
from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.conditioning import Condition, TokenProjection, concatenate
from napari_ssldiff.diffusion.decode import decode, encode
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.errors import Cancelled

Make = Callable[..., Denoiser]


def picture(h: int, w: int) -> torch.Tensor:
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, 6, 6) * 2 - 1
    return nn.functional.interpolate(coarse, (h, w), mode="bilinear")[0]


def run(
    model: Denoiser,
    latents: torch.Tensor,
    preset: str = "bulk",
    centre: tuple[float, float] = (0, 0),
) -> torch.Tensor:
    last = None
    for _, canvas, _ in decode(model, latents, PRESETS[preset], centre=centre):
        last = canvas
    assert last is not None
    return last


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / (a - b).square().mean().clamp_min(1e-20)))


@pytest.mark.parametrize("shape", [(64, 64), (64, 136), (200, 64)])
def test_a_canvas_of_one_window_is_the_direct_round_trip(
    shape: tuple[int, int], bundle: Any
) -> None:
    image, model = picture(*shape), bundle.denoiser
    with torch.inference_mode():
        z = model.autoencoder.encode(image[None])
        direct = model.autoencoder.decode(z)[0]
    latents = encode(model, image)
    assert latents.shape == (4, shape[0] // 8, shape[1] // 8)
    assert psnr(run(model, latents), direct) >= 50


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("shape", [(16, 16), (40, 26), (18, 90)])
def test_larger_canvases_are_blended_without_a_hole(
    shape: tuple[int, int], preset: str, make_denoiser: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Windows of 12 latents that overlap by 4. This autoencoder is local, so blending is exact.
    monkeypatch.setattr(room, "WINDOW", 12)
    monkeypatch.setattr(room, "OVERLAP", 4)
    model = make_denoiser()
    image = picture(shape[0] * 2, shape[1] * 2)
    latents = encode(model, image)
    assert len(list(decode(model, latents, PRESETS[preset], centre=(0, 0)))) > 1
    torch.testing.assert_close(run(model, latents, preset), image, atol=1e-5, rtol=0)


def test_pixels_are_final_wherever_no_pending_window_reaches(
    make_denoiser: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "WINDOW", 12)
    monkeypatch.setattr(room, "OVERLAP", 4)
    model = make_denoiser()
    latents = encode(model, picture(60, 60))
    end = run(model, latents, centre=(15, 15))
    boxes = []
    for box, canvas, pending in decode(model, latents, PRESETS["bulk"], centre=(15, 15)):
        boxes.append(box)
        open_ = torch.zeros(60, 60, dtype=torch.bool)
        for other in pending:
            open_[other.slices] = True
        assert torch.equal(canvas[:, ~open_], end[:, ~open_])
    assert boxes[0].contains(type(boxes[0])(29, 29, 2, 2))  # the middle comes first


def test_decoding_can_be_cancelled_before_any_window(make_denoiser: Make) -> None:
    model = make_denoiser()

    def check() -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        next(decode(model, torch.zeros(12, 8, 8), PRESETS["bulk"], centre=(0, 0), check=check))


def test_latents_leave_standardised_and_come_back_as_they_were(bundle: Any) -> None:
    auto = bundle.denoiser.autoencoder
    image = picture(64, 64)[None]
    with torch.inference_mode():
        raw, z = auto.encode_raw(image), auto.encode(image)
    torch.testing.assert_close(
        z * auto.scale[:, None, None] + auto.shift[:, None, None], raw, atol=1e-5, rtol=0
    )
    assert not torch.allclose(z, raw)
    # The border is decoded with its mirror image around it.
    around = torch.nn.functional.pad(raw, (BORDER,) * 4, mode="reflect")
    with torch.inference_mode():
        wide, f = auto.decode_raw(around), 64 // raw.shape[2]
        inner = wide[:, :, BORDER * f : -BORDER * f, BORDER * f : -BORDER * f]
        torch.testing.assert_close(auto.decode(z), inner.clamp(-1, 1), atol=1e-4, rtol=0)


def test_a_preview_has_one_pixel_per_latent_and_stays_in_range(bundle: Any) -> None:
    auto = bundle.denoiser.autoencoder
    rgb = auto.preview(torch.randn(1, 4, 5, 9) * 100)
    assert rgb.shape == (1, 3, 5, 9)
    assert float(rgb.abs().max()) == 1
    z = torch.zeros(1, 4, 1, 1)
    z[0, 2] = 0.25
    torch.testing.assert_close(
        auto.preview(z)[0, :, 0, 0], auto.preview_weight[:, 2] * 0.25 + auto.preview_bias
    )


@pytest.mark.parametrize("name", ["latents", "latent"])
def test_autoencoders_that_name_their_latents_differently_are_read(name: str) -> None:
    class Net(nn.Module):
        def encode(self, x: torch.Tensor) -> Any:
            return SimpleNamespace(**{name: x[:, :, ::2, ::2]})

    out = Autoencoder(Net(), 1, 3).encode(torch.ones(1, 3, 4, 6))
    assert out.shape == (1, 3, 2, 3)


def test_tokens_are_projected_each_with_its_own_position() -> None:
    torch.manual_seed(0)
    projection = TokenProjection(tokens=2, width=6, context=5, spatial=0, latents=8)
    tokens = torch.nn.functional.normalize(torch.randn(3, 4, 6), dim=-1)
    out = projection(tokens)
    assert out.context.shape == (3, 4, 5)
    assert out.spatial is None
    swapped = projection(tokens[:, [1, 0, 2, 3]]).context
    assert torch.allclose(swapped[:, 2:], out.context[:, 2:])
    assert not torch.allclose(swapped[:, 1], out.context[:, 0])  # the position differs


def test_the_null_condition_is_the_bias() -> None:
    projection = TokenProjection(2, 6, 5, 3, 8)
    out = projection(torch.zeros(1, 4, 6))
    torch.testing.assert_close(out.context[0], projection.project.bias + projection.position)
    assert projection.spatial is not None
    torch.testing.assert_close(
        out.spatial[0], projection.spatial.bias[:, None, None].expand(3, 8, 8)
    )


def test_the_map_lays_tokens_row_by_row_over_the_window() -> None:
    projection = TokenProjection(tokens=2, width=4, context=5, spatial=4, latents=8)
    assert projection.spatial is not None
    with torch.no_grad():
        projection.spatial.weight.copy_(torch.eye(4))
        projection.spatial.bias.zero_()
    out = projection(torch.eye(4)[None]).spatial  # token i lights channel i
    assert out is not None
    corners = {(0, 0): 0, (0, 7): 1, (7, 0): 2, (7, 7): 3}
    for (y, x), token in corners.items():
        assert int(out[0, :, y, x].argmax()) == token


def test_conditions_are_cut_and_joined_with_their_maps() -> None:
    whole = Condition(torch.randn(5, 4, 3), torch.randn(5, 2, 8, 8))
    again = concatenate([whole[:2], whole[2:]])
    assert len(whole[:2]) == 2
    assert torch.equal(again.context, whole.context)
    assert again.spatial is not None
    assert whole.spatial is not None
    assert torch.equal(again.spatial, whole.spatial)
    assert concatenate([Condition(whole.context)]).spatial is None


def test_a_model_says_how_many_latents_and_pixels_its_cells_have(bundle: Any) -> None:
    spec = bundle.spec
    assert (spec.window, spec.window_latents, spec.cell) == (64, 8, 32)
    assert replace(spec, tokens=4).cell == 16
