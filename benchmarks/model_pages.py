"""Write docs/models: card, curves and sample sheets of the bundled models.

    python benchmarks/model_pages.py DATA --training DIR

DIR is the folder of the training run; its metrics are copied to benchmarks/results/training so
that curves can be drawn again. Needs matplotlib (dependency group ``docs``).
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from first_light import HELD_OUT
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from napari_ssldiff.evaluation import evaluation_scenes
from napari_ssldiff.evaluation.fidelity import synthesise_region
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models import ModelCard, load_bundle
from napari_ssldiff.scenes import open_scene
from napari_ssldiff.synthesis import Sampler

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "models"
METRICS = ROOT / "benchmarks" / "results" / "training"


def sheet(model: str, data: Path, rows: int = 6, size: int = 256) -> Image.Image:
    """Held-out regions: real, autoencoder, two variations; one row each."""
    bundle = load_bundle(model, "cpu")
    folder, table = HELD_OUT[model]
    paths = evaluation_scenes([data / folder], data / table)
    keep = np.linspace(0, len(paths) - 1, rows).round().astype(int)
    pictures: list[list[NDArray[np.uint8]]] = []
    for path in (paths[i] for i in keep):
        with open_scene(path) as scene:
            y, x = ((n - size) // 2 for n in scene.shape)
            region = Region.from_box(Box(y, x, size, size))
            real, first, round_trip = synthesise_region(scene, region, bundle, Sampler(seed=0))
            second = synthesise_region(scene, region, bundle, Sampler(seed=1))[1]
        pictures.append([real, round_trip, first, second])
    gap, head = 4, 22
    width, height = 4 * (size + gap) - gap, rows * (size + gap) - gap + head
    out = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(out)
    for column, title in enumerate(("real (held out)", "autoencoder", "seed 0", "seed 1")):
        draw.text((column * (size + gap) + 4, 4), title, fill="black")
        for row, group in enumerate(pictures):
            place = (column * (size + gap), head + row * (size + gap))
            out.paste(Image.fromarray(group[column]), place)
    return out


def curves(card: ModelCard, domain: str, path: Path) -> None:
    """Loss against minutes for the parts of a model; runs that a network went through, in turn."""
    parts = {
        "autoencoder: L1": ("autoencoder", "l1"),
        f"encoder {domain}: VICReg": (f"encoder-{domain}", "loss"),
        "encoder-eval: SimCLR": ("encoder-eval", "loss"),
        f"U-Net: v MSE ({domain})": ("diffusion", f"loss_{domain}"),
        "student: v MSE": ("distil", "loss"),
    }
    figure, axes = plt.subplots(1, len(parts), figsize=(14, 2.6), constrained_layout=True)
    for axis, (title, (stage, key)) in zip(axes, parts.items(), strict=True):
        before = 0.0
        for run in (f"{stage}-first", f"{stage}-second", stage):
            file = METRICS / f"{run}.jsonl"
            if not file.exists():
                continue
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            # A run that was killed made some steps twice; the later ones count.
            end = rows[-1]["minutes"]
            rows = sorted(
                {r["step"]: r for r in rows if r["minutes"] <= end}.values(),
                key=lambda r: r["step"],
            )
            axis.plot([before + r["minutes"] for r in rows], [r[key] for r in rows], lw=1)
            before += end
        axis.set(title=title, xlabel="minutes", yscale="log")
        axis.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def crops(model: str, data: Path, count: int = 20) -> tuple[list[Path], list[str]]:
    """Images of a mixed sheet, and ``"real"`` or ``"synthetic"`` per crop, row by row."""
    folder, table = HELD_OUT[model]
    paths = evaluation_scenes([data / folder], data / table)
    rng = np.random.default_rng(20)
    # Crops of one sheet never share a place: no pair gives the answer away.
    chosen = [paths[i] for i in rng.choice(len(paths), count, replace=len(paths) < count)]
    return chosen, [str(k) for k in rng.permutation(["real", "synthetic"] * (count // 2))]


def mixed(model: str, data: Path, target: Path, size: int = 192) -> None:
    """Crops of held-out images, half of them varied, in an order that only the key tells."""
    bundle = load_bundle(model, "cpu")
    chosen, key = crops(model, data)
    count = len(key)
    columns, gap = 5, 6
    rows = -(-count // columns)
    out = Image.new("RGB", (columns * (size + gap) - gap, rows * (size + gap) - gap), "white")
    seen: dict[Path, int] = {}
    for i, (path, kind) in enumerate(zip(chosen, key, strict=True)):
        with open_scene(path) as scene:
            # The middle, or one of the quarters if the image was drawn before.
            turn = seen[path] = seen.get(path, -1) + 1
            free = [n - size for n in scene.shape]
            y, x = [(0.5, 0.5), (0, 0), (1, 1), (0, 1), (1, 0)][turn % 5]
            region = Region.from_box(Box(int(free[0] * y), int(free[1] * x), size, size))
            real, made, _ = synthesise_region(scene, region, bundle, Sampler(seed=i))
        picture = Image.fromarray(real if kind == "real" else made)
        out.paste(picture, (i % columns * (size + gap), i // columns * (size + gap)))
    out.save(target, quality=90)


def _shown(value: Any, unit: str = "") -> str:
    """A figure with its interval and count."""
    if not isinstance(value, dict):
        return f"{value:.3g}{unit}"
    text = f"{value['value']:.3g}{unit}"
    if value.get("interval"):
        text += f" ({value['interval'][0]:.3g} … {value['interval'][1]:.3g})"
    return text + (f", n = {value['n']}" if value.get("n") else "")


def _control(memory: dict[str, Any]) -> str:
    """What is alike because embeddings tell of their place, and what memory may add to it."""
    own = memory.get("own_place")
    if own is None:
        return ""
    return (
        f"; near its own place alone: {_shown(own['training'])}, of held-out images "
        f"{_shown(own['held_out'])}, difference {_shown(own['difference'])}"
    )


def region_times(model: str) -> list[tuple[str, float, float]]:
    """What ``region_time.py`` measured, with all cores to itself: ``(what, limit, seconds)`` per
    preset and machine."""
    rows = []
    for path in sorted(METRICS.parent.glob("region-time*.json")):
        found = json.loads(path.read_text())
        where = f"{found['threads']} threads, {found['machine']['processor']}, {found['date'][:10]}"
        where += f", {found['precision']}" if "precision" in found else ""
        for name, preset, limit in (("default", "bulk", 6.0), ("draft", "draft", 1.0)):
            own = found["models"][model][preset]
            seconds, n = own["median_s"], len(own["all_s"])
            rows.append((f"one 256-px region, {name} ({where}, n = {n})", limit, seconds))
    return rows


def targets(measured: dict[str, Any], encoders: dict[str, Any] | None) -> list[tuple[str, ...]]:
    """Rows ``(figure, asked, measured, met)`` of the project's own targets."""
    rows: list[tuple[str, ...]] = []

    def add(name: str, asked: str, shown: str, met: bool) -> None:
        rows.append((name, asked, shown, "yes" if met else "**no**"))

    if encoders:
        pooled = encoders["pooled"]
        low, high = pooled["reduction_interval"]
        add(
            "encoder: kNN error below a colour histogram's, three tasks pooled (both models)",
            "≥ 25 %, interval excluding 0",
            f"{100 * pooled['reduction']:.0f} % ({100 * low:.0f} … {100 * high:.0f})",
            pooled["reduction"] >= 0.25 and low > 0,
        )
    figures = measured["figures"]
    vae = figures["autoencoder"]
    add("autoencoder: PSNR", "≥ 28 dB", _shown(vae["psnr"], " dB"), vae["psnr"]["value"] >= 28)
    worst = vae["power"]["worst_db"]
    add(
        "autoencoder: radial power up to half Nyquist", "within ± 1.5 dB",
        "worst " + _shown(worst, " dB"), worst["value"] <= 1.5,
    )  # fmt: skip
    for space, least in (("conditioning", 0.7), ("encoder-eval", 0.5)):
        f = figures["fidelity"][space]
        low, high = f["interval"]
        add(
            f"embedding fidelity, {space}", f"≥ {least}",
            f"{f['fidelity']:.2f} ({low:.2f} … {high:.2f}), n = {f['cells']} cells",
            f["fidelity"] >= least,
        )  # fmt: skip
    f = figures["distances"].get("frechet")
    if f:
        add(
            "Fréchet distance over real halves (same images in both)", "≤ 3",
            _shown(f["ratio"]), f["ratio"]["value"] <= 3,
        )  # fmt: skip
        if "ratio_by_image" in f:
            add(
                "Fréchet distance over real halves (no image in both)", "≤ 3",
                _shown(f["ratio_by_image"]), f["ratio_by_image"] <= 3,
            )  # fmt: skip
        v = f["variance_ratio"]
        add(
            "variance ratio per dimension", "0.7 … 1.4",
            f"{v['min']:.2f} … {v['max']:.2f}, mean {v['mean']:.2f}, "
            f"{100 * v['within_0.7_1.4']:.0f} % of {v['dimensions']} within",
            v["min"] >= 0.7 and v["max"] <= 1.4,
        )  # fmt: skip
    memory = measured.get("memorisation", {}).get("share")
    if memory:
        add(
            "memorisation: share of samples above the real 99th percentile", "≤ 2 %",
            _shown(memory) + _control(measured["memorisation"]), memory["value"] <= 0.02,
        )  # fmt: skip
    for what, limit, seconds in region_times(measured["model"]):
        add(what, f"≤ {limit:g} s", f"{seconds:.2f} s", seconds <= limit)
    return rows


