"""Sample images: a real slide by download, one that scikit-image ships, a synthetic one of ours."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from napari_ssldiff.cache import cache_dir
from napari_ssldiff.errors import InputError, OutputError

# Seconds to connect and between two packets: a machine without network falls back at once.
TIMEOUT = (5.0, 15.0)


@dataclass(frozen=True)
class Download:
    """A file on the web, pinned by its content.

    Parameters
    ----------
    url
        Where it is.
    sha256
        Lower-case hexadecimal digest; a file that differs is refused.
    """

    url: str
    sha256: str

    @property
    def filename(self) -> str:
        """Last part of the URL."""
        return self.url.rsplit("/", 1)[-1]


CMU_SMALL_REGION = Download(
    "https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/CMU-1-Small-Region.svs",
    "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7",
)
SYNTHETIC_SLIDE = Path(__file__).parent / "data" / "synthetic-slide.ome.tif"
SAMPLES = ("cmu-small-region", "immunohistochemistry", "synthetic-slide")


def sample_path(name: str) -> Path:
    """A sample as a file on this machine, fetched or written to the cache where needed.

    Parameters
    ----------
    name
        ``"cmu-small-region"`` (Aperio SVS, 2220 × 2967 px at 0.499 µm/px, CC0, downloaded),
        ``"immunohistochemistry"`` (512 × 512 px, pixel size unknown, from scikit-image) or
        ``"synthetic-slide"`` (made by our own model, bundled).

    Raises
    ------
    InputError
        If the name is unknown or the sample cannot be had.
    OutputError
        If the cache folder cannot be written.
    """
    if name == "cmu-small-region":
        return fetch(CMU_SMALL_REGION)
    if name == "immunohistochemistry":
        return _immunohistochemistry()
    if name == "synthetic-slide":
        if not SYNTHETIC_SLIDE.is_file():
            raise InputError(f"{SYNTHETIC_SLIDE} is missing: install napari-ssldiff again")
        return SYNTHETIC_SLIDE
    raise InputError(f"unknown sample {name!r}: choose one of {', '.join(SAMPLES)}")


def demo_sample() -> tuple[Path, str]:
    """The real slide where it can be had, else the bundled one, which is of the model's domain.

    Returns
    -------
    path
        The file.
    explanation
        One sentence that says which sample it is, and why.
    """
    try:
        path = sample_path("cmu-small-region")
    except InputError as error:
        return sample_path("synthetic-slide"), (
            "Sample: the bundled synthetic slide (0.5 µm/px, made by our own model, no real "
            f"tissue), because {error}"
        )
    return path, "Sample: OpenSlide's CMU-1-Small-Region.svs, a real slide at 0.499 µm/px (CC0)."


def fetch(download: Download) -> Path:
    """The file of ``download`` in the cache, its content checked; downloaded where it is missing.

    Raises
    ------
    InputError
        If it cannot be reached or its content differs from the digest.
    OutputError
        If the cache folder cannot be written.
    """
    import pooch
    import requests

    folder = _writable(cache_dir() / "samples")
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT, progressbar=True)
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        path = pooch.retrieve(
            download.url,
            known_hash=f"sha256:{download.sha256}",
            fname=download.filename,
            path=folder,
            downloader=downloader,
        )
    except requests.RequestException as error:
        raise InputError(
            f"{download.url} cannot be reached ({type(error).__name__}): connect to the network, "
            f"or put the file into {folder}"
        ) from error
    except ValueError as error:  # pooch's word for a digest that differs
        raise InputError(
            f"{download.url} is not the file that it should be (its sha256 differs): try again "
            "later"
        ) from error
    finally:
        logger.setLevel(level)
    return Path(path)


def _immunohistochemistry() -> Path:
    from PIL import Image
    from skimage.data import immunohistochemistry

    folder = _writable(cache_dir() / "samples")
    path = folder / "immunohistochemistry.png"
    if not path.is_file():
        # Written aside and moved, so that an interrupted run leaves no half picture.
        part = folder / f"immunohistochemistry.{os.getpid()}.part.png"
        try:
            Image.fromarray(immunohistochemistry()).save(part)
            os.replace(part, path)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
        finally:
            part.unlink(missing_ok=True)
    return path


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the cache folder {folder} cannot be made ({error.strerror}): set "
            "NAPARI_SSLDIFF_CACHE to one that can"
        ) from error
    return folder
