"""Figures as rows of words: value, interval, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]
Row = tuple[str, ...]

_COLUMNS = ("", "value", "95 % interval", "n", "images")


@dataclass(frozen=True)
class Table:
    """Column names, and rows of ready text."""

    columns: Sequence[str]
    rows: Sequence[Row]


def number(value: Any, digits: int = 3) -> str:
    """A number for people: ``digits`` significant, never an exponent for everyday sizes."""
    if value is None:
        return "not known"
    if isinstance(value, int):
        return f"{value}"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    places = max(0, digits - 1 - (len(f"{abs(value):.0f}") - 1 if abs(value) >= 1 else -1))
    return f"{value:.{places}f}"


def span(interval: Sequence[float] | None) -> str:
    """``low … high``; an empty string without an interval."""
    return "" if not interval else f"{number(interval[0])} … {number(interval[1])}"


def row(name: str, figure: Figures, unit: str = "") -> Row:
    """An estimate's row."""
    value = number(figure["value"]) + (f" {unit}" if unit else "")
    return (
        name,
        value,
        span(figure.get("interval")),
        number(figure.get("n")),
        (number(figure["images"]) if "images" in figure else ""),
    )


def autoencoder(part: Figures) -> Table:
    """PSNR and power."""
    return Table(
        _COLUMNS,
        [
            row("PSNR, mean over tiles", part["psnr"], "dB"),
            row("PSNR, pooled", part["psnr_pooled"], "dB"),
            row("worst ring up to half Nyquist", part["power"]["worst_db"], "dB"),
            row("mean |ring| up to Nyquist", part["power"]["mean_db"], "dB"),
        ],
    )


def fidelity(part: Figures) -> Table:
    """Both spaces."""
    rows: list[Row] = []
    for name, space in part.items():
        if "fidelity" in space:
            figure = {
                "value": space["fidelity"], "interval": space["interval"],
                "n": space["cells"], "images": space["images"],
            }  # fmt: skip
            rows.append(row(f"fidelity, {name}", figure))
        rows.append(row(f"mean similarity, {name}", space["similarity"]))
        rows.append(row(f"autoencoder's similarity, {name}", space["autoencoder_similarity"]))
        if "c_shuffled" in space:
            rows.append((f"similarity by chance, {name}", number(space["c_shuffled"]), "", "", ""))
    return Table(_COLUMNS, rows)


def distances(part: Figures) -> list[Table]:
    """Fréchet with its denominators, variance ratios, and the kernel distance."""
    out = []
    n = number(part["n"])
    if "frechet" in part:
        f = part["frechet"]
        floor = f["real_halves_by_cell"]
        rows = [
            row(f"Fréchet, PCA-{f['dimensions']} of {part['space']}", f["distance"]),
            ("real halves, split by cell", f"{number(floor['value'])} ± {number(floor['std'])}",
             f"{floor['splits']} splits", n, ""),
            row("ratio to the halves by cell", f["ratio"]),
        ]  # fmt: skip
        if "real_halves_by_image" in f:
            apart = f["real_halves_by_image"]
            rows += [
                ("real halves, split by image", f"{number(apart['value'])} ± "
                 f"{number(apart['std'])}", f"{apart['splits']} splits", n, ""),
                ("ratio to the halves by image", number(f["ratio_by_image"]), "", n, ""),
            ]  # fmt: skip
        if "other_places" in f:
            other = f["other_places"]
            rows.append(
                ("synthetic against real of other places, over real against the same",
                 number(other["ratio"]), "", number(other["n"]), "")
            )  # fmt: skip
        out.append(Table(_COLUMNS, rows))
        v = f["variance_ratio"]
        out.append(
            Table(
                ("variance per dimension, synthetic over real", "value"),
                [
                    ("mean", number(v["mean"])),
                    ("smallest", number(v["min"])),
                    ("largest", number(v["max"])),
                    ("5th … 95th percentile", span(v["percentiles_5_95"])),
                    ("within 0.7 … 1.4", f"{100 * v['within_0.7_1.4']:.0f} %"),
                ],
            )
        )
    k = part["kernel"]
    out.append(
        Table(
            ("", "value", "standard deviation over subsets", "n"),
            [
                (f"kernel distance (KID), {part['space']}", number(k["value"]),
                 number(k["std"]), n),
                ("real halves", number(k["real_halves"]["value"]),
                 number(k["real_halves"]["std"]), n),
            ],
        )
    )  # fmt: skip
    return out


def crops(part: Figures) -> Table:
    """The crop protocol."""
    counts = (
        f"{part['n']} crops of {part['crop']} px from {part['large_images']} regions of "
        f"{part['large_edge']} px"
    )
    rows: list[Row] = [("what", counts, "")]
    if "frechet" in part:
        f = part["frechet"]
        rows.append(("Fréchet", number(f["distance"]), number(f["real_twice"])))
        rows.append(("ratio", number(f["ratio"]), ""))
    k = part["kernel"]
    rows.append(("kernel distance", number(k["value"]), number(k["real_twice"]["value"])))
    return Table(("", "synthetic to real", "real to real"), rows)


def spectrum(part: Figures) -> Table:
    """Variations and round trips."""
    return Table(
        _COLUMNS,
        [
            row("variation: worst ring up to half Nyquist", part["made"]["worst_db"], "dB"),
            row("variation: mean |ring| up to Nyquist", part["made"]["mean_db"], "dB"),
            row("autoencoder, same places: worst ring", part["autoencoder"]["worst_db"], "dB"),
        ],
    )


