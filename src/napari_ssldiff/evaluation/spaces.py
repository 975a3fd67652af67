"""Feature spaces by name. Figures of two spaces are two figures, never one.

``encoder-eval`` comes with the model and is the only one that needs nothing else. The others are
the field's usual ones; they serve when their weights lie, as safetensors, in the features folder
of the cache: nothing is downloaded behind a user's back, and no pickle is read.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from napari_ssldiff.cache import cache_dir
from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation.regions import cells_of
from napari_ssldiff.models.load import ModelBundle

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class FeatureSpace:
    """Pictures → features.

    Parameters
    ----------
    name
        As it is chosen and reported.
    version
        Names the weights.
    features
        ``(n, s, s, 3)`` uint8 → ``(n, d)`` float32.
    scale
        What features are multiplied by for the kernel distance, whose kernel expects numbers of
        about 1 (a unit vector's are ``d**-0.5``).
    """

    name: str
    version: str
    features: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    scale: float = 1.0


def _timm(name: str, **options: Any) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **options)
    return model


def _inception(state: dict[str, torch.Tensor]) -> nn.Module:
    """The network of the original FID, in torch-fidelity's form."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # Its constructor reads a torch file; this one is made here, in memory, from safetensors.
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    network: nn.Module = FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=file
    )
    return network


def _clip(state: dict[str, torch.Tensor]) -> nn.Module:
    import open_clip

    network: nn.Module = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).visual
    network.load_state_dict({k.removeprefix("visual."): v for k, v in state.items()})
    return network


def _uni(state: dict[str, torch.Tensor]) -> nn.Module:
    network = _timm("vit_large_patch16_224", init_values=1e-5, dynamic_img_size=True)
    network.load_state_dict(state)
    return network


def _phikon(state: dict[str, torch.Tensor]) -> nn.Module:
    from transformers import ViTConfig, ViTModel

    # Through the library's own door: it knows the names of its earlier versions.
    loaded: Any = ViTModel.from_pretrained(
        None, config=ViTConfig(), state_dict=state, add_pooling_layer=False,
        output_loading_info=True,
    )  # fmt: skip
    network: nn.Module = loaded[0]
    told: dict[str, Any] = loaded[1]
    if told["missing_keys"]:
        raise RuntimeError(f"it lacks {min(told['missing_keys'])}")
    return network


@dataclass(frozen=True)
class _Known:
    """How a named network is built, what it takes and where its weights come from."""

    build: Callable[[dict[str, torch.Tensor]], nn.Module]
    origin: str
    size: int = 224
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = _IMAGENET


_KNOWN = {
    "inception": _Known(
        _inception, "torch-fidelity's release weights-inception-2015-12-05-6726825d.pth", 0, None
    ),
    "clip": _Known(_clip, "OpenAI's ViT-B/32, visual tower, in open_clip's names", 224, _CLIP),
    "uni": _Known(_uni, "MahmoodLab/uni on the Hugging Face hub (gated)"),
    "phikon": _Known(_phikon, "model.safetensors of owkin/phikon on the Hugging Face hub"),
}
SPACES = ("encoder-eval", *_KNOWN)


def _weights(name: str) -> Path:
    return cache_dir() / "features" / f"{name}.safetensors"


def check_space(name: str) -> None:
    """Refuse a space that is unknown or whose weights are not here.

    Raises
    ------
    InputError
        Says which spaces there are, or where the weights must lie and what they are.
    """
    if name not in SPACES:
        raise InputError(f"unknown feature space {name!r}: choose one of {', '.join(SPACES)}")
    if name in _KNOWN and not _weights(name).is_file():
        raise InputError(
            f"the feature space {name} needs its weights at {_weights(name)}: take "
            f"{_KNOWN[name].origin}, convert a torch file with safetensors.torch.save_file, or "
            "use the space encoder-eval, which needs nothing"
        )


def _from_encoder(bundle: ModelBundle) -> FeatureSpace:
    encoder = bundle.evaluation_encoder
    cell = encoder.spec.cell

    def features(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        # A picture larger than a cell is the mean of its cells: the encoder saw cells only.
        per = (pictures.shape[1] // cell) * (pictures.shape[2] // cell)
        cells = np.concatenate([cells_of(p, cell) for p in pictures])
        vectors = encoder.embed(cells)
        mean: NDArray[np.float32] = vectors.reshape(len(pictures), per, -1).mean(1)
        return mean

    return FeatureSpace("encoder-eval", encoder.spec.id, features, encoder.spec.width**0.5)


def feature_space(name: str, bundle: ModelBundle) -> FeatureSpace:
    """A space, ready to use on the bundle's device.

    Raises
    ------
    InputError
        As :func:`check_space`; or if the weights do not fit the network.
    """
    check_space(name)
    if name == "encoder-eval":
        return _from_encoder(bundle)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    known, path = _KNOWN[name], _weights(name)
    try:
        network = known.build(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is not {known.origin}: {said}") from None
    network = network.eval().to(bundle.device)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]

    @torch.inference_mode()
    def features(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        out = []
        for first in range(0, len(pictures), 32):
            part = np.ascontiguousarray(pictures[first : first + 32])
            x = torch.from_numpy(part).to(bundle.device).permute(0, 3, 1, 2)
            if known.normalisation is not None:
                mean, std = (torch.tensor(v, device=x.device) for v in known.normalisation)
                size = (known.size, known.size)
                y = F.interpolate(x.float() / 255, size, mode="bicubic", antialias=True)
                x = (y.clamp(0, 1) - mean[:, None, None]) / std[:, None, None]
            made: Any = network(x)
            if not isinstance(made, (torch.Tensor, tuple)):
                made = made.last_hidden_state[:, 0]
            made = made[0] if isinstance(made, tuple) else made
            out.append(made.float().cpu().numpy())
        return np.concatenate(out)

    return FeatureSpace(name, f"{name}@{digest}", features)
