"""What a model of 400 M parameters takes of memory: planned, and measured in a process of its own.

    python benchmarks/low_memory.py --json benchmarks/results/low-memory.json
    python benchmarks/low_memory.py --device cuda --card 8GB --json low-memory-cuda.json

Weights are random and of the published size. Each case loads the model and varies one window of
256 px in two steps of a draft. On a CPU the resident memory of the process is read a hundred times
a second, apart into what is its own and what are pages of files, which the system can drop. On CUDA
torch's own mark is read, in a process that may use ``--card`` bytes only. ``--before SRC`` measures
the ``src`` folder of another version besides.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SHAPE, STEPS, EDGE = "paper-brca-20x", 2, 256
MB = 2**20
#: Name, precision, offload, budget on a CPU, budget on CUDA (``None``: none).
CASES: list[tuple[str, str, str, str | None, str | None]] = [
    ("fp32", "fp32", "auto", None, None),
    ("bf16", "bf16", "auto", None, None),
    ("fp32 in a budget", "fp32", "auto", "2GB", "2GB"),
    ("bf16 in a budget", "bf16", "auto", "3GB", "1GB"),
]


def write_model(folder: Path) -> None:
    """A card and weight files in fp32, the network in two."""
    import torch
    import yaml
    from safetensors.torch import save_file

    from napari_ssldiff.models.random_weights import SHAPES, shape_card
    from napari_ssldiff.models.skeleton import skeleton_of

    card, weights = yaml.safe_load((SHAPES / f"{SHAPE}.yaml").read_text()), {}
    made = skeleton_of(shape_card(SHAPE))
    modules = {"autoencoder": made.autoencoder, "denoiser": made.network}
    modules |= {"conditioning": made.projection, "encoder": made.encoder}
    numbers = torch.Generator().manual_seed(0)
    for part, module in modules.items():
        state = {
            # Of the size that a layer's own start would have; norms and scales are ones.
            k: torch.randn(v.shape, generator=numbers) / v[0].numel() ** 0.5
            if v.ndim > 1
            else torch.full(v.shape, float(k.endswith("weight") or k == "scale"))
            for k, v in module.state_dict().items()
        }
        keys, count = list(state), 2 if part == "denoiser" else 1
        card[part]["weights"] = []
        for n in range(count):
            name = f"{part}-{n + 1}-of-{count}.safetensors"
            own = keys[n * len(keys) // count : (n + 1) * len(keys) // count]
            save_file({k: state[k] for k in own}, folder / name)
            with (folder / name).open("rb") as file:
                weights[name] = hashlib.file_digest(file, "sha256").hexdigest()
            card[part]["weights"].append(name)
    (folder / "card.yaml").write_text(yaml.safe_dump({**card, "weights": weights}))


def status() -> dict[str, int]:
    """Resident bytes of this process: in all, its own, and pages of files."""
    names = {"VmRSS": "rss", "RssAnon": "own", "RssFile": "file"}
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {names[k]: int(v[1]) * 1024 for k, *v in ((w[0][:-1], *w) for w in lines) if k in names}


class Watch:
    """The most of each since the last :meth:`read`."""

    def __init__(self) -> None:
        self.most = status()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for name, size in status().items():
                self.most[name] = max(self.most[name], size)
            time.sleep(0.01)

    def read(self) -> dict[str, int]:
        """In MB."""
        most, self.most = self.most, status()
        return {name: round(size / MB) for name, size in most.items()}


def child(case: dict[str, Any]) -> dict[str, Any]:
    """Load and vary once; what it took."""
    import torch

    from napari_ssldiff.geometry import Region
    from napari_ssldiff.models import load_bundle
    from napari_ssldiff.scenes import PixelSize
    from napari_ssldiff.scenes.blank import blank_scene
    from napari_ssldiff.synthesis import Sampler, TileDone, make_request, synthesize

    device, cuda = case["device"], case["device"].startswith("cuda")
    if cuda and case["card"]:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(case["card"] / whole)
    out: dict[str, Any] = {"name": case["name"], "device": device}
    watch = Watch()
    out["program_mb"] = watch.read()
    began, busy = time.perf_counter(), time.process_time()
    if case["before"]:
        bundle = load_bundle(case["model"], device)
    else:
        from napari_ssldiff.models.memory import MemoryOptions, read_bytes

        budget = read_bytes(case["budget"]) if case["budget"] else case["card"] or None
        options = MemoryOptions(budget, case["precision"], case["offload"])
        bundle = load_bundle(case["model"], device, options, lambda text: out.update(said=text))
        plan = bundle.plan
        edge = min(EDGE // bundle.spec.latent_factor, plan.edge)
        out["planned_mb"] = round(plan.estimate(1, edge) / MB)
        out |= {"offload": plan.limits.offload, "decode_window": plan.edge, "weights_in": plan.kept}
    out["load_s"] = round(time.perf_counter() - began, 1)
    out["load_cpu_s"] = round(time.process_time() - busy, 1)
    out["loading_mb"] = watch.read()
    scene = blank_scene((EDGE, EDGE), PixelSize(0.5, 0.5, "micrometer"), "blank")
    sampler = Sampler(preset="draft", steps=STEPS)
    request = make_request(scene, Region.from_box(scene.box), bundle, sampler, grid="model")
    began, busy = time.perf_counter(), time.process_time()
    events = synthesize(request, bundle=bundle, scene=scene)
    tiles = [event.pixels for event in events if isinstance(event, TileDone)]
    out["sampling_s"] = round(time.perf_counter() - began, 1)
    out["sampling_cpu_s"] = round(time.process_time() - busy, 1)
    out["sampling_mb"] = watch.read()
    out["pixels"] = hashlib.sha256(b"".join(t.tobytes() for t in tiles)).hexdigest()[:12]
    out["mean"] = round(float(sum(t[..., :3].mean() for t in tiles) / len(tiles)), 2)
    if cuda:
        out["peak_vram_mb"] = round(torch.cuda.max_memory_allocated() / MB)
        out["peak_vram_reserved_mb"] = round(torch.cuda.max_memory_reserved() / MB)
    return out


def measured(row: dict[str, Any]) -> int:
    """The most that counts: a GPU's memory; of a CPU what is the process's own, and the files of
    libraries that were there before.
    """
    if "peak_vram_mb" in row:
        return int(row["peak_vram_mb"])
    own = max(row[stage]["own"] for stage in ("loading_mb", "sampling_mb"))
    return int(own + row["program_mb"]["file"])


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--card", default="", help="bytes of the CUDA card to imitate, as 8GB")
    parser.add_argument("--before", type=Path, metavar="SRC")
    parser.add_argument("--model", type=Path, help="folder of the model, made if it is empty")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these cases")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(json.loads(options.child))))
        return
    from machine import provenance

    from napari_ssldiff.models.memory import read_bytes

    folder = options.model or Path(tempfile.mkdtemp())
    if not (folder / "card.yaml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_model(folder)
    cuda = options.device.startswith("cuda")
    common = {"model": str(folder), "device": options.device}
    common["card"] = read_bytes(options.card) if options.card else 0
    cases = [
        {"name": n, "precision": p, "offload": o, "budget": g if cuda else b, "before": False}
        for n, p, o, b, g in CASES
    ]
    if cuda:
        cases += [
            {"name": f"bf16, offload {o}", "precision": "bf16", "offload": o, "budget": None,
             "before": False} for o in ("parts", "blocks")
        ]  # fmt: skip
    if options.before:
        cases.insert(0, {"name": "before", "before": True})
    result: dict[str, Any] = {**provenance(), "shape": SHAPE, "steps": STEPS, "px": EDGE}
    result["card_bytes"], result["rows"] = common["card"], []
    for case in cases:
        if options.only and case["name"] not in options.only:
            continue
        env = dict(os.environ)
        if case["before"]:
            env["PYTHONPATH"] = str(options.before)
        command = [sys.executable, __file__, "--child", json.dumps({**common, **case})]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        row["measured_mb"] = measured(row)
        if "planned_mb" in row:
            row["planned_by_measured"] = round(row["planned_mb"] / row["measured_mb"], 2)
        result["rows"].append(row)
        print(json.dumps(row), flush=True)
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
