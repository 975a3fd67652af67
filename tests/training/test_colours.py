"""Tissue in the stain of other images."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from napari_ssldiff.training.colours import Moments, densities, moments, palette, recolour
from napari_ssldiff.training.config import DEFAULT_CONFIG, read_config
from napari_ssldiff.training.images import Images, kind_of
from napari_ssldiff.training.sources import NothingUsable
from napari_ssldiff.training.specification import problems

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def brown() -> Picture:
    """A real section, haematoxylin and diaminobenzidine."""
    picture: Picture = data.immunohistochemistry()
    return picture


@pytest.fixture(scope="module")
def pink(brown: Picture) -> Picture:
    """The same section with eosin's absorption in place of the brown, and half as dense."""
    mixed = densities(brown) @ np.array([[0.3, 0.5, 0.1], [0.1, 0.6, 0.2], [0.0, 0.5, 0.1]])
    return np.asarray(np.rint(255 * np.exp(-mixed)), np.uint8)


def usual(*pictures: Picture) -> Moments:
    found = palette(pictures)
    assert found is not None
    return found


def of_tissue(picture: Picture) -> Moments:
    found = moments(densities(picture))
    assert found is not None
    return found


def test_a_picture_takes_the_moments_of_another(brown: Picture, pink: Picture) -> None:
    wanted = usual(pink)
    before, after = of_tissue(brown), of_tissue(recolour(brown, wanted))
    far = np.linalg.norm(before - wanted) / np.linalg.norm(wanted)
    assert far > 0.3
    assert np.linalg.norm(after - wanted) / np.linalg.norm(wanted) < 0.05


def test_a_picture_in_its_own_colours_stays(brown: Picture) -> None:
    own = usual(brown)
    # Its lamp becomes white; what absorbs stays what it was.
    change = densities(recolour(brown, own)) - densities(brown)
    assert float(np.abs(change).mean()) < 0.01


def test_glass_stays_white_and_a_tinted_lamp_becomes_it(brown: Picture, pink: Picture) -> None:
    wanted = usual(pink)
    tinted = (brown * np.array([0.7, 0.8, 1.0])).astype(np.uint8)
    tinted[:128] = (178, 204, 255)
    made = recolour(tinted, wanted)
    assert made[:120].min() >= 253
    assert made[128:].mean() < 230


def test_structure_survives(brown: Picture, pink: Picture) -> None:
    wanted = usual(pink)
    before, after = (densities(p).mean(2).ravel() for p in (brown, recolour(brown, wanted)))
    assert np.corrcoef(before, after)[0, 1] > 0.9


def test_glass_alone_is_left_and_lends_nothing(pink: Picture) -> None:
    glass = np.full((64, 64, 3), 240, np.uint8)
    wanted = usual(glass, pink)
    assert palette([glass]) is None
    assert np.array_equal(wanted, usual(pink))
    assert np.array_equal(recolour(glass, wanted), glass)


def test_one_dense_picture_does_not_decide_what_is_usual(pink: Picture) -> None:
    dense = np.asarray(np.rint(255 * np.exp(-4 * densities(pink))), np.uint8)
    without, beside = usual(pink), usual(pink, pink, pink, dense)
    assert np.trace(beside) == pytest.approx(np.trace(without), rel=1e-3)


def images_of(root: Path, brown: Picture, pink: Picture) -> Images:
    """Two folders of one domain; for the denoiser ``theirs`` is to have the colours of ``ours``."""
    for name, picture in (("ours", pink), ("theirs", brown)):
        (root / name).mkdir()
        Image.fromarray(picture).save(root / name / "0.png")
    config = copy.deepcopy(read_config(DEFAULT_CONFIG))
    config["validation"] = None
    domain = config["domains"]["histology"]
    entry = {"pixel_size": 0.5}
    domain["pixels"] = [{"name": "theirs", "glob": "theirs/*.png", **entry}]
    domain["denoiser"] = [
        {"name": "theirs", "glob": "theirs/*.png", "colours": "ours", **entry},
        {"name": "ours", "glob": "ours/*.png", **entry},
    ]
    config["domains"] = {"histology": domain}
    return Images(config, (root,))


def test_an_entry_is_read_in_the_colours_it_names(
    tmp_path: Path, brown: Picture, pink: Picture
) -> None:
    images = images_of(tmp_path, brown, pink)
    theirs, ours = images.sets("histology", "denoiser")
    assert np.array_equal(ours.images[0], pink)
    wanted = usual(pink)
    assert np.array_equal(theirs.images[0], recolour(brown, wanted))
    (alone,) = images.sets("histology", "pixels")
    assert np.array_equal(alone.images[0], brown)


def test_a_denoiser_without_a_list_of_its_own_learns_from_pixels(
    tmp_path: Path, brown: Picture, pink: Picture
) -> None:
    images = images_of(tmp_path, brown, pink)
    del images.config["domains"]["histology"]["denoiser"]
    assert images.entries("histology", kind_of("diffusion")) == images.entries(
        "histology", kind_of("autoencoder")
    )


def test_colours_of_bare_glass_are_refused(tmp_path: Path, brown: Picture) -> None:
    images = images_of(tmp_path, brown, np.full((256, 256, 3), 245, np.uint8))
    with pytest.raises(NothingUsable, match="theirs is to be given the colours of ours"):
        images.sets("histology", "denoiser")


@pytest.mark.parametrize("lender", ["nobody", "her2st_breast"])
def test_colours_must_be_those_of_an_entry_that_keeps_its_own(lender: str) -> None:
    config = copy.deepcopy(read_config(DEFAULT_CONFIG))
    breast = next(
        e for e in config["domains"]["histology"]["pixels"] if e["name"] == "her2st_breast"
    )
    breast["colours"] = lender
    assert any(
        f"her2st_breast is given the colours of '{lender}': only" in p for p in problems(config)
    )
