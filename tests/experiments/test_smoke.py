"""Every experiment runs in its smoke preset, and what all of them share."""

import builtins
import importlib
import json
import os
import signal
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from experiments import runner
from experiments.__main__ import main as command
from experiments.__main__ import names
from experiments.workspace import Workspace
from jaxrobust.training import NullReporter

FIELDS = {
    *("experiment", "preset", "config", "seed", "versions", "device", "revision"),
    *("seconds", "rows"),
}
EXPERIMENTS = names()
NEEDS = {
    "benchmarks/training_step": "torch",
    "benchmarks/peer_attack": "foolbox",
    "benchmarks/evaluation": "torchattacks",
    "benchmarks/peers": "torchattacks",
    "benchmarks/sweep": "torch",
    "benchmarks/bounds": "auto_LiRPA",
    "benchmarks/minimum": "adv_lib",
}
EVERYDAY = {"concentration/optimum", "large_perturbations/figure12"}


def module_of(name):
    return importlib.import_module("experiments." + name.replace("/", "."))


def run(name, directory):
    module = module_of(name)
    # Beside each other, as by default: experiments share the models they have alike.
    models = directory.parent / "models"
    workspace = Workspace(directory, models=models, reporter=NullReporter)
    config = module.PRESETS["smoke"]
    return runner.run_experiment(name, "smoke", config, module.run, workspace)


@pytest.fixture(scope="module")
def result_of(tmp_path_factory):
    """The directory and result of an experiment, run once."""
    done = {}

    def result_of(name):
        if name not in done:
            directory = tmp_path_factory.mktemp(name.replace("/", "-"))
            done[name] = directory, run(name, directory)
        return done[name]

    return result_of


def test_all_experiments_are_found():
    assert {
        "large_perturbations/table1",
        "large_perturbations/figures",
        "large_perturbations/sweep",
        "concentration/table1",
        "concentration/figure3",
        "benchmarks/scaling",
        "benchmarks/soak",
    } <= set(EXPERIMENTS)


def test_one_command_runs_every_benchmark_but_the_two_that_take_long():
    from experiments.benchmarks.__main__ import BENCHMARKS

    found = {name.split("/")[1] for name in EXPERIMENTS if "benchmarks" in name}
    assert found - {"soak", "faults"} == set(BENCHMARKS)


@pytest.mark.filterwarnings("ignore")  # of the peers, which are not ours to mend
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in EVERYDAY else [pytest.mark.slow])
        for name in EXPERIMENTS
    ],
)
def test_smoke_preset_writes_results_and_a_report(name, result_of):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    directory, result = result_of(name)
    written = json.loads((directory / "results.json").read_text())
    assert written == json.loads(json.dumps(result))
    assert set(written) >= FIELDS
    assert written["experiment"] == name and written["preset"] == "smoke"
    assert written["rows"] and written["seconds"] > 0
    header, *lines = module_of(name).results_table(written)
    assert len(lines) == len(written["rows"])
    assert {len(line) for line in lines} == {len(header)}
    page = (directory / "report.html").read_text()
    assert "<table" in page and 'src="http' not in page


@pytest.mark.slow
def test_table1_has_the_four_models_and_accuracies(result_of):
    _, result = result_of("large_perturbations/table1")
    roles = [row["role"] for row in result["rows"]]
    assert roles == ["base", "extended", "IAT", "from scratch"]
    for row in result["rows"]:
        assert set(row["robust_accuracy"]) == {"0.3", "0.4", "0.45"}
        assert max(row["robust_accuracy"].values()) <= row["clean_accuracy"]


@pytest.mark.slow
def test_started_again_an_experiment_trains_and_attacks_nothing(result_of, monkeypatch):
    directory, result = result_of("large_perturbations/table1")
    monkeypatch.setattr(
        "experiments.large_perturbations.table1.evaluate",
        lambda *_, **__: pytest.fail("evaluated again"),
    )

    def checkpoints():
        paths = (directory.parent / "models").glob("*/checkpoints/*")
        return {path: path.stat().st_mtime_ns for path in paths}

    before = checkpoints()
    again = run("large_perturbations/table1", directory)
    assert before == checkpoints() and before
    assert again["rows"] == result["rows"] and again["seconds"] == result["seconds"]


