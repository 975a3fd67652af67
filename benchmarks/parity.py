"""Converted checkpoints at full size, against independent computations in plain torch.

    python benchmarks/parity.py --model lrdm --json benchmarks/results/parity-lrdm.json

A checkpoint of the original's names and shapes is made of random numbers, converted as an import
would convert it, and loaded into the networks that the model's card describes. Their answers, in
fp32 on the CPU, are compared with the same layers computed on the original's names.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

from machine import provenance

#: Family → module beside this one, whose ``check()`` gives what the file says.
FAMILIES = {
    "lrdm": "parity_lrdm",
    "pixcell": "parity_pixcell",
    "stain": "parity_stain",
    "zoomldm": "parity_zoomldm",
}
#: Largest absolute difference that is allowed.
LIMIT = 1e-4


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", choices=sorted(FAMILIES), required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = importlib.import_module(FAMILIES[options.model]).check()
    differences = {row["what"]: row["max_difference"] for row in found["outputs"]}
    met = all(difference <= LIMIT for difference in differences.values())
    result = {**provenance(), "model": options.model, "limit": LIMIT, "met": met, **found}
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if not met:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
