"""Cards that the package writes are valid, and previews of imported autoencoders show colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml

from napari_ssldiff.cli import main
from napari_ssldiff.models.card import read_data
from napari_ssldiff.models.schema import check
from napari_ssldiff.models.store.describe import diffusers_card
from napari_ssldiff.models.store.shards import split, write
from napari_ssldiff.models.store.work import QUIET


@pytest.mark.parametrize("kind", ["model", "encoder"])
def test_a_template_is_a_valid_card(
    kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["models", "show", "--template", kind]) == 0
    path = tmp_path / "card.yaml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    assert read_data(path)["id"] == f"my-{kind}"


def test_a_folder_of_diffusers_describes_itself(
    workshop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    import diffusers

    folder = workshop.files["diffusers"]
    diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195
    ).save_pretrained(folder / "scheduler")
    card = diffusers_card(folder)
    assert check(card) is None
    assert (card["window"], card["autoencoder"]["factor"]) == (64, 4)
    assert card["conditioning"]["context"] == 24
    assert card["scheduler"]["beta_end"] == 0.0195
    assert card["denoiser"]["prediction"] == "epsilon"
    assert main(["models", "card", "diffusers", str(folder)]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == card
    assert main(["models", "card", "diffusers", str(folder / "vae")]) == 2
    assert main(["models", "card", "timm", "vit_tiny_patch16_224"]) == 0
    assert check(yaml.safe_load(capsys.readouterr().out)) is None


def test_a_fitted_preview_shows_the_colours_of_pictures_it_was_not_fitted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from napari_ssldiff.models import load_bundle
    from napari_ssldiff.models.store import preview

    autoencoder = load_bundle("demo-naip", "cpu").denoiser.autoencoder
    image = preview.pictures(2, 64, seed=7)
    with torch.inference_mode():
        latents, wanted = autoencoder.encode(image), F.avg_pool2d(image, 4)
    autoencoder.load_state_dict(preview.fit_preview(autoencoder, 4, 64), strict=False)
    with torch.inference_mode():
        error = (autoencoder.preview(latents) - wanted).abs().mean()
    assert error < 0.5 * (wanted - wanted.mean()).abs().mean()


def test_weights_are_split_between_tensors_and_lose_nothing(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = {f"t{i}": torch.full((10,), float(i), dtype=torch.float16) for i in range(5)}
    assert split(tensors, 45) == [["t0", "t1"], ["t2", "t3"], ["t4"]]
    assert split(tensors, 1) == [[name] for name in tensors]
    files = dict(write(tmp_path, "denoiser", tensors, QUIET, limit=45))
    assert list(files) == [f"denoiser-{i}-of-3.safetensors" for i in (1, 2, 3)]
    whole = {k: v for name in files for k, v in load_file(tmp_path / name).items()}
    assert whole.keys() == tensors.keys()
    assert all(torch.equal(whole[k], v) and v.dtype == torch.float16 for k, v in tensors.items())
