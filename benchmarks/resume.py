"""A training killed with SIGKILL at random moments against one that was left alone.

    python benchmarks/resume.py --json benchmarks/results/resume.json

A small autoencoder learns the left half of scikit-image's immunohistochemistry image and is
validated on the right half. About two minutes on one thread.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import provenance

STEPS, THREADS = 150, 1
CONFIG: dict[str, Any] = {
    "seed": 7,
    "patch": 4,
    "linear": 8,
    "network": {
        "class": "AutoencoderKL",
        "in_channels": 48,
        "out_channels": 48,
        "block_out_channels": [32, 48],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "layers_per_block": 1,
        "latent_channels": 16,
        "norm_num_groups": 8,
        "mid_block_add_attention": False,
    },
    "crops": [64, 64, 64, 128],
    "pixels": 32768,
    "latent_noise": 0.03,
    "loss": {"l1": 1.0, "edge": 0.4, "spectrum": 0.02, "power": 0.04, "whiteness": 0.05},
}


def work(folder: Path) -> None:
    """Train, or go on; says so on the first row."""
    from skimage.data import immunohistochemistry

    from napari_ssldiff.training import autoencoder
    from napari_ssldiff.training.data import ImageSet
    from napari_ssldiff.training.loop import Runtime, Schedule

    image = immunohistochemistry()
    left, right = ImageSet("left", (image[:, :256],)), ImageSet("right", (image[:, 256:],))
    plan = Schedule(STEPS, lr=0.002, warmup=10, ema=0.95, save_every=1.0, log_every=1)
    for row in autoencoder.train(
        [((left,), {"stain": 0.1, "light": 0.05})],
        CONFIG,
        plan,
        folder,
        runtime=Runtime("cpu", threads=THREADS),
        validation=[((right,), {})],
    ):
        print(row["step"], flush=True)


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--worker", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def saved_step(folder: Path) -> int:
    marker = folder / "state.json"
    return int(json.loads(marker.read_text())["step"]) if marker.exists() else 0


def last_row(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return row


def killed_run(folder: Path, kills: int, draw: random.Random) -> list[dict[str, int]]:
    """Kill ``kills`` times, each a random while after the first step; then let it finish."""
    told = []
    for _ in range(kills):
        process = start(folder)
        assert process.stdout is not None
        begun = process.stdout.readline()
        time.sleep(draw.uniform(0, 3))
        process.kill()
        rest = process.stdout.read().split()
        process.wait()
        at = int(rest[-1]) if rest else int(begun or saved_step(folder))
        told.append({"killed_at_step": at, "state_of_step": saved_step(folder)})
        print(told[-1], flush=True)
    if start(folder).wait():
        raise SystemExit("the run did not finish")
    return told


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        if start(whole).wait():
            raise SystemExit("the run did not finish")
        kills = killed_run(killed, arguments.kills, random.Random(arguments.seed))
        a, b = last_row(whole)["validation"], last_row(killed)["validation"]
        weights = [f / "weights-1-of-1.safetensors" for f in (whole, killed)]
        result = {
            "stage": "autoencoder",
            "steps": STEPS,
            "threads": THREADS,
            "kills": kills,
            "validation_uninterrupted": a,
            "validation_killed": b,
            "difference_percent": round(100 * abs(b - a) / a, 4),
            "weights_identical": weights[0].read_bytes() == weights[1].read_bytes(),
        }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps({**provenance(), **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
