"""``napari-ssldiff evaluate augment``: do variations help a classifier that has few labels?"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Any

from napari_ssldiff.cli.deliver import Meter, say
from napari_ssldiff.errors import InputError, OutputError

ALL_TASKS = "oral,city,trees,mil"


def build_parser() -> argparse.ArgumentParser:
    """The grammar of ``evaluate augment``; give it what follows these two words."""
    parser = argparse.ArgumentParser(
        prog="napari-ssldiff evaluate augment",
        description="Classifiers trained on real, synthetic and both, tested on held-out images.",
    )
    parser.set_defaults(command="evaluate augment")
    parser.add_argument("data", type=Path, metavar="DATA_ROOT", help="folder of the images")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tasks", metavar="LIST", help=f"default {ALL_TASKS}")
    parser.add_argument(
        "--labels-csv", type=Path, metavar="CSV",
        help="a task of your own: columns path, label, fold (train or heldout), group if known",
    )  # fmt: skip
    parser.add_argument("--model", metavar="ID", help="for all tasks; default: the demo models")
    parser.add_argument(
        "--pixel-size", type=float, help="of the images of --labels-csv; default: the model's"
    )
    parser.add_argument("--preset", default="bulk", help="how to sample (default bulk)")
    parser.add_argument("--steps", type=int, help="default: the preset's")
    parser.add_argument("--guidance", type=float, help="default: the model's")
    parser.add_argument("--pool", type=int, default=16, help="images per class to vary (16)")
    parser.add_argument("--variations-per-image", type=int, default=1, metavar="N")
    parser.add_argument("--draws", type=int, default=20, help="per row (20)")
    parser.add_argument("--labels", default="4,16,64,all", help="per class (4,16,64,all)")
    parser.add_argument("--crop", type=int, default=256, help="classified square, model px (256)")
    parser.add_argument("--part", type=int, default=512, help="varied part of a bag (512)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--threads", type=int, help="CPU threads")
    return parser


def parse_labels(text: str) -> tuple[int | None, ...]:
    """``"4,16,all"`` → ``(4, 16, None)``.

    Raises
    ------
    InputError
        If a part is neither a whole number nor ``all``.
    """
    try:
        return tuple(None if p.strip() == "all" else int(p) for p in text.split(","))
    except ValueError:
        raise InputError(
            f"labels are whole numbers or 'all', as in 4,16,all; got {text!r}"
        ) from None


def run(arguments: argparse.Namespace) -> None:
    """Make the variations that are missing, train, and write ``results.json`` and ``table.md``."""
    from napari_ssldiff.evaluation import augment, augment_report, augment_tasks
    from napari_ssldiff.evaluation.augment_variations import Variations
    from napari_ssldiff.models import load_bundle
    from napari_ssldiff.synthesis import Sampler

    root, out = arguments.data, arguments.output
    settings = augment.Settings(
        pool=arguments.pool,
        variations=arguments.variations_per_image,
        draws=arguments.draws,
        labels=parse_labels(arguments.labels),
        crop=arguments.crop,
        part=arguments.part,
        seed=arguments.seed,
    )
    sampler = Sampler(
        preset=arguments.preset,
        steps=arguments.steps,
        guidance=arguments.guidance,
        seed=arguments.seed,
    )
    if not root.is_dir():
        raise InputError(f"no folder of images at {root}")
    names = _task_names(arguments)
    # Everything that can be refused is refused before a model is loaded.
    tasks = {name: make(root) for name, make in augment_tasks.TASKS.items() if name in names}
    if arguments.labels_csv:
        if not arguments.model:
            raise InputError("--labels-csv needs --model, the model that varies your images")
        own = augment_tasks.from_table(
            arguments.labels_csv, root, arguments.model, arguments.pixel_size
        )
        tasks[own.name] = own
    regions = augment_tasks.osteosarcoma(root) if "mil" in names else ()
    _make_folder(out)
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    kept: dict[str, Variations] = {}

    def variations(model: str) -> Variations:
        model = arguments.model or model
        if model not in kept:
            bundle = load_bundle(model, arguments.device)
            settings.check(bundle)
            kept[model] = Variations(out / "variations", bundle, sampler)
        return kept[model]

    results: dict[str, Any] = {
        "command": _command(arguments),
        **augment_report.where_and_when(),
        "settings": {
            **{k: v for k, v in vars(settings).items() if k != "labels"},
            "labels": ["all" if n is None else n for n in settings.labels],
        },
        "models": {},
        "tasks": {},
    }
    meter = Meter()
    for name, task in tasks.items():
        ready = variations(task.model)
        results["tasks"][name] = augment.run_task(task, ready, settings, meter)
        _note(results, ready)
        _write(out, results)
    if regions:
        ready = variations("demo-histology")
        results["mil"] = augment.run_bags(regions, ready, settings, progress=meter)
        _note(results, ready)
        _write(out, results)
    print(augment_report.markdown(results))
    say(f"{out / 'results.json'}")


def _task_names(arguments: argparse.Namespace) -> list[str]:
    text = arguments.tasks
    if text is None:
        text = "" if arguments.labels_csv else ALL_TASKS
    names = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in ALL_TASKS.split(",")]
    if unknown:
        raise InputError(f"unknown task {unknown[0]!r}: choose among {ALL_TASKS}")
    if not names and not arguments.labels_csv:
        raise InputError(f"no task was named: choose among {ALL_TASKS}")
    return names


def _note(results: dict[str, Any], ready: Any) -> None:
    bundle = ready.bundle
    results["models"][bundle.card.id] = {
        "hash": bundle.hash,
        "features": bundle.evaluation_encoder.spec.id,
        "device": str(bundle.device),
        "sampler": ready.resolved(),
    }


def _command(arguments: argparse.Namespace) -> str:
    """The command without folders of this machine."""
    words = ["napari-ssldiff", "evaluate", "augment"]
    default = vars(build_parser().parse_args(["DATA_ROOT", "-o", "DIR"]))
    for key, usual in default.items():
        value = getattr(arguments, key)
        if key in ("data", "command", "output") or value == usual:
            continue
        text = Path(value).name if isinstance(value, Path) or os.path.isabs(str(value)) else value
        words += [f"--{key.replace('_', '-')}", str(text)]
    return shlex.join([*words[:3], "DATA_ROOT", "-o", "DIR", *words[3:]])


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write into {out}: {error.strerror}; choose another") from error


def _write(out: Path, results: dict[str, Any]) -> None:
    from napari_ssldiff.evaluation.augment_report import markdown

    files = {"results.json": json.dumps(results, indent=1) + "\n", "table.md": markdown(results)}
    for name, text in files.items():
        partial = out / f".{name}.{os.getpid()}"
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(out / name)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OutputError(f"cannot write {out / name}: {error.strerror}") from error
