"""The figures and pictures of an evaluation as one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from napari_ssldiff.evaluation import report_tables as tables
from napari_ssldiff.evaluation.pictures import Shown, power_curve, shown
from napari_ssldiff.evaluation.report_tables import Table
from napari_ssldiff.evaluation.runner import Gallery

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """One heading of the report: text, tables, a curve and strips of pictures."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    curve: str | None = None
    strips: Sequence[Sequence[Shown]] = field(default_factory=tuple)


def _pictures(gallery: Gallery) -> list[Section]:
    seconds = {(p.tile.path, p.tile.box): p.made for p in gallery.second}
    strips, out = [], []
    chosen = gallery.second[:6] or gallery.pieces[:6]
    by_place = {(p.tile.path, p.tile.box): p for p in gallery.pieces}
    for again in chosen:
        key = again.tile.path, again.tile.box
        piece = by_place.get(key, again)
        strip = [
            shown(piece.real, f"real: {piece.tile.path.stem}"),
            shown(piece.trip, "autoencoder"),
            shown(piece.made, "variation"),
        ]
        if key in seconds:
            strip.append(shown(seconds[key], "variation, next seed"))
        strips.append(strip)
    if strips:
        out.append(
            Section(
                "Pictures",
                ["Places are chosen by position, not by looks. Only the embeddings of the real "
                 "picture reach the variations."],
                strips=strips,
            )
        )  # fmt: skip
    if gallery.cosines is not None and len(gallery.cosines):
        order = np.argsort(gallery.cosines)[:4]
        out.append(
            Section(
                "The worst cases",
                [f"The lowest mean similarity of {len(gallery.cosines)} varied regions to the "
                 "embeddings that they were made from."],
                strips=[
                    [
                        shown(gallery.pieces[i].real, f"real: {gallery.pieces[i].tile.path.stem}"),
                        shown(gallery.pieces[i].trip, "autoencoder"),
                        shown(gallery.pieces[i].made, f"similarity {gallery.cosines[i]:.3f}"),
                    ]
                    for i in order
                ],
            )
        )  # fmt: skip
    if gallery.large:
        strips = [
            [shown(p.real, f"real: {p.tile.path.stem}"), shown(p.made, "variation")]
            for p in gallery.large[:2]
        ]
        out.append(Section("Large regions", strips=strips))
    return out


_OWN_PLACE = (
    "Embeddings tell where tissue or a roof ends, so a variation is like the place that they are "
    "of without any memory. How often: windows searched for in the surroundings of their own place "
    "alone, from embeddings of training images and of held-out ones, which nothing can remember. "
)


def _memorisation(figures: Figures, gallery: Gallery) -> Section | None:
    if not figures:
        return None
    strips = [
        [
            shown(pair.sample, "sample (turned)"),
            shown(pair.place, f"nearest training place, NCC {pair.ncc:.3f}"
                  + (", above the threshold" if pair.above else "")),
        ]
        for pair in gallery.pairs
    ]  # fmt: skip
    return Section(
        "Memorisation",
        [
            "Samples are made from training embeddings; each 128-pixel window is searched for in "
            "all training images, over all shifts and the 8 symmetries, by normalised "
            "cross-correlation (NCC) of its luminance at a quarter of the scale. The threshold is "
            "the 99th percentile of the same for real windows that no training saw: by chance "
            "1 % of the samples lie above it. "
            + (_OWN_PLACE if "own_place" in figures else "")
            + "The nearest pairs:"
        ],
        [tables.memorisation(figures)],
        strips=[strips[i] + strips[i + 1] if i + 1 < len(strips) else strips[i]
                for i in range(0, len(strips), 2)],
    )  # fmt: skip


