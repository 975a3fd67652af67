"""Variations of labelled images, made once and kept as PNG files.

A file's name holds a hash over all that its pixels depend on: the source's pixels, the model's
weights and the sampler. What is there is not made again, so a run that was killed goes on where
it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from napari_ssldiff.errors import OutputError
from napari_ssldiff.geometry import Region
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.scenes import PixelSize, Scene
from napari_ssldiff.scenes.levels import ArrayLevel, Problems
from napari_ssldiff.synthesis import Sampler, TileDone, make_request, synthesize
from napari_ssldiff.synthesis.prepare import resolve

Picture = NDArray[np.uint8]


def vary(pixels: Picture, bundle: ModelBundle, sampler: Sampler) -> Picture:
    """A variation of a picture at the model's resolution, through the project's own synthesis.

    Parameters
    ----------
    pixels
        ``(h, w, 3)`` uint8.
    sampler
        At strength 1 nothing of the source but its embeddings enters.

    Returns
    -------
    ``(h, w, 3)`` uint8.
    """
    spec = bundle.encoder.spec
    level = ArrayLevel(pixels, "YXC", "C", (512, 512), Problems(), "picture")
    size = PixelSize(spec.resolution, spec.resolution, spec.unit)
    # No path: what is kept in the user's cache is keyed by the file, this is part of one.
    with Scene(path="", name="picture", levels=(level,), pixel_size=size) as scene:
        region = Region.from_box(scene.box)
        request = make_request(scene, region, bundle, sampler, grid="model")
        made = np.zeros_like(pixels)
        for event in synthesize(request, bundle=bundle, scene=scene):
            if isinstance(event, TileDone):
                made[event.box.slices] = event.pixels[..., :3]
    return made


@dataclass(frozen=True)
class Variations:
    """Variations of one model and sampler below a folder.

    Parameters
    ----------
    folder
        A subfolder per model is made in it.
    sampler
        Its seed is the first of every picture's own series of seeds.
    """

    folder: Path
    bundle: ModelBundle
    sampler: Sampler

    def resolved(self) -> dict[str, Any]:
        """The sampler as it is carried out, every default filled in."""
        return asdict(resolve(self.sampler, self.bundle))

    def _key(self, pixels: Picture, number: int) -> str:
        facts = [self.bundle.hash, self.resolved(), pixels.shape, number]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(pixels).tobytes())
        return digest.hexdigest()

    def path(self, name: str, pixels: Picture, number: int) -> Path:
        """Where variation ``number`` of a picture is kept."""
        key = self._key(pixels, number)[:16]
        # The folder of a model may have any name; its id is in the card.
        part = f"{Path(self.bundle.card.id).name}-{self.bundle.hash[:12]}"
        return self.folder / part / f"{name}-v{number}-{key}.png"

    def get(self, name: str, pixels: Picture, number: int = 0) -> tuple[Picture, bool]:
        """Variation ``number`` of a picture, and whether it had to be made.

        Parameters
        ----------
        name
            Of the picture, for the file's name.
        pixels
            ``(h, w, 3)`` uint8 at the model's resolution.

        Raises
        ------
        OutputError
            If it cannot be kept.
        """
        path = self.path(name, pixels, number)
        kept = _read(path, pixels.shape)
        if kept is not None:
            return kept, False
        # Noise is a function of place and seed, and all pictures have the same place.
        own = int(self._key(pixels, number)[:12], 16) + self.sampler.seed
        made = vary(pixels, self.bundle, replace(self.sampler, seed=own))
        text = PngInfo()
        text.add_text("Software", "napari-ssldiff")
        text.add_text("Comment", "Synthetic image made by a diffusion model; not for diagnosis.")
        facts = {
            "synthetic": True,
            "model": self.bundle.card.id,
            "model_hash": self.bundle.hash,
            "source": name,
            "sampler": {**self.resolved(), "seed": own},
        }
        text.add_text("napari_ssldiff", json.dumps(facts))
        _write(path, made, text)
        return made, True


def _read(path: Path, shape: tuple[int, ...]) -> Picture | None:
    """A kept picture; ``None`` where it is missing, damaged or of another size."""
    try:
        with Image.open(path) as file:
            pixels = np.asarray(file.convert("RGB"))
    except (OSError, ValueError, SyntaxError):  # Pillow's word for a broken PNG
        return None
    return pixels if pixels.shape == shape else None


def _write(path: Path, pixels: Picture, text: PngInfo) -> None:
    # Written aside and moved, so that a killed run leaves no half picture under the name.
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            Image.fromarray(pixels).save(partial, format="PNG", pnginfo=text)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write the variation {path}: {error.strerror or error}; choose another folder"
        ) from error