def told_apart(model: str) -> list[str]:
    """How many of the mixed crops a newcomer told apart, if one was asked."""
    found = read_result("mixed-crops.json")
    if found is None or model not in found:
        return []
    own = found[model]
    return [
        f"Asked on {found['date']}, {found['viewer']}, told {own['right']} of {own['of']} apart. "
        f"What gave the synthetic ones away: {own['gave_it_away']}.",
        "",
    ]


def page(
    card: ModelCard,
    measured: dict[str, Any] | None,
    encoders: dict[str, Any] | None,
    key: list[str],
) -> str:
    """Markdown of one model."""
    e, vae = card.extra, card.parts["autoencoder"]
    trained = e["training"]
    lines = [f"# {card.name} (`{card.id}`)", "", card.description, ""]
    lines += [f"**Intended use.** {e['intended_use']}", "", f"**Limits.** {e['limits']}", ""]
    lines += ["## Data, licences, attribution", ""] + [f"- {d}" for d in e["data"]]
    lines += ["", f"Licence: {e['licence']}.", "", "## The model", "", "| | |", "|---|---|"]
    facts = {
        "resolution": f"{card.resolution} {card.unit} per pixel",
        "window": f"{card.window} px, {card.window // card.cell} × {card.window // card.cell} "
        f"tokens (cells of {card.cell} px)",
        "latents": f"{vae['channels']} channels, factor {vae['factor']}",
        "encoder": f"{card.parts['encoder']['name']}, {card.parts['encoder']['objective']}, "
        f"width {card.parts['encoder']['width']}",
        "evaluation encoder": f"{card.parts['evaluation_encoder']['objective']}",
        "prediction": card.parts["denoiser"]["prediction"],
        "default guidance": card.guidance,
        "hash": f"`{card.hash[:16]}…`",
        "trained at commit": f"`{trained['commit']}`",
        "command": f"`{trained['command']}`",
    }
    for part, run in trained.items():
        if isinstance(run, dict) and "steps" in run:
            facts[f"trained: {part}"] = f"{run['steps']} steps in {run['minutes']:.0f} min" + (
                f" on {run['hardware']}" if "hardware" in run else ""
            )
    if "history" in e:
        facts["history"] = e["history"]
    lines += [f"| {k} | {v} |" for k, v in facts.items()]
    lines += [
        "",
        "The autoencoder, the U-Net and the evaluation encoder are shared by both demo "
        "models; encoder and projection are each model's own.",
        "",
    ]
    if measured:
        lines += [
            "## Measured against what was asked",
            "",
            "Held-out images only, strength 1, 95 % intervals over images in brackets. Figures: "
            f"`benchmarks/results/evaluate-{card.id}.json` and `benchmarks/results/encoders.json`, "
            "with their commands, machine and dates.",
            "",
            "| figure | asked | measured | met |",
            "|---|---|---|---|",
        ]
        lines += ["| " + " | ".join(row) + " |" for row in targets(measured, encoders)]
        lines += ["", "Command:", "", "```", measured["command"], "```", ""]
    lines += ["## Curves", "", f"![loss curves]({card.id}-curves.png)", "", "## Samples", ""]
    lines += [
        "Held-out images at strength 1: only the embeddings of the left column reach the "
        "two right ones.",
        "",
        f"![sample sheet]({card.id}-samples.jpg)",
        "",
        "## Twenty crops, real and synthetic mixed",
        "",
        f"![twenty crops]({card.id}-mixed.jpg)",
        "",
        *told_apart(card.id),
        "<details><summary>Which is which</summary>",
        "",
    ]
    for row in range(0, len(key), 5):
        lines.append(f"row {row // 5 + 1}: " + ", ".join(key[row : row + 5]) + "  ")
    return "\n".join([*lines, "", "</details>", ""])