def sections_of(report: Figures, gallery: Gallery) -> list[Section]:
    """The report's sections, those without figures left out."""
    figures = report.get("figures", {})
    out = [Section("In short", tables=[tables.headlines(report)]), *_pictures(gallery)]
    if "autoencoder" in figures:
        part = figures["autoencoder"]
        out.append(
            Section(
                "Autoencoder",
                ["Round trips of whole held-out tiles. The curve is the power of the round trip "
                 "over that of the real tiles, per ring of spatial frequency; 0 dB is as sharp "
                 "as real, below is blur, above is grain."],
                [tables.autoencoder(part)],
                power_curve({"autoencoder": part["power"]}),
            )
        )  # fmt: skip
    if "fidelity" in figures:
        out.append(
            Section(
                "Embedding fidelity",
                ["Cosine between the embeddings asked for and those measured on the result. "
                 "Fidelity is its share of the way from chance (results of other images) to the "
                 "autoencoder's ceiling."],
                [tables.fidelity(figures["fidelity"])],
            )
        )  # fmt: skip
    if figures.get("distances"):
        out.append(
            Section(
                "Distances between real and synthetic cells (patch protocol)",
                ["Beside every distance stands that between two disjoint halves of the real "
                 "cells, at the same number of cells: both are biased alike by it. The ratio is "
                 "1 where synthetic and real cannot be told apart by this distance."],
                tables.distances(figures["distances"]),
            )
        )  # fmt: skip
    if report.get("crops"):
        out.append(
            Section(
                "Crops of large regions (crop protocol)",
                ["Random crops of large synthesised regions against random crops of the real "
                 "ones. Crops overlap, so they count for fewer than they are."],
                [tables.crops(report["crops"])],
            )
        )  # fmt: skip
    if "spectrum" in figures:
        part = figures["spectrum"]
        out.append(
            Section(
                "Spectrum of variations",
                tables=[tables.spectrum(part)],
                curve=power_curve({"variation": part["made"], "autoencoder": part["autoencoder"]}),
            )
        )
    if "colour" in figures:
        out.append(Section("Colour", tables=[tables.colour(figures["colour"])]))
    if figures.get("manifold"):
        out.append(
            Section(
                "Precision, recall, diversity",
                ["Precision: share of synthetic cells within the real ones' neighbourhoods; "
                 "recall: the other way round (k nearest neighbours, Kynkäänniemi et al. 2019). "
                 "Diversity: distance between two seeds of one embedding over that between real "
                 "cells of two images."],
                [tables.manifold(figures["manifold"])],
            )
        )  # fmt: skip
    memorised = _memorisation(report.get("memorisation", {}), gallery)
    if memorised:
        out.append(memorised)
    if report.get("encoder"):
        out.append(
            Section(
                "What the encoder knows",
                ["Balanced accuracy on labelled images. Descriptor, k and vote were chosen on "
                 "the training fold alone, for the encoder and the colour histogram alike."],
                tables.encoder(report["encoder"]),
            )
        )  # fmt: skip
    for name, part in report.get("out_of_distribution", {}).items():
        out.append(
            Section(f"Another source: {name}", [f"Images that no training saw: {part['images']}."],
                    tables.other_source(part))
        )  # fmt: skip
    if "timing" in report:
        out.append(Section("Speed", tables=[tables.timing(report["timing"])]))
    return out


def render(report: Figures, gallery: Gallery) -> str:
    """The report as HTML.

    Parameters
    ----------
    report
        What :func:`napari_ssldiff.evaluation.runner.evaluate` gave, with the provenance.
    gallery
        Its pictures.
    """
    from jinja2 import Environment

    template = files("napari_ssldiff.evaluation").joinpath("report.html.jinja")
    page = Environment(autoescape=True, trim_blocks=True).from_string(
        template.read_text(encoding="utf-8")
    )
    data, sampler = report["data"], report["sampler"]
    lead = (
        f"Held-out images: {data['held_out_images']}. Variations at strength 1, preset "
        f"{sampler['preset']}, {sampler['steps']} steps, guidance {sampler['guidance']}, seed "
        f"{sampler['seed']}. Intervals are 95 %, bootstrapped over images."
    )
    warnings = ["All pictures named variation or sample are synthetic."]
    if report.get("domain") == "histology":
        warnings.append("Not for diagnosis: no figure here says that a picture is true of tissue.")
    machine = report.get("machine", {})
    facts = [str(machine.get(k)) for k in ("processor", "accelerator") if machine.get(k)]
    return page.render(
        title=f"Evaluation of {report['model']}",
        lead=lead,
        warnings=warnings,
        sections=sections_of(report, gallery),
        notes=report.get("notes", []),
        columns=4,
        model=report["model"],
        hash=report["model_hash"],
        machine=f"Machine: {', '.join(facts)}, {machine.get('cores')} cores." if facts else "",
        date=report.get("date", ""),
        command=report.get("command", ""),
    )


def write_report(path: Path, report: Figures, gallery: Gallery) -> None:
    """Write :func:`render`'s page.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    from napari_ssldiff.errors import OutputError

    try:
        path.write_text(render(report, gallery), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
