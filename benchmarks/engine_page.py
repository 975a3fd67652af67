"""Write the measured part of docs/engine.md from the results of bench, and its pictures.

    python benchmarks/engine_page.py --pictures DIR

DIR/<model>/NAME-SIZE.png are what ``bench --pictures`` left. Tables come from the files
bench-<model>*.json, engine-limits.json and endless-window.json of benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "engine.md"
IMAGES = ROOT / "docs" / "images"
BEGIN, END = "<!-- measured: benchmarks/engine_page.py -->", "<!-- end of measured -->"
MODELS = ("demo-histology", "demo-naip")
CROP = 384


def read(name: str) -> dict[str, Any] | None:
    """A result, if it was measured."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else None


def number(value: float | None, form: str = ".3g") -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else format(value, form)


def interval(row: dict[str, Any], name: str) -> str:
    """A score with its interval."""
    low_high = row[f"{name.split('_')[0]}_interval"]
    if row[name] is None:
        return "–"
    return f"{row[name]:.3f} ({low_high[0]:.3f} … {low_high[1]:.3f})"


HEAD = (
    "",
    "px",
    "evaluations",
    "s / Mpx",
    "time over `bulk`'s",
    "first tile",
    "network + decoder",
    "peak memory added",
    "seam",
    "overlap power",
    "cosine",
)


