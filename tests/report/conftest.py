"""Runs that take a second to train, and one report of them."""

import html
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jaxrobust.cli import main
from jaxrobust.evaluation import checklist
from jaxrobust.report import assessment
from jaxrobust.training import Run, load_run

# What breaks markup, and formulas of matplotlib.
NAME = "<i>&$x_$"

SMALL = ["--num-images", "40", "--num-steps", "8", "--num-strength-images", "6"]
SMALL += ["--attack", "apgd-ce", "apgd-t", "--set", "num_steps", "8"]
SMALL += ["--num-checklist-images", "12", "--num-minimal-images", "9"]
SMALL += ["--num-pictures", "2", "--num-points", "5"]


class Written(NamedTuple):
    """A report and the command that made it."""

    output: Path
    command: list[str]
    record: dict[str, Any]
    page: str


@pytest.fixture(scope="session")
def run_dirs(tmp_path_factory) -> list[Path]:
    """A linear model trained at .05, and one that goes on from it at .1."""
    root = tmp_path_factory.mktemp("runs")
    base, extended = root / "base", root / NAME
    fast = ["--model", "linear", "--train-size", "300", "--batch-size", "50"]
    fast += ["--attack.step-size", "0.02", "--optimizer.learning-rate", "0.02"]
    train = ["train", *fast, "--epsilon", "0.05", "--epochs", "4", "--run-dir"]
    assert main([*train, str(base)]) == 0
    extend = ["extend", str(base), "--epsilon", "0.1", "--epochs", "1", "--run-dir"]
    assert main([*extend, str(extended)]) == 0
    return [base, extended]


@pytest.fixture(scope="session")
def runs(run_dirs) -> list[Run]:
    return [load_run(directory) for directory in run_dirs]


@pytest.fixture(scope="session")
def report(run_dirs, tmp_path_factory) -> Written:
    """Everything a report has, of both runs."""
    output = tmp_path_factory.mktemp("whole") / "report"
    command = ["report", *map(str, run_dirs), *SMALL]
    # Questions that take few programs; tests/evaluation has all of them.
    few = {"single_step", "random_offset", "monotone", "larger_minimum"}
    few |= {"transfer", "logits", "num_classes", "uses_budget"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assessment, "checklist", partial(checklist, only=few))
        assert main([*command, "--output", str(output)]) == 0
    record = json.loads((output / "report.json").read_text())
    page = (output / "report.html").read_text()
    return Written(output, command, record, html.unescape(page))