@pytest.mark.slow
def test_models_are_shared_with_the_revisions_that_trained_them(tmp_path):
    module = module_of("large_perturbations/table1")
    config = module.PRESETS["smoke"]

    def workspace(name, revision):
        found = Workspace(
            tmp_path / name, models=tmp_path / "models", reporter=NullReporter
        )
        found.revision = revision
        return found

    one, other = workspace("one", "aaa"), workspace("other", "bbb")
    first = config.train(one, "base", *config.base)
    second = config.train(other, "base", *config.base)
    assert first.directory == second.directory
    assert one.revisions() == ["aaa"] and other.revisions() == ["aaa"]
    other.cached("more", 0, lambda: 1)
    assert other.revisions() == ["aaa", "bbb"]


def test_every_experiment_of_a_paper_has_the_three_presets():
    for name in EXPERIMENTS:
        if not name.startswith("benchmarks"):
            assert {"smoke", "cpu", "paper"} <= set(module_of(name).PRESETS)


def test_an_experiment_is_run_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "large_perturbations/figure12"
    assert command([name, "--preset", "smoke"]) == 0
    (path,) = tmp_path.glob("runs/*/results.json")
    assert json.loads(path.read_text())["experiment"] == name
    assert "large_perturbations-figure12-smoke-seed0" in capsys.readouterr().out
    assert command(["large_perturbations/figure-12"]) == 2
    assert f"did you mean '{name}'?" in capsys.readouterr().err
    assert command([]) == 2


OVERVIEW = """
import sys
from experiments.__main__ import main

assert main(["--help"]) == 0
loaded = {name for name in sys.modules if name.startswith(("experiments.", "jax."))}
assert loaded == {"experiments.__main__"}, loaded
"""


