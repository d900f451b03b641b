"""Every example of the table in every way that a run can go."""

import ast
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout

import chex
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.cli import main
from jaxrobust.data import subset
from jaxrobust.evaluation import evaluate
from jaxrobust.interop import load_exported
from jaxrobust.training import SweepConfig, load_run, load_run_data, sweep, train
from jaxrobust.training.step import programs as programs_module
from tests.open.sockets import (
    CASES,
    EPSILON,
    EXAMPLES,
    HERE,
    flags_of,
    given_of,
    naming_of,
    put_into,
)
from tests.open.trained import flat

ROOT = HERE.parents[1]


def each_case(*fast):
    """Every case, of which those that are named run with the fast tests."""
    assert set(fast) <= set(CASES)
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "case",
        [
            case if case in fast else pytest.param(case, marks=slow)
            for case in CASES
            if "equinox" not in case or importlib.util.find_spec("equinox")
        ],
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with the files of a user."""
    place = tmp_path_factory.mktemp("user")
    put_into(place)
    return place


@pytest.fixture(autouse=True)
def _in_place(place, monkeypatch):
    monkeypatch.chdir(place)


def once(make):
    """A function of a case that does its work once for each."""
    made = {}

    def of(case):
        if case not in made:
            made[case] = make(case)
        return made[case]

    return of


@pytest.fixture(scope="module")
def by_python(tmp_path_factory):
    """Runs that were trained in Python."""
    directory = tmp_path_factory.mktemp("python")

    def trained(case):
        config, network, dataset = given_of(case)
        return train(config, directory / case, network=network, dataset=dataset)

    return once(trained)


@pytest.fixture(scope="module")
def by_command(tmp_path_factory):
    """Runs that were trained on the command line, and the last line that it said."""
    directory = tmp_path_factory.mktemp("command")

    def trained(case):
        target, out = directory / case.replace(" ", "-"), io.StringIO()
        with redirect_stdout(out):
            assert main(["train", "--run-dir", str(target), *flags_of(case)]) == 0
        return load_run(target, trust_code=True), out.getvalue().splitlines()[-1]

    return once(trained)


def by_program(how, directory, request):
    """Let `trained.py` do its work for all the cases that are asked for."""
    cases = [
        item.callspec.params["case"]
        for item in request.session.items
        if item.path == request.path and how in item.fixturenames
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.open.trained", how, str(directory), *cases],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "4"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def killed(request, tmp_path_factory):
    """Runs whose processes were killed: where, how these ended, what they said."""
    directory = tmp_path_factory.mktemp("killed")
    done = by_program("killed", directory, request)
    return directory, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def divided(request, tmp_path_factory):
    """Weights of runs on four devices, and what was said of those that failed."""
    directory = tmp_path_factory.mktemp("divided")
    done = by_program("divided", directory, request)
    return np.load(directory / "weights.npz"), done.stderr


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("own_*.py")))
def test_an_example_is_small_and_in_the_table(file):
    text = (HERE / file).read_text()
    assert len(text.splitlines()) <= 30
    # Attacks and jobs are handed over in other ways: test_attack.py, test_job.py.
    apart = {"attack", "job"}
    assert file.removeprefix("own_").removesuffix(".py") in EXAMPLES.keys() | apart
    imported = [
        name.module or ""
        for name in ast.walk(ast.parse(text))
        if isinstance(name, ast.ImportFrom)
    ]
    assert not any(name.startswith("tests") for name in imported)


@each_case("variant with linear", "objective with linear")
def test_python_and_the_command_line_train_the_same_weights(
    case, by_python, by_command
):
    run, (other, _) = by_python(case), by_command(case)
    assert run.is_complete and other.is_complete
    chex.assert_trees_all_equal(run.weights, other.weights)


@each_case("variant with linear")
def test_an_example_does_something(case, by_python):
    """Else all that is said here would hold of an example that nobody looks at."""
    name, _, network = case.partition(" with ")
    run, plain = by_python(case), by_python(network or "linear")
    assert abs(run.records[-1]["loss"] - plain.records[-1]["loss"]) > 1e-4, name


@each_case("variant with linear")
def test_killed_and_resumed_it_is_the_same_to_the_bit(case, by_python, killed):
    directory, ended, said = killed
    assert ended[case] == -signal.SIGKILL, said[-3000:]
    config, network, dataset = given_of(case)
    code = {"network": network} if network != "linear" else {}
    left = load_run(directory / case, **code, trust_code=True)
    assert len(left.records) == 1 and not left.is_complete
    run = train(config, directory / case, network=network, dataset=dataset, resume=True)
    whole = by_python(case)
    chex.assert_trees_all_equal(run.state.weights, whole.state.weights)
    assert [each["loss"] for each in run.records] == [
        each["loss"] for each in whole.records
    ]


def count_traces(monkeypatch):
    """From now on a program of training that is traced twice fails."""
    make = programs_module.trainer_for

    def counted(*arguments, **options):
        trainer = make(*arguments, **options)
        return trainer._replace(run=chex.assert_max_traces(trainer.run, n=1))

    monkeypatch.setattr(programs_module, "trainer_for", counted)


@each_case("variant with linear")
def test_two_radii_are_one_trace_and_train_as_if_alone(
    case, by_python, tmp_path, monkeypatch
):
    run = by_python(case)
    count_traces(monkeypatch)
    config, network, dataset = given_of(case)
    found = sweep(
        SweepConfig(base=config, epsilon=(EPSILON, 2 * EPSILON)),
        tmp_path / "sweep",
        network=network,
        dataset=dataset,
    )
    assert list(found.runs) == ["epsilon0.05", "epsilon0.1"] and not found.failures
    member = found.runs["epsilon0.05"]
    chex.assert_trees_all_close(member.weights, run.weights, atol=1e-5)


@pytest.mark.slow
def test_two_levels_of_an_own_variant_are_one_trace_and_train_as_if_alone(
    by_python, tmp_path, monkeypatch
):
    run = by_python("variant with linear")
    count_traces(monkeypatch)
    target = ["--run-dir", str(tmp_path / "sweep")]
    flags = [*flags_of("variant with linear"), "--sweep", "variant.density", "0.3", "0"]
    assert main(["sweep", *target, *flags]) == 0
    member = load_run(tmp_path / "sweep" / "epsilon0.05-density0.3")
    chex.assert_trees_all_close(member.weights, run.weights, atol=1e-5)


@pytest.mark.slow
@each_case("linen")
def test_four_devices_train_the_weights_of_one(case, by_python, divided):
    weights, said = divided
    assert case in weights, said[-3000:]
    np.testing.assert_allclose(weights[case], flat(by_python(case).weights), atol=1e-5)


ATTACK = ("--epsilon", "0.05", "--set", "num_steps", "2", "--set", "num_restarts", "1")


@each_case("variant with linear")
def test_it_is_evaluated_alike_by_python_and_by_the_command_line(
    case, by_python, by_command, tmp_path, capsys
):
    (run, said), output = by_command(case), tmp_path / "found.json"
    command, naming = ["evaluate", str(run.directory)], naming_of(case)
    # What is said to be next can be run, and nothing that only the run names is run
    # unasked.
    assert sorted(said.split()) == sorted(["next:", "jaxrobust", *command, *naming])
    command += [*ATTACK, "--num-images", "30"]
    if naming:
        assert main(command) == 2
        assert "own_" in capsys.readouterr().err
    assert main([*command, *naming, "--output", str(output)]) == 0
    (row,) = json.loads(output.read_text())["rows"]
    dataset = subset(load_run_data(run, "test", trust_code=True), 30)
    logits_fn = by_python(case).logits_fn
    logits = np.asarray(logits_fn(dataset.images))
    right = np.argmax(logits, axis=1) == dataset.labels
    assert row["clean_accuracy"] == np.mean(right)
    norm = given_of(case)[0].phases[-1].norm
    found = evaluate(logits_fn, dataset, PGD(num_steps=2), [0.05], norm=norm)
    np.testing.assert_array_equal(found.is_clean_correct, right)
    assert row["robust_accuracy"] == found.row().robust_accuracy


@each_case("variant with linear")
def test_exported_it_says_the_same(case, by_command, tmp_path):
    (run, _), output = by_command(case), tmp_path / "exported"
    command = ["export", str(run.directory), "--output", str(output)]
    assert main([*command, "--platforms", "cpu", "--trust-code"]) == 0
    images = load_run_data(run, "test", trust_code=True).images[:3]
    logits = run.logits_fn(images)
    np.testing.assert_allclose(load_exported(output)(images), logits, atol=1e-5)
