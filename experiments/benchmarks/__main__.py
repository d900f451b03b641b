"""All benchmarks, one after another.

    python -m experiments.benchmarks --preset cpu

Other flags go to each of them. A benchmark without the preset is left out, and so are
the soak and the faults, which take an hour each: name them, as in
`python -m experiments benchmarks/soak`.
"""

import importlib
import itertools
import subprocess
import sys
from collections.abc import Sequence

from jaxrobust.cli.streams import lasting_streams

BENCHMARKS = (
    *("training_step", "convolutions", "sweep", "evaluation", "scaling", "startup"),
    *("precision", "peer_attack", "peers", "minimum", "bounds", "neighbors"),
    "compiled",
)


def main(arguments: Sequence[str]) -> int:
    """Run each in its own process; the exit code of the first that failed, or 0."""
    preset = dict(itertools.pairwise(arguments)).get("--preset", "cpu")
    code = 0
    for name in BENCHMARKS:
        module = f"experiments.benchmarks.{name}"
        if preset not in importlib.import_module(module).PRESETS:
            print(f"=== {name} has no preset {preset}: left out", flush=True)
            continue
        print(f"=== {name}", flush=True)
        flags = arguments or ["--preset", preset]
        command = [sys.executable, "-m", "experiments", f"benchmarks/{name}", *flags]
        done = subprocess.run(command, check=False)
        code = code or done.returncode
    return code


if __name__ == "__main__":
    with lasting_streams():
        status = main(sys.argv[1:])
    raise SystemExit(status)
