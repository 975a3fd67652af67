"""The images of a configuration's domains: whose they are, at which resolution, how large."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from napari_ssldiff.scenes import PixelSize
from napari_ssldiff.training.data import ImageSet, list_sources
from napari_ssldiff.training.kept import digest
from napari_ssldiff.training.reading import load_set
from napari_ssldiff.training.sources import NothingUsable, Source

Group = tuple[tuple[ImageSet, ...], dict[str, Any]]
Log = Callable[[str], None]


def silent(text: str) -> None:
    """A log that keeps nothing."""


@dataclass(frozen=True)
class Images:
    """Images of all domains; each entry is read once and stays in memory.

    Parameters
    ----------
    config
        The training configuration.
    paths
        Files and folders; globs are relative to the first.
    fallback
        Pixel size of images that do not say theirs.
    log
        Told what was skipped or left out.
    """

    config: Mapping[str, Any]
    paths: tuple[Path, ...]
    fallback: PixelSize | None = None
    log: Log = silent
    _read: dict[str, ImageSet] = field(default_factory=dict, repr=False, compare=False)

    def resolution(self, domain: str) -> PixelSize:
        """Of a domain's model."""
        part = self.config["domains"][domain]
        return PixelSize(float(part["resolution"]), float(part["resolution"]), part["unit"])

    def crop(self, kind: str) -> int:
        """Edge in pixels that an image must have to be of use: the smallest crop taken of it."""
        if kind == "encoder":
            return int(self.config["encoder"]["input"])
        return min(int(c) for c in self.config["autoencoder"]["crops"])

    def sources(self, domain: str, kind: str, part: str = "train") -> list[list[Source]]:
        """Image files of each entry of a domain.

        Parameters
        ----------
        kind
            ``"pixels"`` or ``"encoder"``.
        part
            ``"train"`` or ``"validation"``.
        """
        return [
            list_sources(
                self.paths,
                entry,
                validation=self.config.get("validation"),
                part=part,
                seed=int(self.config.get("seed", 0)),
            )
            for entry in self.config["domains"][domain][kind]
        ]

    def sets(
        self, domain: str, kind: str, part: str = "train", least: int | None = None
    ) -> tuple[ImageSet, ...]:
        """Image sets of a domain, read once.

        Parameters
        ----------
        least
            Images of a smaller edge in pixels are left out; by default :meth:`crop`.

        Raises
        ------
        InputError
            If there is nothing of use to train on. Without validation a run goes on.
        """
        try:
            found = self._load(domain, kind, part)
            return self._large_enough(found, least or self.crop(kind), domain)
        except NothingUsable as error:
            if part == "train":
                raise
            self.log(f"warning: {domain} is trained without validation: {error}")
            return ()

    def _load(self, domain: str, kind: str, part: str) -> list[ImageSet]:
        entries = self.config["domains"][domain][kind]
        found = []
        for entry, sources in zip(entries, self.sources(domain, kind, part), strict=True):
            if not sources:
                continue
            key = digest([entry, domain, part])
            if key not in self._read:
                self._read[key] = load_set(
                    sources,
                    entry,
                    self.resolution(domain),
                    fallback=self.fallback,
                    seed=int(self.config.get("seed", 0)),
                    log=self.log,
                )
            found.append(self._read[key])
        return found

    def _large_enough(
        self, sets: Sequence[ImageSet], least: int, domain: str
    ) -> tuple[ImageSet, ...]:
        """The sets without images of an edge below ``least`` pixels.

        Raises
        ------
        NothingUsable
            If there were images and none is left.
        """
        kept = []
        for one in sets:
            wanted = [i for i, image in enumerate(one.images) if min(image.shape[:2]) >= least]
            if len(wanted) == len(one.images):
                kept.append(one)
                continue
            self.log(f"warning: {one.name}: {len(one.images) - len(wanted)} images smaller than "
                     f"a crop of {least} px are left out")  # fmt: skip
            if wanted:
                names = tuple(one.sources[i] for i in wanted) if one.sources else ()
                kept.append(
                    replace(one, images=tuple(one.images[i] for i in wanted), sources=names)
                )
        if sets and not kept:
            h, w, _ = max((i.shape for s in sets for i in s.images), key=lambda s: min(s[:2]))
            size = self.resolution(domain)
            raise NothingUsable(
                f"the images of {domain} are smaller than one crop of {least} px: the largest is "
                f"{w} × {h} px at {size.y:g} {size.unit} per pixel; give larger images or a finer "
                "--resolution"
            )
        return tuple(kept)

    def groups(self, domains: Sequence[str], kind: str, part: str = "train") -> list[Group]:
        """Image sets and augmentation of domains; none of a domain without images."""
        pairs = [
            (self.sets(d, kind, part), dict(self.config["domains"][d]["augment"])) for d in domains
        ]
        return [(sets, augmentation) for sets, augmentation in pairs if sets]
