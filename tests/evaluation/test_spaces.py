"""Feature spaces have names, and weights that are here or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation import spaces


def test_the_model_s_own_space_needs_nothing(bundle: Any) -> None:
    space = spaces.feature_space("encoder-eval", bundle)
    pictures = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3)).astype(np.uint8)
    whole = space.features(pictures)
    assert whole.shape == (3, 12)
    # A picture of four cells is the mean of its cells.
    quarters = space.features(pictures[0].reshape(2, 32, 2, 32, 3).transpose(0, 2, 1, 3, 4)
                              .reshape(4, 32, 32, 3))  # fmt: skip
    assert whole[0] == pytest.approx(quarters.mean(0), abs=1e-5)
    assert space.version.startswith("tiny-eval@")


def test_an_unknown_space_is_refused_by_the_names_of_the_known() -> None:
    with pytest.raises(
        InputError, match="unknown feature space 'dino': choose one of encoder-eval"
    ):
        spaces.check_space("dino")


@pytest.mark.parametrize("name", ["inception", "clip", "uni", "phikon"])
def test_a_space_without_weights_says_where_they_belong(name: str, own_cache: Path) -> None:
    with pytest.raises(InputError, match=rf"{name} needs its weights at .*features.*{name}.safe"):
        spaces.check_space(name)


def test_weights_of_another_network_are_refused(own_cache: Path, bundle: Any) -> None:
    import torch
    from safetensors.torch import save_file

    (own_cache / "features").mkdir(parents=True)
    file = own_cache / "features" / "phikon.safetensors"
    save_file({"a": torch.zeros(2)}, file)
    with pytest.raises(InputError, match=r"phikon\.safetensors is not model\.safetensors of owkin"):
        spaces.feature_space("phikon", bundle)
    file.write_bytes(b"no safetensors")
    with pytest.raises(InputError, match="is not"):
        spaces.feature_space("phikon", bundle)
