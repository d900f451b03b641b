"""Nearest neighbors: ours and scikit-learn's on the same images.

    python -m experiments benchmarks/neighbors --preset cpu

The distance of each point to its 50th nearest, itself included, in l1 and l2, against
`NearestNeighbors` by brute force and by ball trees on all cores. The first call of
ours, which compiles, is timed apart. Then rounds alternate between the sides, so that
what else the machine does falls on both, and the median counts. There are only two,
since a round of scikit-learn takes minutes.

Then the whole training split in a process of its own, whose largest memory is compared
with that of a full matrix of distances; there scikit-learn is left out. The memory is
the VmHWM of that process, since `ru_maxrss` outlives fork and exec, so that it can be
that of the process that started it; where there is no /proc the latter is taken, and
the report says so.

Presets:
    smoke: digits, to show that it runs.
    cpu: 10,000 MNIST images, then 60,000; about 10 minutes on 2 cores (estimated), most
        of it scikit-learn's.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors

from experiments.workspace import Workspace
from jaxrobust.concentration import kth_neighbor_distances
from jaxrobust.data import load_arrays, subset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Images, and how often they are searched."""

    dataset: str
    size: int
    num_neighbors: int = 50
    num_rounds: int = 2
    whole: tuple[str, ...] = ("l1", "l2")
    """Norms in which the whole split is searched."""


PRESETS = {
    "smoke": Config(
        dataset="digits", size=200, num_neighbors=10, num_rounds=1, whole=("l2",)
    ),
    "cpu": Config(dataset="mnist", size=10_000),
}

ALGORITHMS = ("brute", "ball_tree")

PEAK = """
import re, resource, sys
from pathlib import Path

def peak(status="/proc/self/status"):
    # In bytes, and what says so.
    try:
        found = re.search(r"VmHWM:\\s*(\\d+) kB", Path(status).read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024, "VmHWM"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "ru_maxrss"
"""
"""Defines the largest memory of a process, for programs that import nothing else."""

WHOLE = f"""{PEAK}
import json, time
from jaxrobust.concentration import kth_neighbor_distances
from jaxrobust.data import load_arrays
name, norm, k, data_dir = sys.argv[1:]
data = load_arrays(name, "train", data_dir=data_dir or None)
began = time.perf_counter()
kth_neighbor_distances(data.images, int(k), norm=norm)
seconds = time.perf_counter() - began
size, source = peak()
found = dict(seconds=seconds, peak_bytes=size, peak_source=source, size=len(data))
print(json.dumps(found))
"""


def timed(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    found = function()
    return time.perf_counter() - began, found


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Time both sides, and measure the whole split."""
    data = load_arrays(config.dataset, "train", data_dir=workspace.data_dir)
    images = subset(data, config.size).images
    # What scikit-learn is fastest with.
    floats = (images.reshape(len(images), -1) / np.float32(255)).astype(np.float32)
    k, rows = config.num_neighbors, []
    for norm in ("l1", "l2"):

        def ours(norm: Any = norm) -> np.ndarray:
            return kth_neighbor_distances(images, k, norm=norm)

        def theirs(algorithm: Any, norm: str = norm) -> np.ndarray:
            search = NearestNeighbors(
                n_neighbors=k,
                algorithm=algorithm,
                metric={"l1": "manhattan", "l2": "euclidean"}[norm],
                n_jobs=-1,
            )
            return search.fit(floats).kneighbors(floats)[0][:, -1]

        first, _ = timed(ours)
        times: dict[str, list[float]] = {name: [] for name in ("ours", *ALGORITHMS)}
        values: dict[str, np.ndarray] = {}
        for _ in range(config.num_rounds):
            for name, seconds in times.items():
                call = ours if name == "ours" else lambda name=name: theirs(name)
                took, values[name] = timed(call)
                seconds.append(took)
        workspace.seconds += first + sum(map(sum, times.values()))
        median = {name: statistics.median(each) for name, each in times.items()}
        for algorithm in ALGORITHMS:
            difference = np.abs(values["ours"] - values[algorithm]).max()
            rows.append(
                {
                    "norm": norm,
                    "size": len(images),
                    "peer": algorithm,
                    "our_seconds": median["ours"],
                    "our_first_seconds": first,
                    "their_seconds": median[algorithm],
                    "ratio": median[algorithm] / median["ours"],
                    "difference": float(difference),
                    "matrix_share": None,
                    "memory_source": None,
                }
            )
            workspace.say(
                f"{norm}: {median['ours']:.2f} s, {algorithm} {median[algorithm]:.2f} s"
            )
        if norm in config.whole:
            rows.append(_whole(config, norm, workspace))
    return {
        "title": "Nearest neighbors",
        "rows": rows,
        "notes": [
            f"Data: {data.title}. Distance to neighbor {k} of each image, itself "
            "included; scikit-learn on all cores. The first call compiles. Memory: the "
            "largest of a whole process, over that of all distances in float32; the "
            "target is at most 25 %.",
            *_remarks(rows),
        ],
        "tables": {"Distances to the k-th neighbor": results_table({"rows": rows})},
    }


def _remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if all(row["memory_source"] != "ru_maxrss" for row in rows):
        return []
    return [
        "There is no VmHWM here, so memory is `ru_maxrss`, which may be that of the "
        "process that started the one measured."
    ]


def _whole(config: Config, norm: str, workspace: Workspace) -> dict[str, Any]:
    directory = "" if workspace.data_dir is None else str(workspace.data_dir)
    arguments = [config.dataset, norm, str(config.num_neighbors), directory]
    done = subprocess.run(
        [sys.executable, "-c", WHOLE, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    found = json.loads(done.stdout)
    workspace.seconds += found["seconds"]
    workspace.say(f"{norm}, {found['size']:,} points: {found['seconds']:.1f} s")
    return {
        "norm": norm,
        "size": found["size"],
        "peer": None,
        "our_seconds": found["seconds"],
        "our_first_seconds": found["seconds"],
        "their_seconds": None,
        "ratio": None,
        "difference": None,
        "matrix_share": found["peak_bytes"] / (4 * found["size"] ** 2),
        "memory_source": found["peak_source"],
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""
    header = ["norm", "points", "scikit-learn", "jaxrobust", "first call", "its time"]
    header += ["ratio", "largest difference", "memory over full matrix"]

    def cell(value: float | None, form: str, unit: str = "") -> str:
        return "" if value is None else f"{value:{form}}{unit}"

    lines = [
        [
            row["norm"],
            f"{row['size']:,}",
            row["peer"] or "",
            cell(row["our_seconds"], ".2f", " s"),
            cell(row["our_first_seconds"], ".2f", " s"),
            cell(row["their_seconds"], ".2f", " s"),
            cell(row["ratio"], ".1f"),
            cell(row["difference"], ".1e"),
            cell(row["matrix_share"] and 100 * row["matrix_share"], ".1f", " %"),
        ]
        for row in result["rows"]
    ]
    return [header, *lines]
