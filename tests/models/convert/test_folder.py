"""Folders in diffusers' own names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.card import ModelCard
from napari_ssldiff.models.convert import convert, layout_of

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def card(small_card: Callable[[str], ModelCard]) -> ModelCard:
    card = small_card("brca-20x")
    card.parts["autoencoder"]["config"]["scaling_factor"] = 0.5
    return card


@pytest.fixture(scope="module")
def folder(card: ModelCard, small_checkpoint: Callable[[bool], Tensors]) -> Tensors:
    """What somebody would have saved who had converted the checkpoint with diffusers."""
    made = convert(small_checkpoint(True), card).parts
    vae = {f"vae.{k.removeprefix('network.')}": v for k, v in made["autoencoder"].items()
           if k.startswith("network.")}  # fmt: skip
    unet = {f"unet.{k}": v for k, v in made["denoiser"].items()}
    return {**unet, **vae, **{f"conditioning.{k}": v for k, v in made["conditioning"].items()}}


def test_a_folder_of_diffusers_is_taken_as_it_is(folder: Tensors, card: ModelCard) -> None:
    assert layout_of(folder).name == "diffusers"
    converted = convert(folder, card)
    assert set(converted.parts) == {"autoencoder", "denoiser", "conditioning"}
    assert torch.equal(converted.parts["denoiser"]["conv_in.weight"], folder["unet.conv_in.weight"])
    assert float(converted.parts["autoencoder"]["scale"][0]) == 2


def test_a_lone_autoencoder_fills_its_part_only(folder: Tensors, card: ModelCard) -> None:
    alone = {k.removeprefix("vae."): v for k, v in folder.items() if k.startswith("vae.")}
    for tensors in (alone, {f"vae.{k}": v for k, v in alone.items()}):
        assert layout_of(tensors).name == "diffusers"
        assert set(convert(tensors, card).parts) == {"autoencoder"}


def test_what_does_not_belong_there_is_refused(folder: Tensors, card: ModelCard) -> None:
    more: dict[str, Any] = {**folder, "safety_checker.weight": torch.ones(1)}
    with pytest.raises(ModelError, match=r"nothing needs: safety_checker\.weight"):
        convert(more, card)
    lacking = {k: v for k, v in folder.items() if k != "unet.conv_out.bias"}
    with pytest.raises(ModelError, match=r"conv_out\.bias is missing"):
        convert(lacking, card)
