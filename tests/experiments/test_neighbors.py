"""The memory that the benchmark of neighbors reports is that of its own process."""

import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.benchmarks import neighbors
from experiments.workspace import Workspace
from jaxrobust.training import NullReporter

MIB = 2**20


def peak(arguments=""):
    """What a bare process says of itself."""
    program = f"{neighbors.PEAK}\nimport json\nprint(json.dumps(peak({arguments})))"
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def test_memory_is_not_that_of_the_parent():
    held = np.ones(200 * MIB, np.uint8)
    size, source = peak()
    if source != "VmHWM":
        pytest.skip("no VmHWM here")
    assert MIB < size < 100 * MIB < len(held)


def test_without_proc_it_is_what_the_system_counts():
    size, source = peak("'/nowhere/status'")
    assert source == "ru_maxrss" and size > MIB


@pytest.mark.slow
def test_the_whole_split_is_measured_in_a_process_of_its_own(tmp_path):
    held = np.ones(600 * MIB, np.uint8)
    config = neighbors.PRESETS["smoke"]
    workspace = Workspace(tmp_path, models=tmp_path, reporter=NullReporter)
    row = neighbors._whole(config, "l2", workspace)
    if row["memory_source"] != "VmHWM":
        pytest.skip("no VmHWM here")
    # More than Python alone, since it searched; less than what is held here.
    size = row["matrix_share"] * 4 * row["size"] ** 2
    assert 50 * MIB < size < len(held)


@pytest.mark.parametrize(("source", "count"), [("VmHWM", 0), ("ru_maxrss", 1)])
def test_the_report_says_if_memory_may_be_that_of_another(source, count):
    rows = [{"memory_source": None}, {"memory_source": source}]
    assert len(neighbors._remarks(rows)) == count