def colour(part: Figures) -> Table:
    """Variations and round trips."""
    rows = []
    for key, name in (("made", "variation"), ("autoencoder", "autoencoder")):
        rows.append(row(f"{name}: intensities, Wasserstein-1 (grey levels)",
                        part[key]["wasserstein"]))  # fmt: skip
        rows.append(row(f"{name}: mean colour, ΔE2000", part[key]["delta_e_2000"]))
    return Table(_COLUMNS, rows)


def manifold(part: Figures) -> Table:
    """Precision, recall, diversity."""
    rows = [row("precision", part["precision"]), row("recall", part["recall"])]
    if "real_halves" in part:
        half = part["real_halves"]
        rows.append(
            ("precision of one real half in the other", number(half["precision"]), "",
             number(half["n"]), "")
        )  # fmt: skip
    if "diversity" in part:
        rows.append(row("distance of seeds over that of real pairs", part["diversity"]["relative"]))
    return Table(_COLUMNS, rows)


def memorisation(part: Figures) -> Table:
    """Share above the threshold, and what it is made of."""
    reference = part["reference"]
    own = part.get("own_place", {})
    return Table(
        _COLUMNS,
        [
            row("share of samples above the threshold", part["share"]),
            *(row(f"near its own place alone: {name}", own[key]) for key, name in (
                ("training", "training embeddings"), ("held_out", "held-out embeddings"),
                ("difference", "difference")) if own),
            ("threshold (NCC)", number(part["threshold"]), "", number(reference["n"]),
             number(reference["images"])),
            ("median NCC of samples / of real windows", f"{number(part['samples']['median'])} / "
             f"{number(reference['median'])}", "", "", ""),
            ("training searched", f"{part['training_megapixels']:.0f} megapixels", "", "",
             number(part["training_images"])),
        ],
    )  # fmt: skip


def encoder(part: Figures) -> list[Table]:
    """Accuracies, and the error over the histogram's."""
    rows = []
    for key, name in (
        ("encoder", "nearest neighbours of embeddings"),
        ("histogram", "nearest neighbours of colour histograms"),
        ("linear", "linear probe of embeddings"),
    ):
        if key not in part:
            continue
        facts = part[key]
        chosen = facts["descriptor"] + (f", k = {facts['k']}" if "k" in facts else "")
        rows.append(row(f"{name} ({chosen})", facts["balanced_accuracy"]))
    ratio = part["error_over_histogram"]
    figure = {"value": ratio["ratio"], "interval": ratio["interval"], "n": ratio["n"],
              "images": ratio["groups"]}  # fmt: skip
    rows.append(row("error of embeddings over error of histograms", figure))
    columns = ("", "value", "95 % interval", "n", "groups")
    return [Table(columns, rows)]


def timing(part: Figures) -> Table:
    """Seconds per region."""
    rows = [
        (f"{name} ({t['preset']}, {t['steps']} steps)", f"{number(t['median_s'])} s",
         number(t["n"]), number(t["evaluations"]), f"{t['device']}, {t['torch_threads']} threads")
        for name, t in part.items()
    ]  # fmt: skip
    size = next(iter(part.values()))["region"]
    columns = (f"one region of {size[0]} × {size[1]} px", "median", "runs", "evaluations", "on")
    return Table(columns, rows)


def other_source(part: Figures) -> list[Table]:
    """All of another source's figures."""
    out = []
    if "fidelity" in part:
        out.append(fidelity(part["fidelity"]))
    if part.get("distances"):
        out += distances(part["distances"])
    if "autoencoder" in part:
        out.append(autoencoder(part["autoencoder"]))
    return out


def headlines(report: Figures) -> Table:
    """The few rows that most readers want."""
    figures = report.get("figures", {})
    rows: list[Row] = []
    for name, space in figures.get("fidelity", {}).items():
        if "fidelity" in space:
            figure = {"value": space["fidelity"], "interval": space["interval"],
                      "n": space["cells"], "images": space["images"]}  # fmt: skip
            rows.append(row(f"embedding fidelity, {name}", figure))
    if "autoencoder" in figures:
        rows.append(row("autoencoder PSNR", figures["autoencoder"]["psnr"], "dB"))
        power = figures["autoencoder"]["power"]["worst_db"]
        rows.append(row("autoencoder: worst ring up to half Nyquist", power, "dB"))
    f = figures.get("distances", {}).get("frechet")
    if f:
        rows.append(row("Fréchet distance over that of real halves", f["ratio"]))
        v = f["variance_ratio"]
        rows.append(
            ("variance over real: mean (smallest … largest)", number(v["mean"]),
             f"{number(v['min'])} … {number(v['max'])}", number(v["n"]), "")
        )  # fmt: skip
    elif figures.get("distances"):
        k = figures["distances"]["kernel"]
        rows.append(("kernel distance", number(k["value"]), f"± {number(k['std'])} (subsets)",
                     number(k["n"]), ""))  # fmt: skip
    if report.get("memorisation"):
        rows.append(row("share of samples that repeat training", report["memorisation"]["share"]))
    if report.get("encoder"):
        part = report["encoder"]["encoder"]["balanced_accuracy"]
        rows.append(row("encoder, balanced accuracy by neighbours", part))
    for name, t in report.get("timing", {}).items():
        rows.append((f"seconds per region, {name}", f"{number(t['median_s'])} s", "",
                     number(t["n"]), ""))  # fmt: skip
    return Table(_COLUMNS, rows)