def read_result(name: str) -> dict[str, Any] | None:
    """A result that was measured before, if it is there."""
    path = ROOT / "benchmarks" / "results" / name
    return json.loads(path.read_text()) if path.exists() else None


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--training", type=Path)
    parser.add_argument("--text", action="store_true", help="leave the pictures as they are")
    parser.add_argument("--models", nargs="+", default=list(HELD_OUT))
    arguments = parser.parse_args()
    PAGES.mkdir(parents=True, exist_ok=True)
    METRICS.mkdir(parents=True, exist_ok=True)
    if arguments.training:
        for path in arguments.training.glob("*/metrics.jsonl"):
            shutil.copy(path, METRICS / f"{path.parent.name}.jsonl")
    encoders = read_result("encoders.json")
    for model in arguments.models:
        card = load_bundle(model, "cpu").card
        measured = read_result(f"evaluate-{model}.json")
        if measured and measured["model_hash"] != card.hash:
            print(f"evaluate-{model}.json is of other weights: left out")
            measured = None
        curves(card, model.removeprefix("demo-"), PAGES / f"{model}-curves.png")
        if not arguments.text:
            sheet(model, arguments.data).save(PAGES / f"{model}-samples.jpg", quality=88)
            mixed(model, arguments.data, PAGES / f"{model}-mixed.jpg")
        key = crops(model, arguments.data)[1]
        (PAGES / f"{model}.md").write_text(page(card, measured, encoders, key))


if __name__ == "__main__":
    main()
