"""Cards for what has a configuration of its own: encoders, and folders of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_ssldiff.errors import ModelError
from napari_ssldiff.models.foreign.layout import read_json

LIBRARIES = ("timm", "transformers", "diffusers")
_SCHEDULE = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps")


def describe(library: str, name: str, folder: Path | None = None) -> dict[str, Any]:
    """A card to complete, from what a library's own files say.

    Parameters
    ----------
    library
        ``"timm"``, ``"transformers"`` or ``"diffusers"``.
    name
        An architecture of timm; of the others, a folder.
    folder
        Of timm: where its ``config.json`` lies, if anywhere.

    Raises
    ------
    ModelError
        If the library is another, or something that is needed is missing.
    """
    if library == "diffusers":
        return diffusers_card(Path(name))
    from napari_ssldiff.models.encoder_card import encoder_card

    if library == "transformers":
        return encoder_card(library, Path(name).name, Path(name))
    return encoder_card(library, name, folder)


def diffusers_card(folder: Path) -> dict[str, Any]:
    """A model's card from ``unet/``, ``vae/`` and ``scheduler/`` of a folder of diffusers.

    What no configuration knows is asked for in words: pixel size, encoder, licence.
    """
    unet, vae = (_config(folder / part / "config.json") for part in ("unet", "vae"))
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    factor = 2 ** (len(vae["config"]["block_out_channels"]) - 1)
    window = int(unet["config"]["sample_size"]) * factor
    return {
        "kind": "model",
        "id": folder.resolve().name.lower().replace(" ", "-"),
        "name": folder.resolve().name,
        "domain": "histology",
        "description": "TODO: what it draws, in one sentence.",
        "licence": {"name": "TODO: ask the authors", "commercial": "unknown"},
        "verified": ["Networks and noise schedule are those of its folder's configurations."],
        "resolution": 0.5,
        "unit": "micrometer",
        "window": window,
        "cell": window,
        "guidance": 2.0,
        "autoencoder": {
            **vae,
            "factor": factor,
            "channels": int(vae["config"]["latent_channels"]),
            "border": 0,
        },
        "denoiser": {**unet, "prediction": schedule.get("prediction_type", "epsilon")},
        "conditioning": {
            "kind": "lrdm",
            "context": int(unet["config"]["cross_attention_dim"]),
            "null_condition": "the zero vector, hence the bias",
        },
        "scheduler": {key: schedule[key] for key in _SCHEDULE if key in schedule},
        "encoder": {"ref": "TODO-an-encoder"},
    }


def _config(path: Path) -> dict[str, Any]:
    whole = read_json(path)
    if "_class_name" not in whole:
        raise ModelError(f"{path} is no configuration of diffusers: it names no _class_name")
    config = {k: v for k, v in whole.items() if not k.startswith("_") and v is not None}
    return {"class": whole["_class_name"], "config": config}
