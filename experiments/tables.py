"""The tables of the READMEs, generated from committed results files.

    python -m experiments.tables          # writes them
    python -m experiments.tables --check  # exit code 1 if one is not up to date

Between `<!-- results: PAPER/results/ITEM-PRESET.json -->` and `<!-- end -->` a README
holds the table of that file and a line on how it came about; nothing there is typed.
"""

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrobust.keeping import read_json
from jaxrobust.report import markdown_table

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "experiments/README.md", "experiments/benchmarks/README.md")
BLOCK = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(result: Mapping[str, Any]) -> str:
    """The table of a results file and a line on how it came about, as Markdown."""
    module = importlib.import_module(
        "experiments." + result["experiment"].replace("/", ".")
    )
    table = markdown_table(module.results_table(result))
    minutes = result["seconds"] / 60
    command = f"python -m experiments {result['experiment']}"
    origin = (
        f"`{command} --preset {result['preset']}`, seed {result['seed']}, "
        f"{minutes:.1f} minutes on {result['device']}, jax "
        f"{result['versions']['jax']}, revision {result['revision']}."
    )
    notes = "".join(f"\n{note}\n" for note in result["notes"])
    return f"\n{table}{notes}\n{origin}\n\n"


def updated(text: str) -> str:
    """A README with every table as its results file has it."""

    def block(match: re.Match[str]) -> str:
        path = ROOT / "experiments" / match[2]
        return match[1] + render(read_json(path)) + match[3]

    return BLOCK.sub(block, text)


def main(arguments: Sequence[str]) -> int:
    """Write or check the tables of all READMEs; returns the exit code."""
    if set(arguments) - {"--check"}:
        print("usage: python -m experiments.tables [--check]", file=sys.stderr)
        return 2
    is_right = True
    for name in READMES:
        path = ROOT / name
        before = path.read_text()
        after = updated(before)
        if before != after and arguments:
            print(f"{name} differs from its results; run python -m experiments.tables")
            is_right = False
        elif before != after:
            path.write_text(after)
            print(f"updated {name}")
    return 0 if is_right else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