def line(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def where(found: dict[str, Any]) -> str:
    """Command, machine and date."""
    machine = found["machine"]
    return (
        f"`{found['command']}` ({machine['processor']}, {machine['cores']} cores, {found['date']}"
    )


def bench_table(report: dict[str, Any]) -> list[str]:
    """Rows of one model's bench."""
    bulk = {row["size"]: row for row in report["rows"] if row["preset"] == "bulk"}
    lines = [line(*HEAD), line(*["---"] * len(HEAD))]
    for row in report["rows"]:
        seeds = f"{row['seeds']} seed{'s' * ((row['seeds'] or 0) > 1)}"
        name, size = f"`{row['preset']}` ({seeds})", str(row["size"])
        if row["failed"]:
            lines.append(line(name, size, row["failed"], *["–"] * (len(HEAD) - 3)))
            continue
        own = bulk.get(row["size"])
        lines.append(
            line(
                name,
                size,
                f"{row['evals']:,}",
                number(row["seconds_per_mpx"]),
                number(row["seconds"] / own["seconds"] if own else None, ".2f"),
                f"{number(row['ttft_s'])} s",
                number(row["unet_vae_share"], ".2f"),
                f"{row['peak_rss_mb'] - row['rss_before_mb']:.0f} MB",
                interval(row, "seam_score"),
                interval(row, "overlap_power"),
                number(row["ssl_cosine"], ".3f"),
            )
        )
    return lines


def sheet(folder: Path, rows: list[dict[str, Any]]) -> Image.Image | None:
    """The middle of the picture of every row of a bench, a line for every size of canvas."""
    lines: dict[int, dict[str, Path]] = {}
    for row in sorted(rows, key=lambda row: -row["size"]):
        name, size = row["preset"], row["size"]
        if (folder / f"{name}-{size}.png").exists():
            lines.setdefault(size, {})[f"{name}, {size} px"] = folder / f"{name}-{size}.png"
    if not lines:
        return None
    wide, high = max(map(len, lines.values())), CROP + 22
    out = Image.new("RGB", (wide * (CROP + 6) - 6, len(lines) * high), "white")
    draw = ImageDraw.Draw(out)
    for y, line_ in enumerate(lines.values()):
        for x, (name, path) in enumerate(line_.items()):
            with Image.open(path) as picture:
                at = ((picture.width - CROP) // 2, (picture.height - CROP) // 2)
                crop = picture.crop((*at, at[0] + CROP, at[1] + CROP))
            draw.text((x * (CROP + 6) + 4, y * high + 4), name, fill="black")
            out.paste(crop, (x * (CROP + 6), y * high + 22))
    return out


def limits_part(found: dict[str, Any]) -> list[str]:
    """What the engine itself costs."""
    rows = [("", ""), ("---", "---")]
    base = found["lazy_memory"][0]["peak_rss_mb"]
    for row in found["lazy_memory"]:
        peak = row["peak_rss_mb"]
        rows.append(
            (
                f"`lazy`, {row['size']:,}² px: peak memory after {row['tiles']} tiles",
                f"{peak:.0f} MB ({peak / base:.3f} of the smallest canvas's), of it added "
                f"{peak - row['rss_before_mb']:.0f} MB",
            )
        )
    for row in found["bulk_memory"]:
        rows.append(
            (
                f"`bulk`, {row['size']:,}² px, budget {row['budget_mb']:.0f} MB: peak memory added",
                f"{row['added_mb']:.0f} MB (state of the whole canvas: "
                f"{row['state_of_the_whole_canvas_mb']:.0f} MB)",
            )
        )
    for row in found["overhead"]:
        whole, bands = row["whole"]["share"], row["bands"]["share"]
        rows.append(
            (
                f"share of time inside the network, {row['windows']} windows",
                f"whole canvas {whole:.2f}, in bands {bands:.2f}",
            )
        )
    far, prompt = found["distance"], found["promptness"]
    counts = far["evaluations"]
    rows += [
        (
            "`lazy`: a tile 10⁶ px away over one at the corner",
            f"{far['ratio']:.3f} in time, {counts['far']:,} and {counts['near']:,} evaluations",
        ),
        (
            f"from the wish to cancel to the end, calls of "
            f"{1000 * prompt['network_call_s']:.0f} ms",
            f"median {prompt['median_s'] * 1000:.0f} ms, longest of {prompt['runs']} "
            f"{prompt['largest_s'] * 1000:.0f} ms",
        ),
    ]
    for row in found.get("cancelling", ()):
        height, width = row["size"]
        longest = row["longest_call_s"]
        stages = {"denoising": "network", "decoding": "decoder"}
        for stage, part in stages.items():
            late = row["late_s"][stage]
            if late:
                rows.append(
                    (
                        f"`{row['preset']}`, {width:,} × {height:,} px of a demo model, cancelled "
                        f"while {stage}: until `synthesize` has ended",
                        f"longest of {len(late)} {max(late):.2f} s; longest call of the {part} "
                        f"{longest[part]:.2f} s",
                    )
                )
    return [
        "## The engine alone",
        "",
        f"{where(found)}):",
        "a stub in the shape of the paper's model, whose network takes 5 ms a batch, no more.",
        "",
        *(line(*row) for row in rows),
        "",
        *(f"- {note}" for note in found.get("notes", ())),
        "",
    ]


def window_part(found: dict[str, Any]) -> list[str]:
    """An endless slide in a window."""
    opened, making, panning, back = (found[k] for k in ("open", "making", "panning", "back"))
    gaps, edge = making["gui_gaps"], f"{found['edge']:,}"
    rows = [
        ("", ""),
        ("---", "---"),
        (
            f"{edge} × {edge} px: layer added and drawn",
            f"{max(opened['layer_added_and_drawn_s']):.2f} s",
        ),
        (
            "from the click to the map on the canvas, model loaded",
            f"{opened['click_to_map_again_s']:.2f} s",
        ),
        (
            "the same, the first time: torch, model and embeddings",
            f"{opened['click_to_map_first_s']:.1f} s",
        ),
        (
            f"longest gap of the window's thread while {making['tiles']} tiles are made",
            f"{gaps['max_ms']:.0f} ms (99 of 100 below {gaps['p99_ms']:.0f} ms)",
        ),
        (
            "the same while the camera is dragged 3,000 px away and back",
            f"{panning['gui_gaps']['max_ms']:.0f} ms",
        ),
        ("the same picture when back", "yes" if back["same_screenshot"] else "no"),
        (
            "pixels of another slide of the same definition",
            "identical" if back["remade_identical"] else "different",
        ),
        ("a tile of 256² px, one thread", f"{making['seconds_per_tile']:.1f} s"),
    ]
    return [
        "## An endless slide in a window",
        "",
        f"{where(found)}; software OpenGL under",
        f"Xvfb; a canvas of {found['canvas'][1]} × {found['canvas'][0]} px):",
        "",
        *(line(*row) for row in rows),
        "",
        "![an endless slide in napari](images/endless.jpg)",
        "",
    ]


def main() -> None:
    """Write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    lines = [BEGIN, "", "## Real models", ""]
    for model in MODELS:
        reports = [
            json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"bench-{model}*.json"))
        ]
        if not reports:
            continue
        machine = reports[0]["machine"]
        lines += [f"`{model}`, {machine['processor']}, {reports[0]['date'][:10]}:", "", "```"]
        lines += [report["command"] for report in reports]
        lines += ["```", ""]
        for report in reports:
            lines += [*bench_table(report), ""]
        if options.pictures is not None:
            rows = [row for report in reports for row in report["rows"]]
            picture = sheet(options.pictures / model, rows)
            if picture is not None:
                picture.save(IMAGES / f"bench-{model}.jpg", quality=88)
        if (IMAGES / f"bench-{model}.jpg").exists():
            lines += [f"![{model}: the same field by every sampler](images/bench-{model}.jpg)", ""]
    for name, part in (("engine-limits.json", limits_part), ("endless-window.json", window_part)):
        found = read(name)
        if found is not None:
            lines += part(found)
    lines.append(END)
    page = PAGE.read_text()
    if BEGIN in page:
        before, rest = page.split(BEGIN, 1)
        after = rest.split(END, 1)[1]
    else:
        before, after = page.rstrip() + "\n\n", "\n"
    PAGE.write_text(before + "\n".join(lines) + after)


if __name__ == "__main__":
    main()
