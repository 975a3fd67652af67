"""A card's student: a LoRA that is merged into a copy of the network when it is first used."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from napari_ssldiff.diffusion.bundle import Denoiser, StudentSpec
from napari_ssldiff.errors import ModelError
from napari_ssldiff.models import load_bundle, read_card
from napari_ssldiff.models.lora import merge

RANK, ALPHA = 3, 6.0
Make = Callable[..., Path]


def random_lora(network: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors in peft's naming for every convolution and linear layer."""
    torch.manual_seed(1)
    tensors = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            out, width, *kernel = layer.weight.shape
            down, up = (RANK, width, *kernel), (out, RANK, *(1 for _ in kernel))
            tensors[f"{name}.lora_A.weight"] = 0.1 * torch.randn(down)
            tensors[f"{name}.lora_B.weight"] = 0.1 * torch.randn(up)
    return tensors


@pytest.fixture
def taught(tiny_folder: Path, tmp_path: Path) -> Make:
    """A copy of the tiny model with a student; arguments change its part of the card."""

    def make(name: str = "taught", lora: Any = None, **changes: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(tiny_folder, folder)
        card = yaml.safe_load((folder / "card.yaml").read_text())
        network = load_bundle(str(tiny_folder), "cpu").denoiser.network
        save_file(lora or random_lora(network), folder / "student.safetensors")
        digest = hashlib.sha256((folder / "student.safetensors").read_bytes()).hexdigest()
        card["weights"]["student.safetensors"] = digest
        card["student"] = {
            "method": "test", "rank": RANK, "alpha": ALPHA, "steps": 4, "guidance": 1.5,
            "weights": ["student.safetensors"], **changes,
        }  # fmt: skip
        (folder / "card.yaml").write_text(yaml.safe_dump(card))
        return folder

    return make


@torch.no_grad()
def answer(network: nn.Module) -> torch.Tensor:
    torch.manual_seed(2)
    x, context = torch.randn(2, 7, 8, 8), torch.randn(2, 4, 8)
    out: torch.Tensor = network(x, torch.tensor([400, 20]), context).sample
    return out


def test_the_merged_student_answers_as_peft_does(taught: Make) -> None:
    denoiser = load_bundle(str(taught()), "cpu").denoiser
    lora = random_lora(denoiser.network)
    reference = copy.deepcopy(denoiser.network)
    layers = [n for n, m in reference.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=layers), reference)
    set_peft_model_state_dict(reference, lora)
    expected = answer(reference)
    torch.testing.assert_close(answer(denoiser.student.network), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(answer(denoiser.network), expected, atol=1e-2)


def test_the_student_shares_all_but_the_network_and_leaves_that_as_it_was(taught: Make) -> None:
    denoiser = load_bundle(str(taught()), "cpu").denoiser
    before = answer(denoiser.network)
    student = denoiser.student
    assert student is denoiser.student
    assert student.autoencoder is denoiser.autoencoder
    assert student.projection is denoiser.projection
    assert not student.network.training
    assert torch.equal(answer(denoiser.network), before)
    assert denoiser.spec.student == StudentSpec(4, 1.5)


def test_the_student_s_weights_are_read_when_it_is_first_used(taught: Make) -> None:
    folder = taught()
    denoiser = load_bundle(str(folder), "cpu").denoiser
    (folder / "student.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"student\.safetensors is damaged"):
        _ = denoiser.student


def test_missing_weights_of_a_student_are_named_at_once(taught: Make) -> None:
    folder = taught()
    (folder / "student.safetensors").unlink()
    with pytest.raises(ModelError, match=r"student\.safetensors is missing"):
        load_bundle(str(folder), "cpu")


def test_the_models_hash_tells_of_its_student(taught: Make, tiny_folder: Path) -> None:
    folders = [tiny_folder, taught("a"), taught("b", guidance=2.0)]
    assert len({read_card(f / "card.yaml").hash for f in folders}) == 3


@pytest.mark.parametrize(
    "changes",
    [{"rank": 0}, {"rank": "low"}, {"steps": None}, {"steps": 0}, {"weights": None}, {"alpha": []}],
)  # fmt: skip
def test_a_card_whose_student_makes_no_sense_is_refused_in_one_line(
    changes: dict[str, Any], taught: Make
) -> None:
    with pytest.raises(ModelError) as error:
        load_bundle(str(taught(**changes)), "cpu")
    assert "\n" not in str(error.value)


def test_a_student_of_another_network_is_refused(taught: Make, tiny_folder: Path) -> None:
    lora = random_lora(nn.ModuleDict({"conv_in": nn.Conv2d(5, 8, 3), "other": nn.Linear(2, 2)}))
    for name, part in (("a", "other"), ("b", "conv_in")):
        wrong = {k: v for k, v in lora.items() if k.startswith(part)}
        denoiser = load_bundle(str(taught(name, wrong)), "cpu").denoiser
        with pytest.raises(ModelError, match=f"student of tiny does not fit its card: .*{part}"):
            _ = denoiser.student


def test_half_a_pair_is_refused() -> None:
    network = nn.ModuleDict({"a": nn.Linear(4, 4)})
    lora = random_lora(network)
    for wrong in (
        {"a.lora_A.weight": lora["a.lora_A.weight"]},
        {**lora, "a.lora_magnitude": torch.ones(4)},
        {"a.weight": torch.ones(4, 4), "b.lora_A.weight": torch.ones(3, 4)},
    ):
        with pytest.raises(ValueError, match="not pairs"):
            merge(network, wrong, 1.0)


def test_a_model_without_a_student_has_none(bundle: Any) -> None:
    denoiser: Denoiser = bundle.denoiser
    assert denoiser.spec.student is None
    with pytest.raises(ValueError, match="no student"):
        _ = denoiser.student