def test_the_list_of_experiments_imports_none():
    done = subprocess.run(
        [sys.executable, "-c", OVERVIEW], cwd=runner.ROOT.parent, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert "concentration/table1 " in done.stdout and "__" not in done.stdout


def test_an_unknown_preset_is_refused(capsys):
    module = module_of("large_perturbations/table1")
    arguments = ["--preset", "fast"]
    code = runner.main(
        "x/y", module.PRESETS, module.run, description="", arguments=arguments
    )
    assert code == 2
    assert "`--preset` must be one of smoke" in capsys.readouterr().err


@pytest.mark.parametrize("item", ["table1", "figures"])
def test_missing_data_is_refused_before_training(item, tmp_path, capsys):
    module = module_of(f"large_perturbations/{item}")
    arguments = ["--preset", "cpu", "--data-dir", str(tmp_path / "none")]
    arguments += ["--workdir", str(tmp_path / "work")]
    code = runner.main(
        f"large_perturbations/{item}",
        module.PRESETS,
        module.run,
        description="",
        arguments=arguments,
    )
    assert code == 2
    assert "jaxrobust data prepare mnist" in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_outside_training_asks_for_a_restart(number, tmp_path, capsys):
    before = signal.getsignal(number)

    def run(config, workspace):
        os.kill(os.getpid(), number)

    settings = module_of("large_perturbations/table1").PRESETS["smoke"]
    arguments = ["--preset", "one", "--workdir", str(tmp_path / "w")]
    code = runner.main(
        "paper/item", {"one": settings}, run, description="", arguments=arguments
    )
    assert code == 75
    assert "run the same command to go on" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def carry_out(run, tmp_path, *flags):
    """The exit code of an experiment that does nothing but `run`."""
    settings = module_of("large_perturbations/table1").PRESETS["smoke"]
    arguments = ["--preset", "one", "--workdir", str(tmp_path / "w"), *flags]
    return runner.main(
        "paper/item", {"one": settings}, run, description="", arguments=arguments
    )


@pytest.mark.parametrize("flag", ["--workdir", "--models", "--data-dir", "--profile"])
def test_an_address_is_refused_where_a_path_is_wanted(
    flag, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    code = carry_out(lambda *_: pytest.fail("begun"), tmp_path, flag, "gs://bucket/x")
    assert code == 2
    assert "mount the bucket" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_storage_that_fails_is_a_failure_in_a_line(tmp_path, capsys):
    (tmp_path / "file").write_text("something else")
    place = tmp_path / "file" / "w"
    code = carry_out(lambda *_: pytest.fail("begun"), tmp_path, "--workdir", str(place))
    error = capsys.readouterr().err
    assert code == 1 and error.count("\n") == 1
    assert error.startswith("paper/item: ") and str(tmp_path / "file") in error


def test_what_an_experiment_refuses_is_wrong_usage_and_its_bugs_are_not(
    tmp_path, capsys
):
    def refuse(config, workspace):
        raise ValueError("`alpha` must be positive, got -1")

    # As if it stood in an experiment.
    module = {"__package__": "experiments.paper"}
    refused = types.FunctionType(refuse.__code__, vars(builtins) | module)
    assert carry_out(refused, tmp_path) == 2
    assert "`alpha` must be positive" in capsys.readouterr().err
    with pytest.raises(ValueError):
        carry_out(lambda *_: json.loads("no JSON"), tmp_path)


def test_two_processes_do_not_share_a_work_directory(tmp_path, capsys):
    def run(config, workspace):
        assert carry_out(lambda *_: pytest.fail("begun"), tmp_path) == 1
        assert "in use by another process" in capsys.readouterr().err
        return {"title": "t", "rows": []}

    assert carry_out(run, tmp_path) == 0


def test_a_quiet_experiment_prints_its_tables_and_nothing_on_the_way(tmp_path, capsys):
    def run(config, workspace):
        workspace.say("half done")
        return {"title": "t", "rows": [], "tables": {"A": [["b"], ["c"]]}}

    assert carry_out(run, tmp_path, "--quiet") == 0
    out = capsys.readouterr().out
    assert "| b |" in out and "half done" not in out


def test_a_damaged_result_on_the_way_is_computed_again(tmp_path):
    workspace = Workspace(tmp_path, reporter=NullReporter)
    assert workspace.cached("a", [1], lambda: {"x": 25}) == {"x": 25}
    never = partial(pytest.fail, "computed again")
    assert workspace.cached("a", [1], never) == {"x": 25}
    (path,) = tmp_path.glob("a-*.json")
    path.write_text(path.read_text().replace("25", "52"))
    with pytest.warns(UserWarning, match="is damaged"):
        assert workspace.cached("a", [1], lambda: {"x": 26}) == {"x": 26}
    path.with_name("code.json").write_text("[")
    with pytest.raises(ValueError, match=r"code\.json' is damaged"):
        workspace.revisions()


def test_nothing_is_lost_when_several_note_their_code_at_once(tmp_path):
    workspaces = [Workspace(tmp_path, reporter=NullReporter) for _ in range(4)]

    def note(number):
        for index in range(10):
            workspaces[number].note_work(f"{number}-{index}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(note, range(4)))
    expected = {f"{number}-{index}" for number in range(4) for index in range(10)}
    assert set(workspaces[0].revisions()) == expected


def test_only_one_process_of_a_job_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.hosts, "is_primary", lambda: False)
    workspace = Workspace(tmp_path, reporter=NullReporter)
    assert workspace.cached("a", [1], lambda: (1, 2)) == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_publishing_copies_results_and_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "ROOT", tmp_path / "experiments")
    (tmp_path / "experiments" / "paper").mkdir(parents=True)

    def run(config, workspace):
        (workspace.directory / "curve.svg").write_text("<svg/>")
        return {"title": "t", "rows": [{"model": "a"}]}

    arguments = ["--preset", "one", "--workdir", str(tmp_path / "w"), "--publish"]
    settings = module_of("large_perturbations/table1").PRESETS["smoke"]
    code = runner.main(
        "paper/item", {"one": settings}, run, description="", arguments=arguments
    )
    assert code == 0
    target = tmp_path / "experiments" / "paper" / "results"
    assert (target / "item-one-curve.svg").read_text() == "<svg/>"
    assert json.loads((target / "item-one.json").read_text())["preset"] == "one"
