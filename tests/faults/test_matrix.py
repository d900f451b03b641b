"""Operations under faults: real processes, really disturbed.

`python -m experiments benchmarks/faults --preset cpu` tries all cells of the matrix.
"""

from pathlib import Path

import pytest

from experiments.bench import Bench, Operation
from experiments.benchmarks.faults import CELLS, FAULTS, PRESETS, Cell, run_cell
from experiments.disturbances import Process, appears
from experiments.operations import OPERATIONS
from experiments.trials import at_once, damaged, killed, while_stopped

NAMES = {cell.name: cell for cell in CELLS}


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """Undisturbed results, each computed once for all tests here."""
    return Bench(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS["ci"].names or ())
def test_a_fault_costs_nothing_and_is_told_in_words(name, bench):
    outcome = run_cell(NAMES[name], bench)
    if not outcome.is_tried:
        pytest.skip(f"{name}: {'; '.join(outcome.notes)}")
    assert outcome.complaints == [], outcome.notes


def test_every_operation_meets_every_fault():
    wanted = {"train", "extend", "sweep", "evaluate", "report", "limits", "export"}
    wanted |= {"experiments"}
    met = {(cell.operation.name, cell.fault) for cell in CELLS}
    assert met == {(name, fault) for name in wanted for fault in FAULTS}
    assert {each.name for each in OPERATIONS} == wanted
    assert len(NAMES) == len(CELLS)


# What the matrix would be worth if it noticed nothing: programs of four lines, good and
# bad, under the same faults.

GOOD = """
import os, time
with open("disk/part", "w") as file:
    file.write("begun,")
    file.flush()
    time.sleep(0.2)
    file.write("done")
os.replace("disk/part", "disk/out")
"""

BAD = """
import os, sys, time
if os.path.exists("disk/out"):
    sys.exit()
with open("disk/out", "w") as file:
    file.write("begun,")
    file.flush()
    time.sleep(0.2)
    file.write("done")
"""

UNCLAIMED = """
import time
with open("disk/out", "a") as file:
    file.write("begun,")
    file.flush()
    time.sleep(0.2)
    file.write("done")
"""


def operation(program: str, begun: str) -> Operation:
    sign = appears("begun", begun)
    return Operation(
        name="program",
        words=("-c", program),
        result=Path.read_text,
        phases=(sign,),
        half=sign,
    )


def complaints(program, begun, disturb, tmp_path):
    made = operation(program, begun)
    cell = Cell(made, "fault", "detail", disturb(made.half))
    outcome = run_cell(cell, Bench(tmp_path))
    assert outcome.is_tried, outcome.notes
    return outcome.complaints


def test_work_that_goes_on_after_a_kill_is_told_from_work_that_is_lost(tmp_path):
    assert complaints(GOOD, "part", killed, tmp_path / "good") == []
    (found,) = complaints(BAD, "out", killed, tmp_path / "bad")
    assert found.startswith("another result")


def test_two_writers_without_a_claim_are_noticed(tmp_path):
    (found,) = complaints(UNCLAIMED, "out", while_stopped, tmp_path)
    assert found.startswith("another result")


def test_two_writers_that_agree_are_no_fault(tmp_path):
    assert complaints(BAD, "out", lambda _: at_once, tmp_path) == []


def test_damage_that_is_believed_is_noticed(tmp_path):
    believed = (
        'import os; os.path.exists("disk/out") or open("disk/out","w").write("1")'
    )

    def disturb(_):
        return damaged("complete", "disk/out", lambda path: path.write_text("2"))

    (found,) = complaints(believed, "out", disturb, tmp_path / "believed")
    assert "out taken for good" in found
    again = 'open("disk/out", "w").write("1")'
    assert complaints(again, "out", disturb, tmp_path / "again") == []


def test_a_process_that_hangs_is_ended(tmp_path):
    with Process(("-c", "import time; time.sleep(60)"), tmp_path) as process:
        assert process.end(0.5).code is None
        assert process.is_over()
