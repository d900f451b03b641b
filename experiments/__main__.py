"""One experiment of those in this folder.

    python -m experiments PAPER/ITEM --preset NAME
    python -m experiments --help              # the names of all

Only the one that is named is imported.
"""

import ast
import difflib
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrobust.cli.streams import lasting_streams

__all__ = ["main", "names"]

ROOT = Path(__file__).resolve().parent


def names() -> list[str]:
    """All experiments, as PAPER/ITEM: the modules that have presets."""
    return sorted(
        f"{path.parent.name}/{path.stem}"
        for path in ROOT.glob("*/*.py")
        if re.search(r"^PRESETS\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    )


def _overview() -> str:
    """Names and first lines, read without running anything."""
    lines = ["usage: python -m experiments PAPER/ITEM --preset NAME", ""]
    known = names()
    width = max(map(len, known))
    for name in known:
        tree = ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8"))
        first = (ast.get_docstring(tree) or "").partition("\n")[0]
        lines.append(f"  {name:<{width}}  {first}")
    lines += ["", "PAPER/ITEM --help tells of its flags and presets."]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Run the experiment that is named first; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    name, *flags = arguments
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        guess = f"; did you mean {near[0]!r}?" if near else "."
        print(
            f"experiments: the experiment must be one of those that --help lists, "
            f"got {name!r}{guess}",
            file=sys.stderr,
        )
        return 2
    module = importlib.import_module("experiments." + name.replace("/", "."))
    from experiments import runner

    return runner.main(
        name,
        module.PRESETS,
        module.run,
        description=module.__doc__ or "",
        arguments=flags,
    )


if __name__ == "__main__":
    with lasting_streams():
        status = main(sys.argv[1:])
    raise SystemExit(status)
