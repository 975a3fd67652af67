"""Write the table of docs/text.md from the results of prompt_fidelity.

python benchmarks/text_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "text.md"
BEGIN, END = "<!-- fidelity: benchmarks/text_page.py -->", "<!-- end of fidelity -->"
NAMES = {"histology": "histology", "remote sensing": "NAIP"}
HEAD = ("", "prompts", "pairs", "right", "asked", "met", "by fact")


def line(*cells: str) -> str:
    """A row of the table."""
    return f"| {' | '.join(cells)} |"


def row(domain: str, kind: str, found: dict[str, Any]) -> str:
    """One kind of pairs of one domain."""
    value, (low, high) = found["value"], found["interval"]
    known = kind != "new"  # region prompts are phrases of the captions, too
    met = value >= 0.8 if known else value >= 0.65 and low > 0.5
    return line(
        NAMES[domain],
        kind,
        str(found["pairs"]),
        f"{value:.2f} ({low:.2f} … {high:.2f})",
        "0.80" if known else "0.65, lower end > 0.50",
        "yes" if met else "**no**",
        ", ".join(f"{fact} {part['value']:.2f}" for fact, part in found["by_fact"].items()),
    )


def main() -> None:
    """Write the table in its place."""
    rows = [line(*HEAD), line(*["---"] * len(HEAD))]
    for path in sorted(RESULTS.glob("prompt-fidelity-*.json")):
        for domain, kinds in json.loads(path.read_text())["domains"].items():
            rows += [row(domain, kind, found) for kind, found in kinds.items()]
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{chr(10).join(rows)}\n{END}{after}")


if __name__ == "__main__":
    main()
