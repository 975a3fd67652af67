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
    """Loss against minutes for the parts of a model."""
    parts = {
        "autoencoder: L1": ("autoencoder", "l1"),
        f"encoder {domain}: VICReg": (f"encoder-{domain}", "loss"),
        "encoder-eval: SimCLR": ("encoder-eval", "loss"),
        f"U-Net: v MSE ({domain})": ("diffusion", f"loss_{domain}"),
    }
    figure, axes = plt.subplots(1, len(parts), figsize=(12, 2.6), constrained_layout=True)
    for axis, (title, (stage, key)) in zip(axes, parts.items(), strict=True):
        text = (METRICS / f"{stage}.jsonl").read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        axis.plot([r["minutes"] for r in rows], [r[key] for r in rows], lw=1)
        axis.set(title=title, xlabel="minutes", yscale="log")
        axis.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def page(card: ModelCard, figures: dict[str, Any] | None) -> str:
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
        "command": f"`{trained['command']}` (stages in order: autoencoder, encoder, encoder-eval, "
        "diffusion, bundle)",
        "hardware": trained["hardware"],
    }
    for part in ("autoencoder", "encoder", "encoder-eval", "diffusion"):
        t = trained[part]
        facts[f"trained: {part}"] = f"{t['steps']} steps in {t['minutes']:.0f} min"
    lines += [f"| {k} | {v} |" for k, v in facts.items()]
    lines += [
        "",
        "The autoencoder, the U-Net and the evaluation encoder are shared by both demo "
        "models; encoder and projection are each model's own.",
        "",
    ]
    if figures:
        lines += [
            "## Measured",
            "",
            "Held-out images only; `benchmarks/results/first_light.json` "
            "has the command, the machine and the date.",
            "",
            "| space | fidelity | 95 % interval | c | shuffled | autoencoder | cells |",
            "|---|---|---|---|---|---|---|",
        ]
        for space in ("conditioning", "encoder-eval"):
            f = figures["fidelity"][space]
            lines.append(
                f"| {space} | {f['fidelity']} | {f['interval'][0]} … {f['interval'][1]} | {f['c']}"
                f" | {f['c_shuffled']} | {f['c_vae']} | {f['cells']} |"
            )
        lines.append("")
    lines += [
        "## Curves",
        "",
        f"![loss curves]({card.id}-curves.png)",
        "",
        "## Samples",
        "",
        "Held-out images at strength 1: only the embeddings of the left column reach the "
        "two right ones.",
        "",
        f"![sample sheet]({card.id}-samples.jpg)",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--training", type=Path)
    arguments = parser.parse_args()
    PAGES.mkdir(parents=True, exist_ok=True)
    METRICS.mkdir(parents=True, exist_ok=True)
    if arguments.training:
        for path in arguments.training.glob("*/metrics.jsonl"):
            shutil.copy(path, METRICS / f"{path.parent.name}.jsonl")
    result = ROOT / "benchmarks" / "results" / "first_light.json"
    rows = json.loads(result.read_text())["rows"] if result.exists() else []
    for model in HELD_OUT:
        card = load_bundle(model, "cpu").card
        domain = model.removeprefix("demo-")
        figures = next((r for r in rows if r["model_hash"] == card.hash), None)
        curves(card, domain, PAGES / f"{model}-curves.png")
        sheet(model, arguments.data).save(PAGES / f"{model}-samples.jpg", quality=88)
        (PAGES / f"{model}.md").write_text(page(card, figures))


if __name__ == "__main__":
    main()
